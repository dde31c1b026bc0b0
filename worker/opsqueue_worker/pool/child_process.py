"""The parent's side of one child: the process, what it was given, what it said."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

from msgspec.structs import replace

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Reservation, Source, Token
from opsqueue_worker.pool.messages import (
    Hello,
    Ready,
    Reports,
    Stop,
    ToChild,
    Void,
    read_from_child,
    report_of,
    send,
    works_of,
)
from opsqueue_worker.pool.status import Status

logger = logging.getLogger("opsqueue.worker")
_SILENT_WITHIN_S: Final = 5.0
"""A descriptor is rather lost than closed too early."""


class ChildProcess:
    """A child and what it holds. `assigned` is guarded by the pool's lock, oldest first."""

    def __init__(self, hello: Hello, *, max_chunks: int | None = None) -> None:
        self._max_chunks = max_chunks
        ours, theirs = socket.socketpair()
        self._status = Status.new(hello.slots)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 our own module
                [
                    sys.executable,
                    "-m",
                    "opsqueue_worker.pool.child",
                    *map(str, (theirs.fileno(), self._status.descriptor, os.getpid())),
                ],
                pass_fds=(theirs.fileno(), self._status.descriptor),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._outbox: queue.SimpleQueue[ToChild | None] = queue.SimpleQueue()
        self._sequence = 0
        self.assigned: dict[Token, tuple[int, Reservation]] = {}
        self._fresh: list[tuple[int, Reservation]] = []
        self._source: Source | None = None
        """Of the chunks that it was sent last."""
        self.is_ready = threading.Event()
        self.is_gone = threading.Event()
        self._is_silent = threading.Event()
        """Nobody speaks to it any more."""
        self.is_retiring = False
        """It gets no more chunks, and stops when it has none."""
        self.is_stopping = False
        self.is_overdue = False
        """A chunk ran for too long."""
        self._outbox.put(hello)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def takes_chunks(self) -> bool:
        """Whether chunks may be assigned to it."""
        return self.is_ready.is_set() and not (
            self.is_retiring or self.is_stopping or self.is_gone.is_set()
        )

    def free_places(self, places: int) -> int:
        """How many chunks it can be given, of so many at a time and of its lifetime."""
        if not self.takes_chunks:
            return 0
        free = places - len(self.assigned)
        if self._max_chunks is not None:
            free = min(free, self._max_chunks - self._sequence)
        return max(0, free)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that it has had, as of its last chunk's end."""
        return self._status.peak_memory_bytes()

    def assign(self, reservation: Reservation) -> None:
        """Give it a chunk, with the next `hand_over`; if it has died, that is noticed then."""
        self._sequence += 1
        # Without its input: the child has it, and nobody here needs it.
        self.assigned[reservation.token] = (self._sequence, replace(reservation, input=None))
        if self._sequence == self._max_chunks:
            self.is_retiring = True
        self._fresh.append((self._sequence, reservation))

    def hand_over(self) -> None:
        """Send what was assigned since the last time, together."""
        for work in works_of(self._fresh, source=self._source):
            self._source = work.source or self._source
            self._outbox.put(work)
        self._fresh.clear()

    def void(self, tokens: Iterable[Token]) -> None:
        """Tell it which of its chunks nobody wants any more."""
        mine = [str(token) for token in tokens if token in self.assigned]
        if mine:
            self._outbox.put(Void(mine))

    def stop(self) -> None:
        """Let it finish what runs, give the rest back, and end."""
        if not self.is_stopping:
            self.is_stopping = True
            self._outbox.put(Stop())

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        self._process.send_signal(number)

    def speak(self) -> None:
        """Send what is to be sent until it is gone; in a thread of its own.

        A child whose handler lets no other thread run reads nothing, and a socket's buffer is soon
        full: whoever has something to say must not wait for that.
        """
        try:
            while (message := self._outbox.get()) is not None:
                send(self._connection, message)
        except OSError:
            # It is dead: the listening thread notices the same, and the pool cares for its chunks.
            logger.debug("child %d is gone", self.pid)
        finally:
            self._is_silent.set()

    def listen(
        self, on_ready: Callable[[], None], on_reports: Callable[[Sequence[Report]], None]
    ) -> None:
        """Pass on its reports until it is gone, then wait for its exit code."""
        try:
            while True:
                match read_from_child(self._connection.recv_bytes()):
                    case Ready():
                        self.is_ready.set()
                        on_ready()
                    case Reports(reports):
                        on_reports([report_of(report) for report in reports])
        except (EOFError, OSError):
            self._process.wait()
        finally:
            self.is_gone.set()
            self._outbox.put(None)  # ends the speaking thread

    def notice_end(self) -> None:
        """End `listen` when the process has ended, though a fork of it holds the socket open."""
        if self._process.poll() is not None and not self.is_gone.is_set():
            self._shut(socket.SHUT_RD)  # what it said before is still read

    def _shut(self, how: int) -> None:
        with socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(how)

    def running(self) -> dict[Token, float]:
        """Give the chunks that run, in the order they came, and for how many seconds."""
        seconds = self._status.running()
        return {
            token: seconds[sequence]
            for token, (sequence, _) in self.assigned.items()
            if sequence in seconds
        }

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
        # The number of a closed one goes to the next child's at once. Who is still speaking, or
        # about to, would speak to that one: of a chunk that is not its own, or Stop before Hello.
        with suppress(OSError):
            self._shut(socket.SHUT_RDWR)
        if self._is_silent.wait(_SILENT_WITHIN_S):
            self._connection.close()
        self._status.close()
