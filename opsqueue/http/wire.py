"""The JSON that the HTTP API and its clients exchange, and its conversion to values. No I/O.

Ids are strings of 19 digits, since JavaScript's numbers end at 2**53; instants are RFC 3339 in UTC
with a Z; bytes (metadata) are base64. Whoever reads an answer ignores fields that it does not know,
so that a newer API can serve an older client; a request with such a field is refused, naming it.

Here are problems, queues and workers. submission_wire.py has submissions, progress_wire.py how far
they are, chunk_wire.py chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from opsqueue.http.submission_wire import SubmissionBody
from opsqueue.model.answers import (
    Counts,
    WorkerSeen,
)
from opsqueue.model.submission import SubmissionState

ECHO_HEADER: Final = "Opsqueue-Request-Id"
"""A client's own id for one request, sent back with its answer: so that the client notices the
answer to another one. Not X-Request-Id, which proxies replace."""


class ProblemType(StrEnum):
    """The `type` of a problem detail (RFC 9457): what programs decide by."""

    ROUTE_NOT_FOUND = "urn:opsqueue:problem:route-not-found"
    METHOD_NOT_ALLOWED = "urn:opsqueue:problem:method-not-allowed"
    UNAUTHENTICATED = "urn:opsqueue:problem:unauthenticated"
    FORBIDDEN = "urn:opsqueue:problem:forbidden"
    MISDIRECTED = "urn:opsqueue:problem:misdirected"
    MEDIA_TYPE = "urn:opsqueue:problem:media-type"
    CONTENT_ENCODING = "urn:opsqueue:problem:content-encoding"
    BROKEN_OFF = "urn:opsqueue:problem:broken-off"
    MALFORMED_GZIP = "urn:opsqueue:problem:malformed-gzip"
    MALFORMED_JSON = "urn:opsqueue:problem:malformed-json"
    QUEUE_NAME = "urn:opsqueue:problem:queue-name"
    INVALID_ARGUMENT = "urn:opsqueue:problem:invalid-argument"
    TOO_LARGE = "urn:opsqueue:problem:too-large"
    PREFIX_TAKEN = "urn:opsqueue:problem:prefix-taken"
    SUBMISSION_NOT_FOUND = "urn:opsqueue:problem:submission-not-found"
    SUBMISSION_ENDED = "urn:opsqueue:problem:submission-ended"
    SUBMISSION_NOT_RETRYABLE = "urn:opsqueue:problem:submission-not-retryable"
    SUBMISSION_NOT_COMPLETED = "urn:opsqueue:problem:submission-not-completed"
    TOO_MANY_MATCHES = "urn:opsqueue:problem:too-many-matches"
    RESULTS_NOT_JSON = "urn:opsqueue:problem:results-not-json"
    OPERATIONS_FAILED = "urn:opsqueue:problem:operations-failed"
    RESULTS_GONE = "urn:opsqueue:problem:results-gone"
    NOT_JSON = "urn:opsqueue:problem:not-json"
    INPUT_GONE = "urn:opsqueue:problem:input-gone"
    CHUNK_LOST = "urn:opsqueue:problem:chunk-lost"
    OUTPUT_REFUSED = "urn:opsqueue:problem:output-refused"
    NOT_CONFIRMED = "urn:opsqueue:problem:not-confirmed"
    FORMAT_TOO_NEW = "urn:opsqueue:problem:format-too-new"
    UNAVAILABLE = "urn:opsqueue:problem:unavailable"
    INTERNAL = "urn:opsqueue:problem:internal"


class CountsBody(Struct, frozen=True, kw_only=True):
    """A queue at one instant. `stats` are totals since it exists; rates are of the last minute."""

    queue: str
    submissions: dict[SubmissionState, int]
    submissions_ready: int
    chunks_delayed: int
    chunks_in_hand: int
    workers: int
    chunks_per_second: float
    operations_per_second: float
    is_paused: bool
    oldest_waiting_at: datetime | None = None
    stats: dict[str, int]

    @classmethod
    def of(cls, queue: str, counts: Counts) -> CountsBody:
        """Put a queue's counts on the wire."""
        return cls(
            queue=queue,
            submissions=dict(counts.submissions),
            submissions_ready=counts.submissions_ready,
            chunks_delayed=counts.chunks_delayed,
            chunks_in_hand=counts.chunks_in_hand,
            workers=counts.workers,
            chunks_per_second=round(counts.chunks_per_second, 3),
            operations_per_second=round(counts.operations_per_second, 3),
            is_paused=counts.is_paused,
            oldest_waiting_at=counts.oldest_waiting_at,
            stats=dict(counts.stats),
        )

    def to_counts(self) -> Counts:
        """Take them off the wire."""
        return Counts(
            submissions=self.submissions,
            submissions_ready=self.submissions_ready,
            chunks_delayed=self.chunks_delayed,
            chunks_in_hand=self.chunks_in_hand,
            workers=self.workers,
            chunks_per_second=self.chunks_per_second,
            operations_per_second=self.operations_per_second,
            is_paused=self.is_paused,
            oldest_waiting_at=self.oldest_waiting_at,
            stats=self.stats,
        )


class ScalingBody(Struct, frozen=True, kw_only=True):
    """How much work there is for a queue's workers, in chunks."""

    queue: str
    value: int


class QueuesBody(Struct, frozen=True, kw_only=True):
    """All queues that ever had a submission or a worker, by name."""

    queues: list[CountsBody]


class WorkerBody(Struct, frozen=True, kw_only=True):
    """A worker that has not gone. `info` is what it tells of itself.

    `oldest_ms`: how long it has had the chunk that it has had for longest; null: it has none.
    `is_alive`: it has been silent for less long than its own heartbeat timeout.
    """

    name: str
    seen_ms_ago: int
    info: dict[str, Any]
    chunks_in_hand: int = 0
    oldest_ms: int | None = None
    is_alive: bool = True

    @classmethod
    def of(cls, worker: WorkerSeen) -> WorkerBody:
        """Put a worker on the wire."""
        return cls(
            name=worker.name,
            seen_ms_ago=worker.seen_ms_ago,
            info=dict(worker.info),
            chunks_in_hand=worker.chunks_in_hand,
            oldest_ms=worker.oldest_ms,
            is_alive=worker.is_alive,
        )

    def to_worker(self) -> WorkerSeen:
        """Take it off the wire."""
        return WorkerSeen(
            name=self.name,
            seen_ms_ago=self.seen_ms_ago,
            info=self.info,
            chunks_in_hand=self.chunks_in_hand,
            oldest_ms=self.oldest_ms,
            is_alive=self.is_alive,
        )


class WorkersBody(Struct, frozen=True, kw_only=True):
    """The workers of a queue, the ones seen last first."""

    workers: list[WorkerBody]


class HealthBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the API is alive or ready, and what it depends on."""

    status: str
    redis: str = ""
    store: str = ""


FEATURES: Final[Mapping[str, bool]] = {}
"""Optional fields of requests that came after version 0.1.0, as "InsertBody.FIELD": whether a
client may leave the field out for an API that does not know it. Where it may not, it raises."""


class VersionBody(Struct, frozen=True, kw_only=True):
    """Who answers. `features` are the fields of requests that it knows beside those of 0.1.0."""

    name: str
    version: str
    features: list[str] = []


class ProblemBody(Struct, frozen=True, kw_only=True):
    """A problem detail as a client reads it; `submission` where the problem is about one.

    `submission_id` and `why` are of an insert that is not confirmed yet; `kind`, `name`, `found`
    and `readable` of a format that the API can't read.
    """

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    submission: SubmissionBody | None = None
    max_submissions: int = 0
    submission_id: str = "0"
    why: str = ""
    kind: str = ""
    name: str = ""
    found: int = 0
    readable: int = 0
