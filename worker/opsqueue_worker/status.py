"""A few bytes that a child writes and its parent reads: which chunk runs, and since when.

Shared memory, not a message: it costs nothing a chunk, and it still tells the truth when the child
was killed in the middle of one.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from typing import Final, Self

_LAYOUT: Final = struct.Struct("=qd")


class Status:
    """Sequence number of the running chunk, 0 between chunks, and its start on the monotonic clock.

    One writer, one reader, no lock: the number is cleared first and set last.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _LAYOUT.size)

    @classmethod
    def new(cls) -> Self:
        """Make one in a file without a name, whose descriptor a child can inherit."""
        with tempfile.TemporaryFile() as file:
            file.truncate(_LAYOUT.size)
            return cls(os.dup(file.fileno()))

    def begin(self, sequence: int) -> None:
        """Say that a chunk starts now."""
        _LAYOUT.pack_into(self._memory, 0, 0, 0.0)
        _LAYOUT.pack_into(self._memory, 0, sequence, time.monotonic())

    def end(self) -> None:
        """Say that none runs."""
        _LAYOUT.pack_into(self._memory, 0, 0, 0.0)

    def running(self) -> tuple[int, float]:
        """Give (sequence, seconds it has run); (0, 0.0) between chunks."""
        sequence, started = _LAYOUT.unpack_from(self._memory, 0)
        return (sequence, time.monotonic() - started) if sequence else (0, 0.0)

    def close(self) -> None:
        """Let go of memory and descriptor."""
        self._memory.close()
        os.close(self.descriptor)
