"""A submission as it is stored: its id, its state and its outcome; plain values, no I/O."""

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
"""The largest number of submissions that a look-up returns."""

MAX_PARTITIONS: Final = 100
"""The largest number of partitions of a queue: what two digits can name."""


class SubmissionId(int):
    """19 decimal digits: 13 of milliseconds, 4 of sequence, 2 of partition. Ascending.

    An int in Python, a string in JSON (above 2**53, where JavaScript's numbers end).
    """

    __slots__ = ()

    @property
    def id(self) -> int:
        """The id as a plain int, as in the reference's class."""
        return int(self)

    @property
    def partition(self) -> int:
        """The number of the queue's partition that holds it."""
        return int(self) % MAX_PARTITIONS

    def __repr__(self) -> str:
        """Return valid Python."""
        return f"SubmissionId(id={int(self)})"

    def __str__(self) -> str:
        """Return the 19 digits, as in Redis, in URLs and in JSON."""
        return f"{int(self):019d}"

    def __format__(self, spec: str) -> str:
        """Format the 19 digits, so that messages show the same as URLs."""
        return format(str(self), spec)

    def __new__(cls, id: int | str) -> Self:  # noqa: A002 the reference's keyword
        """Create an id from an int or its digits; TryFromIntError if it is out of range."""
        try:
            number = super().__new__(cls, id)
        except ValueError:
            number = super().__new__(cls, -1)
        if not 0 <= number < 2**63:
            message = f"{id!r} is not a submission id: give the 19 digits that an insert returned"
            raise TryFromIntError(message)
        return number

    def __reduce__(self) -> tuple[type[SubmissionId], tuple[int]]:
        """Pickle as a plain int."""
        return SubmissionId, (int(self),)


class ChunkIndex(int):
    """A chunk's position in its submission, from 0; an int with the reference's attribute."""

    __slots__ = ()

    @property
    def id(self) -> int:
        """The index as a plain int."""
        return int(self)

    def __repr__(self) -> str:
        """Return valid Python."""
        return f"ChunkIndex(id={int(self)})"

    def __str__(self) -> str:
        """Return the number, as it is written in keys."""
        return str(int(self))

    def __new__(cls, id: int) -> Self:  # noqa: A002 the reference's keyword
        """Create an index from an int."""
        return super().__new__(cls, id)

    def __reduce__(self) -> tuple[type[ChunkIndex], tuple[int]]:
        """Pickle as a plain int."""
        return ChunkIndex, (int(self),)


class SubmissionState(StrEnum):
    """State of a submission. It is in exactly one state at a time."""

    IN_PROGRESS = "in_progress"
    """Chunks are free or reserved. Ends with the last chunk, a final failure or a cancellation."""
    COMPLETED = "completed"
    """Every chunk is done. This state is final."""
    FAILED = "failed"
    """A chunk used up its attempts, or too many operations failed; the rest was dropped.
    `retry_submission` continues it."""
    CANCELLED = "cancelled"
    """A client cancelled it; the rest was dropped. `retry_submission` continues it."""


class SubmissionFilter(Struct, frozen=True, kw_only=True):
    """Conditions of a list of submissions; a submission must meet all that are given.

    Args:
        state: the state they are in; None: any.
        strategic_metadata: pairs that they all have.
        created_from: at this instant or later.
        created_until: before this instant.
    """

    state: SubmissionState | None = None
    strategic_metadata: Mapping[str, int] = {}
    created_from: datetime | None = None
    created_until: datetime | None = None

    def __post_init__(self) -> None:
        """Raise InvalidArgumentError for values that make no sense."""
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
        """Return the lowest id of the page after `after`, and one above its highest id."""
        least = [_first_id(self.created_from)] if self.created_from else []
        below = [_first_id(self.created_until)] if self.created_until else []
        if after is not None and is_newest:
            below.append(after)
        elif after is not None:
            least.append(SubmissionId(after + 1))
        return max(least, default=None), min(below, default=None)


def _first_id(at: datetime) -> SubmissionId:
    """Return the lowest id that a submission created at an instant can have."""
    milliseconds = min(max(0, int(at.timestamp() * 1000)), INT64.stop // 10**6 - 1)
    return SubmissionId(milliseconds * 10**6)


class Failure(Struct, frozen=True, kw_only=True):
    """The reason why an attempt of a chunk did not succeed."""

    chunk_index: int
    attempt: int
    at: datetime
    type: str
    message: str
    traceback: str

    @property
    def is_of_operations(self) -> bool:
        """True if no chunk failed, but more operations than `max_failed_operations`."""
        return self.type == "TooManyFailedOperations"

    @property
    def text(self) -> str:
        """Traceback, if there is one, then type and message, in Python's format."""
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
    """Traceback, type and message, in Python's format."""
    failed_at: datetime


class Submission(Struct, frozen=True, kw_only=True):
    """The status of a submission. `failure` is what ended it; null unless it failed."""

    id: SubmissionId
    queue: str
    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    chunks_failed: int
    """1 if a chunk failed its last attempt and the submission failed with it.

    0 if the submission failed because too many single operations failed.
    """
    chunks_dropped: int = 0
    """Chunks that will not be worked on, because the submission failed or was cancelled."""
    chunk_size: int
    operations_total: int
    operations_done: int
    """Operations of finished chunks, whether they have a result or an error."""
    operations_failed: int
    """Those of `operations_done` that have an error; only where the handler collects errors."""
    operations_succeeded: int = 0
    """Operations with a result. After the end: all but those that failed or were dropped."""
    operations_dropped: int = 0
    """Operations without result or error because the submission failed or was cancelled."""
    max_failed_operations: int | None = None
    """The submission fails if more operations fail; None: never, also after a retry."""
    max_attempts: int
    backoff: Backoff = Backoff(first_ms=1_000, max_ms=60_000)
    """Both waits are set, although they are optional when `Backoff` is an option."""
    retention_ms: int | None = None
    """Time for which it is kept after its end. None: an earlier version inserted it; the queue's
    default at its end applies, else one day."""
    delete_inputs_at_completion: bool = False
    prefix: str
    codec: str
    created_at: datetime
    ended_at: datetime | None = None
    metadata: bytes | None = None
    strategic_metadata: Mapping[str, int] = {}
    trace_context: Mapping[str, str] = {}
    is_inline: bool = False
    """Inputs and small outputs are in Redis (`inline_contents`), other outputs in the store."""
    failure: Failure | None = None
    """The failure that ended the submission; None unless it failed."""
    last_failure: Failure | None = None
    """The last failure of any attempt, including chunks that were or will be retried."""
    release_reason: str | None = None
    """Why a chunk was last released because of a fault outside its handler."""
    released_at: datetime | None = None
    """The time of that release."""

    def __post_init__(self) -> None:
        """Compute the fields that follow from others, whatever values were given for them."""
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
        """The chunk that ended the submission, if it failed."""
        failure = self.last_failure
        return ChunkFailed(
            submission_id=self.id,
            chunk_index=ChunkIndex(0 if failure is None else failure.chunk_index),
            failure="" if failure is None else failure.text,
            failed_at=self.ended_at or self.created_at,
        )
