"""The JSON that the HTTP API and its clients exchange, and its conversion to values. No I/O.

Ids are strings of 19 digits, since JavaScript's numbers end at 2**53; instants are RFC 3339 in UTC
with a Z; bytes (metadata) are base64. Whoever reads an answer ignores fields that it does not know,
so that a newer API can serve an older client; a request with such a field is refused, naming it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType, field

from opsqueue.answers import (
    ChunkWindow,
    Counts,
    ErrorChunks,
    Progress,
    SubmissionPage,
    WorkerSeen,
)
from opsqueue.new_submission import MAX_RETENTION_MS, Backoff, NewSubmission
from opsqueue.output import OperationFailed
from opsqueue.submission import Failure, Submission, SubmissionId, SubmissionState

MAX_WAIT_MS: Final = 7 * 24 * 3600 * 1000

# Bounds only where the values themselves have none: a back-off of a century is a wrong unit.
DelayMs = Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)]
RetentionMs = Annotated[int, Meta(ge=0, le=MAX_RETENTION_MS)]
CodecName = Annotated[str, Meta(min_length=1, max_length=100)]
TraceContext = Annotated[
    dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=1000)]],
    Meta(max_length=10),
]


class ProblemType(StrEnum):
    """The `type` of a problem detail (RFC 9457): what programs decide by."""

    ROUTE_NOT_FOUND = "urn:opsqueue:problem:route-not-found"
    METHOD_NOT_ALLOWED = "urn:opsqueue:problem:method-not-allowed"
    UNAUTHENTICATED = "urn:opsqueue:problem:unauthenticated"
    FORBIDDEN = "urn:opsqueue:problem:forbidden"
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
    NOT_CONFIRMED = "urn:opsqueue:problem:not-confirmed"
    UNAVAILABLE = "urn:opsqueue:problem:unavailable"
    INTERNAL = "urn:opsqueue:problem:internal"


class FailureBody(Struct, frozen=True, kw_only=True):
    """Why an attempt of a chunk did not succeed."""

    chunk_index: int
    attempt: int
    at: datetime
    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, failure: Failure) -> FailureBody:
        """Put a failure on the wire."""
        return cls(
            chunk_index=failure.chunk_index,
            attempt=failure.attempt,
            at=failure.at,
            type=failure.type,
            message=failure.message,
            traceback=failure.traceback,
        )

    def to_failure(self) -> Failure:
        """Take it off the wire."""
        return Failure(
            chunk_index=self.chunk_index,
            attempt=self.attempt,
            at=self.at,
            type=self.type,
            message=self.message,
            traceback=self.traceback,
        )


class BackoffBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a chunk waits after a failed attempt."""

    first_ms: DelayMs = Backoff().first_ms
    max_ms: DelayMs = Backoff().max_ms

    @classmethod
    def of(cls, backoff: Backoff) -> BackoffBody:
        """Put it on the wire."""
        return cls(first_ms=backoff.first_ms, max_ms=backoff.max_ms)

    def to_backoff(self) -> Backoff:
        """Take it off the wire."""
        return Backoff(first_ms=self.first_ms, max_ms=self.max_ms)


class SubmissionBody(Struct, frozen=True, kw_only=True):
    """A submission's status. `failure` is what ended it; null unless it failed."""

    id: str
    queue: str
    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    chunks_failed: int
    chunks_dropped: int
    chunk_size: int
    operations_total: int
    operations_done: int
    operations_failed: int
    operations_succeeded: int = 0
    operations_dropped: int = 0
    max_failed_operations: int | None = None
    max_attempts: int
    backoff: BackoffBody = BackoffBody()
    retention_ms: int | None = None
    delete_inputs_at_completion: bool = False
    prefix: str
    codec: str
    created_at: datetime
    ended_at: datetime | None = None
    metadata: bytes | None = None
    strategic_metadata: dict[str, int] = {}
    trace_context: dict[str, str] = {}
    is_inline: bool = False
    failure: FailureBody | None = None
    last_failure: FailureBody | None = None

    @classmethod
    def of(cls, submission: Submission) -> SubmissionBody:
        """Put a submission on the wire."""
        last_failure = FailureBody.of(failure) if (failure := submission.last_failure) else None
        return cls(
            id=str(submission.id),
            queue=submission.queue,
            state=submission.state,
            chunks_total=submission.chunks_total,
            chunks_done=submission.chunks_done,
            chunks_in_hand=submission.chunks_in_hand,
            chunks_failed=submission.chunks_failed,
            chunks_dropped=submission.chunks_dropped,
            chunk_size=submission.chunk_size,
            operations_total=submission.operations_total,
            operations_done=submission.operations_done,
            operations_failed=submission.operations_failed,
            operations_succeeded=submission.operations_succeeded,
            operations_dropped=submission.operations_dropped,
            max_failed_operations=submission.max_failed_operations,
            max_attempts=submission.max_attempts,
            backoff=BackoffBody.of(submission.backoff),
            retention_ms=submission.retention_ms,
            delete_inputs_at_completion=submission.delete_inputs_at_completion,
            prefix=submission.prefix,
            codec=submission.codec,
            created_at=submission.created_at,
            ended_at=submission.ended_at,
            metadata=submission.metadata,
            strategic_metadata=dict(submission.strategic_metadata),
            trace_context=dict(submission.trace_context),
            is_inline=submission.is_inline,
            failure=last_failure if submission.failure else None,
            last_failure=last_failure,
        )

    def to_submission(self) -> Submission:
        """Take it off the wire; what can be computed from the rest is not read."""
        return Submission(
            id=SubmissionId(self.id),
            queue=self.queue,
            state=self.state,
            prefix=self.prefix,
            codec=self.codec,
            chunks_total=self.chunks_total,
            chunks_done=self.chunks_done,
            chunks_in_hand=self.chunks_in_hand,
            chunks_failed=self.chunks_failed,
            chunk_size=self.chunk_size,
            operations_total=self.operations_total,
            operations_done=self.operations_done,
            operations_failed=self.operations_failed,
            max_failed_operations=self.max_failed_operations,
            max_attempts=self.max_attempts,
            backoff=self.backoff.to_backoff(),
            retention_ms=self.retention_ms,
            delete_inputs_at_completion=self.delete_inputs_at_completion,
            metadata=self.metadata,
            strategic_metadata=self.strategic_metadata,
            trace_context=self.trace_context,
            is_inline=self.is_inline,
            created_at=self.created_at,
            ended_at=self.ended_at,
            last_failure=self.last_failure.to_failure() if self.last_failure else None,
        )


class ProgressBody(Struct, frozen=True, kw_only=True):
    """How far a submission is, and which chunks of a window are done.

    `done_until` is the first chunk of the window that is not done. `done` has a bit for each chunk
    from `from` to before `to`; the highest bit of its first byte is chunk `from - from % 8`, and
    zeros at its end may be missing.
    """

    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    operations_total: int
    operations_done: int
    operations_failed: int
    done_until: int
    first: int = field(name="from")
    end: int = field(name="to")
    done: bytes

    @classmethod
    def of(cls, progress: Progress) -> ProgressBody:
        """Put progress on the wire."""
        return cls(
            state=progress.state,
            chunks_total=progress.chunks_total,
            chunks_done=progress.chunks_done,
            chunks_in_hand=progress.chunks_in_hand,
            operations_total=progress.operations_total,
            operations_done=progress.operations_done,
            operations_failed=progress.operations_failed,
            done_until=progress.done.done_until,
            first=progress.done.first,
            end=progress.done.end,
            done=progress.done.bits,
        )

    def to_progress(self) -> Progress:
        """Take it off the wire."""
        return Progress(
            state=self.state,
            chunks_total=self.chunks_total,
            chunks_done=self.chunks_done,
            chunks_in_hand=self.chunks_in_hand,
            operations_total=self.operations_total,
            operations_done=self.operations_done,
            operations_failed=self.operations_failed,
            done=ChunkWindow(self.first, self.end, self.done),
        )


class ProgressEvent(Struct, frozen=True, kw_only=True):
    """How far a submission is, as an event; rate and rest are null until they can be told."""

    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    operations_total: int
    operations_done: int
    operations_failed: int
    operations_per_second: float | None
    remaining_s: float | None

    @classmethod
    def of(
        cls,
        progress: Progress,
        *,
        operations_per_second: float | None,
        remaining_s: float | None,
    ) -> ProgressEvent:
        """Put progress on the wire."""
        rate, left_s = operations_per_second, remaining_s
        return cls(
            state=progress.state,
            chunks_total=progress.chunks_total,
            chunks_done=progress.chunks_done,
            chunks_in_hand=progress.chunks_in_hand,
            operations_total=progress.operations_total,
            operations_done=progress.operations_done,
            operations_failed=progress.operations_failed,
            operations_per_second=None if rate is None else round(rate, 3),
            remaining_s=None if left_s is None else round(left_s, 1),
        )


class SubmissionEvent(Struct, frozen=True, kw_only=True):
    """What became of a submission: created, retried, completed, failed or cancelled."""

    queue: str
    id: str
    event: str


class SubmissionsBody(Struct, frozen=True, kw_only=True):
    """A page of a list; `next` is what `after=` takes for the next page, null on the last."""

    submissions: list[SubmissionBody]
    next: str | None = None

    @classmethod
    def of(cls, page: SubmissionPage) -> SubmissionsBody:
        """Put a page on the wire."""
        return cls(
            submissions=[SubmissionBody.of(submission) for submission in page.submissions],
            next=None if page.next is None else str(page.next),
        )

    def to_page(self) -> SubmissionPage:
        """Take it off the wire."""
        return SubmissionPage(
            submissions=tuple(body.to_submission() for body in self.submissions),
            next=None if self.next is None else SubmissionId(self.next),
        )


class InsertBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A new submission: either its `operations`, or where they are stored already.

    `chunks_total`, `operations_total` and `codec` go with `prefix` alone. `max_failed_operations`
    is a count, or a share where it is written with a point: 1 is one operation, 1.0 are all.
    `inline` goes with `prefix`, too: all chunks, encoded (base64), where they are small and nothing
    is stored below `prefix` yet.
    """

    chunk_size: int
    operations: list[Any] | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    chunks_total: int | UnsetType = UNSET
    operations_total: int | UnsetType = UNSET
    inline: list[bytes] | UnsetType = UNSET
    codec: CodecName | UnsetType = UNSET
    max_attempts: int = 10
    max_failed_operations: int | float | None = None
    backoff: BackoffBody = BackoffBody()
    metadata: bytes | None = None
    strategic_metadata: dict[str, int] = {}
    trace_context: TraceContext = {}
    retention_ms: RetentionMs | None = None
    delete_inputs_at_completion: bool = False

    @classmethod
    def of(cls, new: NewSubmission) -> InsertBody:
        """Put a submission whose contents are stored on the wire."""
        return cls(
            chunk_size=new.chunk_size,
            prefix=new.prefix,
            chunks_total=new.chunks_total,
            operations_total=new.operations,
            inline=UNSET if new.inline is None else list(new.inline),
            codec=new.codec,
            max_attempts=new.max_attempts,
            max_failed_operations=new.failed_operations_limit,
            backoff=BackoffBody.of(new.backoff),
            metadata=new.metadata,
            strategic_metadata=dict(new.strategic_metadata),
            trace_context=dict(new.trace_context),
            retention_ms=new.retention_ms,
            delete_inputs_at_completion=new.delete_inputs_at_completion,
        )

    def to_new_submission(
        self,
        *,
        prefix: str,
        chunks_total: int,
        operations_total: int | None,
        codec: str,
        inline: Sequence[bytes] | None = None,
    ) -> NewSubmission:
        """Take it off the wire; the arguments are what the two kinds of body differ in.

        Raises:
            InvalidArgumentError: a value is out of range.
        """
        return NewSubmission(
            prefix=prefix,
            chunks_total=chunks_total,
            chunk_size=self.chunk_size,
            operations_total=operations_total,
            codec=codec,
            max_attempts=self.max_attempts,
            max_failed_operations=self.max_failed_operations,
            backoff=self.backoff.to_backoff(),
            metadata=self.metadata,
            strategic_metadata=self.strategic_metadata,
            trace_context=self.trace_context,
            retention_ms=self.retention_ms,
            delete_inputs_at_completion=self.delete_inputs_at_completion,
            inline=inline,
        )


class OperationFailedBody(Struct, frozen=True, kw_only=True):
    """A line of a submission's errors, and the `error` of a line of its results."""

    index: int
    chunk_index: int
    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, failed: OperationFailed) -> OperationFailedBody:
        """Put an operation's error on the wire."""
        return cls(
            index=failed.index,
            chunk_index=failed.chunk_index,
            type=failed.type,
            message=failed.message,
            traceback=failed.traceback,
        )


class ErrorChunksBody(Struct, frozen=True, kw_only=True):
    """A page of the chunks with errors; `next` is what `from=` takes, null on the last."""

    chunks: list[int]
    next: int | None = None

    @classmethod
    def of(cls, page: ErrorChunks) -> ErrorChunksBody:
        """Put a page on the wire."""
        return cls(chunks=list(page.indexes), next=page.next_index)

    def to_page(self) -> ErrorChunks:
        """Take it off the wire."""
        return ErrorChunks(tuple(self.chunks), self.next)


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


class IdsBody(Struct, frozen=True, kw_only=True):
    """Ids of submissions, ascending."""

    ids: list[str]


class InlineBody(Struct, frozen=True, kw_only=True):
    """What a small submission has in Redis: encoded chunks (base64) by index."""

    chunks: dict[int, bytes]


class PatchBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes to a submission in progress: a value for a key, or null to remove it."""

    strategic_metadata: dict[str, int | None]


class HealthBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the API is alive or ready, and what it depends on."""

    status: str
    redis: str = ""
    store: str = ""


class VersionBody(Struct, frozen=True, kw_only=True):
    """Who answers."""

    name: str
    version: str


class ProblemBody(Struct, frozen=True, kw_only=True):
    """A problem detail as a client reads it; `submission` where the problem is about one.

    `submission_id` and `why` are of an insert that is not confirmed yet.
    """

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    submission: SubmissionBody | None = None
    max_submissions: int = 0
    submission_id: str = "0"
    why: str = ""
