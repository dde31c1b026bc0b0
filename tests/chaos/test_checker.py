"""The checker finds what it is there for: each test takes a clean run and spoils one thing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos import schedule
from tests.chaos.checker import check
from tests.chaos.explanations import KINDS
from tests.chaos.injectors import INJECTORS
from tests.chaos.values import (
    FAIR,
    STORED,
    Evidence,
    Execution,
    Expected,
    Fault,
    Outcome,
    QueueEnd,
    result_of,
)

ID = 1795636784480000000
HERE = frozenset({"worker-0"})


def run_of(chunk: int, began: float, **changes) -> Execution:
    """A handler's call on a chunk of `clean()`, of 0.1 s, by a child of worker-0."""
    one = Execution(
        queue=FAIR,
        submission=ID,
        chunk=chunk,
        attempt=1,
        first=2 * chunk,
        count=2 if chunk < 2 else 1,
        program="worker-0",
        pid=100,
        began=began,
        ended=began + 0.1,
        how="returned",
    )
    return replace(one, **changes)


def clean(*executions: Execution, faults: tuple[Fault, ...] = ()) -> Evidence:
    """A submission of five operations in three chunks, of which the fourth has an error."""
    expected = Expected(
        id=ID,
        queue=FAIR,
        chunk_size=2,
        operations=(0, 1, 2, 3, 4),
        errors=frozenset({3}),
        inserted=9.0,
    )
    outcome = Outcome(
        state="completed",
        chunks_total=3,
        chunks_done=3,
        chunks_in_hand=0,
        operations_done=5,
        operations_failed=1,
        results=(result_of(0), result_of(1), result_of(2), "ValueError", result_of(4)),
    )
    end = QueueEnd(
        stats={
            "submissions_inserted": 1,
            "submissions_completed": 1,
            "chunks_inserted": 3,
            "chunks_completed": 3,
            "operations_inserted": 5,
            "operations_completed": 5,
            "operations_failed": 1,
        },
        submissions=frozenset({ID}),
        chunks_in_hand=0,
        chunks_delayed=0,
        submissions_ready=0,
        submissions_in_progress=0,
    )
    return Evidence(
        expected=(expected,),
        outcomes={expected.key: outcome},
        executions=(run_of(0, 10.0), run_of(1, 10.2), run_of(2, 10.4), *executions),
        faults=faults,
        queues={FAIR: end},
    )


def with_outcome(**changes) -> Evidence:
    evidence = clean()
    outcome = replace(evidence.outcomes[FAIR, ID], **changes)
    return replace(evidence, outcomes={(FAIR, ID): outcome})


def with_end(**changes) -> Evidence:
    evidence = clean()
    return replace(evidence, queues={FAIR: replace(evidence.queues[FAIR], **changes)})


def fault(kind: str, began: float, ended: float | None = None, **scope) -> Fault:
    return Fault(kind=kind, target="", began=began, ended=ended or began, **scope)


def the_one(evidence: Evidence) -> str:
    (wrong,) = check(evidence)
    return wrong


def test_a_run_without_faults_and_without_extra_executions_is_clean():
    assert check(clean()) == []


# Results and totals


def test_a_lost_result_is_found():
    results = (result_of(0), result_of(1), "ValueError", result_of(4))

    assert "wrong results from operation 2" in the_one(with_outcome(results=results))


def test_a_doubled_result_is_found():
    results = (result_of(0), result_of(1), result_of(1), result_of(2), "ValueError", result_of(4))

    assert "wrong results from operation 2" in the_one(with_outcome(results=results))


def test_a_result_too_many_at_the_end_is_found():
    results = (result_of(0), result_of(1), result_of(2), "ValueError", result_of(4), result_of(4))

    assert "wrong results from operation 5" in the_one(with_outcome(results=results))


def test_a_missing_last_result_is_found():
    results = (result_of(0), result_of(1), result_of(2), "ValueError")

    assert "wrong results from operation 4" in the_one(with_outcome(results=results))


def test_results_in_another_order_are_found():
    results = (result_of(1), result_of(0), result_of(2), "ValueError", result_of(4))

    assert "wrong results from operation 0" in the_one(with_outcome(results=results))


def test_a_lost_error_of_an_operation_is_found():
    assert "counts 0 failed operations" in check(with_outcome(operations_failed=0))[0]


def test_a_chunk_counted_twice_is_found():
    wrong = check(with_outcome(chunks_done=4, operations_done=7))

    assert "counts 4 of 3 chunks and 7 operations" in wrong[0]


def test_a_total_counted_twice_is_found():
    stats = {**clean().queues[FAIR].stats, "chunks_completed": 4}

    assert "counts 4 chunks_completed, not 3" in the_one(with_end(stats=stats))


def test_a_submission_that_is_stuck_is_found():
    assert "is stuck or failed: in_progress" in check(with_outcome(state="in_progress"))[0]


def test_a_submission_that_completed_after_its_cancellation_is_found():
    expected = replace(clean().expected[0], is_cancelled=True)

    wrong = check(replace(clean(), expected=(expected,)))

    assert "was cancelled and is completed" in wrong[0]


def test_a_cancellation_that_is_not_counted_once_is_found():
    """Also one that was taken back: the total only ever grows."""
    cancelled = fault(
        "cancel-and-retry", 9.1, queues=frozenset({FAIR}), submissions=frozenset({ID})
    )
    of_another = fault(
        "cancel-and-retry", 9.1, queues=frozenset({STORED}), submissions=frozenset({ID})
    )
    stats = {**clean().queues[FAIR].stats, "submissions_cancelled": 1}

    assert check(replace(with_end(stats=stats), faults=(cancelled,))) == []
    assert "counts 0 submissions_cancelled, not 1" in the_one(clean(faults=(cancelled,)))
    assert "counts 1 submissions_cancelled, not 0" in the_one(
        replace(with_end(stats=stats), faults=(of_another,))
    )


def test_too_few_dropped_chunks_of_a_cancelled_submission_are_found():
    """A retry gives others back, so there may be more of them."""
    evidence = with_outcome(state="cancelled", chunks_done=1, operations_done=2)
    expected = replace(evidence.expected[0], is_cancelled=True)
    cancelled = fault("cancel-and-retry", 9.1, queues=frozenset({FAIR}))

    wrong = check(replace(evidence, expected=(expected,), faults=(cancelled,)))

    assert [f"queue {FAIR} counts 0 chunks_dropped, not 2 or more"] == [
        text for text in wrong if "dropped" in text
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"chunks_done": 2, "operations_done": 4}, ""),
        ({"chunks_done": 2, "operations_done": 3}, ""),
        ({"chunks_done": 2, "operations_done": 5}, "counts 5 operations in 2 chunks of 2"),
        ({"chunks_done": 3, "operations_done": 6}, "counts 6 operations in 3 chunks of 2"),
        ({"chunks_done": 4, "operations_done": 5}, "counts 4 of 3 chunks, not of 3"),
        ({"chunks_total": 4, "operations_done": 5}, "counts 3 of 4 chunks, not of 3"),
    ],
)
def test_wrong_counts_of_a_cancelled_submission_are_found(counts: dict[str, int], said: str):
    """Its totals are no help: they are compared with these counts."""
    evidence = with_outcome(state="cancelled", **counts)
    expected = replace(evidence.expected[0], is_cancelled=True)

    wrong = check(replace(evidence, expected=(expected,)))

    of_it = [text for text in wrong if text.startswith(f"submission {ID}")]
    assert [said] == [said for text in of_it if said in text] if said else not of_it


def test_an_accepted_submission_that_is_gone_is_found():
    wrong = check(replace(clean(), outcomes={}))

    assert any("was accepted and is gone" in text for text in wrong)


def test_a_submission_that_was_inserted_twice_is_found():
    wrong = check(with_end(submissions=frozenset({ID, ID + 1})))

    assert any("which no producer handed in" in text for text in wrong)


@pytest.mark.parametrize(
    "rest",
    [
        {"chunks_in_hand": 1},
        {"chunks_delayed": 1},
        {"submissions_ready": 1},
        {"submissions_in_progress": 1},
        {"counted_in_hand": {"inhand:customer 1": 1}},
    ],
    ids=lambda rest: next(iter(rest)),
)
def test_a_rest_is_found(rest):
    assert "is left with 1" in the_one(with_end(**rest))


def test_chunks_that_a_submission_counts_in_hand_for_ever_are_found():
    assert "in hand for ever" in the_one(with_outcome(chunks_in_hand=1))


def test_what_a_program_did_by_itself_is_told():
    assert the_one(replace(clean(), surprises=("worker-0 ended",))) == "worker-0 ended"


# Executions


def test_a_chunk_done_without_an_execution_is_found():
    evidence = clean()

    wrong = check(replace(evidence, executions=evidence.executions[:2]))

    assert "counts 3 chunks done, but 2 ever ran" in wrong[0]


def test_a_chunk_with_operations_of_another_is_found():
    assert "was given 2 operations from 1 on" in check(clean(run_of(0, 9.9, first=1)))[0]


def test_an_execution_without_a_fault_is_found():
    assert "ran again without a fault" in the_one(clean(run_of(0, 15.0)))


def test_a_handler_that_raised_runs_again():
    first, *others = clean().executions
    runs = (run_of(0, 9.5, how="raised"), replace(first, attempt=2), *others)

    assert check(replace(clean(), executions=runs)) == []


def test_a_handler_that_raised_and_used_no_attempt_is_found():
    evidence = clean(run_of(0, 9.5, how="raised"))

    assert "ran again without a fault" in the_one(evidence)


def test_a_worker_that_begins_a_chunk_when_it_wakes_up_is_explained():
    """Another attempt has begun before; the silence was that of the worker which is late."""
    first = clean().executions[0]
    taken_over = replace(run_of(0, 9.5, attempt=2), program="worker-1", pid=9)
    silence = fault("stop-worker", 3.0, first.began, programs=HERE)

    assert check(replace(clean(taken_over), faults=(silence,))) == []
    assert [True] == ["ran again without" in text for text in check(clean(taken_over))][:1]


def test_a_late_execution_that_raised_is_no_reason_for_itself():
    """It is not what the attempt before it was made for: that one began earlier."""
    taken_over = run_of(0, 9.5, attempt=2, program="worker-1")
    late, *others = clean().executions
    runs = (taken_over, replace(late, how="raised"), *others)
    of_another = fault("kill-child", 9.3, programs=HERE, pids=frozenset({7}))

    assert "ran again without a fault" in the_one(
        replace(clean(faults=(of_another,)), executions=runs)
    )


def test_a_retried_submission_has_its_attempts_again():
    """Also of a chunk that raised long before, and waited for its next attempt."""
    retried = fault("cancel-and-retry", 8.0, 8.5, submissions=frozenset({ID}))
    evidence = clean(run_of(0, 5.0, how="raised"), faults=(retried,))

    assert check(evidence) == []


def test_a_killed_child_explains_what_it_ran():
    killed = run_of(0, 9.5, ended=None, how="", pid=7)
    kill = fault("kill-child", 9.6, programs=HERE, pids=frozenset({7}))

    assert check(clean(killed, faults=(kill,))) == []


def test_a_killed_child_explains_nothing_of_its_neighbour():
    neighbour = run_of(0, 9.5, pid=8)
    kill = fault("kill-child", 9.6, programs=HERE, pids=frozenset({7}))

    assert "ran again" in the_one(clean(neighbour, faults=(kill,)))


def test_a_kill_long_after_the_report_explains_nothing():
    kill = fault("kill-worker", 14.0, programs=HERE)

    assert "ran again" in the_one(clean(run_of(0, 15.0), faults=(kill,)))


def test_a_kill_while_the_report_could_not_be_sent_explains():
    """The connection hung from the handler's end on; before it came back the worker was killed."""
    stall = fault("redis-stall", 10.05, 12.5, programs=HERE)
    kill = fault("kill-worker", 12.4, programs=HERE)

    assert check(clean(run_of(0, 15.0), faults=(stall, kill))) == []


def test_a_fault_of_another_queue_explains_nothing():
    lost = fault("delete-stream", 10.0, queues=frozenset({STORED}))

    assert "ran again" in the_one(clean(run_of(0, 12.0), faults=(lost,)))


def test_a_silence_explains_only_when_it_was_long():
    short = fault("stop-worker", 10.0, 11.0, programs=HERE)
    long = fault("stop-worker", 10.0, 14.0, programs=HERE)

    assert "ran again" in the_one(clean(run_of(0, 15.0), faults=(short,)))
    assert check(clean(run_of(0, 15.0), faults=(long,))) == []


def test_short_silences_in_a_row_are_a_long_one():
    row = tuple(fault("stop-worker", 10.0 + i, 10.8 + i, programs=HERE) for i in range(4))

    assert check(clean(run_of(0, 15.0), faults=row)) == []


@pytest.mark.parametrize(
    "kind",
    [
        *("flush-scripts", "step-clock", "redis-cut", "redis-delay", "store-pause"),
        *("pause-queue", "term-worker", "hup-worker"),
    ],
)
def test_what_must_not_be_noticed_explains_nothing(kind: str):
    harmless = fault(kind, 9.0, 15.0)

    assert "ran again" in the_one(clean(run_of(0, 15.0), faults=(harmless,)))


def test_a_handler_that_vanished_without_a_kill_is_found():
    vanished = run_of(0, 9.5, ended=None, how="")
    lost = fault("delete-stream", 9.6, queues=frozenset({FAIR}))

    assert "never ended" in the_one(clean(vanished, faults=(lost,)))


@pytest.mark.parametrize(
    "kind", ["redis-partition", "redis-stall", "stop-server", "stop-api", "stop-consumer"]
)
def test_a_long_silence_kills_no_handler(kind: str):
    """Others may take its chunk over; the process that had it is there still, and ends it."""
    vanished = run_of(0, 9.5, ended=None, how="")
    silence = fault(kind, 9.4, 16.0)

    assert "never ended" in the_one(clean(vanished, faults=(silence,)))


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
def test_an_attempt_that_nothing_used_is_found(faults: list[Fault]):
    """A fault of who never has chunks of this queue, one before the insert, short ones."""
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
def test_an_attempt_that_a_fault_used_before_the_handler_ran_is_explained(used: Fault):
    assert check(with_attempt_used(used)) == []


# Schedules


def test_a_schedule_is_a_function_of_its_seed():
    assert schedule.schedule(7, seconds=30) == schedule.schedule(7, seconds=30)
    assert schedule.schedule(7, seconds=30) != schedule.schedule(8, seconds=30)


def test_every_kind_of_fault_has_an_injector_and_a_rule():
    assert schedule.KINDS == set(INJECTORS)
    # What producers do, and what befalls the machine, is not planned.
    assert KINDS - schedule.KINDS == {"cancel-and-retry", "machine-stall", "store-slow"}


def test_twenty_seeds_have_every_kind_many_times():
    planned = Counter(
        plan.kind for seed in range(20) for plan in schedule.schedule(seed, seconds=40)
    )

    assert set(planned) == schedule.KINDS
    assert min(planned.values()) > 10


def test_no_program_is_killed_while_it_is_stopped():
    """Else one fault would take the other back."""
    for seed in range(20):
        busy: dict[str, float] = {}
        for plan in schedule.schedule(seed, seconds=60):
            if plan.kind.startswith(("kill-", "stop-")):
                assert plan.at_s >= busy.get(plan.target, 0.0)
                busy[plan.target] = plan.at_s + plan.seconds
