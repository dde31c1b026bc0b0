"""JSON bodies of requests, and of answers that are not a value of `opsqueue.model`. No I/O.

The rules of their JSON are those of `json_form.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from opsqueue.model.answers import Alive, Counts, Progress, ProgressNumbers, WorkerSeen
from opsqueue.model.chunk import (
    MAX_BATCH,
    MAX_REASON_CHARACTERS,
    ChunkFailure,
    Completed,
    CompleteOutcome,
    Dropped,
    FailOutcome,
    FinallyFailed,
    Lost,
    Released,
    ReleaseOutcome,
    Reservation,
    Retried,
    Source,
    Token,
)
from opsqueue.model.new_submission import MAX_CODEC_CHARACTERS, NewSubmission, SubmissionOptions
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.store import input_key, output_key
from opsqueue.strategy import MAX_STRATEGY_CHARACTERS

WARNING_HEADER: Final = "Opsqueue-Warning"
"""What a producer should know of an insert that was accepted."""

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
    SUBMISSION_FORGOTTEN = "urn:opsqueue:problem:submission-forgotten"
    IDEMPOTENCY_KEY_REUSED = "urn:opsqueue:problem:idempotency-key-reused"
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


OutcomeName = Literal["completed", "retried", "failed", "released", "dropped", "lost"]
AnyOutcome = CompleteOutcome | FailOutcome | ReleaseOutcome
CodecName = Annotated[str, Meta(min_length=1, max_length=MAX_CODEC_CHARACTERS)]
TimeoutMs = Annotated[int, Meta(ge=100, le=24 * 3600 * 1000)]
DelayMs = Annotated[int, Meta(ge=0, le=7 * 24 * 3600 * 1000)]

WorkerName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[!-.0-~]{1,200}$")]
"""Heartbeats have it in their path: as `checked_worker_in_path` has it."""


class ProblemBody(Struct, frozen=True, kw_only=True):
    """A problem detail as a client reads it; `submission` where the problem is about one.

    `submission_id` and `why` are of an insert that is not confirmed yet; `submission_id` and
    `state` of one whose key is that of a submission that was forgotten, `submission_id` and
    `differing` of one whose key is that of another one; `kind`, `name`, `found` and `readable` of a
    format that the API can't read.
    """

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    submission: Submission | None = None
    max_submissions: int = 0
    submission_id: str = "0"
    why: str = ""
    state: str = ""
    differing: list[str] = []
    kind: str = ""
    name: str = ""
    found: int = 0
    readable: int = 0


class HealthBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of the API, and of what it depends on."""

    status: str
    redis: str = ""
    store: str = ""


FEATURES: Final[Mapping[str, bool]] = {
    "FailBody.is_final": True,
    "ReleaseBody.reason": True,
    "ReserveBody.share_metadata": True,
}
"""Optional fields of requests that came after version 0.1.0, as "InsertBody.FIELD": whether a
client may leave the field out for an API that does not know it. Where it may not, it raises."""


class VersionBody(Struct, frozen=True, kw_only=True):
    """Name and version of the API. `features`: fields of requests that came after 0.1.0.

    `store_id` is that of the object store's marker, "" while it is not known.
    """

    name: str
    version: str
    features: list[str] = []
    store_id: str = ""


class ScalingBody(Struct, frozen=True, kw_only=True):
    """The work that a queue has for its workers, in chunks."""

    queue: str
    value: int


class QueuesBody(Struct, frozen=True, kw_only=True):
    """All queues that ever had a submission or a worker, by name."""

    queues: list[Counts]


class WorkersBody(Struct, frozen=True, kw_only=True):
    """The workers of a queue, the ones seen last first."""

    workers: list[WorkerSeen]


class InsertBody(
    SubmissionOptions, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A new submission: either its `operations`, or where they are stored already.

    A `prefix` is the queue's name, a slash and 32 hexadecimal digits that no other submission has.

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

    @classmethod
    def of(cls, new: NewSubmission) -> InsertBody:
        """Return the body for a submission whose contents are stored, or inline."""
        return cls(
            chunk_size=new.chunk_size,
            prefix=new.prefix,
            chunks_total=new.chunks_total,
            operations_total=new.operations,
            inline=UNSET if new.inline is None else list(new.inline),
            codec=new.codec,
            **new.options | {"max_failed_operations": new.failed_operations_limit},
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
        """Return the submission to insert; the arguments are what the two kinds of body differ in.

        Raises:
            InvalidArgumentError: a value is out of range.
        """
        return NewSubmission(
            prefix=prefix,
            chunks_total=chunks_total,
            chunk_size=self.chunk_size,
            operations_total=operations_total,
            codec=codec,
            inline=inline,
            **self.options,
        )


class PatchBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes to a submission in progress: a value for a key, or null to remove it."""

    strategic_metadata: dict[str, int | None]


class IdsBody(Struct, frozen=True, kw_only=True):
    """Ids of submissions, ascending."""

    ids: list[SubmissionId]


class InlineBody(Struct, frozen=True, kw_only=True):
    """The contents of a small submission in Redis: encoded chunks (base64) by index."""

    chunks: dict[int, bytes]


class ProgressEvent(ProgressNumbers, frozen=True, kw_only=True):
    """Progress of a submission as an event; rate and rest are null until they are known."""

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
        """Return the event for progress."""
        numbers = {name: getattr(progress, name) for name in ProgressNumbers.__struct_fields__}
        rate, left_s = operations_per_second, remaining_s
        return cls(
            **numbers,
            operations_per_second=None if rate is None else round(rate, 3),
            remaining_s=None if left_s is None else round(left_s, 1),
        )


class SubmissionEvent(Struct, frozen=True, kw_only=True):
    """A change of a submission: created, retried, completed, failed or cancelled."""

    queue: str
    id: SubmissionId
    event: str


class ReserveBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A consumer's request for chunks. `strategy` is text as on command lines, or JSON.

    `heartbeat_timeout_ms`: `timeout_ms` of its heartbeats, which counts until the first of them.
    `share_metadata`: metadata, strategic metadata and trace context come once for each submission,
    in `shared`, not with each chunk.
    """

    worker: WorkerName
    max: Annotated[int, Meta(ge=1, le=MAX_BATCH)] = 1
    strategy: Annotated[str, Meta(max_length=MAX_STRATEGY_CHARACTERS)] | dict[str, Any] = "Random"
    wait: Annotated[float, Meta(ge=0, le=60)] = 0
    reservation_ms: int = 600_000
    heartbeat_timeout_ms: TimeoutMs | None = None
    include_operations: bool = False
    share_metadata: bool = False


class ChunkBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk in a consumer's hands; the token is the right to report it.

    `is_suspect`: Redis may have lost that it was done: look for its output before running it.
    `operations` only when asked for; null when they have no JSON form, `problem` then says why.
    `metadata`, `strategic_metadata` and `trace_context` are in `shared` where that was asked for.
    """

    token: Token
    submission_id: SubmissionId
    chunk_index: int
    attempt: int
    max_attempts: int
    expires_at: datetime
    chunks_total: int
    chunk_size: int
    operations_total: int
    codec: str
    prefix: str
    input_key: str
    output_key: str
    input_url: str
    input: bytes | None = None
    metadata: bytes | None = None
    strategic_metadata: Mapping[str, int] = {}
    trace_context: Mapping[str, str] = {}
    is_suspect: bool = False
    operations: Any = UNSET
    problem: str | UnsetType = UNSET

    @classmethod
    def of(
        cls,
        chunk: Reservation,
        *,
        operations: Any = UNSET,  # noqa: ANN401 JSON
        problem: str | UnsetType = UNSET,
    ) -> ChunkBody:
        """Return the body for a reservation, with all that its submission's chunks share."""
        source, index = chunk.source, chunk.chunk_index
        return cls(
            **{name: getattr(source, name) for name in _OF_SOURCE},
            token=chunk.token,
            chunk_index=index,
            attempt=chunk.attempt,
            expires_at=datetime.fromtimestamp(chunk.expires_at_ms / 1000, tz=UTC),
            input_key=input_key(source.prefix, index),
            output_key=output_key(source.prefix, index),
            input_url=(
                f"/v1/queues/{source.queue}/submissions/{source.submission_id}/chunks/{index}/input"
            ),
            # Operations say the same.
            input=chunk.input if operations is UNSET else None,
            operations=operations,
            problem=problem,
        )

    def without_shared(self) -> ChunkBody:
        """Return the same without what `SharedBody` has."""
        return replace(self, metadata=None, strategic_metadata={}, trace_context={})

    def to_reservation(self, queue: str, shared: SharedBody | None) -> Reservation:
        """Return the reservation; `shared` of its submission, where that came apart."""
        values = {name: getattr(self, name) for name in _OF_SOURCE}
        if shared is not None:
            values |= {name: getattr(shared, name) for name in _SHARED}
        return Reservation(
            token=self.token,
            source=Source(queue=queue, **values),
            chunk_index=self.chunk_index,
            attempt=self.attempt,
            expires_at_ms=_milliseconds(self.expires_at),
            input=self.input,
        )


_OF_SOURCE: Final = tuple(
    name for name in Source.__struct_fields__ if name in ChunkBody.__struct_fields__
)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class SharedBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all chunks of a submission share and may be large."""

    submission_id: SubmissionId
    metadata: bytes | None = None
    strategic_metadata: Mapping[str, int] = {}
    trace_context: Mapping[str, str] = {}

    @classmethod
    def of(cls, source: Source) -> SharedBody:
        """Return the body for a submission."""
        return cls(**{name: getattr(source, name) for name in cls.__struct_fields__})


_SHARED: Final = tuple(name for name in SharedBody.__struct_fields__ if name != "submission_id")


class ReservedBody(Struct, frozen=True, kw_only=True):
    """Chunks, or none. `next_due_in_ms`: when a delayed chunk can be had, if that is known.

    `shared` only when asked for, by `share_metadata`: an entry for each submission.
    """

    chunks: list[ChunkBody]
    is_paused: bool = False
    next_due_in_ms: int | None = None
    shared: list[SharedBody] | UnsetType = UNSET

    def to_reservations(self, queue: str) -> tuple[Reservation, ...]:
        """Return the reservations."""
        entries = [] if isinstance(self.shared, UnsetType) else self.shared
        shared = {entry.submission_id: entry for entry in entries}
        return tuple(
            chunk.to_reservation(queue, shared.get(chunk.submission_id)) for chunk in self.chunks
        )


class DoneBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A chunk that is done, with its output unless that is stored: results or encoded bytes.

    `operations_failed` is counted in the output, which says it itself: the field is kept for
    clients that send it.
    """

    token: str
    results: list[Any] | UnsetType = UNSET
    output: bytes | UnsetType = UNSET
    operations_failed: Annotated[int, Meta(ge=0, le=2**53)] = 0

    @property
    def has_contents(self) -> bool:
        """True if its output comes along."""
        return self.results is not UNSET or self.output is not UNSET


class CompleteBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks that are done."""

    chunks: Annotated[list[DoneBody], Meta(max_length=MAX_BATCH)]


class FailedChunkBody(ChunkFailure, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chunk whose attempt failed, and why."""

    type: Annotated[str, Meta(max_length=200)] = ""
    token: str

    @classmethod
    def reporting(cls, token: Token, failure: ChunkFailure) -> FailedChunkBody:
        """Return the body for a chunk and its failure."""
        return cls(token=token, **asdict(failure) | {"type": failure.type[:200]})

    def to_failure(self) -> ChunkFailure:
        """Return the failure, shortened as ours are."""
        return ChunkFailure.told(type=self.type, message=self.message, traceback=self.traceback)


class FailBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Chunks whose attempts failed. `is_final`: no further attempt would end otherwise."""

    chunks: Annotated[list[FailedChunkBody], Meta(max_length=MAX_BATCH)]
    is_final: bool = False


class ReleaseBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks that are given back without using an attempt, free at once or after a delay."""

    tokens: Annotated[list[str], Meta(max_length=MAX_BATCH)]
    delay_ms: DelayMs = 0
    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARACTERS)] = ""


class OutcomeBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a report. `lost`: the chunk was not the reporter's any more."""

    token: str
    outcome: OutcomeName
    submission_id: SubmissionId | None = None
    chunks_left: int | None = None
    is_limit_passed: bool = False
    attempt: int | None = None
    next_at: datetime | None = None

    @classmethod
    def of(cls, token: str, outcome: AnyOutcome) -> OutcomeBody:
        """Return the body for the outcome of a report."""
        values = asdict(outcome)
        if isinstance(outcome, Retried):
            values["next_at"] = datetime.fromtimestamp(values.pop("next_at_ms") / 1000, tz=UTC)
        return cls(token=token, outcome=_NAMES[type(outcome)], **values)

    @property
    def next_at_ms(self) -> int:
        """The earliest instant of the next attempt, as `Retried` has it."""
        return _milliseconds(self.next_at) if self.next_at else 0

    def to_outcome(self) -> AnyOutcome:
        """Return the outcome."""
        kind = _KINDS[self.outcome]
        return kind(**{name: getattr(self, name) for name in kind.__struct_fields__})


_KINDS: Final[Mapping[OutcomeName, type[AnyOutcome]]] = {
    "completed": Completed,
    "retried": Retried,
    "failed": FinallyFailed,
    "released": Released,
    "dropped": Dropped,
    "lost": Lost,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


class OutcomesBody(Struct, frozen=True, kw_only=True):
    """The outcomes of reports, in their order."""

    outcomes: list[OutcomeBody]

    @classmethod
    def of(cls, tokens: Sequence[str], outcomes: Sequence[AnyOutcome]) -> OutcomesBody:
        """Return the body for the outcomes of reports."""
        pairs = zip(tokens, outcomes, strict=True)
        return cls(outcomes=[OutcomeBody.of(token, outcome) for token, outcome in pairs])


class HeartbeatBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sign of life: all that the worker holds, and what it tells of itself.

    `timeout_ms`: after so long a silence it is dead; without it the API's --heartbeat-timeout.
    """

    tokens: Annotated[list[str], Meta(max_length=10_000)] = []
    info: dict[str, Any] = {}
    timeout_ms: TimeoutMs | None = None


class AliveBody(Struct, frozen=True, kw_only=True):
    """Tokens of a heartbeat that are no longer valid; chunks released that it did not name."""

    void: list[Token]
    released: int

    @classmethod
    def of(cls, alive: Alive) -> AliveBody:
        """Return the body for a heartbeat's answer."""
        return cls(void=sorted(alive.void), released=alive.released)
