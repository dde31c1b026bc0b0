"""The log of handler executions: a file per process and a line per event.

A line is a single write to a file opened with O_APPEND, so that a process that is killed at any
instant leaves no partial line.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

_numbers = count()
_lock = threading.Lock()


@contextmanager
def logged(
    queue: str, submission: int, chunk: int, attempt: int, operations: Sequence[Any]
) -> Iterator[None]:
    """Log the start and the end of a chunk's handler."""
    number = next(_numbers)
    _write(
        {
            "run": number,
            "queue": queue,
            "submission": submission,
            "chunk": chunk,
            "attempt": attempt,
            "first": operations[0][0],
            "count": len(operations),
            "program": os.environ["CHAOS_PROGRAM"],
            "pid": os.getpid(),
            "began": time.monotonic(),
        }
    )
    how = "raised"
    try:
        yield
        how = "returned"
    finally:
        _write({"run": number, "ended": time.monotonic(), "how": how})


def _write(line: dict[str, Any]) -> None:
    # The cache alone would let two threads open a file each.
    with _lock:
        file = _open(os.getpid())
    os.write(file, f"{json.dumps(line)}\n".encode())


@cache
def _open(pid: int) -> int:
    path = Path(os.environ["CHAOS_LOG"]) / f"{pid}-{time.monotonic_ns()}.jsonl"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
