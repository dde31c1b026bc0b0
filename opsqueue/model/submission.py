"""A submission as it is: its id, its state, and what became of it; plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import force_setattr

from opsqueue.model.checks import INT64, shown
from opsqueue.model.errors import InvalidArgumentError, TryFromIntError
from opsqueue.model.new_submission import Backoff, check_strategic_metadata

MAX_LOOKED_UP: Final = 100_000
"""Submissions that a look-up gives."""

MAX_PARTITIONS: Final = 100
"""Of a queue: what two digits can name."""


class SubmissionId(int):
    """19 decimal digits: 13 of milliseconds, 4 of sequence, 2 of partition. Ascending.

    An int in Python, a string in JSON (above 2**53, where JavaScript's numbers end).
    """

    __slots__ = ()

    @property
    def id(self) -> int:
        """The number alone, as the reference's class has it."""
        return int(self)

    @property
    def partition(self) -> int:
        """Which of its queue's partitions it is in."""
        return int(self) % MAX_PARTITIONS

    def __repr__(self) -> str:
        """Valid Python."""
        return f"SubmissionId(id={int(self)})"

    def __str__(self) -> str:
        """The 19 digits, as they stand in Redis, in URLs and in JSON."""
        return f"{int(self):019d}"

    def __format__(self, spec: str) -> str:
        """Messages show what the URL shows."""
        return format(str(self), spec)

    def __new__(cls, id: int | str) -> Self:  # noqa: A002 the reference's keyword
        """Take an int or its digits; TryFromIntError for what no id can be."""
        try:
            number = super().__new__(cls, id)
        except ValueError:
            number = super().__new__(cls, -1)
        if not 0 <= number < 2**63:
            message = f"{id!r} is no submission's id: an id is 19 digits, as the insert gave it"
            raise TryFromIntError(message)
        return number

    def __reduce__(self) -> tuple[type[SubmissionId], tuple[int]]:
        """Pickle as the int it is."""
        return SubmissionId, (int(self),)


class ChunkIndex(int):
    """A chunk's place in its submission, from 0; an int with the attribute of the reference's."""

    __slots__ = ()

    @property
    def id(self) -> int:
        """The number alone."""
        return int(self)

    def __repr__(self) -> str:
        """Valid Python."""
        return f"ChunkIndex(id={int(self)})"

    def __str__(self) -> str:
        """The number, as it stands in keys."""
        return str(int(self))

    def __new__(cls, id: int) -> Self:  # noqa: A002 the reference's keyword
        """Take an int."""
        return super().__new__(cls, id)

    def __reduce__(self) -> tuple[type[ChunkIndex], tuple[int]]:
        """Pickle as the int it is."""
        return ChunkIndex, (int(self),)


class SubmissionState(StrEnum):
    """Where a submission is. It is in exactly one state at a time."""

    IN_PROGRESS = "in_progress"
    """Chunks are free or in hand, until the last is done, one fails for good, or a cancel."""
    COMPLETED = "completed"
    """Every chunk is done. Final."""
    FAILED = "failed"
    """A chunk used up its attempts, or too many operations failed; the rest was dropped.
    `retry_submission` moves it on."""
    CANCELLED = "cancelled"
    """Somebody cancelled it; the rest was dropped. `retry_submission` moves it on."""


class SubmissionFilter(Struct, frozen=True, kw_only=True):
    """Which submissions a list is to have: all that fit everything given.

    Args:
        state: None: in whatever state.
        strategic_metadata: pairs that they have.
        created_from: at this instant or later.
        created_until: before this instant.
    """

    state: SubmissionState | None = None
    strategic_metadata: Mapping[str, int] = {}
    created_from: datetime | None = None
    created_until: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be meant."""
        check_strategic_metadata(self.strategic_metadata)
        for at in (self.created_from, self.created_until):
            if at is not None and not (isinstance(at, datetime) and at.tzinfo is not None):
                message = (
                    f"{shown(at)} has no time zone: give an aware datetime, such as "
                    "datetime.now(UTC)"
                )
                raise InvalidArgumentError(message)

    def id_range(
        self, after: SubmissionId | None, *, is_newest: bool
    ) -> tuple[SubmissionId | None, SubmissionId | None]:
        """Give the least id, and one above the largest, of a page that begins behind `after`."""
        least = [_first_id(self.created_from)] if self.created_from else []
        below = [_first_id(self.created_until)] if self.created_until else []
        if after is not None and is_newest:
            below.append(after)
        elif after is not None:
            least.append(SubmissionId(after + 1))
        return max(least, default=None), min(below, default=None)


def _first_id(at: datetime) -> SubmissionId:
    """Give the least id that a submission created at an instant can have."""
    milliseconds = min(max(0, int(at.timestamp() * 1000)), INT64.stop // 10**6 - 1)
    return SubmissionId(milliseconds * 10**6)


class Failure(Struct, frozen=True, kw_only=True):
    """Why an attempt of a chunk did not succeed."""

    chunk_index: int
    attempt: int
    at: datetime
    type: str
    message: str
    traceback: str

    @property
    def is_of_operations(self) -> bool:
        """Whether no chunk failed, but more operations than `max_failed_operations`."""
        return self.type == "TooManyFailedOperations"

    @property
    def text(self) -> str:
        """Traceback, if there is one, then type and message: as Python prints it."""
        # Consumers may report a text alone.
        last = f"{self.type}: {self.message}" if self.type else self.message
        if not self.traceback:
            return last
        return f"{self.traceback.rstrip()}\n{last}"


class ChunkFailed(Struct, frozen=True, kw_only=True):
    """The chunk that failed its last attempt, and the submission with it."""

    submission_id: SubmissionId
    chunk_index: ChunkIndex
    failure: str
    """Traceback, type and message, as Python prints them."""
    failed_at: datetime


class Submission(Struct, frozen=True, kw_only=True):
    """A submission's status. `failure` is what ended it; null unless it failed."""

    id: SubmissionId
    queue: str
    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    chunks_failed: int
    """1 when a chunk's last attempt failed and the submission with it.

    0 for a submission that failed because too many single operations did.
    """
    chunks_dropped: int = 0
    """Chunks that will not be worked on, because the submission failed or was cancelled."""
    chunk_size: int
    operations_total: int
    operations_done: int
    """Of finished chunks, whether they have a result or an error."""
    operations_failed: int
    """Of these, those that have an error, where the handler collects errors."""
    operations_succeeded: int = 0
    """Operations that have a result. With those failed and dropped all, once it has ended."""
    operations_dropped: int = 0
    """Operations without result or error, because the submission failed or was cancelled."""
    max_failed_operations: int | None = None
    """Past so many the submission fails; None: never, also after a retry."""
    max_attempts: int
    backoff: Backoff = Backoff(first_ms=1_000, max_ms=60_000)
    """Both waits are given, though `Backoff` as an option may leave them out."""
    retention_ms: int | None = None
    """How long it is kept after its end; None: an earlier version inserted it, and it is kept as
    the queue has it at its end, else a day."""
    delete_inputs_at_completion: bool = False
    prefix: str
    codec: str
    created_at: datetime
    ended_at: datetime | None = None
    metadata: bytes | None = None
    strategic_metadata: Mapping[str, int] = {}
    trace_context: Mapping[str, str] = {}
    is_inline: bool = False
    """Inputs, and small outputs, are in Redis (`inline_contents`), other outputs in the store."""
    failure: Failure | None = None
    """The failure that ended the submission; None unless it failed."""
    last_failure: Failure | None = None
    """Of any attempt, also of one that is or was retried."""
    release_reason: str | None = None
    """Why a chunk was last given back because something around its handler was out of order."""
    released_at: datetime | None = None
    """When that was."""

    def __post_init__(self) -> None:
        """Compute what answers show and follows from the rest, whatever was given for it."""
        has_dropped = self.state in (SubmissionState.FAILED, SubmissionState.CANCELLED)
        chunks_left = self.chunks_total - self.chunks_done - self.chunks_failed
        operations_left = self.operations_total - self.operations_done
        has_failed = self.state is SubmissionState.FAILED
        force_setattr(self, "chunks_dropped", chunks_left if has_dropped else 0)
        force_setattr(self, "operations_succeeded", self.operations_done - self.operations_failed)
        force_setattr(self, "operations_dropped", operations_left if has_dropped else 0)
        force_setattr(self, "failure", self.last_failure if has_failed else None)

    @property
    def failed_chunk(self) -> ChunkFailed:
        """The chunk that ended the submission, where it failed."""
        failure = self.last_failure
        return ChunkFailed(
            submission_id=self.id,
            chunk_index=ChunkIndex(0 if failure is None else failure.chunk_index),
            failure="" if failure is None else failure.text,
            failed_at=self.ended_at or self.created_at,
        )
