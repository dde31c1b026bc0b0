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
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Reservation, Source, Token
from opsqueue_worker.pool.messages import (
    Hello,
    Ready,
    Reports,
    Revoked,
    Stop,
    ToChild,
    Unfit,
    read_from_child,
    report_of,
    send,
    works_of,
)
from opsqueue_worker.pool.status import Status

logger = logging.getLogger("opsqueue.worker")
_SESSION_ROUNDS: Final = 10
"""Limit of looking again for members of a session, which may fork meanwhile."""
_LEFT_GONE_WITHIN_S: Final = 2.0
_SILENT_WITHIN_S: Final = 5.0
"""Time to wait before closing a descriptor; after it the descriptor leaks rather than be reused."""


class ChildProcess:
    """A child process and its chunks. `assigned` is guarded by the pool's lock, oldest first."""

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
                # With a process group of its own, what its handlers have started ends with it. A
                # session rather than only a group: it has no terminal, which would stop a group in
                # the background that writes to it.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._outbox: queue.SimpleQueue[ToChild | None] = queue.SimpleQueue()
        self._sequence = 0
        self.assigned: dict[Token, tuple[int, Reservation]] = {}
        self._fresh: list[tuple[int, Reservation]] = []
        self._source: Source | None = None
        """The source of the chunks that it was sent last."""
        self.is_ready = threading.Event()
        self.is_gone = threading.Event()
        self._reaping = threading.Lock()
        """Held while the process is reaped, and while its number is used."""
        self._left: set[int] = set()
        """Processes that were killed after its end."""
        self._is_silent = threading.Event()
        """Set when nothing is sent to the child any more."""
        self.is_retiring = False
        """True if it gets no more chunks and stops when it has none left."""
        self.is_stopping = False
        self._idle_since: float | None = None
        self._is_killed = False
        self.is_overdue = False
        """True if one of its chunks ran for too long."""
        self._outbox.put(hello)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

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

    def has_lingered(self, seconds: float) -> bool:
        """Return whether it was asked to stop and has had no chunk for so long."""
        if not self.is_stopping or self.assigned or self.is_gone.is_set():
            self._idle_since = None
            return False
        self._idle_since = self._idle_since or time.monotonic()
        return time.monotonic() - self._idle_since > seconds

    def kill(self) -> None:
        """Kill the process at once, with the programs that its handlers have started."""
        self._is_killed = True
        self._signal(os.killpg, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        self._signal(os.kill, number)

    def _signal(self, send_signal: Callable[[int, int], None], number: int) -> None:
        with self._reaping:
            if self._process.returncode is None:  # else the number may be another process's
                with suppress(ProcessLookupError, PermissionError):
                    send_signal(self.pid, number)

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
        self,
        on_ready: Callable[[], None],
        on_reports: Callable[[Sequence[Report]], None],
        on_unfit: Callable[[str], None],
    ) -> None:
        """Pass on the child's reports until it is gone, then wait for its exit code."""
        try:
            while True:
                match read_from_child(self._connection.recv_bytes()):
                    case Ready():
                        self.is_ready.set()
                        on_ready()
                    case Reports(reports):
                        on_reports([report_of(report) for report in reports])
                    case Unfit(reason):
                        on_unfit(reason)
        except (EOFError, OSError):
            self._reap()
        finally:
            self.is_gone.set()
            self._outbox.put(None)  # ends the speaking thread

    def _reap(self) -> None:
        """Wait for the end of the process, and end what its handlers have left."""
        _wait(self._process)
        is_orderly = self.is_stopping and not (self._is_killed or self.assigned)
        # Before the process is reaped: until then nobody else gets its number.
        self._left = end_session(self.pid, signal.SIGTERM if is_orderly else signal.SIGKILL)
        with self._reaping:
            self._process.wait()

    def wait_for_left(self) -> None:
        """Wait until what its handlers had started is gone, which the system may do with delay."""
        deadline = time.monotonic() + _LEFT_GONE_WITHIN_S
        while time.monotonic() < deadline and any(
            Path("/proc", str(p)).exists() for p in self._left
        ):
            time.sleep(0.02)

    def notice_end(self) -> None:
        """End `listen` when the process has ended, even if a fork of it keeps the socket open."""
        if self.is_gone.is_set():
            return
        if _has_ended(self._process):
            self._shut(socket.SHUT_RD)  # messages that it sent before are still read

    def _shut(self, how: int) -> None:
        with socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(how)

    def running(self) -> dict[Token, float]:
        """Return the running chunks in the order of arrival, with the seconds they have run."""
        seconds = self._status.running()
        return {
            token: seconds[sequence]
            for token, (sequence, _) in self.assigned.items()
            if sequence in seconds
        }

    def end(self) -> str:
        """Return a description of how the process ended."""
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
        self._status.close()


def end_session(session: int, number: signal.Signals) -> set[int]:
    """Send a signal to the members of a child's session; SIGKILL also to those with own groups.

    A handler's program that made a session of its own is not in it. On systems without /proc, nor
    is one that made a process group of its own.

    Returns:
        The processes that were killed, other than the child.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)
    if number != signal.SIGKILL:
        return set()
    for _ in range(_SESSION_ROUNDS):
        members = _members_of(session)
        running = [pid for pid, is_running in members.items() if is_running]
        if not running:
            break
        for pid in running:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
    return set(members)


def _members_of(session: int) -> dict[int, bool]:
    """Return the other processes of a session, and whether they are running: not yet killed."""
    members = {}
    with suppress(FileNotFoundError):
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal() or folder.name == str(session):
                continue
            try:
                text = (folder / "stat").read_text(errors="replace")
                # The program's name, in parentheses, may contain anything. Words follow it.
                state, _, _, of = text.rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue  # it has ended meanwhile
            if int(of) == session:
                members[int(folder.name)] = state not in "ZX"
    return members


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process without reaping it, where the system can."""
    if sys.platform == "linux":
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if process.returncode is not None:
        return True
    if sys.platform == "linux":
        try:
            return bool(os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
        except ChildProcessError:
            return True
    else:
        return process.poll() is not None
