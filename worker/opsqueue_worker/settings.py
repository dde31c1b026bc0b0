"""The settings of a worker: one frozen value, which only `cli` creates."""

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
    """The options that `opsqueue-worker --help` describes; times are in seconds."""

    app: str
    redis_url: str
    store_url: str
    queues: tuple[str, ...] = ()
    """Queues to serve; empty means every queue that the app has a handler for."""
    strategy: AnyStrategy | None = None
    """None means the strategy of each handler."""
    pool: PoolKind = "process"
    concurrency: int = 1
    """Chunks that run at the same time."""
    prefetch: int | None = None
    """Chunks that wait beside each running one; None means as many as about 100 ms of work."""
    max_chunks_per_child: int | None = None
    max_memory_per_child_bytes: int | None = None
    max_chunk_bytes: int = MAX_CHUNK_BYTES
    """Limit of an input before compression; the attempt of a larger one fails."""
    heartbeat_interval_s: float = 5.0
    heartbeat_timeout_s: float = config.HEARTBEAT_TIMEOUT.default
    redis_timeout_s: float = 15.0
    shutdown_timeout_s: float = 60.0
    is_burst: bool = False
    """True to exit when the queues are empty."""
    is_reloading: bool = False
    """True to replace children when source files change."""
    metrics_port: int | None = None
    """0 means any free port, None means no metrics."""
    metrics_host: str = "127.0.0.1"
    log_level: str = config.LOG_LEVEL.default
    log_format: LogFormat = config.LOG_FORMAT.default
    name: str = field(default_factory=new_worker_name)
