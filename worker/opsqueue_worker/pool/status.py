"""A few bytes that a child writes and its parent reads: which chunks it has begun and runs.

Shared memory rather than messages: it costs almost nothing, and it is still correct when the child
was killed in the middle of a chunk.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import tempfile
import time
from contextlib import suppress
from typing import Final, Self

from opsqueue.model.process import renew_in_children
from opsqueue_worker.pool.pool import NotStartedError

_WORD: Final = 8
"""Bytes that are written at once. `struct` would write a number byte by byte, so that the reader
could see half of it."""
_WORDS_A_SLOT: Final = 4
_TAKEN, _IS_BUSY, _RUNNING, _STARTED = range(_WORDS_A_SLOT)
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


class Status:
    """The child's peak memory, and for each slot the chunk that it has taken, and the running one.

    A slot takes a chunk, waits for its input, runs its handler, and is free again; the output may
    still be on its way to the store. Chunks are taken in the order of their sequence numbers.

    Each slot has one writer and one reader and needs no lock: the start is written before the
    number, and the reader accepts a start only if the number is the same before and after reading
    it. The number 0 means that no chunk runs.
    """

    def __init__(self, descriptor: int, slots: int) -> None:
        self.descriptor = descriptor
        self._slots = slots
        self._memory: mmap.mmap | bytearray = mmap.mmap(descriptor, _size(slots))
        self._view()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: what a handler forks writes into memory of its own."""
        self._memory = bytearray(_size(self._slots))
        self._view()

    def _view(self) -> None:
        self._whole = memoryview(self._memory).cast("q")
        self._seconds = memoryview(self._memory).cast("d")

    @classmethod
    def new(cls, slots: int) -> Self:
        """Create a status in an unnamed file, whose descriptor a child can inherit.

        Raises:
            NotStartedError: there is no room for it.
        """
        descriptor = _unnamed_file()
        try:
            _reserve(descriptor, _size(slots))
            return cls(descriptor, slots)
        except OSError as exc:
            os.close(descriptor)
            raise _no_room(exc) from exc

    def take(self, slot: int, sequence: int) -> None:
        """Record that the slot is busy with a chunk, whose input may not be here yet."""
        at = _at(slot)
        self._whole[at + _IS_BUSY] = 1  # first: the reader must not take the slot for a free one
        self._whole[at + _TAKEN] = sequence

    def begin(self, slot: int, sequence: int) -> None:
        """Record that a chunk's handler starts now."""
        at = _at(slot)
        self._whole[at + _RUNNING] = 0
        self._seconds[at + _STARTED] = time.monotonic()
        self._whole[at + _RUNNING] = sequence

    def end(self, slot: int) -> None:
        """Record that no chunk runs in the slot."""
        self._whole[_at(slot) + _RUNNING] = 0

    def free(self, slot: int) -> None:
        """Record that the slot can take another chunk."""
        self.end(slot)
        self._whole[_at(slot) + _IS_BUSY] = 0

    def note_memory(self) -> None:
        """Record the peak memory of the process; slow, so called once for many chunks."""
        self._whole[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT

    def running(self) -> dict[int, float]:
        """Return the sequence numbers of the running chunks, with the seconds they have run."""
        running = {}
        for slot in range(self._slots):
            at = _at(slot)
            sequence, started = self._whole[at + _RUNNING], self._seconds[at + _STARTED]
            # If the number has changed, another chunk runs there, and not for long yet.
            if sequence and sequence == self._whole[at + _RUNNING]:
                running[sequence] = max(0.0, time.monotonic() - started)
        return running

    def taken(self) -> set[int]:
        """Return the sequence numbers of the chunks that are in a slot."""
        places = [_at(slot) for slot in range(self._slots)]
        return {self._whole[at + _TAKEN] for at in places if self._whole[at + _IS_BUSY]}

    def last_taken(self) -> int:
        """Return the highest sequence number of the chunks that have been taken; 0 if none was."""
        return max(self._whole[_at(slot) + _TAKEN] for slot in range(self._slots))

    def peak_memory_bytes(self) -> int:
        """Return the peak memory of the process, as of its last reports."""
        return self._whole[0]

    def close(self) -> None:
        """Release the memory and the descriptor."""
        self._whole.release()
        self._seconds.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()
        os.close(self.descriptor)


def _at(slot: int) -> int:
    return 1 + slot * _WORDS_A_SLOT


def _unnamed_file() -> int:
    """Open a file in memory where the system has such, so that a full disk does not matter."""
    if sys.platform == "linux":
        with suppress(OSError):  # an old kernel, or a sandbox
            return os.memfd_create("opsqueue-status", os.MFD_CLOEXEC)
    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError as exc:
        raise _no_room(exc) from exc


def _reserve(descriptor: int, size: int) -> None:
    """Fill the file: touching a hole kills the process by SIGBUS if its file system is full."""
    if sys.platform == "darwin":
        os.write(descriptor, bytes(size))
    else:
        os.posix_fallocate(descriptor, 0, size)


def _no_room(exc: OSError) -> NotStartedError:
    return NotStartedError(
        f"no room for a child's status, a page of memory or of a file in {_folder()}: "
        f"{exc.strerror or exc}; free some, or set TMPDIR to another folder"
    )


def _folder() -> str:
    return tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")  # noqa: S108 only named


def _size(slots: int) -> int:
    return _at(slots) * _WORD
