"""A pool of child processes: their starts, time limits, replacements and ends.

The main thread starts and ticks it (children die with the thread that started them). What they work
on is the business of `ChildSlots`.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from functools import partial
from typing import Final

from opsqueue.handlers.execute import Failed
from opsqueue.model.chunk import ChunkFailure
from opsqueue_worker.output import Output
from opsqueue_worker.pool.child_process import ChildProcess
from opsqueue_worker.pool.child_slots import ChildSlots
from opsqueue_worker.pool.messages import Hello, NotStarted
from opsqueue_worker.pool.pool import ChildEnd, Health, NotStartedError, PoolCalls

logger = logging.getLogger("opsqueue.worker")

_EARLY_DEATHS_IN_A_ROW: Final = 3
_READY_WITHIN_S: Final = 120.0
_ENDS_WITHIN_S: Final = 30.0
"""Time for the stop hooks of a child that is replaced; at the worker's end, its own limit holds."""
_TICK_S: Final = 0.2
_SOON_S: Final = 0.05


class ChildPool:
    """Children, each with a number of slots.

    Args:
        hello: the first message to each child.
        size: number of children.
        prefetch: chunks to reserve ahead for each slot; None: by the durations of each queue.
        heartbeat_timeout_s: the worker's heartbeat timeout.
        calls: the pool's callbacks.
        max_chunks: a child is replaced after so many chunks; None means never.
        max_memory_bytes: a child is replaced after it used more; None means never.
        output: where children print; None means where this process does.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        size: int,
        prefetch: int | None,
        heartbeat_timeout_s: float,
        calls: PoolCalls,
        max_chunks: int | None = None,
        max_memory_bytes: int | None = None,
        output: Output | None = None,
    ) -> None:
        self._hello = hello
        self._size = size
        self._slots = ChildSlots(
            prefetch=prefetch, heartbeat_timeout_s=heartbeat_timeout_s, calls=calls
        )
        self._calls = calls
        self._max_chunks = max_chunks
        self._max_memory_bytes = max_memory_bytes
        self._children: list[ChildProcess] = []
        self._listeners: list[threading.Thread] = []
        self._is_stopping = False
        self._output = output
        self._ready_within_s = _READY_WITHIN_S
        self._early_deaths = 0
        self._not_before = 0.0
        self._problem = ""
        """Why a child does not start."""
        self._refusal = ""
        """Why the newest code replaces nothing."""
        self._candidate: ChildProcess | None = None
        """A child with new code, which replaces all others once it is ready."""

    @property
    def slots(self) -> ChildSlots:
        """See `Pool`."""
        return self._slots

    # Starts of children, all on the main thread

    def start(self) -> None:
        """Start all children and wait until each is ready.

        Raises:
            NotStartedError: one of them can't start.
        """
        for _ in range(self._size):
            self._start_child()
        for child in self._children:
            while not child.is_ready.wait(0.05):
                self._end_if_never_ready(child)
                if child.is_gone.is_set():
                    if (told := child.not_started) is not None:
                        raise NotStartedError(told.reason, is_usage=told.is_usage)
                    message = f"a child process {child.end()} during its start; see the log"
                    raise NotStartedError(message)

    def _start_child(self) -> ChildProcess:
        child = ChildProcess(self._hello, max_chunks=self._max_chunks, output=self._output)
        self._children.append(child)
        self._slots.add(child)
        listening = partial(self._listen, child)
        self._listeners = [one for one in self._listeners if one.is_alive()]
        self._listeners.append(
            threading.Thread(target=listening, name=f"from-{child.pid}", daemon=True)
        )
        self._listeners[-1].start()
        threading.Thread(target=child.speak, name=f"to-{child.pid}", daemon=True).start()

        return child

    def _listen(self, child: ChildProcess) -> None:
        def on_ready() -> None:
            self._problem = ""
            self._calls.on_change()

        child.listen(
            on_ready,
            partial(self._slots.finish, child),
            partial(self._slots.take_back, child),
            partial(self._replace, child),
        )
        self._calls.on_change()
        child.wait_for_left()

    def _replace(self, child: ChildProcess, reason: str) -> None:
        logger.warning("replacing child %d: %s", child.pid, reason)
        self._slots.retire([child])
        self._calls.on_change()

    def _end_if_never_ready(self, child: ChildProcess) -> None:
        if child.starting_s > self._ready_within_s:
            reason = f"it was not ready within {self._ready_within_s:g} s"
            child.not_started = child.not_started or NotStarted(reason, is_usage=False)
            child.kill()

    def retire_children(self) -> None:
        """See `Pool`."""
        self._judge_candidate()  # one that is ready may run chunks already
        logger.info("starting a child with the new code, to replace the others")
        if (older := self._candidate) is not None:
            # The code may have changed again since it was started.
            older.is_stopping = True
            older.kill()
        try:
            self._candidate = self._start_child()
        except NotStartedError as exc:
            self._refuse_new_code(str(exc))

    def _judge_candidate(self) -> None:
        """Replace the other children if the one with new code is ready."""
        if (new := self._candidate) is None or not new.is_ready.is_set():
            return
        self._candidate = None
        self._slots.retire(child for child in self._children if child is not new)
        logger.info("the new code has started: replacing the other children")
        self._refusal = ""
        self._early_deaths = 0
        self._not_before = 0.0

    def _refuse_new_code(self, reason: str) -> None:
        self._candidate = None
        self._refusal = f"the new code does not start: {reason}"
        self._calls.on_reload_failed()
        logger.error(
            "%s. The worker goes on with the old code: correct the new one, and send HUP again",
            self._refusal,
        )

    def _fill_up(self) -> None:
        """Start children in place of those that have ended or are being replaced."""
        if self._is_stopping or time.monotonic() < self._not_before:
            return
        fresh = sum(not (c.is_retiring or c is self._candidate) for c in self._children)
        try:
            for _ in range(self._size - fresh):
                self._start_child()
        except NotStartedError as exc:
            logger.error("%s", exc)  # noqa: TRY400 no defect of ours
            self._note_early_death(str(exc))

    def health(self) -> Health:
        """See `Pool`."""
        ready = sum(child.takes_chunks for child in list(self._children))
        problem = "; ".join(filter(None, (self._problem, self._refusal)))
        return Health(ready=min(ready, self._size), wanted=self._size, problem=problem)

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
            if not self._is_stopping and child.has_lingered(_ENDS_WITHIN_S):
                logger.warning(
                    "killing child %d: it was to be replaced, and has not ended within %g s",
                    *(child.pid, _ENDS_WITHIN_S),
                )
                child.kill()
        self._slots.care_for_waiting()
        self._judge_candidate()
        self._fill_up()

    @property
    def tick_s(self) -> float:
        """See `Pool`."""
        return _SOON_S if self._slots.is_any_waiting else _TICK_S

    def _retire_if_too_large(self, child: ChildProcess) -> None:
        if self._max_memory_bytes is None or child.is_retiring:
            return
        if child.peak_memory_bytes > self._max_memory_bytes:
            megabytes = child.peak_memory_bytes // 1_000_000
            logger.info("replacing child %d: it used %d MB of memory", child.pid, megabytes)
            child.is_retiring = True

    def _end_overdue(self, child: ChildProcess) -> None:
        """Kill a child whose chunk runs for too long; its other chunks are released."""
        if (overdue := self._slots.take_overdue(child)) is None:
            return
        chunk, seconds, limit = overdue
        logger.warning(
            "chunk %s ran for more than %g s: killing child %d", chunk.reservation, limit, child.pid
        )
        child.kill()
        failure = ChunkFailure(
            type="TimeLimitExceeded",
            message=f"it ran for {seconds:.1f} s, its time limit is {limit:g} s",
        )
        self._calls.on_reports([Failed(token=chunk.token, failure=failure, duration_s=seconds)])

    def _bury(self, child: ChildProcess) -> None:
        """Report the chunks that a dead child had begun, and say how it ended."""
        self._children.remove(child)
        begun, suspects = self._slots.remove(child)
        if child.is_overdue:
            end = ChildEnd.TIME_LIMIT
        elif self._is_stopping or (child.is_stopping and not begun):
            end = ChildEnd.STOPPED
        else:
            end = ChildEnd.CRASHED  # also one being replaced that did not finish its chunk
        self._calls.on_child_end(end)
        if end is not ChildEnd.CRASHED:
            suspects = {}
        else:
            self._note_death(child)
        child.close()
        self._slots.report_dead(begun, suspects, f"process {child.pid} {child.end()}")
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
        self._is_stopping = True
        self._slots.close()

    def kill(self) -> None:
        """See `Pool`."""
        self.stop()
        for child in list(self._children):
            child.kill()

    @property
    def chunks_running(self) -> int:
        """See `Pool`."""
        return self._slots.chunks_running

    @property
    def is_empty(self) -> bool:
        """See `Pool`."""
        return not (self._children or any(one.is_alive() for one in self._listeners))
