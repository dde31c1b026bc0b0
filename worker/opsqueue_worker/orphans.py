"""Process 1 of a container inherits the processes whose parents have ended, and must reap them.

Otherwise those that have ended stay in the table of processes until it is full.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 2.0
_UNCLAIMED_S: Final = 5.0
"""A child of our own is waited for by the one who started it, at once. Who takes longer loses only
its exit code."""


class Orphans:
    """Ended processes that nobody waits for; Linux only, elsewhere there is no process 1 to be."""

    def __init__(self) -> None:
        self._look_at = 0.0
        self._seen: dict[int, float] = {}

    def reap(self) -> None:
        """Reap those that have been there for some seconds; called again and again."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        self._seen = {pid: self._seen.get(pid, now) for pid in _ended_children()}
        for pid, since in self._seen.items():
            if now - since >= _UNCLAIMED_S:
                with suppress(ChildProcessError):  # it was claimed after all
                    os.waitpid(pid, os.WNOHANG)


def _ended_children() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it is gone
                # The name of the program, in parentheses, may contain anything.
                fields = (folder / "stat").read_text("latin-1").rpartition(")")[2].split()
                if fields[:2] == ["Z", str(os.getpid())]:
                    found.append(int(folder.name))
    return found
