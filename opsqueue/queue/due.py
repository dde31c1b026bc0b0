"""The sweepers' index: which partitions of all queues need upkeep, and which sweeper leads.

It is in a slot of its own, so no transition can keep it exact. Whoever makes something due earlier
notes that afterwards, and the leading sweeper stores when a partition is due next. What is missing
here is found by the leader's slow round over all names. `take_due.lua` documents the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from opsqueue.model.names import UPKEEP
from opsqueue.queue.cluster import Client
from opsqueue.queue.replies import unexpected
from opsqueue.queue.script import Argument, Scripts

SCRIPTS_OF_INDEX: Final = ("note_due", "take_due", "list_due")

LEASE_MS: Final = 3_000
"""After this time without a round of its leader another sweeper leads."""
_ABSENT_MS: Final = 60_000
"""Longer than a refused sweeper stays away."""


@dataclass(frozen=True, slots=True)
class Leading:
    """The sweeper leads, and shall sweep these partitions, named as by `names.label`."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Another sweeper leads."""

    candidates: int
    """Sweepers that were refused lately, this one included."""


class DueIndex:
    """The index of all queues that a client's Redis has.

    Args:
        client: a client from `opsqueue.queue.connection.connect`.
        clock: milliseconds since 1970; only for tests.
    """

    def __init__(self, client: Client, *, clock: Callable[[], int] | None = None) -> None:
        """Store the arguments; nothing is sent yet."""
        self._scripts = Scripts(client, UPKEEP, clock=clock)

    def note(self, in_ms: Mapping[str, int]) -> None:
        """Note in how many milliseconds partitions are due, unless an earlier instant is known.

        Raises:
            OpsqueueError: see `Scripts.call`.
        """
        self._scripts.call("note_due", rest=_pairs(in_ms))

    def take(
        self,
        sweeper: str,
        *,
        sweeps_all: bool,
        swept: Mapping[str, int | None],
        limit: int,
        lease_ms: int = LEASE_MS,
    ) -> Leading | Refused:
        """Lead, or go on leading, and take what is due; repeat it within `lease_ms`.

        Args:
            sweeper: its name.
            sweeps_all: it deletes the objects of all queues, and takes over from one that does not.
            swept: partitions that it has swept since the last call, and in how many milliseconds
                they are due next; None: never.
            limit: the most partitions.
            lease_ms: 0: it no longer leads, and takes nothing.

        Raises:
            OpsqueueError: see `Scripts.call`.
        """
        reply = self._scripts.call(
            "take_due",
            rest=_pairs(swept),
            sweeper=sweeper,
            rank=int(sweeps_all),
            lease_ms=lease_ms,
            absent_ms=_ABSENT_MS,
            limit=limit,
        )
        match reply:
            case [b"leading", labels]:
                return Leading(tuple(label.decode() for label in labels))
            case [b"refused", int(candidates)]:
                return Refused(candidates)
        raise unexpected(reply)

    def busiest(self, limit: int) -> list[str]:
        """List partitions that are looked at most often, named as by `names.label`.

        First come those in which chunks are reserved, then those that have workers.

        Raises:
            OpsqueueError: see `Scripts.call`.
        """
        match self._scripts.call("list_due", limit=limit):
            case [b"listed", labels]:
                return [label.decode() for label in labels]
            case reply:
                raise unexpected(reply)


def _pairs(in_ms: Mapping[str, int | None]) -> list[Argument]:
    return [part for label, ms in in_ms.items() for part in (label, "" if ms is None else ms)]
