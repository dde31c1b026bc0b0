"""Submissions as JSON: how they are handed in, shown, listed and changed. No I/O.

The rules are those of `wire.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from opsqueue.model.answers import (
    SubmissionPage,
)
from opsqueue.model.new_submission import MAX_BACKOFF_MS, MAX_RETENTION_MS, Backoff, NewSubmission
from opsqueue.model.submission import Failure, Submission, SubmissionId, SubmissionState

DelayMs = Annotated[int, Meta(ge=0, le=MAX_BACKOFF_MS)]
RetentionMs = Annotated[int, Meta(ge=0, le=MAX_RETENTION_MS)]
CodecName = Annotated[str, Meta(min_length=1, max_length=100)]
TraceContext = Annotated[
    dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=1000)]],
    Meta(max_length=10),
]


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


class PatchBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes to a submission in progress: a value for a key, or null to remove it."""

    strategic_metadata: dict[str, int | None]


class IdsBody(Struct, frozen=True, kw_only=True):
    """Ids of submissions, ascending."""

    ids: list[str]


class InlineBody(Struct, frozen=True, kw_only=True):
    """What a small submission has in Redis: encoded chunks (base64) by index."""

    chunks: dict[int, bytes]
