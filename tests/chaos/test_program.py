"""Processes that a program of the fault suite left behind are found and ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.program import Program

CHILD = "sleep 300 & echo started; wait"
CHILD_THAT_ENDS = "trap 'kill %1' TERM; sleep 300 & echo started; wait"


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    program = Program("it", ["bash", "-c", request.param], folder=tmp_path, environment={})
    program.start()
    program.wait_for_line("started")
    yield program
    program.end()


@pytest.mark.parametrize("program", [CHILD], indirect=True)
def test_a_process_that_outlives_its_killed_parent_is_found_and_ended(program: Program) -> None:
    (child,) = program.children()

    program.kill(start_after_s=0)

    assert f"it left processes behind: [{child.pid}]" == program.left_behind()
    program.end()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("program", [CHILD_THAT_ENDS], indirect=True)
def test_a_process_that_ends_with_its_parent_is_not_left_behind(program: Program) -> None:
    program.ask(signal.SIGTERM)

    assert program.left_behind() is None


@pytest.mark.parametrize("program", [CHILD], indirect=True)
def test_a_family_that_stays_is_not_left_behind(program: Program) -> None:
    """A signal need not end the processes."""
    program.ask(signal.SIGCONT)

    assert program.left_behind() is None
