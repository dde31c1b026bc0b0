"""The interface of pools to intake and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Token
from opsqueue_worker.pool.places import Promise
from opsqueue_worker.pool.waiting import PoolChunk

BEGUN_AFTER_S: Final = 0.1
"""Redis is told of chunks that have run for so long; most others are reported before that."""


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
    on_begin: Callable[[Sequence[Token]], None]
    """Called with chunks that Redis must know to have begun before they do; see `may_begin`."""
    time_limit_of: Callable[[str], float]
    """Returns the seconds that a chunk of a queue may run."""
    on_child_end: Callable[[ChildEnd], None] = lambda _reason: None
    """Called when a child process has ended."""
    on_reload_failed: Callable[[], None] = lambda: None
    """Called when new code could not be started, so that the old children stay."""


class Slots(Protocol):
    """Anything that takes chunks from intakes and runs them when a slot is free.

    Tokens in it are tickets (`Intake.ticket`), which are unique across all queues. All of it may be
    called from any thread.
    """

    def take_places(self, label: str, limit: int) -> Promise:
        """Promise up to `limit` places to a partition, which must fill or return them."""

    def whose_turn(self) -> str | None:
        """Return the partition that is promised places before the others; None: any."""

    def withdraw(self, label: str) -> None:
        """Note that a partition that was refused places does not wait for them now."""

    def give_places_back(self, label: str, number: int) -> None:
        """Return promised places that the partition does not fill."""

    def submit(self, chunks: Sequence[PoolChunk]) -> None:
        """Start work on chunks, each in a promised place."""

    def may_begin(self, tokens: Iterable[Token]) -> None:
        """Note that Redis knows that these chunks are about to begin."""

    def drain(self, label: str) -> None:
        """Promise no more places until the pool is empty, and then to this partition first."""

    def begun(self) -> list[Token]:
        """Return the chunks that Redis must know to have begun and not to have ended."""

    def confirm(self, label: str, at: float) -> None:
        """Note that all chunks of a partition were this worker's at an instant of `boot_time`.

        Revoked ones have been passed to `revoke` before.
        """

    def revoke(self, tokens: Iterable[Token]) -> None:
        """Note that the reservations of these chunks were revoked."""


class Pool(Protocol):
    """Anything that starts and ends what chunks run in; called on the main thread."""

    @property
    def slots(self) -> Slots:
        """The slots that intakes bring their chunks to."""

    def start(self) -> None:
        """Start the pool.

        Raises:
            NotStartedError: it can't run chunks.
        """

    def tick(self) -> None:
        """Do periodic work; called on the main thread."""

    def retire_children(self) -> None:
        """Start a child with the new code; once it is ready, replace the others.

        Each goes after its running chunks.
        """

    def dump_stacks(self) -> None:
        """Make children print the stacks of their threads to stderr."""

    def stop(self) -> None:
        """Finish the running chunks and release the others."""

    def kill(self) -> None:
        """End at once; the running chunks are released."""

    @property
    def tick_s(self) -> float:
        """Seconds until the next `tick` is needed, unless a callback asks for it."""

    @property
    def chunks_running(self) -> int:
        """The number of chunks whose handler is running; readable from any thread."""

    def health(self) -> Health:
        """Return the state of the children; may be called from any thread."""

    @property
    def is_empty(self) -> bool:
        """True if the pool has stopped and has reported everything."""
