"""Only chunks whose handlers have begun use an attempt, however their reservations end."""

from __future__ import annotations

import random

import pytest
import redis

from opsqueue.handlers.execute import is_fetched_from_store
from opsqueue.model.chunk import Reservation
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    NO_WAIT,
    Clock,
    Raw,
    Sleeper,
    insert,
    repair_wholly,
    take,
    take_one,
    tokens_of,
)

TIMEOUT_MS = 30_000


def take_again(queue: Queue, *, worker: str = "w2") -> list[tuple[int, int, bool]]:
    """Reserve everything: index, attempt and `again` of each."""
    chunks = take(queue, 1_000, worker=worker)
    return [(chunk.chunk_index, chunk.attempt, chunk.again) for chunk in chunks]


def reclaim_all_expired(queue: Queue) -> None:
    """Reclaim a page after the other."""
    page_from: str | None = "-"
    while page_from is not None:
        swept = queue.reclaim_expired("sweeper", page_from=page_from)
        page_from = swept.next_from if swept else None


def end(queue: Queue, clock: Clock, how: str, chunks: list[Reservation]) -> None:
    """End the reservations of `w1`, which has reported what has begun."""
    match how:
        case "death":
            clock.advance(TIMEOUT_MS)
            queue.reclaim_dead("sweeper")
        case "expiry":
            clock.advance(600_000)
            queue.heartbeat("w1", tokens=tokens_of(chunks))
            reclaim_all_expired(queue)
        case "release":
            queue.release_chunks(tokens_of(chunks))
        case "delay":
            queue.release_chunks(tokens_of(chunks), delay_ms=1)
            clock.advance(1)
        case "retirement":
            queue.retire_worker("w1")
        case "heartbeat":
            queue.heartbeat("w1", tokens=[], unknown_ms=0)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # (attempt, again) of what had begun, and of what had not
        ("expiry", [(2, True), (1, True)]),
        ("release", [(1, False), (1, False)]),
        ("delay", [(1, True), (1, True)]),
        ("retirement", [(1, True), (1, False)]),
        ("heartbeat", [(1, False), (1, False)]),
    ],
)
@pytest.mark.parametrize("said_by", ["reserve", "heartbeat", "note_begun"])
def test_only_what_has_begun_uses_an_attempt(
    queue: Queue, clock: Clock, said_by: str, how: str, expected: list[tuple[int, bool]]
) -> None:
    """And what was worked on is looked for in the store: also what may have been."""
    insert(queue, 2)
    chunks = take(queue, 2)
    begun = tokens_of(chunks[:1])
    match said_by:
        case "reserve":
            queue.reserve_chunks("w1", begun=begun)
        case "heartbeat":
            queue.heartbeat("w1", tokens=tokens_of(chunks), begun=begun)
        case _:
            assert queue.note_begun("w1", begun)

    end(queue, clock, how, chunks)

    found = [(attempt, again) for _, attempt, again in take_again(queue)]
    assert expected == found


def test_of_a_dead_worker_what_has_not_begun_is_free_at_once_and_uses_no_attempt(
    queue: Queue, clock: Clock
) -> None:
    """A chunk that has begun waits for a worker of its own."""
    id_ = insert(queue, 3)
    chunks = take(queue, 3)
    queue.note_begun("w1", tokens_of(chunks[:1]))
    with Sleeper(queue, "w2") as sleeper:
        end(queue, clock, "death", chunks)

        assert sleeper.hears()
    assert [(1, 1, True), (2, 1, True)] == take_again(queue)
    failure = queue.get_submission(id_).last_failure
    assert failure is not None
    assert (0, 1, "WorkerDied") == (failure.chunk_index, failure.attempt, failure.type)


@pytest.mark.parametrize(
    ("how", "attempt"),
    [("death", 2), ("expiry", 2), ("release", 1), ("retirement", 1), ("heartbeat", 1)],
)
def test_all_counts_as_begun_of_a_worker_that_never_reports_it(
    queue: Queue, clock: Clock, how: str, attempt: int
) -> None:
    """A consumer, or a worker of an older version: as before, except that it is `again`."""
    insert(queue, 2)
    end(queue, clock, how, take(queue, 2))

    again = how in ("death", "expiry", "retirement")
    assert [(0, attempt, again), (1, attempt, again)] == take_again(queue)


def test_a_report_of_nothing_is_a_report(queue: Queue, clock: Clock) -> None:
    """A machine that is lost before its worker has begun anything costs nothing."""
    insert(queue, 2)
    reserved = queue.reserve_chunks("w1", limit=2, begun=[])
    clock.advance(TIMEOUT_MS)
    queue.reclaim_dead("sweeper")

    assert len(reserved.chunks) == 2
    assert [(0, 1, True), (1, 1, True)] == take_again(queue)


def test_the_last_report_counts_and_none_changes_nothing(queue: Queue, clock: Clock) -> None:
    """A heartbeat or a reserve without it leaves it as it was."""
    insert(queue, 3)
    chunks = take(queue, 3)
    queue.note_begun("w1", tokens_of(chunks[:2]))
    queue.note_begun("w1", tokens_of(chunks[1:2]))
    queue.heartbeat("w1", tokens=tokens_of(chunks))
    queue.reserve_chunks("w1")
    end(queue, clock, "expiry", chunks)

    assert [(0, 1, True), (1, 2, True), (2, 1, True)] == take_again(queue)


def test_the_report_of_a_worker_that_counts_as_dead_is_not_kept(
    queue: Queue, clock: Clock, raw: Raw
) -> None:
    """It holds nothing any more, and its next heartbeat reports anew."""
    insert(queue, 2)
    (chunk,) = take(queue)
    queue.note_begun("w1", [chunk.token])
    end(queue, clock, "death", [chunk])

    assert not queue.note_begun("w1", [chunk.token])
    assert 0 == raw.client.exists(raw.key("begun"))


def test_more_handlers_may_have_begun_than_one_call_may_report(queue: Queue, clock: Clock) -> None:
    """An event loop may run thousands."""
    insert(queue, 1_200)
    chunks = [*take(queue, 1_000), *take(queue, 200)]
    queue.note_begun("w1", tokens_of(chunks[:-1]))
    clock.advance(600_000)
    queue.heartbeat("w1", tokens=tokens_of(chunks))
    reclaim_all_expired(queue)

    again = [*take(queue, 1_000, worker="w2"), *take(queue, 200, worker="w2")]
    assert [*[2] * 1_199, 1] == [chunk.attempt for chunk in again]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_of_older_version", [False, True])
def test_any_of_many_chunks_may_have_begun(
    queue: Queue, clock: Clock, raw: Raw, seed: int, *, is_of_older_version: bool
) -> None:
    """Their entries are ascending, but not those of an older version."""
    chance = random.Random(seed)
    insert(queue, 60)
    chunks = [chunk for _ in range(20) for chunk in take(queue, 3)]
    begun = chance.sample(chunks, chance.randrange(61))
    queue.heartbeat("w1", tokens=tokens_of(chunks), begun=tokens_of(begun))
    if is_of_older_version:
        entries = " ".join(token.partition(":")[0] for token in tokens_of(begun))
        raw.client.hset(raw.key("begun"), "w1", entries)
    end(queue, clock, "expiry", chunks)

    attempts = {index: attempt for index, attempt, _ in take_again(queue)}

    assert {chunk.chunk_index for chunk in begun} == {i for i in attempts if attempts[i] == 2}
    assert len(attempts) == 60


def test_a_chunk_that_never_begins_never_fails_its_submission(queue: Queue, clock: Clock) -> None:
    """However often it is lost."""
    id_ = insert(queue, 1, max_attempts=1)
    for number in range(12):
        reserved = queue.reserve_chunks(f"w{number}", begun=[], reservation_ms=1_000)
        assert [1] == [chunk.attempt for chunk in reserved.chunks]
        clock.advance(TIMEOUT_MS)
        queue.reclaim_dead("sweeper")

    assert SubmissionState.IN_PROGRESS is queue.get_submission(id_).state


def test_what_did_not_begin_is_dropped_with_its_submission(queue: Queue, clock: Clock) -> None:
    """And is there for a retry."""
    id_ = insert(queue, 2)
    chunks = take(queue, 2)
    queue.note_begun("w1", tokens_of(chunks[:1]))
    queue.cancel_submission(id_)
    end(queue, clock, "death", chunks)
    asleep = take_again(queue)
    queue.retry_submission(id_)

    assert [] == asleep
    assert [(0, 1, True), (1, 1, True)] == take_again(queue)


# Reservations of chunks that were in hand before


def test_the_first_reservation_is_not_again_and_one_after_a_failure_is(
    queue: Queue, clock: Clock
) -> None:
    """Only the second looks for an output in the store."""
    insert(queue, 2, backoff=NO_WAIT, inline=[b"a", b"b"])
    first = take_one(queue)
    queue.fail_chunk(first.token, FAILURE)
    second = take_one(queue)

    assert (False, True) == (first.again, second.again)
    assert [False, True] == [is_fetched_from_store(chunk) for chunk in (first, second)]
    assert [False, True] == [
        queue.get_reservations([chunk.token])[chunk.token].again
        for chunk in (take_one(queue), second)
    ]


def test_after_a_retry_all_that_was_in_hand_before_is_again(queue: Queue) -> None:
    """A cancelled submission's reports are dropped, but their outputs are stored."""
    id_ = insert(queue, 6)
    chunks = take(queue, 4)
    queue.complete_chunks(tokens_of(chunks[:1]))
    queue.release_chunks(tokens_of(chunks[1:2]))
    queue.cancel_submission(id_)
    queue.complete_chunks(tokens_of(chunks[2:]))
    queue.retry_submission(id_)

    assert [
        (1, 1, True), (2, 1, True), (3, 1, True), (4, 1, False), (5, 1, False),
    ] == take_again(queue)  # fmt: skip


def test_after_a_failure_and_a_retry_the_failed_chunk_is_again(queue: Queue) -> None:
    """With all its attempts; a second retry tells of all that the first one has begun."""
    id_ = insert(queue, 3, max_attempts=1)
    for _ in range(2):
        queue.fail_chunk(take_one(queue).token, FAILURE)
        queue.retry_submission(id_)
        queue.complete_chunks(tokens_of(take(queue)))

    assert [(2, 1, False)] == take_again(queue)


def test_a_lost_reservations_chunk_is_again(queue: Queue, raw: Raw) -> None:
    """Nobody knows how far its worker came."""
    insert(queue, 4)
    take(queue, 3)
    raw.lose_group()
    queue.repair(begin=True)
    repair_wholly(queue)

    assert [(0, 1, True), (1, 1, True), (2, 1, True), (3, 1, False)] == take_again(queue)


def test_a_chunk_whose_entry_was_acknowledged_by_an_operator_is_again(
    queue: Queue, client: redis.Redis, raw: Raw
) -> None:
    """The other half of a reservation that can be lost."""
    insert(queue, 1)
    (chunk,) = take(queue)
    client.xack(raw.key("reservations"), "workers", chunk.token.partition(":")[0])
    queue.complete_chunks([chunk.token])

    assert [(0, 1, True)] == take_again(queue)


def test_chunks_that_used_no_attempt_are_not_listed_as_retried(queue: Queue, clock: Clock) -> None:
    """Only those that failed, died or expired."""
    id_ = insert(queue, 50)
    chunks = take(queue, 50)
    queue.note_begun("w1", tokens_of(chunks[:2]))
    end(queue, clock, "expiry", chunks)

    listed = queue.list_delayed(id_)

    assert [(0, 1), (1, 1)] == sorted((one.index, one.attempts_used) for one in listed.retried)
    assert 2 == listed.retried_total


def test_only_one_of_several_workers_pays_for_what_it_has_begun(queue: Queue, clock: Clock) -> None:
    """Each has a report of its own."""
    insert(queue, 4)
    first, second = take(queue, 2, worker="w1"), take(queue, 2, worker="w2")
    queue.note_begun("w1", tokens_of(first))
    queue.note_begun("w2", [])
    clock.advance(600_000)
    queue.heartbeat("w1", tokens=tokens_of(first))
    queue.heartbeat("w2", tokens=tokens_of(second))
    queue.reclaim_expired("sweeper")

    assert [(0, 2, True), (1, 2, True), (2, 1, True), (3, 1, True)] == take_again(
        queue, worker="w3"
    )
