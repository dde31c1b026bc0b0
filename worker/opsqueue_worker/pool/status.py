"""A few bytes that a child writes and its parent reads: the running chunks and their start times.

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
from typing import Final, Self

from opsqueue.model.process import renew_in_children

_WORD: Final = 8
"""Bytes that are written at once. `struct` would write a number byte by byte, so that the reader
could see half of it."""
_WORDS_A_SLOT: Final = 2
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


class Status:
    """The child's peak memory, and for each slot a chunk's sequence number and start.

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
        """Create a status in an unnamed file, whose descriptor a child can inherit."""
        with tempfile.TemporaryFile() as file:
            file.truncate(_size(slots))
            return cls(os.dup(file.fileno()), slots)

    def begin(self, slot: int, sequence: int) -> None:
        """Record that a chunk starts now."""
        at = 1 + slot * _WORDS_A_SLOT
        self._whole[at] = 0
        self._seconds[at + 1] = time.monotonic()
        self._whole[at] = sequence

    def end(self, slot: int) -> None:
        """Record that no chunk runs in the slot."""
        self._whole[1 + slot * _WORDS_A_SLOT] = 0

    def note_memory(self) -> None:
        """Record the peak memory of the process; slow, so called once for many chunks."""
        self._whole[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT

    def running(self) -> dict[int, float]:
        """Return the sequence numbers of the running chunks, with the seconds they have run."""
        running = {}
        for at in range(1, 1 + self._slots * _WORDS_A_SLOT, _WORDS_A_SLOT):
            sequence, started = self._whole[at], self._seconds[at + 1]
            # If the number has changed, another chunk runs there, and not for long yet.
            if sequence and sequence == self._whole[at]:
                running[sequence] = max(0.0, time.monotonic() - started)
        return running

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


def _size(slots: int) -> int:
    return (1 + slots * _WORDS_A_SLOT) * _WORD
