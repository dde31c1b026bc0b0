"""The number of chunks that a worker reserves, over all its queues."""

from __future__ import annotations

import pytest

from opsqueue_worker.pool.durations import Durations
from opsqueue_worker.pool.places import AHEAD_AT_MOST, Places

PLENTY = 10_000


def places_of(*, fixed: int | None = None, **durations_s: float) -> Places:
    durations = Durations()
    for queue, seconds in durations_s.items():
        durations.saw(queue, seconds)
    return Places(fixed, durations, clock=lambda: 0.0)


def taken(places: Places, label: str, limit: int = PLENTY, *, slots: int = 1) -> int:
    return places.take(label, limit, slots=slots, most=PLENTY).number


def test_one_chunk_is_reserved_ahead_for_each_slot_while_durations_are_unknown() -> None:
    assert taken(places_of(), "q", slots=3) == 6


@pytest.mark.parametrize(
    ("duration_s", "ahead"),
    [(0.0, AHEAD_AT_MOST), (0.001, 64), (0.01, 10), (0.1, 1), (0.9, 1), (1.1, 0), (300.0, 0)],
)
def test_some_100_ms_of_work_are_reserved_ahead(duration_s: float, ahead: int) -> None:
    """Tiny chunks share round trips, and long ones are left to other workers."""
    assert taken(places_of(q=duration_s), "q") == 1 + ahead


def test_the_number_follows_when_chunks_become_longer() -> None:
    durations = Durations()
    places = Places(None, durations)
    durations.saw("q", 0.001)

    for _ in range(20):
        durations.saw("q", 10.0)

    assert places.ahead("q") == 0


@pytest.mark.parametrize("fixed", [0, 1, 7])
def test_a_fixed_number_stays(fixed: int) -> None:
    assert taken(places_of(fixed=fixed, q=0.001), "q", slots=2) == 2 * (1 + fixed)


def test_tiny_chunks_of_one_queue_do_not_raise_the_number_of_another() -> None:
    """What a worker has just done for a fast queue says nothing about a slow one."""
    places = places_of(fast=0.0001, slow=0.5)

    assert taken(places, "slow") == 2


def test_what_is_known_of_a_queue_holds_for_all_of_its_partitions() -> None:
    """Each once counted as a queue of unknown chunks: one was reserved ahead for each slot."""
    places = places_of(q=0.01)

    assert taken(places, "q/03", 5) == 5
    assert taken(places, "q") == 6
    places.give_back("q/03", 11)
    assert places.in_hand == 0


def test_chunks_of_several_queues_share_the_slots() -> None:
    places = places_of(fast=0.0001, slow=0.5)

    assert taken(places, "slow", 1, slots=2) == 1  # half a slot
    assert taken(places, "fast", slots=2) == 97  # one and a half, of 65 each
    assert taken(places, "slow", slots=2) == 0


def test_a_refused_queue_has_its_turn_before_one_with_tiny_chunks() -> None:
    """Otherwise the room that tiny chunks leave would never be enough for another queue."""
    places = places_of(fast=0.0001, slow=0.5)
    assert taken(places, "fast") == 65
    assert taken(places, "slow") == 0
    places.give_back("fast", 10)

    refused = taken(places, "fast"), taken(places, "slow")
    places.give_back("fast", 30)
    served = taken(places, "fast"), taken(places, "slow")

    assert refused == (0, 0)
    assert served == (0, 1)
    assert taken(places, "fast", 5) == 5


def test_a_queue_that_no_longer_waits_holds_up_no_other() -> None:
    places = places_of(fast=0.0001, slow=0.5)
    taken(places, "fast")
    taken(places, "slow")
    places.give_back("fast", 10)

    places.withdraw("slow")

    assert taken(places, "fast") == 10


def test_nothing_is_reserved_ahead_while_all_slots_are_busy_for_long() -> None:
    places = places_of()
    taken(places, "q", 2, slots=2)

    assert places.take("q", PLENTY, slots=2, most=PLENTY, is_stuck=True).number == 0
    places.give_back("q", 1)
    assert places.take("q", PLENTY, slots=2, most=PLENTY, is_stuck=True).number == 1


def test_no_more_is_reserved_than_the_children_will_still_run() -> None:
    """A child is replaced after a number of chunks."""
    places = places_of(q=0.001)

    assert places.take("q", PLENTY, slots=1, most=3).number == 3
    assert places.take("q", PLENTY, slots=1, most=3).number == 0


def test_a_worker_may_ask_for_a_suspect_while_it_holds_nothing() -> None:
    places = places_of()

    first = places.take("q", 1, slots=2, most=PLENTY)
    second = places.take("q", 1, slots=2, most=PLENTY)

    assert (first.is_alone, second.is_alone) == (True, False)


def test_nothing_is_reserved_beside_a_suspect() -> None:
    places = places_of()
    taken(places, "q", 1, slots=2)

    places.host(1)

    assert taken(places, "q", slots=2) == 0
    places.dismiss(1)
    assert taken(places, "other", 1, slots=2) == 1


def test_a_worker_that_does_not_become_empty_goes_on() -> None:
    """A handler may wait for chunks that only this worker would run."""
    now = [0.0]
    places = Places(None, Durations(), clock=lambda: now[0])
    taken(places, "q", 1, slots=2)
    places.drain("q")
    now[0] = 59.0
    early = places.stop_draining(), taken(places, "q", 1, slots=2)
    now[0] = 61.0

    assert early == (False, 0)
    assert places.stop_draining()
    assert taken(places, "q", 1, slots=2) == 1


def test_a_partition_whose_suspect_waits_is_first_when_nothing_is_left() -> None:
    places = places_of()
    taken(places, "other", 1, slots=2)
    places.drain("q/01")

    while_not_empty = taken(places, "q/01", slots=2)
    places.give_back("other", 1)
    first = taken(places, "other", slots=2)
    promise = places.take("q/01", 1, slots=2, most=PLENTY)

    assert (while_not_empty, first) == (0, 0)
    assert (promise.number, promise.is_alone) == (1, True)
    assert taken(places, "other", 1, slots=2) == 1


def test_others_go_on_when_the_partition_with_the_suspect_does_not_ask() -> None:
    """Its Redis may not answer."""
    now = [0.0]
    places = Places(None, Durations(), clock=lambda: now[0])
    places.drain("q")
    refused = taken(places, "other")

    now[0] = 2.0

    assert (refused, taken(places, "other")) == (0, 2)
