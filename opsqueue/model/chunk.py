"""A reserved chunk and its possible outcomes: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NewType, Self

from msgspec import Struct
from msgspec.structs import replace

from opsqueue.model import raised
from opsqueue.model.new_submission import INLINE_OUTPUT_BYTES, INLINE_OUTPUTS_BYTES
from opsqueue.model.submission import SubmissionId

Token = NewType("Token", str)
"""A reservation's fencing token: the id of its stream entry, and the chunk that it is for."""


MAX_FAILURE_CHARACTERS: Final = 32_000
"""The limit of a traceback and of a message; the middle of longer ones is left out."""

MAX_ERROR_CHARACTERS: Final = 4_000
"""The same for a single operation: a chunk may have thousands of them."""

MAX_REASON_CHARACTERS: Final = 1_000
MAX_BATCH: Final = 1_000
"""Chunks in one call, so that no script keeps the server busy for long."""


class Source(Struct, frozen=True, kw_only=True):
    """Facts that all chunks of a submission share and that a worker needs."""

    submission_id: SubmissionId
    queue: str
    prefix: str
    codec: str
    chunks_total: int
    chunk_size: int
    operations_total: int
    max_attempts: int
    metadata: bytes | None = None
    strategic_metadata: Mapping[str, int] = {}
    trace_context: Mapping[str, str] = {}
    is_inline: bool = False
    """Inputs come with the reservation; small outputs go with the report."""
    is_suspect: bool = False
    """Redis may have lost facts about it: the output of an earlier attempt may exist."""

    @property
    def inline_output_bytes(self) -> int:
        """The largest output that may be sent with its report; -1: none may.

        It is a share of the submission's total, so that nobody has to add up the other outputs.
        """
        if not self.is_inline:
            return -1
        return min(INLINE_OUTPUT_BYTES, INLINE_OUTPUTS_BYTES // self.chunks_total)

    def operations_in(self, chunk_index: int) -> int:
        """Return the chunk's number of operations: chunk_size, or the rest in the last chunk."""
        if chunk_index < self.chunks_total - 1:
            return self.chunk_size
        return self.operations_total - (self.chunks_total - 1) * self.chunk_size


class Reservation(Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """The right to work on a chunk until it is reported, lost or expired."""

    token: Token
    source: Source
    chunk_index: int
    attempt: int
    """1-based: one more than the attempts that failures, deaths and expiries have used."""
    expires_at_ms: int
    """An instant on Redis's clock."""
    held_ms: int = 0
    """Time since the chunk was reserved, when this was read."""
    input: bytes | None = None
    """The encoded operations; None: they are in the store."""
    again: bool = False
    """The chunk was in hand before, so that the output of an earlier attempt may exist."""

    def __repr__(self) -> str:
        """Leave out the input."""
        return Struct.__repr__(replace(self, input=None))

    def __str__(self) -> str:
        """Return submission/index, as in messages."""
        return f"{self.source.submission_id}/{self.chunk_index}"


class ChunkFailure(Struct, frozen=True, kw_only=True):
    """The reported reason why an attempt failed."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, *, max_characters: int = MAX_FAILURE_CHARACTERS) -> Self:
        """Describe an exception: qualified type, message with notes, traceback with causes.

        Never raises, however the exception behaves: a chunk must be reported.
        """
        return cls(
            type=_shortened(encodable(raised.type_name(type(error))), MAX_REASON_CHARACTERS),
            message=_shortened(encodable(raised.text_of(error)), max_characters),
            traceback=_shortened(encodable(raised.traceback_of(error)), max_characters),
        )

    @classmethod
    def reported(cls, *, type: str, message: str, traceback: str = "") -> ChunkFailure:  # noqa: A002 the field's name
        """Create a failure as reported by others, with its texts shortened; no type: only text."""
        return cls(
            type=type,
            message=_shortened(message, MAX_FAILURE_CHARACTERS),
            traceback=_shortened(traceback, MAX_FAILURE_CHARACTERS),
        )


class OperationError(ChunkFailure, frozen=True, kw_only=True):
    """The reason why one operation of a chunk failed: it takes the place of its result."""


def encodable(text: str) -> str:
    """Escape lone surrogates, as in file names of tracebacks, so that a report can be encoded."""
    return text.encode(errors="backslashreplace").decode()


def _shortened(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"


class Completed(Struct, frozen=True):
    """The chunk is done: this report or an earlier one was counted."""

    submission_id: SubmissionId
    chunks_left: int
    is_limit_passed: bool = False
    """Its failed operations exceeded `max_failed_operations`, so the submission failed with it."""


class Retried(Struct, frozen=True):
    """The attempt failed; the next one may start at `next_at_ms` on Redis's clock."""

    submission_id: SubmissionId
    attempt: int
    next_at_ms: int


class FinallyFailed(Struct, frozen=True):
    """The last attempt failed, and the submission with it."""

    submission_id: SubmissionId
    attempt: int


class Released(Struct, frozen=True):
    """The chunk was released; no attempt was used."""

    submission_id: SubmissionId


class Dropped(Struct, frozen=True):
    """The submission had already ended: nothing was counted."""

    submission_id: SubmissionId


class Lost(Struct, frozen=True):
    """The reservation was no longer ours: nothing was changed."""


CompleteOutcome = Completed | Dropped | Lost
FailOutcome = Retried | FinallyFailed | Dropped | Lost
ReleaseOutcome = Released | Dropped | Lost


class Finished(Struct, frozen=True, kw_only=True):
    """The finished chunks of a lost submission, in the form in which Redis will store them."""

    cursor: int
    """No chunk from here on is done."""
    redo: Sequence[int]
    """The chunks below the cursor that are not done."""
    chunks_done: int
    done: bytes
    """A bit for each chunk, the highest of each byte first."""
    operations_done: int
    operations_failed: int
    errors: bytes
    """Likewise, for the chunks with operations that failed."""
    last_error: int
    """The last of these chunks; -1: there is none."""


class OperationFailed(Struct, frozen=True):
    """An operation that failed, where its handler collects errors (`on_error="collect"`)."""

    index: int
    """Position of the operation in its submission, from 0."""
    chunk_index: int
    type: str
    message: str
    traceback: str

    def __repr__(self) -> str:
        """Leave out the traceback."""
        return (
            f"OperationFailed(index={self.index}, chunk_index={self.chunk_index}, "
            f"type={self.type!r}, message={self.message!r})"
        )

    @property
    def text(self) -> str:
        """Traceback, if there is one, then type and message, in Python's format."""
        last = f"{self.type}: {self.message}"
        return f"{self.traceback.rstrip()}\n{last}" if self.traceback else last
