"""Faults that happened or could not happen name the programs that they concern."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.chaos.injector import NOBODY
from tests.chaos.injectors import INJECTORS
from tests.chaos.values import FAIR, Plan


@pytest.mark.parametrize("kind", ["delete-stream", "delete-group", "pause-queue", "flush-scripts"])
def test_a_command_that_redis_could_not_be_given_concerns_nobody(kind: str) -> None:
    """Otherwise a deletion that never happened would explain executions."""
    injector = INJECTORS[kind](Plan(at_s=0.0, kind=kind, target=FAIR, seconds=0.0, detail=0.5))
    stage = SimpleNamespace(is_server_up=False)

    injector.begin(stage)  # type: ignore[arg-type]

    assert frozenset({NOBODY}) == injector.end(stage).programs  # type: ignore[arg-type]
