"""Reservations of which something other than opsqueue's scripts removed one half or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from opsqueue.model.chunk import Completed, Lost, Reservation
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    indexes_of,
    insert,
    repair_wholly,
    take,
    take_one,
    tokens_of,
)

Break = Callable[[list[Reservation]], None]


def entries_of(chunks: list[Reservation]) -> list[str]:
    return [chunk.token.partition(":")[0] for chunk in chunks]


@pytest.fixture
def stream(raw: Raw) -> str:
    return raw.key("reservations")


@pytest.fixture(params=["trim", "delete"])
def remove(request: pytest.FixtureRequest, client: redis.Redis, stream: str) -> Break:
    """XTRIM all, or XDEL these: they stay pending."""

    def remove(chunks: list[Reservation]) -> None:
        if request.param == "trim":
            client.xtrim(stream, maxlen=0, approximate=False)
        else:
            client.xdel(stream, *entries_of(chunks))

    return remove


@pytest.fixture(params=["acknowledge", "delete_consumer"])
def acknowledge(request: pytest.FixtureRequest, client: redis.Redis, stream: str) -> Break:
    """XACK these, or XGROUP DELCONSUMER their worker: the entries stay."""

    def acknowledge(chunks: list[Reservation]) -> None:
        if request.param == "acknowledge":
            client.xack(stream, "workers", *entries_of(chunks))
        else:
            client.xgroup_delconsumer(stream, "workers", "w1")

    return acknowledge


def lost(queue: Queue) -> int:
    return queue.count_queue().stats.get("reservations_lost", 0)


def check_whole(client: redis.Redis, queue: Queue, raw: Raw) -> None:
    """Check that nothing is reserved and that a repair finds nothing."""
    stream = raw.key("reservations")
    assert client.xlen(stream) == 0
    assert client.xpending_range(stream, "workers", "-", "+", 100) == []
    assert raw.in_hand("customer") == {}
    assert client.exists(raw.key("repair"), raw.key("repair:held")) == 0
    assert queue.count_queue().chunks_in_hand == 0


@pytest.mark.parametrize(
    "meet",
    ["heartbeat", "retire", "reclaim_dead", "reclaim_expired", "complete", "fail", "release"],
)
def test_a_removed_entry_is_acknowledged_by_whoever_meets_it_and_its_chunk_is_freed(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock, remove: Break, meet: str
) -> None:
    """It is counted once, and in-hand counts are right afterwards."""
    id_ = insert(queue, 3, strategic_metadata={"customer": 7})
    repair_wholly(queue)
    (held,) = chunks = take(queue, 1)
    remove(chunks)

    match meet:
        case "heartbeat":
            alive = queue.heartbeat("w1", tokens=[held.token])
            assert (frozenset({held.token}), 0, 1) == (alive.revoked, alive.released, alive.lost)
        case "retire":
            assert queue.run(commands.retire_worker("w1"))
        case "reclaim_dead":
            clock.advance(60_000)
            swept = queue.reclaim_dead("w2")
            assert swept is not None
            assert (0, None, 1) == (swept.chunks, swept.next_from, swept.lost)
        case "reclaim_expired":
            swept = queue.reclaim_expired("w2")
            assert swept is not None
            assert (0, None) == (swept.chunks, swept.next_from)
        case "complete":
            assert [Lost()] == queue.complete_chunks([held.token])
        case "fail":
            assert Lost() == queue.fail_chunk(held.token, FAILURE)
        case _:
            assert [Lost()] == queue.release_chunks([held.token])

    assert repair_wholly(queue) == 1
    assert lost(queue) == 1
    assert queue.get_submission(id_).chunks_in_hand == 0
    check_whole(client, queue, raw)
    again = take(queue, 5, worker="w2")
    assert [(0, 1), (1, 1), (2, 1)] == [(c.chunk_index, c.attempt) for c in again]


@pytest.mark.parametrize("meet", ["complete", "fail", "release", "reclaim_expired", "repair"])
def test_an_entry_that_nobody_is_said_to_hold_is_removed_and_its_chunk_is_freed(
    client: redis.Redis, queue: Queue, raw: Raw, acknowledge: Break, meet: str
) -> None:
    """Its worker's heartbeat has reported it as revoked, so nobody would ever report it."""
    insert(queue, 1, strategic_metadata={"customer": 7})
    repair_wholly(queue)
    (held,) = chunks = take(queue, 1)
    acknowledge(chunks)
    assert frozenset({held.token}) == queue.heartbeat("w1", tokens=[held.token]).revoked

    match meet:
        case "complete":
            assert [Lost()] == queue.complete_chunks([held.token])
        case "fail":
            assert Lost() == queue.fail_chunk(held.token, FAILURE)
        case "release":
            assert [Lost()] == queue.release_chunks([held.token])
        case "reclaim_expired":
            queue.reclaim_expired("w2")
        case _:
            assert queue.repair(begin=True) is not None
    repair_wholly(queue)

    assert lost(queue) == 1
    check_whole(client, queue, raw)
    assert indexes_of(take(queue, 5, worker="w2")) == [0]


def test_reports_of_some_that_were_acknowledged_by_hand_are_accepted_with_the_others(
    client: redis.Redis, queue: Queue, raw: Raw, stream: str
) -> None:
    """Nobody else can have their chunks while the entries are there."""
    id_ = insert(queue, 3)
    repair_wholly(queue)
    chunks = take(queue, 3)
    client.xack(stream, "workers", *entries_of(chunks[:1]))

    outcomes = queue.complete_chunks(tokens_of(chunks))

    assert [Completed(id_, 2), Completed(id_, 1), Completed(id_, 0)] == outcomes
    check_whole(client, queue, raw)


def test_a_late_report_of_a_chunk_that_another_has_loses_nothing(queue: Queue) -> None:
    """An ordinary lost report is no lost reservation, and begins no repair."""
    insert(queue, 1)
    repair_wholly(queue)
    first = take_one(queue)
    queue.retire_worker("w1")
    take_one(queue, worker="w2")

    outcomes = queue.complete_chunks([first.token])

    assert [Lost()] == outcomes
    assert lost(queue) == 0
    assert queue.repair() is None


def test_a_worker_with_ten_thousand_removed_entries_retires_in_bounded_steps(
    real_client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step ends as many as its limit, so that there are as many steps as needed."""
    client, queue, raw = real_client, Queue(real_client, queue_name), Raw(real_client, queue_name)
    insert(queue, 10_000)
    for _ in range(10):
        take(queue, 1_000)
    client.xtrim(raw.key("reservations"), maxlen=0, approximate=False)
    steps: list[str] = []
    queue.count_queue()  # asks how many partitions there are
    scripts = queue._scripts_of(0)
    call = scripts.call

    def counted(name: str, **arguments: object) -> list[object]:
        steps.append(name)
        return call(name, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scripts, "call", counted)

    queue.retire_worker("w1")

    assert steps == ["retire_worker"] * 100 + ["delete_queue"]  # to look what is left
    assert repair_wholly(queue) == 10_000
    assert lost(queue) == 10_000
    check_whole(client, queue, raw)
    assert raw.workers() == []


def test_a_sweep_of_a_dead_workers_removed_entries_ends_when_they_do(
    client: redis.Redis, queue: Queue, raw: Raw, stream: str, clock: Clock
) -> None:
    """Not after a thousand steps."""
    insert(queue, 300)
    take(queue, 300)
    client.xtrim(stream, maxlen=0, approximate=False)
    clock.advance(60_000)

    steps = 1
    while (swept := queue.reclaim_dead("w2")) and swept.next_from:
        steps += 1

    assert steps == 4
    repair_wholly(queue)
    check_whole(client, queue, raw)


def test_a_removed_entry_of_a_forgotten_submission_is_acknowledged(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock, remove: Break
) -> None:
    """A repair on demand freed the chunk before anybody met the entry."""
    id_ = insert(queue, 1)
    repair_wholly(queue)
    chunks = take(queue, 1)
    queue.cancel_submission(id_)
    remove(chunks)

    queue.repair(begin=True)
    repair_wholly(queue)
    clock.advance(48 * 3600 * 1000)

    assert queue.forget_submissions().submissions == 1
    queue.heartbeat("w1")
    check_whole(client, queue, raw)
    assert lost(queue) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"what": "ever"},
        {"s": "1", "i": "2"},
        {"s": "x", "i": "x", "a": "x", "t": "x", "e": "x"},
        {"e": "1", "t": "1", "a": "1", "i": "1", "s": "1"},
        {"s": "1", "i": "1", "a": "1", "t": "1", "e": "1"},
    ],
    ids=["foreign", "short", "no_numbers", "other_order", "no_submission"],
)
def test_an_entry_of_an_operator_stops_nothing_and_is_removed(
    client: redis.Redis,
    queue: Queue,
    raw: Raw,
    clock: Clock,
    stream: str,
    fields: dict[str, str],
) -> None:
    """Delivered with the next reserve it is pending for a worker, too."""
    id_ = insert(queue, 4)
    repair_wholly(queue)
    before = take(queue, 1)
    added: Any = client.xadd(stream, dict(fields))  # type: ignore[arg-type]  # takes any of them
    foreign = str(added.decode())

    after = take(queue, 2)
    assert indexes_of(after) == [1, 2]
    queue.list_reservations()
    queue.list_workers()
    queue.get_reservations([*tokens_of(before), foreign])  # type: ignore[list-item]
    tokens = tokens_of(before + after)
    assert frozenset() == queue.heartbeat("w1", tokens=tokens, unknown_ms=10**9).revoked
    queue.reclaim_expired("w2")
    repair_wholly(queue)
    clock.advance(600_000 - 1)
    queue.reclaim_expired("w2")
    repair_wholly(queue)

    assert [Completed(id_, 3), Completed(id_, 2), Completed(id_, 1)] == queue.complete_chunks(
        tokens
    )
    queue.complete_chunks([foreign])  # type: ignore[list-item]
    queue.heartbeat("w1", unknown_ms=0)
    queue.retire_worker("w1")
    check_whole(client, queue, raw)
    assert indexes_of(take(queue, 5)) == [3]


@pytest.mark.parametrize("position", ["0", "9999999999999-0"], ids=["back", "ahead"])
def test_a_group_that_was_moved_gives_each_worker_its_own_chunks(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock, stream: str, position: str
) -> None:
    """XGROUP SETID: moved back, other workers' entries would be delivered in place of new ones."""
    insert(queue, 4)
    repair_wholly(queue)
    first = take(queue, 2, worker="w1")
    client.xgroup_setid(stream, "workers", position)

    second = take(queue, 1, worker="w2")
    third = take(queue, 1, worker="w3")

    assert ([0, 1], [2], [3]) == (indexes_of(first), indexes_of(second), indexes_of(third))
    assert frozenset() == queue.heartbeat("w3", tokens=tokens_of(third)).revoked
    for worker in ("w1", "w2", "w3"):
        queue.retire_worker(worker)
    queue.reclaim_expired("w4")
    repair_wholly(queue)
    assert indexes_of(take(queue, 9, worker="w4")) == [0, 1, 2, 3]
    assert queue.count_queue().chunks_in_hand == 4


def test_a_worker_is_told_that_its_chunk_went_to_the_one_that_a_moved_group_gave_it_to(
    client: redis.Redis, queue: Queue, stream: str, clock: Clock
) -> None:
    """It stops; the other, who knows nothing of it, releases it."""
    insert(queue, 2)
    repair_wholly(queue)
    first = take_one(queue, worker="w1")
    client.xgroup_setid(stream, "workers", "0")
    second = take_one(queue, worker="w2")

    revoked = queue.heartbeat("w1", tokens=[first.token]).revoked
    clock.advance(30_000)
    released = queue.heartbeat("w2", tokens=[second.token]).released

    assert (revoked, released) == (frozenset({first.token}), 1)
    assert indexes_of(take(queue, 5, worker="w3")) == [0]


def test_counting_what_is_whole_begins_no_repair(queue: Queue) -> None:
    """Entries and pending ones are as many."""
    insert(queue, 3)
    repair_wholly(queue)
    take(queue, 2)

    queue.reclaim_expired("w2")

    assert queue.repair() is None


def test_a_sweep_notices_a_group_that_was_deleted(queue: Queue, raw: Raw) -> None:
    """Also where no worker comes any more."""
    insert(queue, 2)
    repair_wholly(queue)
    take(queue, 2)
    raw.lose_group()

    queue.reclaim_expired("sweeper")

    assert repair_wholly(queue) == 2
    assert lost(queue) == 2


def test_a_stream_that_was_made_anew_by_hand_is_repaired_on_demand(
    client: redis.Redis, queue: Queue, raw: Raw, stream: str
) -> None:
    """Nothing is left that anybody could meet."""
    insert(queue, 3, strategic_metadata={"customer": 7})
    repair_wholly(queue)
    take(queue, 2)
    client.delete(stream)
    client.xgroup_create(stream, "workers", "0", mkstream=True)

    step = queue.repair(begin=True)

    assert step is not None
    assert (2, None) == (step.chunks, step.next_from)
    check_whole(client, queue, raw)


def test_what_is_removed_while_a_repair_is_under_way_is_found_by_another_pass(
    client: redis.Redis, queue: Queue, raw: Raw, remove: Break
) -> None:
    """Its entry had been read, so that it passed for reserved."""
    insert(queue, 6)
    repair_wholly(queue)
    chunks = take(queue, 5)
    queue.repair(begin=True, limit=1)
    while client.hget(raw.key("repair"), "phase") != b"submissions":
        queue.repair(limit=1)
    remove(chunks)
    queue.heartbeat("w1")

    freed = repair_wholly(queue, limit=1)

    assert freed == 5
    check_whole(client, queue, raw)
    assert indexes_of(take(queue, 9)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("limit", [2, 3, 5, 1_000])
def test_chunks_that_change_hands_between_steps_are_not_taken_for_lost(
    queue: Queue, raw: Raw, client: redis.Redis, limit: int
) -> None:
    """Given back and reserved again, they stay reserved."""
    insert(queue, 20)
    repair_wholly(queue)
    held = take(queue, 10)
    step = queue.repair(begin=True, limit=limit)
    number = freed = 0
    while step is not None and number < 500:
        freed += step.chunks
        number += 1
        queue.release_chunks([held.pop(number % len(held)).token])
        held += take(queue, 1, worker=f"w{number % 3}")
        step = queue.repair(limit=limit)

    assert step is None
    assert freed == 0
    assert len(held) == len(queue.list_reservations().chunks) == 10
    assert frozenset() == queue.heartbeat("w9", tokens=[]).revoked
    outcomes = queue.complete_chunks(tokens_of(held))
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    check_whole(client, queue, raw)


def test_one_sweeper_at_a_time_repairs_and_a_new_repair_takes_over(queue: Queue) -> None:
    """Who holds the lock goes on; others are told that it is busy."""
    insert(queue, 9)
    take(queue, 9)
    queue.repair(begin=True, limit=1, sweeper="a")

    mine, others = queue.repair(limit=1, sweeper="a"), queue.repair(limit=1, sweeper="b")
    taken = queue.repair(begin=True, limit=1, sweeper="b")
    after = queue.repair(limit=1, sweeper="a")

    assert mine is not None
    assert others is not None
    assert taken is not None
    assert after is not None
    assert (False, True, False, True) == (
        mine.is_busy,
        others.is_busy,
        taken.is_busy,
        after.is_busy,
    )


def test_a_repair_that_an_older_version_began_begins_anew(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """Its hash says nothing that this version could go on with."""
    insert(queue, 3)
    repair_wholly(queue)
    take(queue, 3)
    raw.lose_stream()
    queue.heartbeat("w1")
    client.delete(raw.key("repair"))
    client.hset(raw.key("repair"), mapping={"state": "failed", "from": "-", "index": "0"})

    assert repair_wholly(queue) == 3


def test_a_repair_says_what_it_looked_at(queue: Queue) -> None:
    """Reservations, submissions, chunks that were handed out once, and what it freed."""
    first = insert(queue, 8)
    insert(queue, 5)
    repair_wholly(queue)
    done = take(queue, 8)
    queue.complete_chunks(tokens_of(done[:7]))
    take(queue, 2)
    assert done[0].source.submission_id == first

    step = queue.repair(begin=True)

    assert step is not None
    assert (3, 2, 10, 0, 0) == (
        step.entries,
        step.submissions,
        step.chunks_seen,
        step.freed,
        step.lost,
    )


@pytest.mark.parametrize("limit", [2, 3, 5])
@pytest.mark.parametrize("given_back", [0, 5])
def test_chunks_reserved_after_the_stream_was_read_are_not_taken_for_lost(
    client: redis.Redis, queue: Queue, raw: Raw, given_back: int, limit: int
) -> None:
    """The repair did not see them as reserved: they were released before or above the cursor."""
    insert(queue, 20)
    repair_wholly(queue)
    held = take(queue, 10)
    queue.release_chunks(tokens_of(held[:given_back]))
    queue.repair(begin=True, limit=limit)
    while client.hget(raw.key("repair"), "phase") != b"submissions":
        queue.repair(limit=limit)

    later = take(queue, 9, worker="w2")

    assert repair_wholly(queue, limit=limit) == 0
    outcomes = queue.complete_chunks(tokens_of(held[given_back:] + later))
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    check_whole(client, queue, raw)
