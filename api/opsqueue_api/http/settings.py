"""The API's settings: two small frozen values, which only `cli.py` creates."""

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
"""prometheus-client's variable for the folder where several processes keep their metrics. It must
be set before the library is imported."""
METRICS_FOLDER: Final = "opsqueue-metrics-"
"""Prefix of the folders that `cli` creates and that are removed with the process. (Folders of
earlier versions have another name and no lock; they are not removed.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one request; exceeding one is refused with the limit's name.

    Args:
        body_bytes: size of a body, also after gzip is decompressed. Decoded, it can take twenty
            times as much memory.
        chunk_bytes: size, before compression, of a chunk that is decoded as a whole; it may have
            at most an eighth as many values. Results of larger chunks are streamed one by one.
        line_bytes: size of a line of an NDJSON body.
        operations: operations in a body.
        body_chunks: chunks cut from a body; each is uploaded while the client waits.
        chunks: chunks of a submission that is uploaded already; each takes a bit of Redis's memory.
        metadata_bytes: size of the opaque metadata, decoded.
        inline_bytes: total size of a submission's encoded chunks that are kept in Redis rather
            than in the store.
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
    """The options of the program.

    Args:
        redis_url: see `opsqueue.queue.connection.connect`.
        store_url: the object store that producers and workers use.
        host: address to listen on.
        port: 0 takes a free port, which the line `ready on` names.
        threads: concurrent requests in each process.
        workers: number of processes.
        tokens: the accepted tokens; without any, everybody may do everything.
        allowed_hosts: names that requests may be sent to if there are no tokens.
        log_level: level of the API's and gunicorn's log.
        log_format: format of these and of the access log.
        has_access_log: whether to write a line to stdout for each request.
        heartbeat_timeout_s: a consumer that does not choose a timeout counts as dead after so long
            a silence.
        durability: the guarantee of an answered insert.
        defaults: values of options that neither an insert nor its queue sets.
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
        """Size of the connection pool: one for each thread, and some more."""
        return self.threads + 8

    @property
    def long_polls(self) -> int:
        """Requests that may wait at the same time; a quarter of the threads stays free."""
        return max(1, self.threads * 3 // 4)
