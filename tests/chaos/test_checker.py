"""The checker finds each kind of error: a test takes a clean run and introduces one error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import ID, clean, fault, run_of, the_one, with_end, with_outcome
from tests.chaos.values import (
    FAIR,
    STORED,
    result_of,
)


def test_a_run_without_faults_and_without_extra_executions_is_clean() -> None:
    assert check(clean()) == []


def test_a_lost_result_is_found() -> None:
    results = (result_of(0), result_of(1), "ValueError", result_of(4))

    assert "wrong results from operation 2" in the_one(with_outcome(results=results))


def test_a_doubled_result_is_found() -> None:
    results = (result_of(0), result_of(1), result_of(1), result_of(2), "ValueError", result_of(4))

    assert "wrong results from operation 2" in the_one(with_outcome(results=results))


def test_a_result_too_many_at_the_end_is_found() -> None:
    results = (result_of(0), result_of(1), result_of(2), "ValueError", result_of(4), result_of(4))

    assert "wrong results from operation 5" in the_one(with_outcome(results=results))


def test_a_missing_last_result_is_found() -> None:
    results = (result_of(0), result_of(1), result_of(2), "ValueError")

    assert "wrong results from operation 4" in the_one(with_outcome(results=results))


def test_results_in_another_order_are_found() -> None:
    results = (result_of(1), result_of(0), result_of(2), "ValueError", result_of(4))

    assert "wrong results from operation 0" in the_one(with_outcome(results=results))


def test_a_lost_error_of_an_operation_is_found() -> None:
    assert "counts 0 failed operations" in check(with_outcome(operations_failed=0))[0]


def test_a_chunk_counted_twice_is_found() -> None:
    wrong = check(with_outcome(chunks_done=4, operations_done=7))

    assert "counts 4 of 3 chunks and 7 operations" in wrong[0]


def test_a_total_counted_twice_is_found() -> None:
    stats = {**clean().queues[FAIR].stats, "chunks_completed": 4}

    assert "counts 4 chunks_completed, not 3" in the_one(with_end(stats=stats))


def test_a_submission_that_is_stuck_is_found() -> None:
    assert "is stuck or failed: in_progress" in check(with_outcome(state="in_progress"))[0]


def test_a_submission_that_completed_after_its_cancellation_is_found() -> None:
    expected = replace(clean().expected[0], is_cancelled=True)

    wrong = check(replace(clean(), expected=(expected,)))

    assert "was cancelled and is completed" in wrong[0]


def test_a_cancellation_that_is_not_counted_once_is_found() -> None:
    """A cancellation that was retried counts, too, since the total never decreases."""
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


def test_too_few_dropped_chunks_of_a_cancelled_submission_are_found() -> None:
    """There may be more of them, since a retry makes chunks ready again."""
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
def test_wrong_counts_of_a_cancelled_submission_are_found(
    counts: dict[str, int], said: str
) -> None:
    """They are checked by themselves, since the totals are only compared with them."""
    evidence = with_outcome(state="cancelled", **counts)
    expected = replace(evidence.expected[0], is_cancelled=True)

    wrong = check(replace(evidence, expected=(expected,)))

    of_it = [text for text in wrong if text.startswith(f"submission {ID}")]
    assert [said] == [said for text in of_it if said in text] if said else not of_it


def test_an_accepted_submission_that_is_gone_is_found() -> None:
    wrong = check(replace(clean(), outcomes={}))

    assert any("was accepted and is gone" in text for text in wrong)


def test_a_submission_that_was_inserted_twice_is_found() -> None:
    wrong = check(with_end(submissions=frozenset({ID, ID + 1})))

    assert any("which no producer submitted" in text for text in wrong)


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
def test_a_rest_is_found(rest: dict[str, Any]) -> None:
    assert "is left with 1" in the_one(with_end(**rest))


def test_chunks_that_a_submission_counts_in_hand_for_ever_are_found() -> None:
    assert "in hand for ever" in the_one(with_outcome(chunks_in_hand=1))


def test_what_a_program_did_by_itself_is_told() -> None:
    assert the_one(replace(clean(), surprises=("worker-0 ended",))) == "worker-0 ended"


def test_a_chunk_done_without_an_execution_is_found() -> None:
    evidence = clean()

    wrong = check(replace(evidence, executions=evidence.executions[:2]))

    assert "counts 3 chunks done, but 2 ever ran" in wrong[0]


def test_a_chunk_with_operations_of_another_is_found() -> None:
    assert "was given 2 operations from 1 on" in check(clean(run_of(0, 9.9, first=1)))[0]
