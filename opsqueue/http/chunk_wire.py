"""The JSON of the API's consumer endpoints, and its conversion to values. No I/O.

As in `wire.py`: ids are strings, instants RFC 3339, bytes base64.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from opsqueue.model.answers import Alive
from opsqueue.model.chunk import (
    MAX_BATCH,
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
from opsqueue.model.submission import SubmissionId
from opsqueue.store import input_key, output_key

AnyOutcome = CompleteOutcome | FailOutcome | ReleaseOutcome
TimeoutMs = Annotated[int, Meta(ge=100, le=24 * 3600 * 1000)]
DelayMs = Annotated[int, Meta(ge=0, le=7 * 24 * 3600 * 1000)]

WorkerName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[^/]+$")]
"""Heartbeats have it in their path."""


class ReserveBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a consumer wants. `strategy` is text as on command lines, or JSON.

    `heartbeat_timeout_ms`: `timeout_ms` of its heartbeats, which counts until the first of them.
    """

    worker: WorkerName
    max: Annotated[int, Meta(ge=1, le=MAX_BATCH)] = 1
    strategy: Annotated[str, Meta(max_length=2_000)] | dict[str, Any] = "Random"
    wait: Annotated[float, Meta(ge=0, le=60)] = 0
    reservation_ms: int = 600_000
    heartbeat_timeout_ms: TimeoutMs | None = None
    include_operations: bool = False


class ChunkBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk in a consumer's hands; the token is the right to report it.

    `is_suspect`: Redis may have lost that it was done: look for its output before running it.
    `operations` only when asked for; null when they have no JSON form, `problem` then says why.
    """

    token: str
    submission_id: str
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
    strategic_metadata: dict[str, int] = {}
    trace_context: dict[str, str] = {}
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
        """Put a reservation on the wire."""
        source, index = chunk.source, chunk.chunk_index
        return cls(
            token=chunk.token,
            submission_id=str(source.submission_id),
            chunk_index=index,
            attempt=chunk.attempt,
            max_attempts=source.max_attempts,
            expires_at=datetime.fromtimestamp(chunk.expires_at_ms / 1000, tz=UTC),
            chunks_total=source.chunks_total,
            chunk_size=source.chunk_size,
            operations_total=source.operations_total,
            codec=source.codec,
            prefix=source.prefix,
            input_key=input_key(source.prefix, index),
            output_key=output_key(source.prefix, index),
            input_url=(
                f"/v1/queues/{source.queue}/submissions/{source.submission_id}/chunks/{index}/input"
            ),
            # Operations say the same.
            input=chunk.input if operations is UNSET else None,
            metadata=source.metadata,
            strategic_metadata=dict(source.strategic_metadata),
            trace_context=dict(source.trace_context),
            is_suspect=source.is_suspect,
            operations=operations,
            problem=problem,
        )

    def to_reservation(self, queue: str) -> Reservation:
        """Take it off the wire."""
        return Reservation(
            token=Token(self.token),
            source=Source(
                submission_id=SubmissionId(self.submission_id),
                queue=queue,
                prefix=self.prefix,
                codec=self.codec,
                chunks_total=self.chunks_total,
                chunk_size=self.chunk_size,
                operations_total=self.operations_total,
                max_attempts=self.max_attempts,
                metadata=self.metadata,
                strategic_metadata=self.strategic_metadata,
                trace_context=self.trace_context,
                is_suspect=self.is_suspect,
            ),
            chunk_index=self.chunk_index,
            attempt=self.attempt,
            expires_at_ms=round(self.expires_at.timestamp() * 1000),
            input=self.input,
        )


class ReservedBody(Struct, frozen=True, kw_only=True):
    """Chunks, or none. `next_due_in_ms`: when a delayed chunk can be had, if that is known."""

    chunks: list[ChunkBody]
    is_paused: bool = False
    next_due_in_ms: int | None = None


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
        """Whether its output comes along."""
        return self.results is not UNSET or self.output is not UNSET


class CompleteBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks that are done."""

    chunks: Annotated[list[DoneBody], Meta(max_length=MAX_BATCH)]


class FailedBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chunk whose attempt failed, and why."""

    token: str
    type: Annotated[str, Meta(max_length=200)] = ""
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, token: Token, failure: ChunkFailure) -> FailedBody:
        """Put a failure on the wire."""
        return cls(
            token=token,
            type=failure.type[:200],
            message=failure.message,
            traceback=failure.traceback,
        )

    def to_failure(self) -> ChunkFailure:
        """Take it off the wire."""
        return ChunkFailure.told(type=self.type, message=self.message, traceback=self.traceback)


class FailBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks whose attempts failed."""

    chunks: Annotated[list[FailedBody], Meta(max_length=MAX_BATCH)]


class ReleaseBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks that are given back without using an attempt, free at once or after a delay."""

    tokens: Annotated[list[str], Meta(max_length=MAX_BATCH)]
    delay_ms: DelayMs = 0


class OutcomeBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a report. `lost`: the chunk was not the reporter's any more."""

    token: str
    outcome: Literal["completed", "retried", "failed", "released", "dropped", "lost"]
    submission_id: str | None = None
    chunks_left: int | None = None
    is_limit_passed: bool = False
    attempt: int | None = None
    next_at: datetime | None = None

    @classmethod
    def of(cls, token: str, outcome: AnyOutcome) -> OutcomeBody:
        """Put an outcome on the wire."""
        match outcome:
            case Completed(submission_id=id_, chunks_left=left, is_limit_passed=is_limit_passed):
                return cls(
                    token=token,
                    outcome="completed",
                    submission_id=str(id_),
                    chunks_left=left,
                    is_limit_passed=is_limit_passed,
                )
            case Retried(submission_id=id_, attempt=attempt, next_at_ms=next_at_ms):
                return cls(
                    token=token,
                    outcome="retried",
                    submission_id=str(id_),
                    attempt=attempt,
                    next_at=datetime.fromtimestamp(next_at_ms / 1000, tz=UTC),
                )
            case FinallyFailed(submission_id=id_, attempt=attempt):
                return cls(token=token, outcome="failed", submission_id=str(id_), attempt=attempt)
            case Released(submission_id=id_):
                return cls(token=token, outcome="released", submission_id=str(id_))
            case Dropped(submission_id=id_):
                return cls(token=token, outcome="dropped", submission_id=str(id_))
            case Lost():
                return cls(token=token, outcome="lost")

    def to_outcome(self) -> AnyOutcome:
        """Take it off the wire."""
        id_ = SubmissionId(self.submission_id or 0)
        match self.outcome:
            case "completed":
                return Completed(id_, self.chunks_left or 0, self.is_limit_passed)
            case "retried":
                next_at_ms = round(self.next_at.timestamp() * 1000) if self.next_at else 0
                return Retried(id_, self.attempt or 0, next_at_ms)
            case "failed":
                return FinallyFailed(id_, self.attempt or 0)
            case "released":
                return Released(id_)
            case "dropped":
                return Dropped(id_)
            case "lost":
                return Lost()


class OutcomesBody(Struct, frozen=True, kw_only=True):
    """What became of reports, in their order."""

    outcomes: list[OutcomeBody]

    @classmethod
    def of(cls, tokens: Sequence[str], outcomes: Sequence[AnyOutcome]) -> OutcomesBody:
        """Put outcomes on the wire."""
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
    """Of the tokens named, those that nobody wants; chunks released that it did not know of."""

    void: list[str]
    released: int

    @classmethod
    def of(cls, alive: Alive) -> AliveBody:
        """Put a heartbeat's answer on the wire."""
        return cls(void=sorted(alive.void), released=alive.released)

    def to_alive(self) -> Alive:
        """Take it off the wire."""
        return Alive(frozenset(Token(token) for token in self.void), self.released)
