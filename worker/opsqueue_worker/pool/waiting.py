"""The waiting room: reserved chunks that have not begun, in the order in which they came.

They wait in the parent rather than in a child, so that no chunk waits behind a long one while
another child is idle. A chunk leaves it for a child; a child returns what it has not begun.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from opsqueue.model.chunk import Reservation, Token

LONGEST_WAIT_S: Final = 1.0
"""A chunk that has waited so long goes back to the queue, since other workers may be idle."""


# macOS has no such clock; its monotonic one stands still while the machine sleeps.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clearance(Enum):
    """The state of Redis's knowledge that a chunk is about to begin."""

    NOT_NEEDED = "not needed"
    NEEDED = "needed"
    """The chunk was in hand before: it must be known to have begun, if it ends this worker."""
    ASKED = "asked"
    GIVEN = "given"


@dataclass(slots=True, kw_only=True)
class PoolChunk:
    """A reserved chunk in the pool; its token is a ticket (`Intake.ticket`)."""

    reservation: Reservation
    reserved_at: float
    """The instant at which the reserve was sent, on the clock of `boot_time`."""
    named_at: float = 0.0
    """The instant of the same clock from which on heartbeats name it."""
    begin_by: float
    """After that instant of the same clock it might not end within its reservation."""
    clearance: Clearance = Clearance.NOT_NEEDED
    is_suspect: bool = False
    """True if its last worker died of it: it runs while the worker holds nothing else."""
    may_have_output: bool = False
    """True if its child had died after the handler's end: the output may be stored."""
    is_revoked: bool = False
    """True if its reservation was revoked while a child had it."""
    sequence: int = 0
    """Its number within its child, from 1, as in `Status`; 0 while it has none."""
    waits_since: float = 0.0
    pipe_s: float = 0.0
    """The seconds of work that it counts for while it waits in its child."""
    # Asked for often, so they are not looked up each time.
    token: Token = field(init=False)
    """The chunk's ticket."""
    queue: str = field(init=False)
    label: str = field(init=False)
    """The partition that the chunk comes from."""

    def __post_init__(self) -> None:
        """Look up what the reservation says."""
        self.token = self.reservation.token
        self.queue = self.reservation.source.queue
        self.label = self.token.rpartition("/")[0]

    @property
    def is_said_to_begin(self) -> bool:
        """True if Redis knows, or is being told, that it begins."""
        return self.clearance in (Clearance.ASKED, Clearance.GIVEN)


def boot_time() -> float:
    """Return seconds since the machine's start, including those when it was suspended."""
    return time.clock_gettime(_CLOCK)


class WaitingRoom:
    """Chunks that wait. The pool's lock guards it.

    Args:
        timeout_s: the worker's heartbeat timeout. A chunk may begin until so long after Redis last
            knew that it is this worker's: other workers may have it then.
        releases_early: release chunks that wait for more than a second.
    """

    def __init__(self, *, timeout_s: float, releases_early: bool) -> None:
        self._timeout_s = timeout_s
        self._releases_early = releases_early
        self._chunks: dict[Token, PoolChunk] = {}
        self.unasked: dict[Token, PoolChunk] = {}
        """Those that need a clearance for which Redis was not asked yet."""
        self._confirmed_at: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[PoolChunk]:
        """Yield the chunks in their order; the caller may remove them meanwhile."""
        return iter(list(self._chunks.values()))

    def add(self, chunks: Iterable[PoolChunk]) -> None:
        """Add chunks that have just been reserved."""
        now = time.monotonic()
        for chunk in chunks:
            chunk.waits_since = now
            self._chunks[chunk.token] = chunk
            if chunk.clearance is Clearance.NEEDED:
                self.unasked[chunk.token] = chunk

    def put_back(self, chunks: Iterable[PoolChunk]) -> None:
        """Add chunks that had left it, before the others; they go on waiting since their start."""
        returned = {chunk.token: chunk for chunk in chunks}
        for chunk in returned.values():
            chunk.sequence = 0
        # None of them needs a clearance: it would have been asked for before.
        self._chunks = {**returned, **self._chunks}

    def remove(self, token: Token) -> PoolChunk | None:
        """Remove a chunk and return it, if it is here."""
        self.unasked.pop(token, None)
        return self._chunks.pop(token, None)

    def ask(self, chunk: PoolChunk) -> None:
        """Note that Redis is asked for a chunk's clearance."""
        del self.unasked[chunk.token]
        chunk.clearance = Clearance.ASKED

    def clear(self) -> list[PoolChunk]:
        """Remove all chunks and return them."""
        return [chunk for token in list(self._chunks) if (chunk := self.remove(token))]

    def find(self, token: Token) -> PoolChunk | None:
        """Return a chunk, if it is here."""
        return self._chunks.get(token)

    def confirm(self, label: str, at: float) -> None:
        """Note that all chunks of a partition were this worker's at an instant of `boot_time`."""
        self._confirmed_at[label] = max(at, self._confirmed_at.get(label, 0.0))

    def good_until(self, chunk: PoolChunk) -> float:
        """Return the instant of `boot_time` until which a chunk may begin."""
        confirmed_at = self._confirmed_at.get(chunk.label, 0.0)
        if confirmed_at <= chunk.named_at:
            confirmed_at = chunk.reserved_at
        until = confirmed_at + self._timeout_s
        return min(chunk.begin_by, until)

    def is_current(self, chunk: PoolChunk) -> bool:
        """Return whether a chunk may begin now; else the next heartbeat tells whose it is."""
        return boot_time() < self.good_until(chunk)

    def take_overdue(self) -> list[PoolChunk]:
        """Remove the chunks that have waited too long, and return them."""
        overdue = [chunk for chunk in self._chunks.values() if self._is_overdue(chunk)]
        for chunk in overdue:
            self.remove(chunk.token)
        return overdue

    def _is_overdue(self, chunk: PoolChunk) -> bool:
        waits_s = time.monotonic() - chunk.waits_since
        # Half of the time that it has to begin: the other half is for another worker's try.
        longest_s = (chunk.begin_by - chunk.reserved_at) / 2
        if self._releases_early:
            longest_s = min(longest_s, LONGEST_WAIT_S)
        return waits_s >= longest_s or boot_time() >= chunk.begin_by
