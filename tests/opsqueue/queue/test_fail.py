"""fail_chunk: reserved -> delayed or ready or failed."""

from __future__ import annotations

import pytest
import redis

from opsqueue.model.chunk import ChunkFailure, Dropped, FinallyFailed, Lost, Retried
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    NO_WAIT,
    Clock,
    Raw,
    insert,
    take,
    take_one,
    tokens_of,
)


def test_a_failed_attempt_is_followed_by_the_next(queue: Queue) -> None:
    """The worker that takes it learns which attempt it is."""
    id_ = insert(queue, 1, backoff=NO_WAIT)

    outcome = queue.fail_chunk(take_one(queue).token, FAILURE)

    assert isinstance(outcome, Retried)
    assert (outcome.submission_id, outcome.attempt) == (id_, 1)
    assert take_one(queue).attempt == 2


def test_a_final_failure_is_the_last_attempt(queue: Queue) -> None:
    """The attempt may have any number; a retry of the submission tries the chunk again."""
    id_ = insert(queue, 2, max_attempts=10)
    chunk = take_one(queue)

    outcome = queue.fail_chunk(chunk.token, FAILURE, is_final=True)

    assert FinallyFailed(id_, 1) == outcome
    assert SubmissionState.FAILED is queue.get_submission(id_).state
    queue.retry_submission(id_)
    assert chunk.chunk_index == take_one(queue).chunk_index


def test_the_tenth_failure_fails_the_submission_with_that_failure(
    queue: Queue, clock: Clock
) -> None:
    """Ten attempts by default; the status shows the last one's type, message and traceback."""
    id_ = insert(queue, 3, backoff=NO_WAIT)
    for attempt in range(1, 10):
        queue.fail_chunk(take_one(queue).token, FAILURE)
        assert queue.get_submission(id_).state is SubmissionState.IN_PROGRESS, attempt
    clock.advance(77)
    last = ChunkFailure(type="app.Bad", message="the tenth \udcff", traceback="tenth line")

    outcome = queue.fail_chunk(take_one(queue).token, last)

    submission = queue.get_submission(id_)
    failure = submission.failure
    assert FinallyFailed(id_, 10) == outcome
    assert submission.state is SubmissionState.FAILED
    assert failure is not None
    assert (failure.chunk_index, failure.attempt, failure.type) == (0, 10, "app.Bad")
    assert (failure.message, failure.traceback) == ("the tenth \\udcff", "tenth line")
    assert clock.now == failure.at.timestamp() * 1000
    assert (submission.chunks_failed, submission.chunks_dropped) == (1, 2)
    assert take(queue, 5) == []


def test_a_submission_may_allow_a_single_attempt(queue: Queue) -> None:
    """The first failure is then the last one."""
    id_ = insert(queue, 1, max_attempts=1)

    assert FinallyFailed(id_, 1) == queue.fail_chunk(take_one(queue).token, FAILURE)


def test_a_failed_submission_drops_what_is_left(queue: Queue) -> None:
    """Done + failed + dropped are all; the backlog no longer counts any of it."""
    id_ = insert(queue, 5, chunk_size=10, operations_total=45, max_attempts=1)
    first, second, _ = take(queue, 3)
    queue.complete_chunks([first.token])

    queue.fail_chunk(second.token, FAILURE)

    stats = queue.count_queue().stats
    submission = queue.get_submission(id_)
    assert (
        submission.chunks_done,
        submission.chunks_failed,
        submission.chunks_dropped,
    ) == (1, 1, 3)
    assert (stats["chunks_failed"], stats["chunks_dropped"]) == (1, 3)
    assert (stats["backlog_chunks"], stats["backlog_operations"]) == (0, 0)


def test_an_earlier_failure_stays_visible_while_the_chunk_is_retried(queue: Queue) -> None:
    """`last_failure` shows why it is slow; `failure` is for what ended it."""
    id_ = insert(queue, 1, backoff=NO_WAIT)

    queue.fail_chunk(take_one(queue).token, FAILURE)

    submission = queue.get_submission(id_)
    assert submission.failure is None
    assert submission.last_failure is not None
    assert FAILURE.message == submission.last_failure.message


@pytest.mark.parametrize(("jitter", "share"), [(0, 0.5), (500, 0.75), (1_000, 1.0)])
def test_the_backoff_doubles_to_its_cap(
    queue: Queue, clock: Clock, jitter: int, share: float
) -> None:
    """1, 2, 4 s ... 60 s by default; half of each is fixed, half is jitter."""
    insert(queue, 1)
    waits = []

    for _ in range(9):
        outcome = queue.fail_chunk(take_one(queue).token, FAILURE, jitter=jitter)
        assert isinstance(outcome, Retried)
        waits.append(outcome.next_at_ms - clock.now)
        clock.now = outcome.next_at_ms

    seconds = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [int(1_000 * share * s) for s in seconds] == waits


def test_drawn_jitter_stays_within_its_half(queue: Queue, clock: Clock) -> None:
    """Chunks that failed together don't come back together, nor too early, nor too late."""
    insert(queue, 50, backoff=Backoff(first_ms=10_000, max_ms=10_000))

    waits = []
    for token in tokens_of(take(queue, 50)):
        outcome = queue.fail_chunk(token, FAILURE)
        assert isinstance(outcome, Retried)
        waits.append(outcome.next_at_ms - clock.now)

    assert all(5_000 <= wait <= 10_000 for wait in waits)
    assert len(set(waits)) > 10


def test_a_delayed_chunk_is_free_at_its_instant_and_not_before(queue: Queue, clock: Clock) -> None:
    """The first reserve after it frees the chunk."""
    insert(queue, 1)
    queue.fail_chunk(take_one(queue).token, FAILURE, jitter=1_000)

    clock.advance(999)
    before = take(queue, 5)
    clock.advance(1)
    at = take(queue, 5)

    assert (len(before), len(at)) == (0, 1)


def test_without_backoff_the_chunk_is_free_at_once(queue: Queue, clock: Clock) -> None:
    """A back-off of zero is allowed."""
    insert(queue, 1, backoff=NO_WAIT)

    outcome = queue.fail_chunk(take_one(queue).token, FAILURE, jitter=1_000)

    assert isinstance(outcome, Retried)
    assert clock.now == outcome.next_at_ms
    assert queue.count_queue().chunks_delayed == 0
    assert take_one(queue).attempt == 2


def test_a_backoff_that_begins_at_zero_stays_zero_for_ever(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """Zero times two to the power of 1,100 is not a number: it must not become the cap."""
    id_ = insert(queue, 1, max_attempts=5_000, backoff=Backoff(first_ms=0, max_ms=60_000))
    client.hset(raw.key(f"sub:{id_}:attempts"), "0", 1_100)

    queue.fail_chunk(take_one(queue).token, FAILURE)

    assert take_one(queue).attempt == 1_102


def test_a_late_failure_is_lost(queue: Queue) -> None:
    """It uses no attempt of a chunk that another worker has completed."""
    id_ = insert(queue, 2, max_attempts=1)
    token = take_one(queue).token
    queue.complete_chunks([token])

    assert Lost() == queue.fail_chunk(token, FAILURE)
    assert queue.get_submission(id_).state is SubmissionState.IN_PROGRESS
    assert queue.get_submission(id_).last_failure is None


def test_a_failure_after_a_cancel_is_dropped_and_uses_no_attempt(queue: Queue) -> None:
    """Its index waits for a retry."""
    id_ = insert(queue, 1, max_attempts=1)
    token = take_one(queue).token
    queue.cancel_submission(id_)

    outcome = queue.fail_chunk(token, FAILURE)

    assert Dropped(id_) == outcome
    assert queue.get_submission(id_).state is SubmissionState.CANCELLED
    queue.retry_submission(id_)
    assert take_one(queue).attempt == 1


def test_a_failure_leaves_the_in_hand_counts_right(queue: Queue, raw: Raw) -> None:
    """After a retried one, and after the one that fails the submission."""
    id_ = insert(queue, 3, strategic_metadata={"customer": 7}, backoff=NO_WAIT, max_attempts=2)
    first, second = take(queue, 2)

    queue.fail_chunk(first.token, FAILURE)
    after_one = raw.in_hand("customer")
    queue.fail_chunk(take_one(queue).token, FAILURE)
    after_the_last = raw.in_hand("customer")
    queue.complete_chunks([second.token])

    assert (after_one, after_the_last) == ({7: 1}, {7: 1})
    assert raw.in_hand("customer") == {}
    assert queue.get_submission(id_).chunks_in_hand == 0
