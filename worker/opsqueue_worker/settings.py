"""What a worker is told at its start: one frozen value, made by `cli` alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from opsqueue import config
from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.model.process import new_worker_name
from opsqueue.strategy import AnyStrategy
from opsqueue.tracing.logs import LogFormat
from opsqueue_worker.pool import PoolKind


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """See `opsqueue-worker --help`; times in seconds."""

    app: str
    redis_url: str
    store_url: str
    queues: tuple[str, ...] = ()
    """Empty: every queue that the app has a handler for."""
    strategy: AnyStrategy | None = None
    """None: each handler's own."""
    pool: PoolKind = "process"
    concurrency: int = 1
    """Chunks that run at a time."""
    prefetch: int | None = None
    """Chunks that wait beside each that runs; None: as many as some 100 ms of work."""
    max_chunks_per_child: int | None = None
    max_memory_per_child_bytes: int | None = None
    max_chunk_bytes: int = MAX_CHUNK_BYTES
    """Limit of an input before compression; what has more fails its attempt."""
    heartbeat_interval_s: float = 5.0
    heartbeat_timeout_s: float = config.HEARTBEAT_TIMEOUT.default
    redis_timeout_s: float = 15.0
    shutdown_timeout_s: float = 60.0
    is_burst: bool = False
    """End when the queues are empty."""
    is_reloading: bool = False
    """Replace children when source files change."""
    metrics_port: int | None = None
    """0: any that is free; None: no metrics."""
    metrics_host: str = "127.0.0.1"
    log_level: str = config.LOG_LEVEL.default
    log_format: LogFormat = config.LOG_FORMAT.default
    name: str = field(default_factory=new_worker_name)
