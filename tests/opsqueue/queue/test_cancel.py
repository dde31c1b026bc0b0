"""cancel_submission: in_progress -> cancelled."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import SubmissionNotCancellableError, SubmissionNotFoundError
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, Clock, Raw, insert, take, take_one, tokens_of


def test_a_cancelled_submission_hands_out_nothing_more(
    queue: Queue, raw: Raw, clock: Clock
) -> None:
    """Neither new, nor released, nor delayed chunks are reserved."""
    id_ = insert(queue, 5)
    first, second, _ = tokens_of(take(queue, 3))
    queue.release_chunks([first])
    queue.release_chunks([second], delay_ms=10)

    queue.cancel_submission(id_)

    clock.advance(10)
    assert take(queue, 10) == []
    assert raw.ready() == []


def test_a_cancelled_submission_says_when_and_how_far_it_came(queue: Queue, clock: Clock) -> None:
    """Done and dropped chunks together are all chunks."""
    id_ = insert(queue, 5, chunk_size=10, operations_total=45)
    queue.complete_chunks(tokens_of(take(queue, 2)))
    clock.advance(99)

    queue.cancel_submission(id_)

    stats = queue.count_queue().stats
    submission = queue.get_submission(id_)
    assert submission.state is SubmissionState.CANCELLED
    assert submission.ended_at is not None
    assert clock.now == submission.ended_at.timestamp() * 1000
    assert (
        submission.chunks_done,
        submission.chunks_failed,
        submission.chunks_dropped,
    ) == (2, 0, 3)
    assert (stats["chunks_dropped"], stats["submissions_cancelled"]) == (3, 1)
    assert (stats["backlog_chunks"], stats["backlog_operations"]) == (0, 0)


def test_chunks_in_hand_stay_counted_until_they_are_reported(queue: Queue, raw: Raw) -> None:
    """The workers still hold them."""
    id_ = insert(queue, 2, strategic_metadata={"customer": 7})
    tokens = tokens_of(take(queue, 2))

    queue.cancel_submission(id_)
    in_hand = raw.in_hand("customer")
    queue.complete_chunks(tokens)

    assert in_hand == {7: 2}
    assert raw.in_hand("customer") == {}


def test_an_unknown_submission_can_not_be_cancelled(queue: Queue) -> None:
    """The error names the id and the queue."""
    with pytest.raises(SubmissionNotFoundError, match=queue.name) as caught:
        queue.cancel_submission(SubmissionId(42))

    assert caught.value.submission_id == 42


def test_a_submission_that_has_ended_can_not_be_cancelled(queue: Queue) -> None:
    """The error names the state that it is in."""
    completed, failed, cancelled = insert(queue, 0), insert(queue, 1, max_attempts=1), insert(queue)
    queue.fail_chunk(take_one(queue).token, FAILURE)
    queue.cancel_submission(cancelled)

    for id_, state in [(completed, "completed"), (failed, "failed"), (cancelled, "cancelled")]:
        with pytest.raises(SubmissionNotCancellableError, match=f"{id_} is {state}"):
            queue.cancel_submission(id_)

    assert queue.count_queue().stats["submissions_cancelled"] == 1
