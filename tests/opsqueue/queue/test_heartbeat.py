"""heartbeat: reserved -> ready."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.chunk import Lost, Token
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, Clock, Raw, insert, take, take_one, tokens_of


def test_what_a_worker_rightly_holds_is_not_revoked(queue: Queue) -> None:
    """The worker continues with it."""
    insert(queue, 3)
    tokens = tokens_of(take(queue, 2))

    alive = queue.heartbeat("w1", tokens=tokens)

    assert (frozenset(), 0) == (alive.revoked, alive.released)


def test_chunks_of_a_cancelled_submission_are_revoked(queue: Queue) -> None:
    """The worker can stop early; other submissions' chunks go on."""
    cancelled, running = insert(queue, 2), insert(queue, 1)
    chunks = take(queue, 3)
    queue.cancel_submission(cancelled)

    alive = queue.heartbeat("w1", tokens=tokens_of(chunks))

    revoked = {c.token for c in chunks if c.source.submission_id == cancelled}
    assert revoked == alive.revoked
    assert running == chunks[2].source.submission_id


def test_chunks_of_a_failed_submission_are_revoked(queue: Queue) -> None:
    """Another chunk's failure ended it."""
    insert(queue, 2, max_attempts=1)
    first, second = tokens_of(take(queue, 2))
    queue.fail_chunk(first, FAILURE)

    assert frozenset({second}) == queue.heartbeat("w1", tokens=[second]).revoked


def test_a_lost_reservation_is_revoked(queue: Queue, clock: Clock) -> None:
    """This also holds if another worker holds the chunk by now."""
    insert(queue, 1)
    token = queue.reserve_chunks("w1", reservation_ms=10).chunks[0].token
    clock.advance(10)
    queue.reclaim_expired("sweeper")
    theirs = take_one(queue, worker="w2").token

    alive = queue.heartbeat("w1", tokens=[token, theirs, Token("1-1")])

    assert frozenset({token, theirs, Token("1-1")}) == alive.revoked
    assert queue.heartbeat("w2", tokens=[theirs]).revoked == frozenset()


def test_an_old_reservation_that_the_worker_does_not_know_is_released(
    queue: Queue, clock: Clock
) -> None:
    """The reserve's answer was lost, so nobody works on it; no attempt is used."""
    id_ = insert(queue, 2)
    known, unknown = take(queue, 2)
    clock.advance(30_000)

    alive = queue.heartbeat("w1", tokens=[known.token])

    assert (frozenset(), 1) == (alive.revoked, alive.released)
    assert [Lost()] == queue.complete_chunks([unknown.token])
    assert (take_one(queue, worker="w2").chunk_index, queue.count_queue().workers - 1) == (1, 1)
    assert queue.get_submission(id_).chunks_in_hand == 2


def test_a_young_reservation_that_the_worker_does_not_know_yet_is_kept(
    queue: Queue, clock: Clock
) -> None:
    """The answer of its reserve may still be under way."""
    insert(queue, 1)
    token = take_one(queue).token
    clock.advance(29_999)

    alive = queue.heartbeat("w1", tokens=[])

    assert alive.released == 0
    assert frozenset() == queue.heartbeat("w1", tokens=[token]).revoked


def test_a_released_unknown_chunk_of_a_cancelled_submission_waits_for_a_retry(
    queue: Queue, clock: Clock
) -> None:
    """A worker that stopped early reports nothing: this is how the index comes back."""
    id_ = insert(queue, 1)
    take_one(queue)
    queue.cancel_submission(id_)
    clock.advance(30_000)

    queue.heartbeat("w1", tokens=[])

    assert take(queue, 5) == []
    assert queue.get_submission(id_).chunks_in_hand == 0
    queue.retry_submission(id_)
    assert take_one(queue).chunk_index == 0


def test_another_workers_reservations_are_not_touched(queue: Queue, clock: Clock) -> None:
    """Only the caller's own pending reservations are released."""
    insert(queue, 1)
    token = take_one(queue, worker="w2").token
    clock.advance(60_000)

    alive = queue.heartbeat("w1", tokens=[], unknown_ms=0)

    assert alive.released == 0
    assert frozenset() == queue.heartbeat("w2", tokens=[token]).revoked


def test_a_heartbeat_keeps_a_worker_from_being_taken_for_dead(queue: Queue, clock: Clock) -> None:
    """A heartbeat restarts the worker's timeout."""
    insert(queue, 1)
    token = take_one(queue).token
    clock.advance(25_000)

    queue.heartbeat("w1", tokens=[token])

    clock.advance(25_000)
    swept = queue.reclaim_dead("sweeper")
    assert swept is not None
    assert swept.chunks == 0


def test_a_heartbeat_tells_of_its_worker(client: redis.Redis, queue: Queue, raw: Raw) -> None:
    """What it says of itself is kept until it retires."""
    queue.heartbeat("w1", info=b'{"host":"a"}')

    assert client.hget(raw.key("worker_info"), "w1") == b'{"host":"a"}'
    queue.retire_worker("w1")
    assert client.hget(raw.key("worker_info"), "w1") is None


def test_a_released_chunk_leaves_the_in_hand_counts(queue: Queue, raw: Raw, clock: Clock) -> None:
    """Each exit from reserved undoes what reserve did."""
    insert(queue, 2, strategic_metadata={"customer": 7})
    known, _ = take(queue, 2)
    clock.advance(30_000)

    queue.heartbeat("w1", tokens=[known.token])

    assert raw.in_hand("customer") == {7: 1}


@pytest.mark.parametrize("info", [b"\xff", b"[1]", b"{", b"null"])
def test_what_a_worker_tells_of_itself_is_a_json_object(queue: Queue, info: bytes) -> None:
    """One that is none would make every list of workers fail, the others in it too."""
    queue.heartbeat("w1", info=b'{"host": "a"}')

    with pytest.raises(InvalidArgumentError, match="JSON object"):
        queue.heartbeat("w2", info=info)

    assert ["w1"] == [worker.name for worker in queue.list_workers()]
