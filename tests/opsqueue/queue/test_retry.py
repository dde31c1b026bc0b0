"""retry_submission: failed or cancelled -> in_progress."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import SubmissionNotFoundError, SubmissionNotRetryableError
from opsqueue.model.chunk import MAX_BATCH, Completed
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    NO_WAIT,
    Clock,
    Raw,
    Sleeper,
    indexes_of,
    insert,
    listed,
    take,
    take_one,
    tokens_of,
)


def test_a_retry_keeps_finished_chunks(queue: Queue) -> None:
    """Only what is left is handed out, the chunk that failed first."""
    id_ = insert(queue, 4, max_attempts=1)
    first, second = tokens_of(take(queue, 2))
    queue.complete_chunks([first])
    queue.fail_chunk(second, FAILURE)

    queue.retry_submission(id_)

    assert queue.get_submission(id_).chunks_done == 1
    assert indexes_of(take(queue, 10)) == [1, 2, 3]


def test_a_retry_gives_every_chunk_all_its_attempts_again(queue: Queue) -> None:
    """The one that failed begins at 1."""
    id_ = insert(queue, 1, max_attempts=2, backoff=NO_WAIT)
    for _ in range(2):
        queue.fail_chunk(take_one(queue).token, FAILURE)

    queue.retry_submission(id_)

    submission = queue.get_submission(id_)
    assert (submission.state, submission.ended_at) == (SubmissionState.IN_PROGRESS, None)
    assert submission.last_failure is None
    assert take_one(queue).attempt == 1


def test_a_retried_submission_can_complete(queue: Queue) -> None:
    """And is then in one list only."""
    id_ = insert(queue, 2)
    queue.cancel_submission(id_)
    queue.retry_submission(id_)

    outcomes = queue.complete_chunks(tokens_of(take(queue, 5)))

    assert Completed(id_, 0) == outcomes[-1]
    assert [id_] == [s.id for s in listed(queue, SubmissionState.COMPLETED)]
    assert listed(queue, SubmissionState.CANCELLED) == []
    assert listed(queue, SubmissionState.IN_PROGRESS) == []
    assert queue.count_queue().stats["backlog_chunks"] == 0


def test_a_reservation_from_before_the_retry_is_valid_again(queue: Queue) -> None:
    """Nobody reported it yet: its work is wanted after all, and it is not handed out twice."""
    id_ = insert(queue, 2)
    token = take_one(queue).token
    queue.cancel_submission(id_)

    queue.retry_submission(id_)

    assert frozenset() == queue.heartbeat("w1", tokens=[token]).revoked
    assert indexes_of(take(queue, 5, worker="w2")) == [1]
    assert [Completed(id_, 1)] == queue.complete_chunks([token])


def test_a_chunk_that_was_delayed_before_its_submission_ended_is_not_forgotten(
    queue: Queue, clock: Clock
) -> None:
    """If its instant comes before the retry it waits for that, else the retry ends its back-off."""
    early, late = insert(queue, 1), insert(queue, 1)
    first, second = take(queue, 2)
    queue.release_chunks([first.token], delay_ms=10)
    queue.release_chunks([second.token], delay_ms=20)
    queue.cancel_submission(early)
    queue.cancel_submission(late)
    clock.advance(10)
    while_cancelled = take(queue, 5)

    queue.retry_submission(early)
    queue.retry_submission(late)

    assert while_cancelled == []
    assert [early, late] == [chunk.source.submission_id for chunk in take(queue, 5)]


def test_a_retry_ends_the_back_offs_of_its_submission_and_of_no_other(queue: Queue) -> None:
    """It ends any number of them: the cause is fixed, so a further wait would surprise."""
    mended, other = insert(queue, MAX_BATCH + 1), insert(queue, MAX_BATCH + 1)
    while chunks := take(queue, MAX_BATCH):
        queue.release_chunks(tokens_of(chunks), delay_ms=60_000)
    queue.cancel_submission(mended)

    queue.retry_submission(mended)

    assert queue.count_queue().chunks_delayed == MAX_BATCH + 1
    chunks = [*take(queue, MAX_BATCH), *take(queue, MAX_BATCH)]
    assert indexes_of(chunks) == list(range(MAX_BATCH + 1))
    assert {mended} == {chunk.source.submission_id for chunk in chunks}
    assert queue.get_submission(other).chunks_in_hand == 0


def test_a_retry_wakes_who_sleeps_for_a_chunk_whose_back_off_ended(queue: Queue) -> None:
    id_ = insert(queue, 1)
    queue.release_chunks([take_one(queue).token], delay_ms=60_000)
    queue.cancel_submission(id_)
    with Sleeper(queue) as sleeper:
        queue.retry_submission(id_)

        assert sleeper.hears()


def test_a_retried_submission_with_everything_in_hand_is_not_in_the_index_of_work(
    queue: Queue, raw: Raw
) -> None:
    """There is nothing to hand out."""
    id_ = insert(queue, 1)
    take_one(queue)
    queue.cancel_submission(id_)

    queue.retry_submission(id_)

    assert raw.ready() == []


def test_the_backlog_counts_a_retried_submission_again(queue: Queue) -> None:
    """What is left of it, in chunks and in operations."""
    id_ = insert(queue, 5, chunk_size=10, operations_total=45)
    queue.complete_chunks(tokens_of(take(queue, 2)))
    queue.cancel_submission(id_)

    queue.retry_submission(id_)

    stats = queue.count_queue().stats
    assert (stats["backlog_chunks"], stats["backlog_operations"]) == (3, 25)


def test_a_retried_submission_is_not_forgotten(queue: Queue, clock: Clock) -> None:
    """Its retention was counted from an end that did not last."""
    id_ = insert(queue, 1, retention_ms=1_000)
    queue.cancel_submission(id_)
    queue.retry_submission(id_)
    clock.advance(1_000)

    forgotten = queue.forget_submissions()

    assert forgotten.submissions == 0
    assert queue.get_submission(id_).state is SubmissionState.IN_PROGRESS


def test_an_unknown_submission_can_not_be_retried(queue: Queue) -> None:
    """The error names the id."""
    with pytest.raises(SubmissionNotFoundError):
        queue.retry_submission(SubmissionId(42))


def test_only_failed_and_cancelled_submissions_can_be_retried(queue: Queue) -> None:
    """The error names the state."""
    completed, running = insert(queue, 0), insert(queue, 1)

    with pytest.raises(SubmissionNotRetryableError, match="is completed"):
        queue.retry_submission(completed)
    with pytest.raises(SubmissionNotRetryableError, match="is in progress"):
        queue.retry_submission(running)
