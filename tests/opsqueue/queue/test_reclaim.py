"""reclaim_dead, reclaim_expired: reserved -> ready or failed."""

from __future__ import annotations

import pytest

from opsqueue.model.chunk import Lost
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Clock, Raw, insert, take, take_one, tokens_of

TIMEOUT_MS = 30_000


def reclaim_dead(queue: Queue, *, limit: int = 100) -> int:
    swept = queue.reclaim_dead("sweeper", limit=limit)
    assert swept is not None
    return swept.chunks


def test_a_dead_workers_chunks_are_free_at_once_and_use_an_attempt(
    queue: Queue, clock: Clock
) -> None:
    """Without a back-off: the machine was at fault, most likely."""
    insert(queue, 2, backoff=Backoff(first_ms=9_000, max_ms=9_000))
    take(queue, 2, worker="dead")
    clock.advance(TIMEOUT_MS)

    reclaimed = reclaim_dead(queue)

    chunks = take(queue, 5)
    assert reclaimed == 2
    assert [(chunk.chunk_index, chunk.attempt) for chunk in chunks] == [(0, 2), (1, 2)]


def test_a_worker_is_not_dead_before_its_timeout(queue: Queue, clock: Clock) -> None:
    """One millisecond before it nothing happens."""
    insert(queue, 1)
    token = take_one(queue).token
    clock.advance(TIMEOUT_MS - 1)

    assert reclaim_dead(queue) == 0
    assert frozenset() == queue.heartbeat("w1", tokens=[token]).revoked


def test_each_worker_says_itself_after_how_long_a_silence_it_is_dead(
    queue: Queue, clock: Clock
) -> None:
    """Every sweeper uses that timeout; a reserve keeps the last heartbeat's."""
    insert(queue, 2)
    queue.heartbeat("quick", timeout_ms=5_000)
    queue.heartbeat("patient", timeout_ms=300_000)
    take_one(queue, worker="quick")
    take_one(queue, worker="patient")

    clock.advance(4_999)
    early = reclaim_dead(queue)
    clock.advance(1)
    quick = reclaim_dead(queue)
    clock.advance(294_999)
    patient_lives = reclaim_dead(queue)
    clock.advance(1)

    assert (early, quick, patient_lives, reclaim_dead(queue)) == (0, 1, 0, 1)


@pytest.mark.parametrize("timeout_ms", [5_000, 300_000])
def test_a_worker_is_dead_by_its_own_word_from_its_first_reserve_on(
    queue: Queue, clock: Clock, timeout_ms: int
) -> None:
    """The reserve carries the timeout before the first heartbeat."""
    insert(queue, 1)
    queue.reserve_chunks("w1", heartbeat_timeout_ms=timeout_ms)

    clock.advance(timeout_ms - 1)
    early = reclaim_dead(queue)
    clock.advance(1)

    assert (early, reclaim_dead(queue)) == (0, 1)


def test_a_worker_that_was_forgotten_says_its_timeout_anew_with_its_next_reserve(
    queue: Queue, clock: Clock
) -> None:
    """Otherwise the default would apply, and the worker could lose its chunks again."""
    insert(queue, 1)
    queue.heartbeat("patient", timeout_ms=300_000)
    clock.advance(300_000)
    reclaim_dead(queue)
    queue.reserve_chunks("patient", heartbeat_timeout_ms=300_000)

    clock.advance(299_999)

    assert reclaim_dead(queue) == 0


def test_a_heartbeats_timeout_counts_more_than_that_of_a_later_reserve(
    queue: Queue, clock: Clock
) -> None:
    """A consumer over HTTP need say it in its heartbeats alone."""
    insert(queue, 1)
    queue.heartbeat("w1", timeout_ms=300_000)
    queue.reserve_chunks("w1", heartbeat_timeout_ms=5_000)

    clock.advance(299_999)

    assert reclaim_dead(queue) == 0


def test_the_failure_names_the_dead_worker_and_its_silence(queue: Queue, clock: Clock) -> None:
    """Who reads the status learns which machine to look at."""
    id_ = insert(queue, 1)
    take_one(queue, worker="host-7:1234")
    clock.advance(31_234)

    reclaim_dead(queue)

    failure = queue.get_submission(id_).last_failure
    assert failure is not None
    assert failure.type == "WorkerDied"
    assert failure.message == "worker host-7:1234 sent no heartbeat for 31234 ms"


def test_a_dead_worker_is_forgotten(queue: Queue, raw: Raw, clock: Clock) -> None:
    """It is in no list any more, whether it held something or not."""
    insert(queue, 1)
    take_one(queue, worker="held-one")
    queue.heartbeat("held-none")
    clock.advance(TIMEOUT_MS)
    queue.heartbeat("alive")

    reclaim_dead(queue)

    assert raw.workers() == ["alive"]


def test_a_dead_worker_that_wakes_up_has_lost_its_chunks(queue: Queue, clock: Clock) -> None:
    """It was only stalled: its report changes nothing."""
    id_ = insert(queue, 1)
    token = take_one(queue, worker="stalled").token
    clock.advance(TIMEOUT_MS)
    reclaim_dead(queue)

    outcome = queue.complete_chunks([token])

    assert [Lost()] == outcome
    assert queue.get_submission(id_).chunks_done == 0


def test_a_poisonous_chunk_that_kills_each_worker_ends_after_max_attempts(
    queue: Queue, clock: Clock
) -> None:
    """Otherwise it would kill workers forever."""
    id_ = insert(queue, 1, max_attempts=3)

    for attempt in (1, 2, 3):
        assert take_one(queue, worker=f"victim-{attempt}").attempt == attempt
        clock.advance(TIMEOUT_MS)
        reclaim_dead(queue)

    submission = queue.get_submission(id_)
    assert submission.state is SubmissionState.FAILED
    assert submission.failure is not None
    assert (submission.failure.type, submission.failure.attempt) == ("WorkerDied", 3)
    assert take(queue, 5) == []


def test_a_sweep_of_the_dead_is_bounded_and_goes_on(queue: Queue, raw: Raw, clock: Clock) -> None:
    """A worker is forgotten only when nothing is pending for it."""
    insert(queue, 5)
    take(queue, 3, worker="dead-1")
    take(queue, 2, worker="dead-2")
    clock.advance(TIMEOUT_MS)

    first = queue.reclaim_dead("sweeper", limit=3)
    left = raw.workers()
    second = queue.reclaim_dead("sweeper", limit=3)

    assert first is not None
    assert (first.chunks, first.next_from) == (3, "-")
    assert left == ["dead-1", "dead-2"]
    assert second is not None
    assert (second.chunks, second.next_from) == (2, None)
    assert raw.workers() == []


def test_more_than_ten_dead_workers_take_several_sweeps(
    queue: Queue, raw: Raw, clock: Clock
) -> None:
    """The answer says that there is more to do."""
    for number in range(12):
        queue.heartbeat(f"dead-{number:02}")
    clock.advance(TIMEOUT_MS)

    first = queue.reclaim_dead("sweeper")
    second = queue.reclaim_dead("sweeper")

    assert first is not None
    assert second is not None
    assert (first.next_from, second.next_from) == ("-", None)
    assert raw.workers() == []


def test_an_expired_reservation_uses_an_attempt_and_its_chunk_is_free_at_once(
    queue: Queue, clock: Clock
) -> None:
    """Its worker lives, but its handler hangs."""
    id_ = insert(queue, 1, backoff=Backoff(first_ms=9_000, max_ms=9_000))
    queue.reserve_chunks("host-7:1234", reservation_ms=1_000)
    clock.advance(1_000)

    swept = queue.reclaim_expired("sweeper")

    failure = queue.get_submission(id_).last_failure
    assert swept is not None
    assert swept.chunks == 1
    assert failure is not None
    assert failure.type == "ReservationExpired"
    assert failure.message == "worker host-7:1234 did not report within 1000 ms"
    assert take_one(queue, worker="w2").attempt == 2


def test_a_reservation_is_not_expired_before_its_time(queue: Queue, clock: Clock) -> None:
    """One millisecond before it nothing happens."""
    insert(queue, 1)
    queue.reserve_chunks("w1", reservation_ms=1_000)
    clock.advance(999)

    swept = queue.reclaim_expired("sweeper")

    assert swept is not None
    assert swept.chunks == 0


def test_a_chunk_that_hangs_each_time_ends_after_max_attempts(queue: Queue, clock: Clock) -> None:
    """Expiries count like failures."""
    id_ = insert(queue, 1, max_attempts=2)

    for _ in range(2):
        queue.reserve_chunks("w1", reservation_ms=10)
        clock.advance(10)
        queue.reclaim_expired("sweeper")

    failure = queue.get_submission(id_).failure
    assert failure is not None
    assert (failure.type, failure.attempt) == ("ReservationExpired", 2)


def test_reservations_of_different_length_expire_each_at_its_own_time(
    queue: Queue, clock: Clock
) -> None:
    """A long one in front of the stream does not hide a short one behind it."""
    insert(queue, 3)
    queue.reserve_chunks("w1", reservation_ms=9_000)
    queue.reserve_chunks("w1", reservation_ms=1_000)
    queue.reserve_chunks("w1", reservation_ms=9_000)
    clock.advance(1_000)

    queue.reclaim_expired("sweeper")

    assert [chunk.chunk_index for chunk in take(queue, 5)] == [1]


def test_a_sweep_of_the_expired_walks_in_pages(queue: Queue, clock: Clock) -> None:
    """Each page says where the next one begins; the last one says None."""
    insert(queue, 5)
    queue.reserve_chunks("w1", limit=5, reservation_ms=10)
    clock.advance(10)

    pages, page_from = [], "-"
    for _ in range(10):
        swept = queue.reclaim_expired("sweeper", page_from=page_from, limit=2)
        assert swept is not None
        pages.append(swept.chunks)
        if swept.next_from is None:
            break
        page_from = swept.next_from

    assert pages == [2, 2, 1]


def test_what_expired_after_a_cancel_is_dropped_and_waits_for_a_retry(
    queue: Queue, clock: Clock
) -> None:
    """No attempt is used: its outcome was not wanted any more."""
    id_ = insert(queue, 1, max_attempts=1)
    queue.reserve_chunks("w1", reservation_ms=10)
    queue.cancel_submission(id_)
    clock.advance(10)

    queue.reclaim_expired("sweeper")

    assert queue.get_submission(id_).state is SubmissionState.CANCELLED
    queue.retry_submission(id_)
    assert take_one(queue).attempt == 1


@pytest.mark.parametrize("name", ["dead", "expired"])
def test_one_worker_sweeps_at_a_time(queue: Queue, name: str) -> None:
    """The others leave it to that one for a while."""

    def sweep(worker: str) -> object:
        if name == "dead":
            return queue.reclaim_dead(worker)
        return queue.reclaim_expired(worker)

    first, second, first_again = sweep("w1"), sweep("w2"), sweep("w1")

    assert first is not None
    assert second is None
    assert first_again is not None


def test_reclaiming_empties_the_in_hand_counts(queue: Queue, raw: Raw, clock: Clock) -> None:
    """From the dead and the expired alike."""
    id_ = insert(queue, 3, strategic_metadata={"customer": 7})
    take(queue, 1, worker="dead")
    clock.advance(TIMEOUT_MS)
    queue.reserve_chunks("slow", reservation_ms=1)
    held = take_one(queue, worker="alive")
    clock.advance(1)

    reclaim_dead(queue)
    queue.reclaim_expired("sweeper")

    assert raw.in_hand("customer") == {7: 1}
    assert queue.get_submission(id_).chunks_in_hand == 1
    queue.complete_chunks(tokens_of([held]))
    assert raw.in_hand("customer") == {}
