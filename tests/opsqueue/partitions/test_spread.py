"""Where partitions lie on a cluster: the choice of their tags, and warnings. Pure."""

from __future__ import annotations

from collections import Counter

import pytest

from opsqueue.queue.spread import Place, SlotMap, choose_tags, crowding, places_of

SLOTS = 16_384
NAMES = [f"queue-{number}" for number in range(30)]


def shared_by(masters: int) -> SlotMap:
    """Return the slots of a cluster whose masters have equally many."""
    return {slot: f"master-{slot * masters // SLOTS}" for slot in range(SLOTS)}


def loads_of(places: list[Place]) -> list[int]:
    return sorted(Counter(place.master for place in places).values())


@pytest.mark.parametrize(("partitions", "masters"), [(2, 2), (3, 3), (24, 6), (7, 3), (2, 5)])
def test_partitions_are_spread_evenly_whatever_the_name(partitions: int, masters: int) -> None:
    """The numbers differ by one at most: 24 are four on each of six."""
    slots = shared_by(masters)
    fewest, more = divmod(partitions, masters)

    for name in NAMES:
        tags = choose_tags(name, {}, range(1, partitions), slots)

        expected = [fewest] * (masters - more) * (fewest > 0) + [fewest + 1] * more
        assert expected == loads_of(places_of(name, tags, partitions, slots))
        assert crowding(places_of(name, tags, partitions, slots), slots) is None


@pytest.mark.parametrize("name", NAMES[:5])
def test_partitions_that_exist_keep_their_places(name: str) -> None:
    """New ones make good for what is uneven."""
    slots = shared_by(3)
    chosen = choose_tags(name, {1: "01.9", 5: "05.7"}, range(4, 12), slots)
    tags = {1: "01.9", **chosen}

    assert chosen[5] == "05.7"
    assert set(range(4, 12)) == chosen.keys()
    assert loads_of(places_of(name, tags, 12, slots)) == [4, 4, 4]


def test_a_number_that_lies_well_stays_the_tag() -> None:
    """Programs of earlier versions can read a queue all of whose tags are numbers."""
    slots = shared_by(2)

    chosen = [choose_tags(name, {}, range(1, 2), slots)[1] for name in NAMES]

    assert 5 < chosen.count("01") < 25
    assert chosen[0] in ("01", "01.1", "01.2", "01.3", "01.4", "01.5", "01.6")


def test_a_master_of_few_slots_gets_its_share() -> None:
    slots = {slot: "small" if slot < 3 else "large" for slot in range(SLOTS)}

    tags = choose_tags("q", {}, range(1, 4), slots)

    assert loads_of(places_of("q", tags, 4, slots)) == [2, 2]


def test_slots_without_a_master_are_avoided() -> None:
    """A cluster may serve some of its slots only."""
    slots = {slot: master for slot, master in shared_by(2).items() if slot % 4}

    tags = choose_tags("q", {}, range(1, 6), slots)

    places = places_of("q", tags, 6, slots)
    assert all(place.slot % 4 for place in places[1:])
    assert crowding(places, slots) is None


def test_partitions_that_share_a_master_without_need_are_named() -> None:
    slots = {0: "a", 1: "b", 2: "c"}

    def places(*masters: str) -> list[Place]:
        return [Place(f"q/{n:02}", slot=7, master=master) for n, master in enumerate(masters)]

    assert crowding(places("a", "b"), slots) is None
    assert crowding(places("a", "b", "c", "c"), slots) is None
    assert crowding(places("a", "c", "c"), slots) == (
        "partitions q/01, q/02 share the master c, and b has none; move slot 7, with q/02, to b"
    )
    assert "b has 1" in str(crowding(places("a", "b", "c", "a", "a", "c"), slots))
