"""The chunks that wait for a slot: whose they are, and for how long they may wait."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from opsqueue.model.chunk import Token
from opsqueue_worker.pool.waiting import PoolChunk, WaitingRoom
from tests.opsqueue_worker.intake.test_reporter import CHUNK


class Clocks:
    """The monotonic clock, and the one that goes on while the machine is suspended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.boot = 100.0
        monkeypatch.setattr("opsqueue_worker.pool.waiting.boot_time", lambda: self.boot)
        monkeypatch.setattr("opsqueue_worker.pool.waiting.time.monotonic", lambda: self.now)

    def run(self, seconds: float) -> None:
        self.now += seconds
        self.boot += seconds

    def suspend(self, seconds: float) -> None:
        self.boot += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def chunk_of(clocks: Clocks, ticket: str = "q/1-0", *, begins_within_s: float = 600.0) -> PoolChunk:
    return PoolChunk(
        reservation=replace(CHUNK, token=Token(ticket)),
        reserved_at=clocks.boot,
        begin_by=clocks.boot + begins_within_s,
    )


def room_of(*chunks: PoolChunk, releases_early: bool = True) -> WaitingRoom:
    room = WaitingRoom(timeout_s=30.0, releases_early=releases_early)
    room.add(chunks)
    return room


def test_a_chunk_may_begin_until_the_worker_counts_as_dead(clocks: Clocks) -> None:
    room = room_of(chunk := chunk_of(clocks))

    clocks.run(29.9)
    before = room.is_current(chunk)
    clocks.suspend(0.2)

    assert (before, room.is_current(chunk)) == (True, False)


def test_a_heartbeat_makes_the_chunks_of_its_partition_current_again(clocks: Clocks) -> None:
    room = room_of(mine := chunk_of(clocks), other := chunk_of(clocks, "q/01/1-0"))
    clocks.suspend(1_000.0)
    mine.begin_by = other.begin_by = clocks.boot + 600.0

    room.confirm("q", clocks.boot)

    assert (room.is_current(mine), room.is_current(other)) == (True, False)


def test_no_chunk_begins_that_could_not_end_within_its_reservation(clocks: Clocks) -> None:
    room = room_of(chunk := chunk_of(clocks, begins_within_s=2.0))
    clocks.suspend(2.0)

    room.confirm("q", clocks.boot)

    assert not room.is_current(chunk)
    assert room.take_overdue() == [chunk]


def test_a_chunk_that_waits_for_a_second_is_left_to_other_workers(clocks: Clocks) -> None:
    room = room_of(first := chunk_of(clocks))
    clocks.run(0.9)
    room.add([chunk_of(clocks, "q/2-0")])

    early = room.take_overdue()
    clocks.run(0.1)

    assert (early, room.take_overdue(), len(room)) == ([], [first], 1)


def test_a_number_that_the_user_chose_is_held_for_longer(clocks: Clocks) -> None:
    """It is released when another worker would no longer have the time to begin it."""
    room = room_of(chunk := chunk_of(clocks, begins_within_s=60.0), releases_early=False)

    clocks.run(29.0)
    early = room.take_overdue()
    clocks.run(1.0)

    assert (early, room.take_overdue()) == ([], [chunk])


def test_a_chunk_that_comes_back_goes_on_waiting_at_the_front(clocks: Clocks) -> None:
    room = room_of(first := chunk_of(clocks), second := chunk_of(clocks, "q/2-0"))
    room.remove(first.token)
    clocks.run(1.0)
    room.put_back([first])

    assert list(room) == [first, second]
    assert room.take_overdue() == [first, second]


def test_a_heartbeat_says_nothing_about_a_chunk_that_it_did_not_name(clocks: Clocks) -> None:
    """Its reserve was answered after the heartbeat was made, which may have released it."""
    room = room_of(chunk := chunk_of(clocks))
    clocks.suspend(40.0)
    asked_at = clocks.boot
    clocks.run(0.1)
    chunk.named_at = clocks.boot

    room.confirm("q", asked_at)
    before = room.is_current(chunk)
    clocks.run(5.0)
    room.confirm("q", clocks.boot)

    assert (before, room.is_current(chunk)) == (False, True)
