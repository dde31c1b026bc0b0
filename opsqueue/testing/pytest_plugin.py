"""The fixture `opsqueue_local`, which pytest finds by an entry point of this package.

It imports nothing until a test asks for it: pytest loads it for every project in an environment
that has opsqueue. PYTEST_DONT_REWRITE: there are no assertions in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from opsqueue.handlers.app import Opsqueue
    from opsqueue.testing.in_process import LocalOpsqueue


@pytest.fixture
def opsqueue_local(opsqueue_app: Opsqueue) -> Iterator[LocalOpsqueue]:
    """Yield `opsqueue.testing.local(app)` for the app that your fixture `opsqueue_app` returns.

    Start hooks run before an `async def` test has its loop: in another thread than its handlers.
    """
    from opsqueue.testing.in_process import local  # noqa: PLC0415 as above

    with local(opsqueue_app) as running:
        yield running
