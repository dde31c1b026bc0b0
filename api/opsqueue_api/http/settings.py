"""What the API can be told: two small frozen values. `cli.py` reads them, nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from opsqueue import config
from opsqueue.contents.json_lines import MAX_LINE_BYTES
from opsqueue.model.new_submission import INLINE_BYTES, MAX_METADATA_BYTES, Defaults
from opsqueue.queue.durability import Durability
from opsqueue.tracing.logs import LogFormat
from opsqueue_api.http.tokens import Token

MULTIPROCESS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's variable: a folder where several processes keep their metrics. It must be set
before the library is imported."""
METRICS_FOLDER: Final = "opsqueue-metrics-"
"""How the name of such a folder begins that `cli` makes, and that goes with the process. (Earlier
versions had another name and no lock: theirs are left alone.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for; more is refused with the limit's name.

    Args:
        body_bytes: of a request, also of what comes out of gzip. Decoded it can take twenty times
            as much memory.
        chunk_bytes: of a chunk that is decoded whole, before compression; it may hold an eighth of
            it as many values. Results are streamed one by one where a chunk has more.
        line_bytes: of a line of an NDJSON body.
        operations: in a body.
        body_chunks: cut from a body, each being an upload while the client waits.
        chunks: of a submission that is uploaded already; a bit of Redis's memory each.
        metadata_bytes: of the opaque metadata, decoded.
        inline_bytes: of a submission's encoded chunks that go into Redis, not into the store.
    """

    body_bytes: int = 16 * 1024 * 1024
    chunk_bytes: int = 32 * 1024 * 1024
    line_bytes: int = MAX_LINE_BYTES
    operations: int = 1_000_000
    body_chunks: int = 10_000
    chunks: int = 100_000_000
    metadata_bytes: int = MAX_METADATA_BYTES
    inline_bytes: int = INLINE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the program runs.

    Args:
        redis_url: see `opsqueue.queue.connection.connect`.
        store_url: the object store that producers and workers have.
        host: address to listen on.
        port: 0 takes a free one, which the line `ready on` names.
        threads: requests at a time in each process.
        workers: processes.
        tokens: that are accepted; with none, everybody may do everything.
        allowed_hosts: names that requests without tokens may be sent to.
        log_level: of our own and gunicorn's log.
        log_format: of these and of the access log.
        has_access_log: a line a request on stdout.
        heartbeat_timeout_s: a consumer that does not say otherwise is dead after so long a silence.
        durability: what an answered insert survives.
        defaults: options of inserts that neither they nor their queues say.
    """

    redis_url: str = config.REDIS_URL.default
    store_url: str
    host: str = "127.0.0.1"
    port: int = config.PORT.default
    threads: int = 32
    workers: int = 1
    tokens: tuple[Token, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    log_level: str = config.LOG_LEVEL.default
    log_format: LogFormat = config.LOG_FORMAT.default
    has_access_log: bool = False
    heartbeat_timeout_s: float = config.HEARTBEAT_TIMEOUT.default
    durability: Durability = Durability.NONE
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)

    @property
    def redis_connections(self) -> int:
        """One for each thread, and a few to spare."""
        return self.threads + 8

    @property
    def long_polls(self) -> int:
        """Requests that may wait at once: a quarter of the threads stays free for the others."""
        return max(1, self.threads * 3 // 4)
