"""The checker finds each execution and each attempt that no fault explains, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import HERE, ID, clean, fault, run_of, the_one
from tests.chaos.values import (
    FAIR,
    STORED,
    Evidence,
    Execution,
    Fault,
)


def test_an_execution_without_a_fault_is_found() -> None:
    assert "ran again without a fault" in the_one(clean(run_of(0, 15.0)))


def test_a_handler_that_raised_runs_again() -> None:
    first, *others = clean().executions
    runs = (run_of(0, 9.5, how="raised"), replace(first, attempt=2), *others)

    assert check(replace(clean(), executions=runs)) == []


def test_a_handler_that_raised_and_used_no_attempt_is_found() -> None:
    evidence = clean(run_of(0, 9.5, how="raised"))

    assert "ran again without a fault" in the_one(evidence)


def test_a_worker_that_begins_a_chunk_when_it_wakes_up_is_explained() -> None:
    """Another attempt began before, and the late worker was the silent one."""
    first = clean().executions[0]
    taken_over = replace(run_of(0, 9.5, attempt=2), program="worker-1", pid=9)
    silence = fault("stop-worker", 3.0, first.began, programs=HERE)

    assert check(replace(clean(taken_over), faults=(silence,))) == []
    assert [True] == ["ran again without" in text for text in check(clean(taken_over))][:1]


LOST = fault("delete-group", 5.0, queues=frozenset({FAIR}))
SILENT = fault("stop-worker", 4.0, 9.9, programs=HERE)
OF_OTHER = {"program": "worker-1", "pid": 9}


def after_another(*faults: Fault, late: Execution | None = None, **changes: Any) -> Evidence:
    """Worker-0 begins a chunk at 10.0 that worker-1 ran at 8.0, the reservation lost at 5.0."""
    first, *others = clean().executions
    taken_over = run_of(0, 8.0, **{**OF_OTHER, **changes})
    executions = (taken_over, late or first, *others)
    return replace(clean(), executions=executions, faults=faults)


@pytest.mark.parametrize(
    "lost",
    [
        LOST,
        replace(LOST, kind="delete-stream"),
        replace(LOST, kind="cancel-and-retry", submissions=frozenset({ID})),
        replace(LOST, partitions=frozenset({ID % 100})),
        # Heard of at the next heartbeat, which did not come any more.
        replace(LOST, began=3.0, ended=3.0),
    ],
)
@pytest.mark.parametrize(
    "silent",
    [
        [SILENT],
        [replace(SILENT, kind="redis-stall")],
        [replace(SILENT, kind="redis-partition")],
        [replace(SILENT, kind="machine-stall", programs=frozenset())],
        [replace(SILENT, kind="stop-server", programs=frozenset())],
        [replace(SILENT, kind="stop-child", pids=frozenset({100}))],
        # Too short for others to think it dead, but long enough to miss the loss.
        [replace(SILENT, ended=8.2), replace(SILENT, began=9.0, kind="redis-stall")],
    ],
    ids=lambda silent: " ".join(one.kind for one in silent),
)
def test_what_is_run_by_a_process_that_did_not_hear_of_its_loss_is_explained(
    lost: Fault, silent: list[Fault]
) -> None:
    """Another worker ran it meanwhile with the same attempt; no worker was taken for dead."""
    assert check_executions(after_another(lost, *silent)) == []


def test_a_retry_while_a_process_is_silent_gives_attempts_again() -> None:
    """The process holds the third attempt of before the cancellation; others begin again at 1."""
    retried = replace(LOST, kind="cancel-and-retry")
    third = replace(clean().executions[0], attempt=3)

    assert check_executions(after_another(retried, SILENT, late=third)) == []
    assert check_executions(after_another(LOST, SILENT, late=third)) != []


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [LOST],
        [SILENT],
        [LOST, replace(SILENT, programs=frozenset({"consumer"}))],
        [LOST, replace(SILENT, kind="stop-child", pids=frozenset({101}))],
        [LOST, replace(SILENT, kind="redis-delay")],
        [LOST, replace(SILENT, kind="store-pause")],
        [LOST, replace(SILENT, kind="step-clock")],
        [replace(LOST, kind="spread-queue"), SILENT],
        [replace(LOST, kind="pause-queue"), SILENT],
        [replace(LOST, queues=frozenset({STORED})), SILENT],
        [replace(LOST, partitions=frozenset({ID % 100 + 1})), SILENT],
        [replace(LOST, kind="cancel-and-retry", submissions=frozenset({ID + 1})), SILENT],
        # The loss came after the other execution, which it is no reason of.
        [replace(LOST, began=9.5, ended=9.5), SILENT],
        # It had heartbeats between the loss and its silence.
        [replace(LOST, began=1.0, ended=1.0), SILENT],
        # It had heartbeats between its silence and what it began.
        [LOST, replace(SILENT, ended=7.5)],
    ],
)
def test_what_is_run_after_another_without_both_faults_is_found(faults: list[Fault]) -> None:
    """Both faults must concern the right process, queue, partition and submission, in order."""
    (wrong,) = check_executions(after_another(*faults))

    assert wrong.startswith(f"{clean().executions[0]} ran again without a fault")


def check_executions(evidence: Evidence) -> list[str]:
    return [text for text in check(evidence) if "ran again" in text]


def test_a_late_execution_that_raised_is_no_reason_for_itself() -> None:
    """It can't be the reason for the earlier attempt, which began before it."""
    taken_over = run_of(0, 9.5, attempt=2, program="worker-1")
    late, *others = clean().executions
    runs = (taken_over, replace(late, how="raised"), *others)
    of_another = fault("kill-child", 9.3, programs=HERE, pids=frozenset({7}))

    assert "ran again without a fault" in the_one(
        replace(clean(faults=(of_another,)), executions=runs)
    )


def test_a_retried_submission_has_its_attempts_again() -> None:
    """This also holds for a chunk that raised long before and waited for its next attempt."""
    retried = fault("cancel-and-retry", 8.0, 8.5, submissions=frozenset({ID}))
    evidence = clean(run_of(0, 5.0, how="raised"), faults=(retried,))

    assert check(evidence) == []


def test_a_killed_child_explains_what_it_ran() -> None:
    killed = run_of(0, 9.5, ended=None, how="", pid=7)
    kill = fault("kill-child", 9.6, programs=HERE, pids=frozenset({7}))

    assert check(clean(killed, faults=(kill,))) == []


def test_a_killed_child_explains_nothing_of_its_neighbour() -> None:
    neighbour = run_of(0, 9.5, pid=8)
    kill = fault("kill-child", 9.6, programs=HERE, pids=frozenset({7}))

    assert "ran again" in the_one(clean(neighbour, faults=(kill,)))


def test_a_kill_long_after_the_report_explains_nothing() -> None:
    kill = fault("kill-worker", 14.0, programs=HERE)

    assert "ran again" in the_one(clean(run_of(0, 15.0), faults=(kill,)))


def test_a_kill_while_the_report_could_not_be_sent_explains() -> None:
    """The connection hung after the handler's end, and the worker was killed meanwhile."""
    stall = fault("redis-stall", 10.05, 12.5, programs=HERE)
    kill = fault("kill-worker", 12.4, programs=HERE)

    assert check(clean(run_of(0, 15.0), faults=(stall, kill))) == []


def test_a_fault_of_another_queue_explains_nothing() -> None:
    lost = fault("delete-stream", 10.0, queues=frozenset({STORED}))

    assert "ran again" in the_one(clean(run_of(0, 12.0), faults=(lost,)))


def test_a_silence_explains_only_when_it_was_long() -> None:
    short = fault("stop-worker", 10.0, 11.0, programs=HERE)
    long = fault("stop-worker", 10.0, 14.0, programs=HERE)

    assert "ran again" in the_one(clean(run_of(0, 15.0), faults=(short,)))
    assert check(clean(run_of(0, 15.0), faults=(long,))) == []


def test_short_silences_in_a_row_are_a_long_one() -> None:
    row = tuple(fault("stop-worker", 10.0 + i, 10.8 + i, programs=HERE) for i in range(4))

    assert check(clean(run_of(0, 15.0), faults=row)) == []


@pytest.mark.parametrize(
    "kind",
    [
        *("flush-scripts", "step-clock", "redis-cut", "redis-delay", "store-pause"),
        *("pause-queue", "term-worker", "hup-worker"),
    ],
)
def test_what_must_not_be_noticed_explains_nothing(kind: str) -> None:
    harmless = fault(kind, 9.0, 15.0)

    assert "ran again" in the_one(clean(run_of(0, 15.0), faults=(harmless,)))


def test_a_handler_that_vanished_without_a_kill_is_found() -> None:
    vanished = run_of(0, 9.5, ended=None, how="")
    lost = fault("delete-stream", 9.6, queues=frozenset({FAIR}))

    assert "never ended" in the_one(clean(vanished, faults=(lost,)))


@pytest.mark.parametrize(
    "kind", ["redis-partition", "redis-stall", "stop-server", "stop-api", "stop-consumer"]
)
def test_a_long_silence_kills_no_handler(kind: str) -> None:
    """Others may take the chunk over, but the process still exists and finishes its handler."""
    vanished = run_of(0, 9.5, ended=None, how="")
    silence = fault(kind, 9.4, 16.0)

    assert "never ended" in the_one(clean(vanished, faults=(silence,)))


def test_what_ran_beside_a_handler_that_was_held_up_is_killed_with_it() -> None:
    """It began when its process woke up, just before that was killed for the other one."""
    held_up, stop = (
        run_of(0, 3.0, ended=None, how=""),
        fault("stop-worker", 3.5, 9.6, programs=HERE),
    )
    beside = run_of(1, 9.61, ended=None, how="")

    assert check(clean(held_up, beside, faults=(stop,))) == []
    assert "never ended" in the_one(clean(held_up, replace(beside, pid=8), faults=(stop,)))


def with_attempt_used(*faults: Fault) -> Evidence:
    """The first to run is a second attempt."""
    first, *others = clean().executions
    return replace(clean(), executions=(replace(first, attempt=2), *others), faults=faults)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [fault("kill-worker", 9.5, programs=frozenset({"consumer"}))],
        [fault("kill-worker", 8.0, programs=HERE)],
        [fault("stop-worker", 9.2, 9.9, programs=HERE)],
        [fault("stop-child", 9.2, 9.9, programs=HERE)],
        [fault("term-worker", 9.5, programs=HERE)],
        [fault("delete-stream", 9.5, queues=frozenset({FAIR}))],
    ],
    ids=lambda faults: " ".join(one.kind for one in faults) or "none",
)
def test_an_attempt_that_nothing_used_is_found(faults: list[Fault]) -> None:
    """A fault of another program, one before the insert or a short one does not explain it."""
    assert "without a fault that used an attempt" in the_one(with_attempt_used(*faults))


@pytest.mark.parametrize(
    "used",
    [
        fault("kill-child", 9.5, programs=HERE, pids=frozenset({7})),
        fault("kill-worker", 9.5, programs=HERE),
        fault("stop-worker", 5.0, 9.2, programs=HERE),
        fault("stop-server", 5.0, 9.2),
    ],
    ids=lambda used: used.kind,
)
def test_an_attempt_that_a_fault_used_before_the_handler_ran_is_explained(used: Fault) -> None:
    assert check(with_attempt_used(used)) == []
