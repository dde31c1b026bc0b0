"""A few bytes that a child writes and its parent reads: which chunks run, and since when.

Shared memory, not messages: it costs nothing a chunk, and it still tells the truth when the child
was killed in the middle of one.
"""

from __future__ import annotations

import mmap
import os
import resource
import struct
import sys
import tempfile
import time
from typing import Final, Self

_HEAD: Final = struct.Struct("=q")
_SLOT: Final = struct.Struct("=qd")
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


class Status:
    """The child's peak memory, and for each slot a chunk's sequence number and start.

    One writer a slot, one reader, no lock: a number is cleared first and set last. 0: none runs.
    """

    def __init__(self, descriptor: int, slots: int) -> None:
        self.descriptor = descriptor
        self._slots = slots
        self._memory = mmap.mmap(descriptor, _HEAD.size + slots * _SLOT.size)

    @classmethod
    def new(cls, slots: int) -> Self:
        """Make one in a file without a name, whose descriptor a child can inherit."""
        with tempfile.TemporaryFile() as file:
            file.truncate(_HEAD.size + slots * _SLOT.size)
            return cls(os.dup(file.fileno()), slots)

    def begin(self, slot: int, sequence: int) -> None:
        """Say that a chunk starts now."""
        at = _HEAD.size + slot * _SLOT.size
        _SLOT.pack_into(self._memory, at, 0, 0.0)
        _SLOT.pack_into(self._memory, at, sequence, time.monotonic())

    def end(self, slot: int) -> None:
        """Say that none runs in the slot."""
        _SLOT.pack_into(self._memory, _HEAD.size + slot * _SLOT.size, 0, 0.0)

    def note_memory(self) -> None:
        """Say how much memory the process has had at most; dear, so once for many chunks."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        _HEAD.pack_into(self._memory, 0, peak)

    def running(self) -> dict[int, float]:
        """Give the sequence numbers of chunks that run, with the seconds that they have run."""
        now = time.monotonic()
        rows = (
            _SLOT.unpack_from(self._memory, _HEAD.size + slot * _SLOT.size)
            for slot in range(self._slots)
        )
        return {sequence: now - started for sequence, started in rows if sequence}

    def peak_memory_bytes(self) -> int:
        """Give the most memory that the process has had, as of its last reports."""
        (peak,) = _HEAD.unpack_from(self._memory, 0)
        return int(peak)

    def close(self) -> None:
        """Let go of memory and descriptor."""
        self._memory.close()
        os.close(self.descriptor)
