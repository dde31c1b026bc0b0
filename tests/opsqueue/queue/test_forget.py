"""forget_submissions: completed or failed or cancelled -> forgotten."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotFoundError
from opsqueue.model.chunk import Lost
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    insert,
    listed,
    prefix_of,
    take,
    take_one,
    tokens_of,
)


def test_a_submission_is_forgotten_after_its_retention_and_not_before(
    queue: Queue, clock: Clock
) -> None:
    """Counted from its end."""
    id_ = insert(queue, 1, retention_ms=1_000, prefix=prefix_of(queue, "a/b"))
    clock.advance(5_000)
    queue.complete_chunks(tokens_of(take(queue, 1)))

    clock.advance(999)
    before = queue.forget_submissions()
    clock.advance(1)
    after = queue.forget_submissions()

    assert (before.submissions, before.prefixes) == (0, ())
    assert (after.submissions, after.prefixes) == (1, (prefix_of(queue, "a/b"),))
    assert listed(queue, SubmissionState.COMPLETED) == []
    with pytest.raises(SubmissionNotFoundError):
        queue.get_submission(id_)


def test_a_running_submission_is_never_forgotten(queue: Queue, clock: Clock) -> None:
    """Its age does not matter."""
    insert(queue, 1, retention_ms=0)
    clock.advance(10**9)

    assert queue.forget_submissions().submissions == 0


def test_failed_and_cancelled_submissions_are_forgotten_too(queue: Queue, clock: Clock) -> None:
    """The final state does not matter."""
    failed, cancelled = (insert(queue, 1, retention_ms=0, max_attempts=1) for _ in range(2))
    queue.fail_chunk(take_one(queue).token, FAILURE)
    queue.cancel_submission(cancelled)
    clock.advance(1)

    assert queue.forget_submissions().submissions == 2
    for id_ in (failed, cancelled):
        with pytest.raises(SubmissionNotFoundError):
            queue.get_submission(id_)


def test_a_submission_with_chunks_in_hand_is_not_forgotten(
    queue: Queue, raw: Raw, clock: Clock
) -> None:
    """Its reports must find it, to count it down."""
    id_ = insert(queue, 1, retention_ms=0, strategic_metadata={"customer": 7})
    token = take_one(queue).token
    queue.cancel_submission(id_)

    with_one_in_hand = queue.forget_submissions()
    queue.complete_chunks([token])
    clock.advance(60_000)
    without = queue.forget_submissions()

    assert (with_one_in_hand.submissions, without.submissions) == (0, 1)
    assert raw.in_hand("customer") == {}


def test_a_prefix_is_answered_until_its_deletion_is_confirmed(queue: Queue) -> None:
    """A crash between the answer and the deletion leaks nothing."""
    insert(queue, 0, retention_ms=0, prefix=prefix_of(queue, "a/b"))

    first = queue.forget_submissions()
    again = queue.forget_submissions()
    confirmed = queue.forget_submissions(deleted_prefixes=[prefix_of(queue, "a/b")])

    assert (first.prefixes, again.prefixes, confirmed.prefixes) == (
        (prefix_of(queue, "a/b"),),
        (prefix_of(queue, "a/b"),),
        (),
    )


def test_a_prefix_is_free_again_once_its_objects_are_deleted(queue: Queue) -> None:
    """And not before, or the deletion would take the new submission's objects."""
    insert(queue, 0, retention_ms=0, prefix=prefix_of(queue, "a/b"))
    queue.forget_submissions()

    with pytest.raises(InvalidArgumentError, match="belongs to"):
        insert(queue, 1, prefix=prefix_of(queue, "a/b"))
    queue.forget_submissions(deleted_prefixes=[prefix_of(queue, "a/b")])

    assert queue.get_submission(
        insert(queue, 1, prefix=prefix_of(queue, "a/b"))
    ).prefix == prefix_of(queue, "a/b")


def test_a_deletion_that_is_confirmed_twice_does_not_free_the_next_owners_prefix(
    queue: Queue,
) -> None:
    """Two sweepers may be given the same prefix; the second confirms it when it has an owner."""
    insert(queue, 0, retention_ms=0, prefix=prefix_of(queue, "a/b"))
    queue.forget_submissions()
    queue.forget_submissions(deleted_prefixes=[prefix_of(queue, "a/b")])
    owner = insert(queue, 1, prefix=prefix_of(queue, "a/b"))

    queue.forget_submissions(deleted_prefixes=[prefix_of(queue, "a/b")])

    with pytest.raises(InvalidArgumentError, match=f"belongs to submission {owner}"):
        insert(queue, 1, prefix=prefix_of(queue, "a/b"))


def test_forgetting_is_bounded(queue: Queue) -> None:
    """Both submissions and prefixes are limited."""
    for _ in range(5):
        insert(queue, 0, retention_ms=0)

    first = queue.forget_submissions(limit=2)
    second = queue.forget_submissions(limit=3)

    assert (first.submissions, len(first.prefixes)) == (2, 2)
    assert (second.submissions, len(second.prefixes)) == (3, 3)


def test_nothing_of_a_forgotten_submission_stays(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock
) -> None:
    """Not its attempts, nor its metadata, nor its failure, nor its delayed chunks."""
    id_ = insert(queue, 5, retention_ms=0, strategic_metadata={"customer": 7}, max_attempts=2)
    first, second, third, _ = take(queue, 4)
    queue.complete_chunks([first.token])
    queue.fail_chunk(second.token, FAILURE, jitter=0)
    queue.release_chunks([third.token])
    queue.retire_worker("w1")
    queue.cancel_submission(id_)
    clock.advance(60_000)

    queue.forget_submissions()
    chunks = take(queue, 5)

    keys = list(client.scan_iter(match=raw.key(f"sub:{id_}*"), count=10_000))
    assert (chunks, keys) == ([], [])
    assert queue.count_queue().chunks_delayed == 0
    assert [Lost()] == queue.complete_chunks([third.token])


def test_old_events_are_forgotten(queue: Queue, client: redis.Redis, raw: Raw) -> None:
    """This also happens in a queue without any activity."""
    client.xadd(raw.key("events"), {"submission": "1", "event": "created"}, id="1000-0")
    id_ = insert(queue, 1)

    queue.forget_submissions()

    _, events = queue.wait_for_events("0-0", block_ms=10)
    assert events == [(id_, "created")]
