"""A fixture for tests of how handlers are called."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opsqueue.handlers.invoke import Invoker


@pytest.fixture
def invoker() -> Iterator[Invoker]:
    invoker = Invoker()
    yield invoker
    invoker.close()
