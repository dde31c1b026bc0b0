"""The interface of pools to intake and worker, and the number of chunks to reserve ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Reservation, Token

AHEAD_S: Final = 0.1
"""Seconds of work to reserve ahead: tiny chunks share round trips, and long chunks are not hoarded
while other workers are idle."""
AHEAD_AT_MOST: Final = 64
_WEIGHT_OF_LAST: Final = 0.2


class NotStartedError(Exception):
    """A child process, or the whole pool, could not be started.

    Args:
        reason: a sentence for the user.
        is_usage: True if the app or an option is wrong.
    """

    def __init__(self, reason: str, *, is_usage: bool = False) -> None:
        super().__init__(reason)
        self.is_usage = is_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of a pool's children."""

    ready: int
    """Children that can run chunks."""
    wanted: int
    problem: str = ""
    """Why the last child that was started did not become ready; '' if it did."""


class ChildEnd(StrEnum):
    """The reason why a child process ended."""

    CRASHED = "crashed"
    TIME_LIMIT = "time_limit"
    STOPPED = "stopped"
    """It was asked to stop, at the worker's end or to be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCalls:
    """The callbacks of a pool."""

    on_reports: Callable[[Sequence[Report]], None]
    """Called with the outcomes of chunks, possibly none; from any thread."""
    on_change: Callable[[], None]
    """Called when places became free or a child ended, so that the state is checked again."""
    time_limit_of: Callable[[str], float]
    """Returns the seconds that a chunk of a queue may run."""
    on_child_end: Callable[[ChildEnd], None] = lambda _reason: None
    """Called when a child process has ended."""
    serves: Callable[[], tuple[str, ...]] = tuple
    """Returns the queues that the worker serves, for which new code must have handlers."""
    on_reload_failed: Callable[[], None] = lambda: None
    """Called when new code could not be started, so that the old children stay."""


class Pool(Protocol):
    """Anything that has places for chunks and works on them.

    Tokens in it are tickets (`Intake.ticket`), which are unique across all queues.
    """

    def start(self) -> None:
        """Start the pool.

        Raises:
            NotStartedError: it can't run chunks.
        """

    def take_places(self, limit: int) -> int:
        """Promise up to `limit` free places to the caller, which must use or return them."""

    def give_places_back(self, number: int) -> None:
        """Return promised places that the caller does not use."""

    def submit(self, reservations: Sequence[Reservation]) -> None:
        """Start work on chunks, each in a promised place."""

    def revoke(self, tokens: Iterable[Token]) -> None:
        """Note that the reservations of these chunks were revoked."""

    def tick(self) -> None:
        """Do periodic work; called on the main thread."""

    def retire_children(self) -> None:
        """Start a child with the new code; once it is ready, replace the others.

        Each goes after its running chunks; its waiting chunks are released.
        """

    def dump_stacks(self) -> None:
        """Make children print the stacks of their threads to stderr."""

    def stop(self) -> None:
        """Finish the running chunks and release the others."""

    def kill(self) -> None:
        """End at once; the running chunks are released."""

    @property
    def chunks_running(self) -> int:
        """The number of chunks whose handler is running; readable from any thread."""

    def health(self) -> Health:
        """Return the state of the children; may be called from any thread."""

    @property
    def is_empty(self) -> bool:
        """True if the pool has stopped and has reported everything."""


class Ahead:
    """The number of chunks to hold beside each running one, derived from recent durations."""

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._usual_s: float | None = None

    def saw(self, duration_s: float) -> None:
        """Record the duration of a chunk."""
        if self._usual_s is None:
            self._usual_s = duration_s
        else:
            self._usual_s += _WEIGHT_OF_LAST * (duration_s - self._usual_s)

    @property
    def chunks(self) -> int:
        """Chunks to hold beside each running one.

        At least 1 unless fixed, so that the next input is fetched while a chunk runs.
        """
        if self._fixed is not None:
            return self._fixed
        if self._usual_s is None:
            return 1
        wanted = math.ceil(AHEAD_S / max(self._usual_s, AHEAD_S / AHEAD_AT_MOST))
        return max(1, min(AHEAD_AT_MOST, wanted))
