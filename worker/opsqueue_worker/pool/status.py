"""A few bytes that a child writes and its parent reads: which chunks run, and since when.

Shared memory, not messages: it costs nothing a chunk, and it still tells the truth when the child
was killed in the middle of one.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import tempfile
import time
from typing import Final, Self

_WORD: Final = 8
"""Bytes: what is written at once. `struct` would write a number byte by byte, for all to see."""
_WORDS_A_SLOT: Final = 2
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


class Status:
    """The child's peak memory, and for each slot a chunk's sequence number and start.

    One writer a slot, one reader, no lock: the start is set before the number, and a start counts
    whose number is the same before and after it is read. 0: none runs.
    """

    def __init__(self, descriptor: int, slots: int) -> None:
        self.descriptor = descriptor
        self._slots = slots
        self._memory = mmap.mmap(descriptor, _size(slots))
        self._whole = memoryview(self._memory).cast("q")
        self._seconds = memoryview(self._memory).cast("d")

    @classmethod
    def new(cls, slots: int) -> Self:
        """Make one in a file without a name, whose descriptor a child can inherit."""
        with tempfile.TemporaryFile() as file:
            file.truncate(_size(slots))
            return cls(os.dup(file.fileno()), slots)

    def begin(self, slot: int, sequence: int) -> None:
        """Say that a chunk starts now."""
        at = 1 + slot * _WORDS_A_SLOT
        self._whole[at] = 0
        self._seconds[at + 1] = time.monotonic()
        self._whole[at] = sequence

    def end(self, slot: int) -> None:
        """Say that none runs in the slot."""
        self._whole[1 + slot * _WORDS_A_SLOT] = 0

    def note_memory(self) -> None:
        """Say how much memory the process has had at most; dear, so once for many chunks."""
        self._whole[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT

    def running(self) -> dict[int, float]:
        """Give the sequence numbers of chunks that run, with the seconds that they have run."""
        running = {}
        for at in range(1, 1 + self._slots * _WORDS_A_SLOT, _WORDS_A_SLOT):
            sequence, started = self._whole[at], self._seconds[at + 1]
            # Another one by now: it has not run for long.
            if sequence and sequence == self._whole[at]:
                running[sequence] = max(0.0, time.monotonic() - started)
        return running

    def peak_memory_bytes(self) -> int:
        """Give the most memory that the process has had, as of its last reports."""
        return self._whole[0]

    def close(self) -> None:
        """Let go of memory and descriptor."""
        self._whole.release()
        self._seconds.release()
        self._memory.close()
        os.close(self.descriptor)


def _size(slots: int) -> int:
    return (1 + slots * _WORDS_A_SLOT) * _WORD
