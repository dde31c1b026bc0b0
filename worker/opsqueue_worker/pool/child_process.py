"""The parent's side of one child: the process, its chunks and its messages."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

import msgspec
from msgspec.structs import replace

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Reservation, Source, Token
from opsqueue_worker.output import Output
from opsqueue_worker.pool.messages import (
    Hello,
    NotStarted,
    Ready,
    Reports,
    Revoked,
    Stop,
    ToChild,
    read_from_child,
    report_of,
    send,
    works_of,
)
from opsqueue_worker.pool.pool import NotStartedError
from opsqueue_worker.pool.status import Status

logger = logging.getLogger("opsqueue.worker")
_MAX_MESSAGE_BYTES: Final = 1 << 28
"""More than any message has; what is printed into the socket is read as a larger length."""
_SILENT_WITHIN_S: Final = 5.0
"""Time to wait before closing a descriptor; after it the descriptor leaks rather than be reused."""


class ChildProcess:
    """A child process and its chunks. `assigned` is guarded by the pool's lock, oldest first."""

    def __init__(
        self, hello: Hello, *, max_chunks: int | None = None, output: Output | None = None
    ) -> None:
        self._max_chunks = max_chunks
        self._status = Status.new(hello.slots)
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                # A default timeout (`socket.setdefaulttimeout`) would make reads fail at once.
                for end in (self._socket, theirs):
                    end.setblocking(True)  # noqa: FBT003 it takes no names
                self._process = subprocess.Popen(  # noqa: S603 our own module
                    [
                        sys.executable,
                        "-m",
                        "opsqueue_worker.pool.child",
                        *map(str, (theirs.fileno(), self._status.descriptor, os.getpid())),
                    ],
                    pass_fds=(theirs.fileno(), self._status.descriptor),
                    stdin=subprocess.DEVNULL,
                    stdout=output.stdout if output else None,
                    stderr=output.stderr if output else None,
                )
            self._connection = Connection(os.dup(self._socket.fileno()))
        except OSError as exc:
            self._status.close()
            message = f"can't start a process: {exc.strerror or exc}"
            raise NotStartedError(message) from exc
        self._outbox: queue.SimpleQueue[ToChild | None] = queue.SimpleQueue()
        self._sequence = 0
        self.assigned: dict[Token, tuple[int, Reservation]] = {}
        self._fresh: list[tuple[int, Reservation]] = []
        self._source: Source | None = None
        """The source of the chunks that it was sent last."""
        self._started_at = time.monotonic()
        self.is_ready = threading.Event()
        self.not_started: NotStarted | None = None
        """The child's own account of why it can't start."""
        self.is_gone = threading.Event()
        self._is_silent = threading.Event()
        """Set when nothing is sent to the child any more."""
        self.is_retiring = False
        """True if it gets no more chunks and stops when it has none left."""
        self.is_stopping = False
        self.is_overdue = False
        """True if one of its chunks ran for too long."""
        self._outbox.put(hello)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def starting_s(self) -> float:
        """Seconds since its start, until it is ready; then 0."""
        return 0.0 if self.is_ready.is_set() else time.monotonic() - self._started_at

    @property
    def takes_chunks(self) -> bool:
        """True if chunks may be assigned to the child."""
        return self.is_ready.is_set() and not (
            self.is_retiring or self.is_stopping or self.is_gone.is_set()
        )

    def free_places(self, places: int) -> int:
        """Return how many more chunks it accepts, by `places` and by the limit of its lifetime."""
        if not self.takes_chunks:
            return 0
        free = places - len(self.assigned)
        if self._max_chunks is not None:
            free = min(free, self._max_chunks - self._sequence)
        return max(0, free)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that the child has used, as of the end of its last chunk."""
        return self._status.peak_memory_bytes()

    def assign(self, reservation: Reservation) -> None:
        """Assign a chunk, to be sent by the next `hand_over`, which also notices a dead child."""
        self._sequence += 1
        # Without the input: the child gets it, and the parent does not need it.
        self.assigned[reservation.token] = (self._sequence, replace(reservation, input=None))
        if self._sequence == self._max_chunks:
            self.is_retiring = True
        self._fresh.append((self._sequence, reservation))

    def hand_over(self) -> None:
        """Send the chunks assigned since the last call, combined into few messages."""
        for work in works_of(self._fresh, source=self._source):
            self._source = work.source or self._source
            self._outbox.put(work)
        self._fresh.clear()

    def revoke(self, tokens: Iterable[Token]) -> None:
        """Notify the child which of its chunks have been revoked."""
        mine = [str(token) for token in tokens if token in self.assigned]
        if mine:
            self._outbox.put(Revoked(mine))

    def stop(self) -> None:
        """Ask the child to finish its running chunks, release the others, and end."""
        if not self.is_stopping:
            self.is_stopping = True
            self._outbox.put(Stop())

    def kill(self) -> None:
        """Kill the process at once."""
        self._process.kill()

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def speak(self) -> None:
        """Send queued messages until the child is gone; runs in a separate thread.

        A child whose handler lets no other thread run reads nothing, and the socket's buffer is
        soon full. Callers must not wait for that.
        """
        try:
            while (message := self._outbox.get()) is not None:
                send(self._connection, message)
        except OSError:
            # It is dead. The listening thread notices the same, and the pool handles its chunks.
            logger.debug("child %d is gone", self.pid)
        finally:
            self._is_silent.set()

    def listen(
        self, on_ready: Callable[[], None], on_reports: Callable[[Sequence[Report]], None]
    ) -> None:
        """Pass on the child's reports until it is gone, then wait for its exit code."""
        try:
            while True:
                match read_from_child(self._connection.recv_bytes(_MAX_MESSAGE_BYTES)):
                    case Ready():
                        self.is_ready.set()
                        on_ready()
                    case NotStarted() as reason:
                        self.not_started = reason
                    case Reports(reports):
                        on_reports([report_of(report) for report in reports])
        except (EOFError, OSError, msgspec.DecodeError) as exc:
            if isinstance(exc, msgspec.DecodeError) or str(exc) == "bad message length":
                logger.error(  # noqa: TRY400 our own traceback would not help
                    "child %d sent what is no message: killing it; a handler may have written to "
                    "a file descriptor that it had not opened (%s)",
                    self.pid,
                    exc,
                )
                self.kill()
            self._process.wait()
        finally:
            self.is_gone.set()
            self._outbox.put(None)  # ends the speaking thread

    def notice_end(self) -> None:
        """End `listen` when the process has ended, even if a fork of it keeps the socket open."""
        if self._process.poll() is not None and not self.is_gone.is_set():
            self._shut(socket.SHUT_RD)  # messages that it sent before are still read

    def _shut(self, how: int) -> None:
        self._socket.shutdown(how)

    def running(self) -> dict[Token, float]:
        """Return the running chunks in the order of arrival, with the seconds they have run."""
        seconds = self._status.running()
        return {
            token: seconds[sequence]
            for token, (sequence, _) in self.assigned.items()
            if sequence in seconds
        }

    def why_not_ready(self) -> str:
        """Return why it has ended before it was ready."""
        return self.not_started.reason if self.not_started else f"its process {self.end()}"

    def end(self) -> str:
        """Return a description of how the process ended."""
        if self.not_started is not None:
            return f"did not start: {self.not_started.reason}"
        code = self._process.returncode
        if code is not None and code < 0:
            try:
                return f"was killed by signal {signal.Signals(-code).name}"
            except ValueError:
                return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def close(self) -> None:
        """Close the descriptors after the process has ended."""
        # The next child's socket may get the number of a closed descriptor at once. A thread that
        # is still sending would then send to that child: chunks of another one, or Stop before
        # Hello.
        with suppress(OSError):
            self._shut(socket.SHUT_RDWR)
        if self._is_silent.wait(_SILENT_WITHIN_S):
            self._connection.close()
            self._socket.close()
        self._status.close()
