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

from msgspec.structs import replace

from opsqueue.handlers.execute import Done, Failed, GivenBack, Report
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue_worker.output import Output
from opsqueue_worker.pool.child_process import ChildProcess
from opsqueue_worker.pool.messages import Hello, NotStarted
from opsqueue_worker.pool.pool import Ahead, ChildEnd, Health, NotStartedError, PoolCalls

logger = logging.getLogger("opsqueue.worker")

_EARLY_DEATHS_IN_A_ROW: Final = 3


class ChildPool:
    """Children, each with a number of slots, and places for waiting chunks beside each slot.

    Args:
        hello: the first message to each child.
        size: number of children.
        ahead: decides how many chunks wait beside each running one.
        calls: the pool's callbacks.
        max_chunks: a child is replaced after so many chunks; None means never.
        max_memory_bytes: a child is replaced after it used more; None means never.
        output: where children print; None means where this process does.
        ready_within_s: time that a child has to become ready.
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
        output: Output | None = None,
        ready_within_s: float = 120.0,
    ) -> None:
        self._hello = hello
        self._size = size
        self._ahead = ahead
        self._calls = calls
        self._max_chunks = max_chunks
        self._max_memory_bytes = max_memory_bytes
        self._lock = threading.Lock()
        self._children: list[ChildProcess] = []
        self._promised = 0
        self._is_stopping = False
        self._output = output
        self._ready_within_s = ready_within_s
        self._early_deaths = 0
        self._not_before = 0.0
        self._problem = ""
        self._candidate: ChildProcess | None = None
        """A child with new code, which replaces all others once it is ready."""

    # Starts of children, all on the main thread

    def start(self) -> None:
        """Start all children and wait until each is ready.

        Raises:
            NotStartedError: one of them can't start.
        """
        for _ in range(self._size):
            self._start_child(self._hello)
        self._hello = replace(self._hello, must_serve=())
        for child in self._children:
            while not child.is_ready.wait(0.05):
                self._end_if_never_ready(child)
                if child.is_gone.is_set():
                    if (told := child.not_started) is not None:
                        raise NotStartedError(told.reason, is_usage=told.is_usage)
                    message = f"a child process {child.end()} during its start; see the log"
                    raise NotStartedError(message)

    def _start_child(self, hello: Hello) -> ChildProcess:
        child = ChildProcess(hello, max_chunks=self._max_chunks, output=self._output)
        with self._lock:
            self._children.append(child)
        for work, name in ((child.speak, "to"), (partial(self._listen, child), "from")):
            threading.Thread(target=work, name=f"{name}-{child.pid}", daemon=True).start()
        return child

    def _listen(self, child: ChildProcess) -> None:
        def on_ready() -> None:
            self._problem = ""
            self._calls.on_change()

        child.listen(on_ready, lambda reports: self._finish(child, reports))
        self._calls.on_change()

    def _end_if_never_ready(self, child: ChildProcess) -> None:
        if child.starting_s > self._ready_within_s and child.not_started is None:
            reason = f"it was not ready within {self._ready_within_s:g} s"
            child.not_started = NotStarted(reason, is_usage=False)
            child.kill()

    def retire_children(self) -> None:
        """See `Pool`."""
        logger.info("starting a child with the new code, to replace the others")
        if (older := self._candidate) is not None:
            # The code may have changed again since it was started.
            older.is_stopping = True
            older.kill()
        try:
            self._candidate = self._start_child(
                replace(self._hello, must_serve=self._calls.serves())
            )
        except NotStartedError as exc:
            self._refuse_new_code(str(exc))

    def _judge_candidate(self) -> None:
        """Replace the other children if the one with new code is ready."""
        if (new := self._candidate) is None or not new.is_ready.is_set():
            return
        self._candidate = None
        with self._lock:
            for child in self._children:
                if child is not new:
                    child.is_retiring = True
                    # Now rather than when no chunk is left, so that waiting chunks are released.
                    child.stop()
        logger.info("the new code has started: replacing the other children")
        self._early_deaths = 0
        self._not_before = 0.0

    def _refuse_new_code(self, reason: str) -> None:
        self._candidate = None
        self._problem = f"the new code does not start: {reason}"
        self._calls.on_reload_failed()
        logger.error(
            "%s. The worker goes on with the old code: correct the new one, and send HUP again",
            self._problem,
        )

    def _fill_up(self) -> None:
        """Start children in place of those that have ended or are being replaced."""
        if self._is_stopping or time.monotonic() < self._not_before:
            return
        fresh = sum(not (c.is_retiring or c is self._candidate) for c in self._children)
        try:
            for _ in range(self._size - fresh):
                self._start_child(self._hello)
        except NotStartedError as exc:
            logger.error("%s", exc)  # noqa: TRY400 no defect of ours
            self._note_early_death(str(exc))

    def health(self) -> Health:
        """See `Pool`."""
        with self._lock:
            ready = sum(child.takes_chunks for child in self._children)
        return Health(ready=min(ready, self._size), wanted=self._size, problem=self._problem)

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
            self._end_if_never_ready(child)
            self._end_overdue(child)
            self._retire_if_too_large(child)
            if child.is_retiring and not child.assigned:
                child.stop()
        self._judge_candidate()
        self._fill_up()

    def _retire_if_too_large(self, child: ChildProcess) -> None:
        if self._max_memory_bytes is None or child.is_retiring:
            return
        if child.peak_memory_bytes > self._max_memory_bytes:
            megabytes = child.peak_memory_bytes // 1_000_000
            logger.info("replacing child %d: it used %d MB of memory", child.pid, megabytes)
            child.is_retiring = True

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
        if child is self._candidate:
            self._refuse_new_code(child.why_not_ready())
            return
        logger.warning("child %d %s; replacing it", child.pid, child.end())
        if child.is_ready.is_set():
            self._early_deaths = 0
            return
        self._note_early_death(f"a child does not start: {child.why_not_ready()}")

    def _note_early_death(self, problem: str) -> None:
        self._problem = problem
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
        return not self._children
