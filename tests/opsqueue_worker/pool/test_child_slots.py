"""Which waiting chunk goes to which child; the test does what the child would."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from opsqueue.handlers.execute import Done, Failed, GivenBack, Report
from opsqueue.model.chunk import Token
from opsqueue_worker.pool.child_process import ChildProcess
from opsqueue_worker.pool.child_slots import ChildSlots
from opsqueue_worker.pool.messages import Confirmed
from opsqueue_worker.pool.pool import PoolCalls
from opsqueue_worker.pool.waiting import Clearance, PoolChunk, boot_time
from tests.opsqueue_worker.intake.test_reporter import CHUNK
from tests.opsqueue_worker.pool.test_child import HELLO


class Bench:
    """Slots with children that have no processes."""

    def __init__(self, prefetch: int | None = None) -> None:
        self.reports: list[Report] = []
        self.to_begin: list[Token] = []
        self.slots = ChildSlots(
            prefetch=prefetch,
            heartbeat_timeout_s=30.0,
            calls=PoolCalls(
                on_reports=self.reports.extend,
                on_change=lambda: None,
                on_begin=self.to_begin.extend,
                time_limit_of=lambda _queue: 60.0,
            ),
        )

    def add_child(self) -> ChildProcess:
        child = ChildProcess(HELLO)
        child.is_ready.set()
        self.slots.add(child)
        return child

    def submit(self, *tokens: str, **options: Any) -> None:
        number = self.slots.take_places("q", len(tokens)).number
        assert number == len(tokens)
        self.slots.submit([chunk_of(token, **options) for token in tokens])

    def released(self) -> dict[Token, str]:
        return {r.token: r.reason for r in self.reports if isinstance(r, GivenBack)}


def chunk_of(token: str, *, data: bytes | None = b"in", **options: Any) -> PoolChunk:
    return PoolChunk(
        reservation=replace(CHUNK, token=Token(f"q/{token}"), input=data),
        reserved_at=boot_time(),
        begin_by=boot_time() + 600.0,
        **options,
    )


def tokens(chunks: Sequence[PoolChunk]) -> list[str]:
    return [chunk.token.removeprefix("q/") for chunk in chunks]


def begin(child: ChildProcess, token: str) -> None:
    """Do what the child does when a slot takes a chunk."""
    sequence = child.assigned[Token(f"q/{token}")].sequence
    child._status.take(0, sequence)
    child._status.begin(0, sequence)


def done(token: str, duration_s: float) -> Done:
    return Done(token=Token(f"q/{token}"), operations=1, duration_s=duration_s)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    ends: list[socket.socket] = []

    def start(*_: object) -> tuple[socket.socket, SimpleNamespace]:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        return ours, SimpleNamespace(pid=0, poll=lambda: None)

    monkeypatch.setattr("opsqueue_worker.pool.child_process._start", start)
    yield Bench()
    for end in ends:
        end.close()


def test_a_chunk_whose_duration_is_unknown_waits_in_the_parent(bench: Bench) -> None:
    child = bench.add_child()

    bench.submit("1-0", "2-0")

    assert tokens(list(child.assigned.values())) == ["1-0"]


def test_one_chunk_waits_in_the_child_while_its_input_is_fetched(bench: Bench) -> None:
    child = bench.add_child()

    bench.submit("1-0", "2-0", data=None)

    assert tokens(child.not_begun()) == ["1-0", "2-0"]


def test_a_child_gets_20_ms_of_work_beside_the_running_chunk(bench: Bench) -> None:
    child = bench.add_child()
    bench.submit("1-0")
    begin(child, "1-0")
    child._status.free(0)
    bench.slots.finish(child, [done("1-0", 0.006)])

    bench.submit(*(f"{number}-0" for number in range(2, 12)))

    assert len(child.assigned) == 1 + 3


def test_a_free_slot_of_another_child_is_filled_first(bench: Bench) -> None:
    first, second = bench.add_child(), bench.add_child()

    bench.submit("1-0", "2-0", data=None)

    assert [len(child.assigned) for child in (first, second)] == [1, 1]


def test_what_a_child_returns_goes_to_the_one_that_is_idle(bench: Bench) -> None:
    busy = bench.add_child()
    bench.submit("1-0", "2-0", data=None)
    begin(busy, "1-0")
    idle = bench.add_child()
    busy.moved_at = 0.0  # long ago

    bench.slots.care_for_waiting()
    is_asked = busy.is_recalling
    bench.slots.take_back(busy, [Token("q/2-0")])

    assert is_asked
    assert tokens(list(idle.assigned.values())) == ["2-0"]


def test_a_chunk_that_is_revoked_while_it_is_returned_does_not_begin(bench: Bench) -> None:
    """The messages cross each other, and another worker may have it."""
    child = bench.add_child()
    bench.submit("1-0")

    bench.slots.revoke([Token("q/1-0")])
    bench.slots.take_back(child, [Token("q/1-0")])

    assert not child.assigned
    assert bench.released() == {Token("q/1-0"): "its reservation was revoked"}


def test_a_chunk_that_waits_is_released_when_it_is_revoked(bench: Bench) -> None:
    child = bench.add_child()
    bench.submit("1-0", "2-0")

    bench.slots.revoke([Token("q/2-0")])

    assert list(bench.released()) == ["q/2-0"]
    assert tokens(list(child.assigned.values())) == ["1-0"]


def test_what_a_dead_child_had_not_begun_goes_to_another_and_uses_no_attempt(bench: Bench) -> None:
    dying = bench.add_child()
    bench.submit("1-0", "2-0", data=None)
    begin(dying, "1-0")
    heir = bench.add_child()

    begun, suspects = bench.slots.remove(dying)
    bench.slots.report_dead(begun, suspects, "it was killed")

    assert [(type(r), r.token) for r in bench.reports] == [(Failed, "q/1-0")]
    assert tokens(list(heir.assigned.values())) == ["2-0"]


def test_the_output_of_a_chunk_that_had_ended_is_looked_for(bench: Bench) -> None:
    """Its child died beside it, while the output was being saved."""
    dying = bench.add_child()
    bench.submit("1-0", "2-0", data=None)
    begin(dying, "1-0")
    dying._status.free(0)
    begin(dying, "2-0")

    begun, suspects = bench.slots.remove(dying)
    bench.slots.report_dead(begun, suspects, "it was killed")

    given_back = next(report for report in bench.reports if isinstance(report, GivenBack))
    assert (given_back.token, given_back.delay_ms) == ("q/1-0", 1)
    assert list(suspects) == ["q/2-0"]


def test_redis_knows_that_a_chunk_begins_that_was_in_hand_before(bench: Bench) -> None:
    child = bench.add_child()

    bench.submit("1-0", "2-0", clearance=Clearance.NEEDED)
    asked, begun = list(bench.to_begin), bench.slots.begun()
    before = list(child.assigned)
    bench.slots.may_begin(asked)

    assert (asked, begun) == (["q/1-0"], ["q/1-0"])  # as many as have a slot
    assert (before, list(child.assigned)) == ([], ["q/1-0"])
    assert bench.slots.begun() == ["q/1-0"]


def test_a_chunk_that_redis_takes_for_begun_has_the_next_slot(bench: Bench) -> None:
    """Otherwise the end of the worker would be charged to a chunk that only waits."""
    child = bench.add_child()
    bench.submit("1-0", clearance=Clearance.NEEDED)
    bench.submit("2-0")
    before = list(child.assigned)

    bench.slots.may_begin(bench.to_begin)

    assert (before, list(child.assigned)) == ([], ["q/1-0"])


def test_a_heartbeat_gives_a_waiting_chunk_more_time(bench: Bench) -> None:
    """Its input may arrive late."""
    child = bench.add_child()
    bench.submit("1-0")
    asked_at = boot_time() + 1.0

    bench.slots.confirm("q", asked_at)

    sent = [child._outbox.get_nowait() for _ in range(3)]
    assert sent[-1] == Confirmed({"q/1-0": asked_at + 30.0})


def test_a_suspect_begins_when_nothing_else_is_in_hand(bench: Bench) -> None:
    child = bench.add_child()
    bench.submit("1-0")
    begin(child, "1-0")
    bench.submit("2-0", is_suspect=True)

    bench.slots.care_for_waiting()
    beside = list(child.assigned)
    child._status.free(0)
    bench.slots.finish(child, [done("1-0", 0.1)])

    assert (beside, list(child.assigned)) == (["q/1-0"], ["q/2-0"])
    assert bench.slots.take_places("q", 5).number == 0


def test_what_waits_beside_a_suspect_goes_back_to_the_queue(bench: Bench) -> None:
    child = bench.add_child()
    bench.submit("1-0", "2-0")
    begin(child, "1-0")
    bench.slots.submit([chunk_of("3-0", is_suspect=True)])  # reserved meanwhile

    bench.slots.care_for_waiting()

    assert list(bench.released()) == ["q/2-0"]
