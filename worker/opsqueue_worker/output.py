"""Standard output and error of a worker: nobody needs to read them.

A write to a pipe waits while its reader is busy, and fails when the reader is gone. Both would stop
the worker's threads, or handlers that print. So children print into pipes of their parent, which
always reads them, and one thread for each stream writes what has come, the parent's own lines
included. If that thread has to wait, lines are kept up to a limit; then they are dropped and
counted.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TextIO

from opsqueue.model.checks import counted
from opsqueue_worker.app_import import keep_standard_streams, out_of_reach

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger("opsqueue.worker")

_KEPT_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 16
_LAST_LINES_S: Final = 1.0
"""Time for the last lines when the worker ends: enough for a reader that reads."""
_END_OF_PIPE_S: Final = 0.1


class Relay:
    """One stream: keeps lines until they are written.

    Args:
        target: the descriptor to write to.
        name: of the stream, for messages.
        kept_bytes: limit of what waits to be written.
        on_drop: called with the number of dropped lines; from any thread.
    """

    def __init__(
        self,
        target: int,
        name: str,
        *,
        kept_bytes: int = _KEPT_BYTES,
        on_drop: Callable[[int], None] = lambda _lines: None,
    ) -> None:
        self._target = target
        self.name = name
        self._kept_bytes = kept_bytes
        self.on_drop = on_drop
        self.is_ending = False
        """True if a flush of its stream waits, since this process may end after it."""
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        """Bytes that wait or are being written."""
        self._is_dropping = False
        self._dropped = 0
        """Lines dropped since there was no room."""
        self._ends_line = True
        """True if what was kept last ended with a line."""
        self._is_mid_line = False
        """True if what was dropped last ended within a line, whose rest is dropped, too."""
        self._is_failing = False
        """True if the last write failed."""
        threading.Thread(target=self._write_for_ever, name=name, daemon=True).start()

    def put(self, data: bytes) -> None:
        """Keep data until it is written; never waits."""
        with self._changed:
            if self._is_dropping or (self._size and self._size + len(data) > self._kept_bytes):
                self._is_dropping = True
                self._is_mid_line = not data.endswith(b"\n")
                self._dropped += self._drop(data)
                return
            if self._is_mid_line:
                _, end, data = data.partition(b"\n")
                self._is_mid_line = not end
            self._pieces.append(data)
            self._size += len(data)
            self._ends_line = data.endswith(b"\n")
            self._changed.notify_all()

    def _drop(self, data: bytes) -> int:
        lines = data.count(b"\n")
        if lines:
            self.on_drop(lines)
        return lines

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                while not self._pieces:
                    self._changed.wait()
                data = self._pieces.popleft()
            self._write(data)
            with self._changed:
                self._size -= len(data)
                self._changed.notify_all()
            self._resume()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._target, rest) :]
            except BlockingIOError:  # whoever started the worker has set it so
                select.select((), (self._target,), ())
            except OSError as exc:  # the reader is gone, or the disk is full
                self._drop(bytes(rest))
                if not self._is_failing:
                    # Once: of standard error, this line can't be written either.
                    self._is_failing = True
                    logger.warning(
                        "can't write to %s, its lines are dropped: %s", self.name, exc.strerror
                    )
                return
        self._is_failing = False

    def _resume(self) -> None:
        """Keep lines again once there is room, and report how many were dropped."""
        with self._changed:
            if not self._is_dropping or self._size > self._kept_bytes // 2:
                return
            self._is_dropping = False
            dropped, self._dropped = self._dropped, 0
            if not self._ends_line:
                self._pieces.append(b"\n")
                self._size += 1
        logger.warning(
            "dropped %s of %s, which nothing had read for a while",
            counted(dropped, "line"),
            self.name,
        )

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is written, or for that time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)


class _Stream(io.RawIOBase):
    """A file that writes to a relay; closing it has no effect, since others use it, too."""

    def __init__(self, relay: Relay, descriptor: int) -> None:
        self._relay = relay
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        copy = bytes(data)
        self._relay.put(copy)
        return len(copy)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def flush(self) -> None:
        if self._relay.is_ending:
            self._relay.flush(_LAST_LINES_S)

    def close(self) -> None:
        pass


class Output:
    """Both streams of this process, and the descriptors that its children print to.

    It replaces `sys.stdout` and `sys.stderr`. On a terminal, children print to the terminal itself,
    so that their programs can use its colours.
    """

    def __init__(self) -> None:
        keep_standard_streams()
        self._relays: list[Relay] = []
        self._pumps: list[tuple[int, int, threading.Thread]] = []
        self.stdout, sys.stdout = self._take_over(1, "stdout")
        self.stderr, sys.stderr = self._take_over(2, "stderr")

    def _take_over(self, descriptor: int, name: str) -> tuple[int | None, TextIO]:
        relay = Relay(descriptor, name)
        self._relays.append(relay)
        stream = io.TextIOWrapper(
            _Stream(relay, descriptor),  # type: ignore[type-var] # as python -u
            encoding="utf-8",
            errors="backslashreplace",
            write_through=True,
        )
        if os.isatty(descriptor):
            return None, stream
        reader, writer = (out_of_reach(end) for end in os.pipe())
        pump = threading.Thread(target=_pump, args=(reader, relay), name=f"{name}-of-children")
        pump.daemon = True
        pump.start()
        self._pumps.append((reader, writer, pump))
        return writer, stream

    def count_drops(self, on_drop: Callable[[str, int], None]) -> None:
        """Call `on_drop` with a stream's name and a number of lines when lines are dropped."""
        for relay in self._relays:
            relay.on_drop = partial(on_drop, relay.name)

    def close(self) -> None:
        """Write what was printed; from now on, each flush waits a moment for what comes after."""
        deadline = time.monotonic() + _LAST_LINES_S
        for reader, writer, pump in self._pumps:
            with suppress(OSError):
                os.close(writer)
            pump.join(_END_OF_PIPE_S)
            # A program that a handler has left behind keeps the pipe open, and may print for ever.
            while pump.is_alive() and time.monotonic() < deadline and _has_lines(reader):
                pump.join(_END_OF_PIPE_S)
        for relay in self._relays:
            relay.is_ending = True
            relay.flush(_LAST_LINES_S)


def _pump(reader: int, relay: Relay) -> None:
    while data := os.read(reader, _PIECE_BYTES):
        relay.put(data)


def _has_lines(reader: int) -> bool:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return bool(poll.poll(0))
