"""A pool of child processes: sends them chunks, receives their reports, replaces dead ones.

The main thread starts and ticks it (children die with the thread that started them). Chunks come
from the intakes' threads, reports from one thread for each child.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from opsqueue.handlers.execute import Done, Failed, GivenBack, Report
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue_worker.pool.child_process import ChildProcess
from opsqueue_worker.pool.messages import Hello
from opsqueue_worker.pool.pool import Ahead, ChildEnd, PoolCalls

logger = logging.getLogger("opsqueue.worker")

_READY_WITHIN_S: Final = 120.0
_EARLY_DEATHS_IN_A_ROW: Final = 3
_ENDS_WITHIN_S: Final = 30.0
"""Time for the stop hooks of a child that is replaced; at the worker's end, its own limit holds."""


class ChildPool:
    """Children, each with a number of slots, and places for waiting chunks beside each slot.

    Args:
        hello: the first message to each child.
        size: number of children.
        ahead: decides how many chunks wait beside each running one.
        calls: the pool's callbacks.
        max_chunks: a child is replaced after so many chunks; None means never.
        max_memory_bytes: a child is replaced after it used more; None means never.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        size: int,
        ahead: Ahead,
        calls: PoolCalls,
        max_chunks: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        self._hello = hello
        self._size = size
        self._ahead = ahead
        self._calls = calls
        self._max_chunks = max_chunks
        self._max_memory_bytes = max_memory_bytes
        self._lock = threading.Lock()
        self._children: list[ChildProcess] = []
        self._listeners: list[threading.Thread] = []
        self._promised = 0
        self._is_stopping = False
        self._early_deaths = 0
        self._not_before = 0.0

    def start(self) -> bool:
        """Start all children and wait until each is ready.

        Returns:
            False if a child ended or did not become ready in time.
        """
        for _ in range(self._size):
            self._start_child()
        deadline = time.monotonic() + _READY_WITHIN_S
        for child in self._children:
            while not child.is_ready.wait(0.05):
                if child.is_gone.is_set() or time.monotonic() > deadline:
                    return False
        return True

    def _start_child(self) -> None:
        child = ChildProcess(self._hello, max_chunks=self._max_chunks)
        with self._lock:
            self._children.append(child)
        listening = partial(self._listen, child)
        self._listeners = [one for one in self._listeners if one.is_alive()]
        self._listeners.append(
            threading.Thread(target=listening, name=f"from-{child.pid}", daemon=True)
        )
        self._listeners[-1].start()
        threading.Thread(target=child.speak, name=f"to-{child.pid}", daemon=True).start()

    def _listen(self, child: ChildProcess) -> None:
        child.listen(
            self._calls.on_change,
            lambda reports: self._finish(child, reports),
            partial(self._replace, child),
        )
        self._calls.on_change()
        child.wait_for_left()

    def _replace(self, child: ChildProcess, reason: str) -> None:
        logger.warning("replacing child %d: %s", child.pid, reason)
        with self._lock:
            child.is_retiring = True
            child.stop()
        self._calls.on_change()

    def _finish(self, child: ChildProcess, reports: Sequence[Report]) -> None:
        with self._lock:
            ours = [r for r in reports if child.assigned.pop(r.token, None) is not None]
            for report in ours:
                if isinstance(report, Done) and report.ran:
                    self._ahead.saw(report.duration_s)
        self._calls.on_reports(ours)

    # Places

    def take_places(self, limit: int) -> int:
        """See `Pool`."""
        with self._lock:
            if self._is_stopping:
                return 0
            places = self._hello.slots * (1 + self._ahead.chunks)
            free = sum(child.free_places(places) for child in self._children)
            taken = max(0, min(limit, free - self._promised))
            self._promised += taken
            return taken

    def give_places_back(self, number: int) -> None:
        """See `Pool`."""
        with self._lock:
            self._promised -= number

    def submit(self, reservations: Sequence[Reservation]) -> None:
        """Assign each chunk to the child that has the fewest."""
        refused = []
        with self._lock:
            self._promised -= len(reservations)
            for reservation in reservations:
                able = [child for child in self._children if child.takes_chunks]
                if able and not self._is_stopping:
                    min(able, key=lambda child: len(child.assigned)).assign(reservation)
                else:
                    refused.append(reservation)
            for child in self._children:
                child.hand_over()
            is_one_used_up = any(child.is_retiring for child in self._children)
        if is_one_used_up:
            self._calls.on_change()  # wakes the main thread, which starts its successor
        if refused:
            self._calls.on_reports(
                [
                    GivenBack(token=chunk.token, reason="no child process accepts it")
                    for chunk in refused
                ]
            )

    def revoke(self, tokens: Iterable[Token]) -> None:
        """See `Pool`."""
        revoked = list(tokens)
        with self._lock:
            for child in self._children:
                child.revoke(revoked)

    # Life and death of children

    def tick(self) -> None:
        """Handle children that died, run a chunk for too long, or are to be replaced."""
        for child in list(self._children):
            child.notice_end()
            if child.is_gone.is_set():
                self._bury(child)
                continue
            self._end_overdue(child)
            self._retire_if_too_large(child)
            if child.is_retiring and not child.assigned:
                child.stop()
            if not self._is_stopping and child.has_lingered(_ENDS_WITHIN_S):
                logger.warning(
                    "killing child %d: it was to be replaced, and has not ended within %g s",
                    *(child.pid, _ENDS_WITHIN_S),
                )
                child.kill()
        fresh = sum(not child.is_retiring for child in self._children)
        if not self._is_stopping and time.monotonic() >= self._not_before:
            for _ in range(self._size - fresh):
                self._start_child()

    def _retire_if_too_large(self, child: ChildProcess) -> None:
        if self._max_memory_bytes is None or child.is_retiring:
            return
        if child.peak_memory_bytes > self._max_memory_bytes:
            megabytes = child.peak_memory_bytes // 1_000_000
            logger.info("replacing child %d: it used %d MB of memory", child.pid, megabytes)
            child.is_retiring = True

    def retire_children(self) -> None:
        """See `Pool`."""
        with self._lock:
            for child in self._children:
                child.is_retiring = True
                # Now rather than when no chunk is left, so that waiting chunks are released.
                child.stop()
        self._not_before = 0.0

    def _end_overdue(self, child: ChildProcess) -> None:
        """Kill a child whose chunk runs for too long; its other chunks are released."""
        with self._lock:
            for token, seconds in child.running().items():
                reservation = child.assigned[token][1]
                limit = self._calls.time_limit_of(reservation.source.queue)
                if seconds > limit:
                    del child.assigned[token]
                    break
            else:
                return
            # The chunks that ran beside it are not to blame.
            child.is_stopping = child.is_overdue = True
        logger.warning(
            "chunk %s ran for more than %g s: killing child %d", reservation, limit, child.pid
        )
        child.kill()
        failure = ChunkFailure(
            type="TimeLimitExceeded",
            message=f"it ran for {seconds:.1f} s, its time limit is {limit:g} s",
        )
        self._calls.on_reports([Failed(token=token, failure=failure, duration_s=seconds)])

    def _bury(self, child: ChildProcess) -> None:
        """Report the chunks of a dead child: the running ones fail, the others are released."""
        with self._lock:
            self._children.remove(child)
            suspects = child.running()
            left = list(child.assigned)
            child.assigned.clear()
        if child.is_overdue:
            end = ChildEnd.TIME_LIMIT
        elif self._is_stopping or (child.is_stopping and not left):
            end = ChildEnd.STOPPED
        else:
            end = ChildEnd.CRASHED  # also one being replaced that did not finish its chunk
        self._calls.on_child_end(end)
        if end is not ChildEnd.CRASHED:
            suspects = {}
        else:
            self._note_death(child)
            if not suspects and left:
                # It died between two chunks, while it was saving the oldest. One chunk must use
                # an attempt, or a chunk that kills its process at that point would return forever.
                suspects = {left[0]: 0.0}
        child.close()
        reports: list[Report] = []
        for token in left:
            if token in suspects:
                failure = ChunkFailure(
                    type="WorkerChildDied", message=f"process {child.pid} {child.end()}"
                )
                reports.append(Failed(token=token, failure=failure, duration_s=suspects[token]))
            else:
                reports.append(GivenBack(token=token, reason="its process ended"))
        self._calls.on_reports(reports)
        self._calls.on_change()

    def _note_death(self, child: ChildProcess) -> None:
        logger.warning("child %d %s; replacing it", child.pid, child.end())
        if child.is_ready.is_set():
            self._early_deaths = 0
            return
        # Children that end during their start (for example because the app was broken meanwhile)
        # would otherwise be started again and again at full speed.
        self._early_deaths += 1
        if self._early_deaths >= _EARLY_DEATHS_IN_A_ROW:
            # The exponent is bounded, since a night of failed starts would overflow a float.
            self._not_before = time.monotonic() + min(30.0, 2.0 ** min(self._early_deaths, 5))

    def dump_stacks(self) -> None:
        """See `Pool`."""
        for child in list(self._children):
            if not child.is_gone.is_set():
                child.signal(signal.SIGUSR1)

    def stop(self) -> None:
        """See `Pool`."""
        with self._lock:
            self._is_stopping = True
            for child in self._children:
                child.stop()

    def kill(self) -> None:
        """See `Pool`."""
        with self._lock:
            self._is_stopping = True
            for child in self._children:
                child.is_stopping = True
                child.kill()

    @property
    def chunks_running(self) -> int:
        """See `Pool`."""
        with self._lock:
            return sum(len(child.running()) for child in self._children)

    @property
    def is_empty(self) -> bool:
        """See `Pool`."""
        return not (self._children or any(one.is_alive() for one in self._listeners))
