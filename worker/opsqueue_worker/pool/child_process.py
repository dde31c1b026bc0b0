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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgspec

from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Source, Token
from opsqueue_worker.output import Output
from opsqueue_worker.pool.messages import (
    Confirmed,
    Hello,
    NotStarted,
    Ready,
    Recall,
    Reports,
    Returned,
    Revoked,
    Stop,
    ToChild,
    Unfit,
    read_from_child,
    report_of,
    send,
    works_of,
)
from opsqueue_worker.pool.pool import NotStartedError
from opsqueue_worker.pool.status import Status
from opsqueue_worker.pool.waiting import PoolChunk

logger = logging.getLogger("opsqueue.worker")
_SESSION_ROUNDS: Final = 10
"""Limit of looking again for members of a session, which may fork meanwhile."""
_LEFT_GONE_WITHIN_S: Final = 2.0
_MAX_MESSAGE_BYTES: Final = 1 << 28
"""More than any message has; what is printed into the socket is read as a larger length."""
_SILENT_WITHIN_S: Final = 5.0
"""Time to wait before closing a descriptor; after it the descriptor leaks rather than be reused."""


class ChildProcess:
    """A child process and its chunks. `assigned` is guarded by the pool's lock, oldest first.

    Args:
        hello: the first message to it.
        max_chunks: the number of chunks after which it is replaced; None means never.
    """

    def __init__(
        self, hello: Hello, *, max_chunks: int | None = None, output: Output | None = None
    ) -> None:
        self._slots = hello.slots
        self._chunks_left = max_chunks
        self._status = Status.new(hello.slots)
        try:
            self._socket, self._process = _start(self._status, output)
            self._connection = Connection(os.dup(self._socket.fileno()))
        except OSError as exc:
            self._status.close()
            message = f"can't start a process: {exc.strerror or exc}"
            raise NotStartedError(message) from exc
        self._outbox: queue.SimpleQueue[ToChild | None] = queue.SimpleQueue()
        self._sequence = 0
        self.assigned: dict[Token, PoolChunk] = {}
        self._fresh: list[tuple[PoolChunk, float]] = []
        self._source: Source | None = None
        """The source of the chunks that it was sent last."""
        self._started_at = time.monotonic()
        self.is_ready = threading.Event()
        self.not_started: NotStarted | None = None
        """The child's own account of why it can't start."""
        self.is_gone = threading.Event()
        self._reaping = threading.Lock()
        """Held while the process is reaped, and while its number is used."""
        self._left: set[int] = set()
        """Processes that were killed after its end."""
        self._is_silent = threading.Event()
        """Set when nothing is sent to the child any more."""
        self.moved_at = 0.0
        """The instant at which it last got a chunk or reported one, on the monotonic clock."""
        self._enough_for = 0
        self.is_recalling = False
        """True from a `Recall` until its answer."""
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
    def starting_s(self) -> float:
        """Seconds since its start, until it is ready; then 0."""
        return 0.0 if self.is_ready.is_set() else time.monotonic() - self._started_at

    @property
    def takes_chunks(self) -> bool:
        """True if chunks may be assigned to the child."""
        return self.is_ready.is_set() and not (
            self.is_retiring or self.is_stopping or self.is_gone.is_set()
        )

    @property
    def slots(self) -> int:
        """The number of chunks that it can run at once, now."""
        return self._slots if self.takes_chunks else 0

    @property
    def chunks_left(self) -> int | None:
        """The number of chunks that it may still get before it is replaced; None: any number."""
        return self._chunks_left

    def not_begun(self) -> list[PoolChunk]:
        """Return its chunks that no slot has taken yet, in their order."""
        last = self._status.last_taken()
        newest_first = reversed(self.assigned.values())
        return list(takewhile(lambda chunk: chunk.sequence > last, newest_first))[::-1]

    @property
    def has_enough(self) -> bool:
        """True if it needs no chunks now, or can't be given any."""
        return self.is_recalling or self._enough_for > 0

    def enough_for(self, reports: int) -> None:
        """Note that it needs no chunks until it has reported so many."""
        self._enough_for = reports

    def note_reports(self, number: int) -> None:
        """Note that it has reported chunks."""
        self.moved_at = time.monotonic()
        self._enough_for -= number

    def free_slots(self, waiting: Sequence[PoolChunk]) -> int:
        """Return the number of slots that wait for a chunk, given what `not_begun` has returned.

        A chunk that is taken in between counts twice rather than not at all.
        """
        if not self.takes_chunks or self.is_recalling:
            return 0
        if not self.assigned:
            return self._slots
        return max(0, self._slots - len(waiting) - len(self._status.taken()))

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that the child has used, as of the end of its last chunk."""
        return self._status.peak_memory_bytes()

    def assign(self, chunk: PoolChunk, *, good_until: float) -> None:
        """Assign a chunk, to be sent by the next `hand_over`, which also notices a dead child."""
        self._sequence += 1
        chunk.sequence = self._sequence
        self.assigned[chunk.token] = chunk
        if self._chunks_left is not None:
            self._chunks_left -= 1
            self.is_retiring = self.is_retiring or self._chunks_left == 0
        self._fresh.append((chunk, good_until))

    def hand_over(self) -> None:
        """Send the chunks assigned since the last call, combined into few messages."""
        if not self._fresh:
            return
        self.moved_at = time.monotonic()
        for work in works_of(self._fresh, source=self._source):
            self._source = work.source or self._source
            self._outbox.put(work)
        self._fresh.clear()

    def not_running(self, label: str) -> list[PoolChunk]:
        """Return its chunks of a partition that may begin yet."""
        chunks = self.not_begun()
        # Some are in a slot already and wait for their inputs.
        if in_slots := self._status.taken() - self._status.running().keys():
            chunks += [chunk for chunk in self.assigned.values() if chunk.sequence in in_slots]
        return [chunk for chunk in chunks if chunk.label == label]

    def confirm(self, good_until: Mapping[Token, float]) -> None:
        """Send later instants until which chunks may begin."""
        if good_until:
            self._outbox.put(Confirmed({str(token): at for token, at in good_until.items()}))

    def recall(self) -> None:
        """Ask for the chunks that have not begun; until they are here it gets no others."""
        self.is_recalling = True
        self._outbox.put(Recall())

    def take_back(self, tokens: Iterable[Token]) -> list[PoolChunk]:
        """Return the chunks that it has returned."""
        self.is_recalling = False
        self._enough_for = 0
        returned = [self.assigned.pop(token) for token in tokens if token in self.assigned]
        if self._chunks_left is not None:
            self._chunks_left += len(returned)
        return returned

    def revoke(self, tokens: Iterable[Token]) -> None:
        """Notify the child which of its chunks have been revoked."""
        mine = [self.assigned[token] for token in tokens if token in self.assigned]
        for chunk in mine:
            chunk.is_revoked = True  # the child may be returning it at this moment
        if mine:
            self._outbox.put(Revoked([str(chunk.token) for chunk in mine]))

    def stop(self) -> None:
        """Ask the child to finish its running chunks, return the others, and end."""
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
        on_return: Callable[[Sequence[Token]], None],
        on_unfit: Callable[[str], None],
    ) -> None:
        """Pass on the child's messages until it is gone, then wait for its exit code."""
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
                    case Returned(tokens):
                        on_return(tokens)
                    case Unfit(reason):
                        on_unfit(reason)
        except (EOFError, OSError, msgspec.DecodeError) as exc:
            if isinstance(exc, msgspec.DecodeError) or str(exc) == "bad message length":
                logger.error(  # noqa: TRY400 our own traceback would not help
                    "child %d sent what is no message: killing it; a handler may have written to "
                    "a file descriptor that it had not opened (%s)",
                    self.pid,
                    exc,
                )
                self.kill()
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
        self._socket.shutdown(how)

    def running_s(self) -> list[float]:
        """Return the seconds that each running chunk has run."""
        return list(self._status.running().values())

    def running(self, *, at_least_s: float = 0.0) -> dict[Token, float]:
        """Return the running chunks in the order of arrival, with the seconds they have run."""
        seconds = {n: ran_s for n, ran_s in self._status.running().items() if ran_s >= at_least_s}
        if not seconds:
            return {}
        return {
            token: seconds[chunk.sequence]
            for token, chunk in self.assigned.items()
            if chunk.sequence in seconds
        }

    def suspects(self) -> dict[Token, float]:
        """Return the chunks that may have caused its death, with the seconds they have run.

        These are the running ones; else those whose inputs the slots wait for. If there are none,
        it died between two chunks, while it was saving outputs: then the oldest that had begun. One
        must use an attempt, or a chunk that kills its process at that point would return forever.
        """
        if running := self.running():
            return running
        taken, last = self._status.taken(), self._status.last_taken()
        begun = [chunk for chunk in self.assigned.values() if chunk.sequence <= last]
        in_slots = {chunk.token: 0.0 for chunk in begun if chunk.sequence in taken}
        return in_slots or {chunk.token: 0.0 for chunk in begun[:1]}

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
    with suppress(OSError):  # no /proc, or no descriptor left to read it with
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


def _start(status: Status, output: Output | None) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a child; return the parent's end of their socket, and the process."""
    ours, theirs = socket.socketpair()
    with theirs:
        # A default timeout (`socket.setdefaulttimeout`) would make reads fail at once.
        for end in (ours, theirs):
            end.setblocking(True)  # noqa: FBT003 it takes no names
        process = subprocess.Popen(  # noqa: S603 our own module
            [
                sys.executable,
                "-m",
                "opsqueue_worker.pool.child",
                *map(str, (theirs.fileno(), status.descriptor, os.getpid())),
            ],
            pass_fds=(theirs.fileno(), status.descriptor),
            stdin=subprocess.DEVNULL,
            stdout=output.stdout if output else None,
            stderr=output.stderr if output else None,
            # With a process group of its own, what its handlers have started ends with it. A
            # session rather than only a group: it has no terminal, which would stop a group in the
            # background that writes to it.
            start_new_session=True,
        )
    return ours, process
