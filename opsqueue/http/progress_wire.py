"""How far a submission is, as JSON: its progress, its events, its errors of operations. No I/O.

The rules are those of `wire.py`.
"""

from __future__ import annotations

from msgspec import Struct, field

from opsqueue.model.answers import (
    ChunkWindow,
    ErrorChunks,
    Progress,
)
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.submission import SubmissionState


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
