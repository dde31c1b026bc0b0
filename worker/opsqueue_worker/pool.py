"""The pool of child processes: hands chunks to them, hears what became of these, replaces the dead.

Started and ticked by the main thread (children die with the thread that started them); chunks come
from the intake's threads, reports from a thread a child.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Final

from opsqueue.chunk import ChunkFailure, Reservation, Token
from opsqueue.execution import Failed, GivenBack, Report
from opsqueue_worker.messages import (
    Hello,
    Ready,
    Stop,
    Void,
    read_from_child,
    report_of,
    send,
    work_of,
)
from opsqueue_worker.status import Status

logger = logging.getLogger("opsqueue.worker")

_READY_WITHIN_S: Final = 120.0
_EARLY_DEATHS_IN_A_ROW: Final = 3


class ChildProcess:
    """The parent's side of a child: what it was given and not yet reported, oldest first."""

    def __init__(self, hello: Hello) -> None:
        ours, theirs = socket.socketpair()
        self._status = Status.new()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 our own module
                [
                    sys.executable,
                    "-m",
                    "opsqueue_worker.child",
                    str(theirs.fileno()),
                    str(self._status.descriptor),
                    str(os.getpid()),
                ],
                pass_fds=(theirs.fileno(), self._status.descriptor),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._sending = threading.Lock()
        self._sequence = 0
        self.assigned: dict[Token, tuple[int, Reservation]] = {}
        self.is_ready = threading.Event()
        self.is_gone = threading.Event()
        self.is_stopping = False
        self._send(hello)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def assign(self, reservation: Reservation) -> None:
        """Give it a chunk; if it has died meanwhile, that is noticed with the chunk assigned."""
        self._sequence += 1
        self.assigned[reservation.token] = (self._sequence, reservation)
        self._send(work_of(reservation, self._sequence))

    def void(self, tokens: Iterable[Token]) -> None:
        """Tell it which of its chunks nobody wants any more."""
        mine = [token for token in tokens if token in self.assigned]
        if mine:
            self._send(Void(list(mine)))

    def stop(self) -> None:
        """Let it finish what runs and give the rest back."""
        self.is_stopping = True
        self._send(Stop())

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def listen(self, on_report: Callable[[Report], None]) -> None:
        """Pass on its reports until it is gone, then wait for its exit code."""
        try:
            while True:
                message = read_from_child(self._connection.recv_bytes())
                if isinstance(message, Ready):
                    self.is_ready.set()
                else:
                    on_report(report_of(message))
        except (EOFError, OSError):
            self._process.wait()
        finally:
            self.is_gone.set()

    def running(self) -> tuple[Token | None, float]:
        """Give the chunk that runs, and for how many seconds."""
        sequence, seconds = self._status.running()
        for token, (number, _) in self.assigned.items():
            if number == sequence:
                return token, seconds
        return None, 0.0

    def end(self) -> str:
        """Say how it ended, as text."""
        code = self._process.returncode
        if code is not None and code < 0:
            try:
                return f"was killed by signal {signal.Signals(-code).name}"
            except ValueError:
                return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def close(self) -> None:
        """Let go of its descriptors, after its end."""
        self._connection.close()
        self._status.close()

    def _send(self, message: Hello | Stop | Void | object) -> None:
        try:
            with self._sending:
                send(self._connection, message)  # type: ignore[arg-type]
        except OSError:
            # It is dead: the listening thread notices the same, and cares for its chunks.
            logger.debug("child %d is gone", self.pid)


class ProcessPool:
    """Children, each with `1 + prefetch` places for chunks.

    Args:
        hello: what each child is told at its start.
        size: children.
        prefetch: chunks that a child holds beside the one that runs.
        on_report: called with what became of a chunk, from any thread.
        on_change: called when places become free, or a child ended: look again.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        size: int,
        prefetch: int,
        on_report: Callable[[Report], None],
        on_change: Callable[[], None],
    ) -> None:
        self._hello = hello
        self._size = size
        self._places = 1 + prefetch
        self._on_report = on_report
        self._on_change = on_change
        self._lock = threading.Lock()
        self._children: list[ChildProcess] = []
        self._promised = 0
        self._is_stopping = False
        self._early_deaths = 0
        self._not_before = 0.0

    def start(self) -> bool:
        """Start all children and wait until each is ready; False when one ended instead."""
        for _ in range(self._size):
            self._start_child()
        deadline = time.monotonic() + _READY_WITHIN_S
        for child in self._children:
            while not child.is_ready.wait(0.05):
                if child.is_gone.is_set() or time.monotonic() > deadline:
                    return False
        return True

    def _start_child(self) -> None:
        child = ChildProcess(self._hello)
        with self._lock:
            self._children.append(child)
        threading.Thread(
            target=self._listen, args=(child,), name=f"child-{child.pid}", daemon=True
        ).start()

    def _listen(self, child: ChildProcess) -> None:
        child.listen(lambda report: self._finish(child, report))
        self._on_change()

    def _finish(self, child: ChildProcess, report: Report) -> None:
        self._early_deaths = 0
        with self._lock:
            if child.assigned.pop(report.token, None) is None:
                return
        self._on_report(report)

    # Places

    def take_places(self, limit: int) -> int:
        """Promise up to `limit` free places to the caller, who submits or gives them back."""
        with self._lock:
            if self._is_stopping:
                return 0
            free = sum(
                self._places - len(child.assigned)
                for child in self._children
                if not (child.is_stopping or child.is_gone.is_set())
            )
            taken = max(0, min(limit, free - self._promised))
            self._promised += taken
            return taken

    def give_places_back(self, number: int) -> None:
        """Take a promise back."""
        with self._lock:
            self._promised -= number

    def submit(self, reservation: Reservation) -> None:
        """Give a chunk to the child with the fewest, on a promised place."""
        with self._lock:
            self._promised -= 1
            able = [
                child
                for child in self._children
                if not (child.is_stopping or child.is_gone.is_set())
            ]
            if able and not self._is_stopping:
                min(able, key=lambda child: len(child.assigned)).assign(reservation)
                return
        self._on_report(GivenBack(token=reservation.token, reason="worker stops"))

    def void(self, tokens: Iterable[Token]) -> None:
        """Tell children which of their chunks nobody wants any more."""
        wanted = list(tokens)
        with self._lock:
            for child in self._children:
                child.void(wanted)

    # Life and death of children

    def tick(self, time_limit_s_of: Callable[[str], float]) -> None:
        """Care for children that died or run a chunk for too long. On the main thread."""
        for child in list(self._children):
            if child.is_gone.is_set():
                self._bury(child)
            else:
                self._end_overdue(child, time_limit_s_of)
        missing = self._size - len(self._children)
        if missing > 0 and not self._is_stopping and time.monotonic() >= self._not_before:
            for _ in range(missing):
                self._start_child()

    def _end_overdue(self, child: ChildProcess, time_limit_s_of: Callable[[str], float]) -> None:
        with self._lock:
            token, seconds = child.running()
            if token is None:
                return
            reservation = child.assigned[token][1]
            limit_s = time_limit_s_of(reservation.source.queue)
            if seconds <= limit_s:
                return
            del child.assigned[token]
        logger.warning(
            "chunk %s ran for more than %g s: child %d ends", reservation, limit_s, child.pid
        )
        child.kill()
        message = f"it ran for {seconds:.1f} s, its time limit is {limit_s:g} s"
        self._on_report(
            Failed(
                token=token,
                failure=ChunkFailure(type="TimeLimitExceeded", message=message),
                duration_s=seconds,
            )
        )

    def _bury(self, child: ChildProcess) -> None:
        """Report what a dead child held: an attempt for the chunk that ran, the others go back."""
        with self._lock:
            self._children.remove(child)
            culprit, seconds = child.running()
            left = list(child.assigned)
            child.assigned.clear()
        if culprit is None and left:
            # Between two chunks it was saving the oldest. Somebody must be charged, lest a chunk
            # that kills at that point comes back for ever.
            culprit = left[0]
        child.close()
        if not child.is_stopping:
            self._note_death(child)
        for token in left:
            if token == culprit and not child.is_stopping:
                failure = ChunkFailure(
                    type="WorkerChildDied", message=f"process {child.pid} {child.end()}"
                )
                self._on_report(Failed(token=token, failure=failure, duration_s=seconds))
            else:
                self._on_report(GivenBack(token=token, reason="its process ended"))
        self._on_change()

    def _note_death(self, child: ChildProcess) -> None:
        logger.warning("child %d %s; it is replaced", child.pid, child.end())
        if not child.is_ready.is_set():
            # Children that end while they start (an app that broke meanwhile) would be started
            # over and over at full speed.
            self._early_deaths += 1
            pause = (
                min(30.0, 2.0**self._early_deaths)
                if (self._early_deaths >= _EARLY_DEATHS_IN_A_ROW)
                else 0.0
            )
            self._not_before = time.monotonic() + pause

    def stop(self) -> None:
        """Let every child finish the chunk that runs, give the others back and end."""
        with self._lock:
            self._is_stopping = True
            for child in self._children:
                child.stop()

    def kill(self) -> None:
        """End all children now."""
        for child in list(self._children):
            child.is_stopping = True
            child.kill()

    @property
    def is_empty(self) -> bool:
        """Whether all children are gone and cared for."""
        return not self._children
