"""Processes: their names, and those that must not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

_PR_SET_PDEATHSIG: Final = 1


def new_worker_name(role: str = "") -> str:
    """Host, process and chance: readable, and never that of an earlier process."""
    host = re.sub(r"[^\x21-\x7e]", "_", socket.gethostname())[:100]
    return f"{role}{host}-{os.getpid()}-{secrets.token_hex(3)}"


def worker_info(*, version: str, pool: str, concurrency: int, queues: Sequence[str]) -> bytes:
    """Give the JSON that a worker tells of itself: the arguments, where it runs, since when."""
    return msgspec.json.encode(
        {
            "version": version,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pool": pool,
            "concurrency": concurrency,
            "queues": list(queues),
            "started_at": time.time_ns() // 1_000_000,
        }
    )


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends; Linux only.

    To be called in the new process. Elsewhere it does nothing: who needs to be sure there watches
    a pipe for its end.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        # It ended before we asked.
        os._exit(1)
