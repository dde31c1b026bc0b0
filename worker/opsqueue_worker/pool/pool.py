"""What intake and worker know of a pool, whatever runs the chunks; and how far it looks ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Reservation, Token

AHEAD_S: Final = 0.1
"""Reserve ahead what takes about this long: tiny chunks share round trips, long ones are not
hoarded while others are idle."""
AHEAD_AT_MOST: Final = 64
_WEIGHT_OF_LAST: Final = 0.2


class ChildEnd(StrEnum):
    """Why a child process ended."""

    CRASHED = "crashed"
    TIME_LIMIT = "time_limit"
    STOPPED = "stopped"
    """Told to: at the worker's end, or to be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCalls:
    """Whom a pool tells what."""

    on_reports: Callable[[Sequence[Report]], None]
    """What became of chunks, maybe of none; from any thread."""
    on_change: Callable[[], None]
    """Places became free, or a child ended: look again."""
    time_limit_of: Callable[[str], float]
    """Seconds that a chunk of a queue may run."""
    on_child_end: Callable[[ChildEnd], None] = lambda _reason: None
    """A child process has ended."""


class Pool(Protocol):
    """Places for chunks, and what works on them.

    In it a chunk's token is its ticket (`Intake.ticket`), which is unique over all queues.
    """

    def start(self) -> bool:
        """Get ready; False when that failed, and why has been printed."""

    def take_places(self, limit: int) -> int:
        """Promise up to `limit` free places to the caller, who submits or gives them back."""

    def give_places_back(self, number: int) -> None:
        """Take a promise back."""

    def submit(self, reservations: Sequence[Reservation]) -> None:
        """Take chunks, each on a promised place."""

    def void(self, tokens: Iterable[Token]) -> None:
        """Hear which chunks nobody wants any more."""

    def tick(self) -> None:
        """Do what is to be done now and then; on the main thread."""

    def retire_children(self) -> None:
        """Replace children, each after the chunks that it runs; those that wait go back."""

    def dump_stacks(self) -> None:
        """Let children print the stacks of their threads to stderr."""

    def stop(self) -> None:
        """Finish what runs, give the rest back."""

    def kill(self) -> None:
        """End at once; what ran goes back."""

    @property
    def chunks_running(self) -> int:
        """How many chunks have a handler running; from any thread."""

    @property
    def is_empty(self) -> bool:
        """Whether it has stopped, and everything is reported."""


class Ahead:
    """How many chunks to hold beside each that runs, by the durations seen lately."""

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._usual_s: float | None = None

    def saw(self, duration_s: float) -> None:
        """Note how long a chunk took."""
        if self._usual_s is None:
            self._usual_s = duration_s
        else:
            self._usual_s += _WEIGHT_OF_LAST * (duration_s - self._usual_s)

    @property
    def chunks(self) -> int:
        """At least 1 when it is up to us: the next input is fetched while a chunk runs."""
        if self._fixed is not None:
            return self._fixed
        if self._usual_s is None:
            return 1
        wanted = math.ceil(AHEAD_S / max(self._usual_s, AHEAD_S / AHEAD_AT_MOST))
        return max(1, min(AHEAD_AT_MOST, wanted))
