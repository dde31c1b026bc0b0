"""What a worker is told at its start: one frozen value, made by `cli` alone."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field


def new_worker_name() -> str:
    """Host, process and chance: readable, and never that of an earlier process."""
    return f"{socket.gethostname()[:100]}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """See `opsqueue-worker --help`; times in seconds."""

    app: str
    redis_url: str
    store_url: str
    queues: tuple[str, ...] = ()
    """Empty: every queue that the app has a handler for."""
    concurrency: int = 1
    prefetch: int = 1
    """Chunks that a child holds beside the one that it runs."""
    heartbeat_interval_s: float = 5.0
    heartbeat_timeout_s: float = 30.0
    shutdown_timeout_s: float = 60.0
    log_level: str = "INFO"
    name: str = field(default_factory=new_worker_name)
