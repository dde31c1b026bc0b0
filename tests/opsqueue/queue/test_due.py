"""The sweepers' index: one leads, and takes what is due."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import redis

from opsqueue.model.errors import InvalidArgumentError
from opsqueue.model.names import label, parse_label
from opsqueue.queue.due import DueIndex, Leading, Refused
from opsqueue.queue.queue import Queue
from tests import waiting
from tests.opsqueue.steps import Clock, insert, take


@pytest.fixture
def index(alone: redis.Redis, clock: Clock) -> DueIndex:
    return DueIndex(alone, clock=clock)


def ask(
    index: DueIndex,
    sweeper: str = "a",
    *,
    swept: Mapping[str, int | None] | None = None,
    limit: int = 100,
    sweeps_all: bool = False,
    lease_ms: int = 60_000,
) -> tuple[str, ...] | int:
    """Return what a sweeper shall sweep, or how many candidates there are if it is refused."""
    match index.take(
        sweeper, sweeps_all=sweeps_all, swept=swept or {}, limit=limit, lease_ms=lease_ms
    ):
        case Leading(labels):
            return labels
        case Refused(candidates):
            return candidates


def test_one_sweeper_leads_and_the_others_learn_how_many_they_are(index: DueIndex) -> None:
    """Asking again doesn't count twice."""
    assert ask(index, "a") == ()

    assert [ask(index, name) for name in ("b", "c", "b")] == [1, 2, 2]
    assert ask(index, "a") == ()


def test_a_sweeper_that_resigns_is_replaced_at_once(index: DueIndex) -> None:
    """The new one is no candidate any more."""
    ask(index, "a")
    ask(index, "b")

    ask(index, "a", lease_ms=0)

    assert (ask(index, "b"), ask(index, "c")) == ((), 1)


def test_a_sweeper_that_dies_is_replaced_after_its_lease(index: DueIndex) -> None:
    """On the server's own clock."""
    ask(index, "a", lease_ms=100)
    assert ask(index, "b") == 1

    waiting.until(lambda: ask(index, "b") == ())


def test_a_sweeper_of_all_objects_takes_over_from_one_that_has_not_them(index: DueIndex) -> None:
    """Such as an API from a worker; but not from another API."""
    ask(index, "worker")

    assert ask(index, "api", sweeps_all=True) == ()
    assert ask(index, "worker") == 1
    assert ask(index, "api-2", sweeps_all=True) == 2


def test_candidates_that_no_longer_ask_do_not_count(index: DueIndex, clock: Clock) -> None:
    """They have ended."""
    ask(index, "a")
    ask(index, "b")
    clock.advance(120_000)

    assert ask(index, "c") == 1


def test_what_is_due_is_taken_once_the_longest_overdue_first(index: DueIndex, clock: Clock) -> None:
    """By pages; what is due later is not taken."""
    index.note({"x": 30, "y": 10, "z": 20, "later": 1_000})
    clock.advance(30)

    assert ask(index, limit=2) == ("y", "z")
    assert ask(index, limit=2, swept={"y": None, "z": 500}) == ("x",)
    assert ask(index, swept={"x": None}) == ()
    clock.advance(500)
    assert ask(index) == ("z",)


def test_an_earlier_instant_stays(index: DueIndex, clock: Clock) -> None:
    """Whoever notes a later one knows less."""
    index.note({"x": 10})
    index.note({"x": 1_000})
    clock.advance(10)

    assert ask(index) == ("x",)


@pytest.mark.parametrize("answered", [None, 5_000])
def test_what_is_noted_during_a_sweep_is_not_lost(
    index: DueIndex, clock: Clock, answered: int | None
) -> None:
    """The sweeper looked before, and may have found that nothing more is due."""
    index.note({"x": 0})
    ask(index)
    index.note({"x": 100})

    ask(index, swept={"x": answered})

    clock.advance(100)
    assert ask(index) == ("x",)


def test_what_a_sweeper_took_before_it_died_is_taken_by_the_next(index: DueIndex) -> None:
    """Also if it is only slow: sweeping twice does no harm."""
    index.note({"x": 0, "y": 0})
    ask(index, "a")

    assert ask(index, "api", sweeps_all=True) == ("x", "y")
    assert ask(index, "a", swept={"x": None}) == 1


def test_the_busiest_are_those_that_are_swept_and_then_those_due_first(
    index: DueIndex, clock: Clock
) -> None:
    index.note({"late": 5_000, "now": 0, "soon": 1_000})
    ask(index)

    assert index.busiest(10) == ["now", "soon", "late"]
    assert index.busiest(2) == ["now", "soon"]
    assert index.busiest(1) == ["now"]


def test_a_partition_is_noted_for_a_new_worker_and_for_the_first_reserved_chunk(
    alone: redis.Redis, index: DueIndex, clock: Clock, queue_name: str
) -> None:
    """By the call that makes it so; a heartbeat or a further reserve notes nothing."""
    queue = Queue(alone, queue_name, clock=clock)

    def due_in() -> float | None:
        found = alone.zscore("oq:{/upkeep}:due", queue_name)
        return None if found is None else float(found) - clock.now

    seen = [due_in()]
    insert(queue, 3)
    seen.append(due_in())
    queue.heartbeat("w1", timeout_ms=30_000)
    seen.append(due_in())
    queue.heartbeat("w1", timeout_ms=30_000)
    take(queue, 1)
    seen.append(due_in())
    queue.heartbeat("w2", timeout_ms=1_000)
    seen.append(due_in())
    queue.heartbeat("w1", timeout_ms=500)
    seen.append(due_in())

    assert seen == [None, 300_000, 30_000, 5_000, 1_000, 500]


def test_a_program_notes_the_same_again_only_after_it_was_due(
    alone: redis.Redis, queue_name: str
) -> None:
    """Else each reserve of a queue with little to do would pay for it."""
    queue = Queue(alone, queue_name)
    insert(queue, 9)
    queue.complete_chunks([chunk.token for chunk in take(queue, 1)])
    alone.delete("oq:{/upkeep}:due")

    queue.complete_chunks([chunk.token for chunk in take(queue, 1)])
    insert(queue, 1)

    assert alone.exists("oq:{/upkeep}:due") == 0


def test_no_chunk_waits_for_an_index_that_is_not_there(alone: redis.Redis, queue_name: str) -> None:
    """An operator may forbid it, or its master may be away."""
    alone.set("oq:{/upkeep}:due", "of another type")
    queue = Queue(alone, queue_name)

    insert(queue, 1)

    assert len(take(queue, 1)) == 1


def test_names_of_partitions_are_read_as_they_are_written() -> None:
    for place in (("emails", 0), ("emails", 3), ("a.b-c", 99)):
        assert parse_label(label(*place)) == place
    for text in ("emails/3", "emails/x", "", "/upkeep", "a b", "emails/"):
        with pytest.raises(InvalidArgumentError):
            parse_label(text)
