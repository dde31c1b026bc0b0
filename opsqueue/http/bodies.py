"""JSON bodies of requests, and of answers that are not a value of `opsqueue.model`. No I/O.

`json_form.py` has the rules of their JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import asdict, replace

from opsqueue.model.answers import (
    MAX_WORKERS,
    Alive,
    Counts,
    Progress,
    ProgressNumbers,
    WorkerSeen,
)
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
"""The header of a warning for the producer about an accepted insert."""

ECHO_HEADER: Final = "Opsqueue-Request-Id"
"""A client's own id of one request. The API sends it back, so that the client notices an answer to
another request. It is not X-Request-Id, which proxies replace."""


class ProblemType(StrEnum):
    """The `type` of a problem detail (RFC 9457), by which programs tell problems apart."""

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
"""The path of a heartbeat contains it, hence the rules of `checked_worker_in_path`."""


class ProblemBody(Struct, frozen=True, kw_only=True):
    """A problem detail as a client reads it; it has a `submission` if the problem is about one.

    An insert that is not confirmed yet has `submission_id` and `why`. An insert whose key belongs
    to a forgotten submission has `submission_id` and `state`, and one whose key belongs to a
    submission that asked for something else has `submission_id` and `differing`. A format that the
    API can't read has `kind`, `name`, `found` and `readable`.
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
"""Optional fields of requests that were added after version 0.1.0, as "InsertBody.FIELD". If the
API does not know a field, a client leaves it out if its value here is True, and otherwise raises an
error."""


class VersionBody(Struct, frozen=True, kw_only=True):
    """Name and version of the API. `features`: fields of requests that were added after 0.1.0.

    `store_id` is the id in the object store's marker, "" while it is not known.
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
    """The workers of a queue, the most recently seen first.

    If `is_cut`, the queue may have more of them: a list has at most 1,000.
    """

    workers: list[WorkerSeen]
    is_cut: bool = False

    @classmethod
    def of(cls, workers: list[WorkerSeen]) -> WorkersBody:
        """Return the body for a list of workers."""
        return cls(workers=workers, is_cut=len(workers) >= MAX_WORKERS)


class InsertBody(
    SubmissionOptions, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A new submission: either its `operations`, or the `prefix` below which they are stored.

    A `prefix` is the queue's name, a slash and 32 hexadecimal digits that no other submission has.

    `chunks_total`, `operations_total` and `codec` are allowed only with `prefix`.
    `max_failed_operations` is a count, or a share if it is written with a point: 1 is one
    operation, 1.0 is all of them. `inline`, also with `prefix` only, has all chunks, encoded
    (base64), if they are small and nothing is stored below `prefix` yet.
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
        """Return the submission to insert; the arguments differ between the two kinds of body.

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
    """Progress of a submission as an event; rate and remaining time are null until known."""

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

    `heartbeat_timeout_ms`: the `timeout_ms` of its heartbeats; it applies until the first of them.
    `share_metadata`: return metadata, strategic metadata and trace context once for each
    submission, in `shared`, and not with each chunk.
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
    """A chunk that a consumer has reserved; the token is the right to report it.

    `again`: the chunk was in hand before; `is_suspect`: Redis may have lost the report that it was
    done. In both cases look for its output before running it. `operations` is there only on
    request. It is null if they have no JSON form, and `problem` then says why. With
    `share_metadata`, `metadata`, `strategic_metadata` and `trace_context` are in `shared`.
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
    again: bool = False
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
            again=chunk.again,
            expires_at=datetime.fromtimestamp(chunk.expires_at_ms / 1000, tz=UTC),
            input_key=input_key(source.prefix, index),
            output_key=output_key(source.prefix, index),
            input_url=(
                f"/v1/queues/{source.queue}/submissions/{source.submission_id}/chunks/{index}/input"
            ),
            # `operations` has the same contents.
            input=chunk.input if operations is UNSET else None,
            operations=operations,
            problem=problem,
        )

    def without_shared(self) -> ChunkBody:
        """Return a copy without the fields of `SharedBody`."""
        return replace(self, metadata=None, strategic_metadata={}, trace_context={})

    def to_reservation(self, queue: str, shared: SharedBody | None) -> Reservation:
        """Return the reservation; `shared` has its submission's data if sent separately."""
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
            again=self.again,
        )


_OF_SOURCE: Final = tuple(
    name for name in Source.__struct_fields__ if name in ChunkBody.__struct_fields__
)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class SharedBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data that all chunks of a submission share and that may be large."""

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
    """Reserved chunks, or none. `next_due_in_ms`: time until a delayed chunk is ready, if known.

    `shared` is there only with `share_metadata`; it has an entry for each submission.
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
    """A chunk that is done, with its output (results or encoded bytes) unless that is stored.

    The API counts failed operations in the output. `operations_failed` has no effect; it is kept
    for clients that send it.
    """

    token: str
    results: list[Any] | UnsetType = UNSET
    output: bytes | UnsetType = UNSET
    operations_failed: Annotated[int, Meta(ge=0, le=2**53)] = 0

    @property
    def has_contents(self) -> bool:
        """True if the body has the chunk's output."""
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
        """Return the failure, shortened to the limits of all failures."""
        return ChunkFailure.reported(type=self.type, message=self.message, traceback=self.traceback)


class FailBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Chunks whose attempts failed. `is_final`: every further attempt would end the same way."""

    chunks: Annotated[list[FailedChunkBody], Meta(max_length=MAX_BATCH)]
    is_final: bool = False


class ReleaseBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks to release without using an attempt; they are ready at once or after a delay."""

    tokens: Annotated[list[str], Meta(max_length=MAX_BATCH)]
    delay_ms: DelayMs = 0
    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARACTERS)] = ""


class OutcomeBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a report. `lost`: the reporter no longer held the chunk."""

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
        """The earliest instant of the next attempt, in the form of `Retried`."""
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
    """A heartbeat: the tokens of all chunks that the worker holds, and information about it.

    `timeout_ms`: after this long without a heartbeat the worker counts as dead. The default is the
    API's --heartbeat-timeout.
    """

    tokens: Annotated[list[str], Meta(max_length=10_000)] = []
    info: dict[str, Any] = {}
    timeout_ms: TimeoutMs | None = None


class AliveBody(Struct, frozen=True, kw_only=True):
    """The tokens of a heartbeat that are revoked, and the number of chunks that were released.

    Chunks are released if they are reserved for the worker and the heartbeat does not name them.
    """

    revoked: list[Token] = field(name="void")
    released: int

    @classmethod
    def of(cls, alive: Alive) -> AliveBody:
        """Return the body for a heartbeat's answer."""
        return cls(revoked=sorted(alive.revoked), released=alive.released)
