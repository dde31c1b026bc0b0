"""The masters of a cluster that a queue's partitions lie on, and the choice for new ones. Pure.

A key's slot is a hash of the text in its braces, so a partition lies on whichever master has the
slot of its tag. Tags for new partitions are tried until one lies on a master with the fewest
partitions of the queue. Slots that move later take their partitions with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from redis.crc import key_slot

from opsqueue.model.names import base_key, default_tag, label

SlotMap = Mapping[int, str]
"""The address of each slot's master."""

_MOST_TRIED: Final = 200_000
"""A master with a single slot of the 16,384 has one of so many tags, but for one in 200,000."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a partition in a cluster."""

    partition: str
    """Its name: the queue for the first one, others like `emails/03`."""
    slot: int
    master: str
    """The address of the slot's master; "" if the slot has none."""


def places_of(
    queue: str, tags: Mapping[int, str], partitions: int, masters: SlotMap
) -> list[Place]:
    """Return where the partitions of a queue lie.

    Args:
        queue: the queue's name.
        tags: tags that were chosen for partitions.
        partitions: their number.
        masters: the cluster's slots.
    """
    slots = [_slot_of(queue, number, tags.get(number, "")) for number in range(partitions)]
    return [
        Place(label(queue, number), slot, masters.get(slot, ""))
        for number, slot in enumerate(slots)
    ]


def choose_tags(
    queue: str, tags: Mapping[int, str], partitions: range, masters: SlotMap
) -> dict[int, str]:
    """Choose tags for new partitions, each on a master with the fewest partitions by then.

    Args:
        queue: the queue's name.
        tags: tags that were chosen before. These partitions keep theirs.
        partitions: the numbers of the new partitions.
        masters: the cluster's slots.
    """
    known = dict(tags)
    for number in partitions:
        if number not in known:
            loads = _loads(places_of(queue, known, number, masters), masters)
            least = min(loads.values())
            wanted = {master for master, load in loads.items() if load == least}
            known[number] = _tag_on_one_of(wanted, queue, number, masters)
    return {number: known[number] for number in partitions}


def crowding(places: Sequence[Place], masters: SlotMap) -> str | None:
    """Return a warning if partitions share a master although another one has fewer to serve."""
    loads = _loads(places, masters)
    (fullest, most), (emptiest, least) = loads.most_common()[0], loads.most_common()[-1]
    if most - least < 2:
        return None
    sharing = [place for place in places if place.master == fullest]
    names = ", ".join(place.partition for place in sharing)
    return (
        f"partitions {names} share the master {fullest}, and {emptiest} has {least or 'none'}; "
        f"move slot {sharing[-1].slot}, with {sharing[-1].partition}, to {emptiest}"
    )


def _loads(places: Sequence[Place], masters: SlotMap) -> Counter[str]:
    """Return the number of partitions of each master."""
    loads = Counter(dict.fromkeys(masters.values(), 0))
    loads.update(place.master for place in places if place.master)
    return loads


def _tag_on_one_of(wanted: set[str], queue: str, number: int, masters: SlotMap) -> str:
    tags = islice(_tags(number), _MOST_TRIED)
    fitting = (tag for tag in tags if masters.get(_slot_of(queue, number, tag)) in wanted)
    return next(fitting, default_tag(number))


def _tags(number: int) -> Iterator[str]:
    yield default_tag(number)
    for variant in range(1, _MOST_TRIED):
        yield f"{default_tag(number)}.{variant}"


def _slot_of(queue: str, number: int, tag: str) -> int:
    return key_slot(base_key(queue, number, tag).encode())
