"""A class for each state of a submission, for programs that match on classes.

Names and attributes are those of the reference's Python client. `ProducerClient.get_submission`
returns the same information as one value with a `state`.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, TypeVar

import msgspec
from msgspec import Struct

from opsqueue.model.submission import ChunkFailed, Submission, SubmissionState

Kind = TypeVar("Kind", bound=Submission)


class SubmissionCompleted(Submission, frozen=True, kw_only=True):
    """A submission in which every chunk is done."""

    @property
    def completed_at(self) -> datetime:
        """The time when its last chunk was done, in UTC."""
        return _ended(self)


class SubmissionFailed(Submission, frozen=True, kw_only=True):
    """A submission that has failed."""

    @property
    def failed_at(self) -> datetime:
        """The time when it failed, in UTC."""
        return _ended(self)

    @property
    def failed_chunk_id(self) -> int:
        """The index of the chunk that failed."""
        return 0 if self.last_failure is None else self.last_failure.chunk_index


class SubmissionCancelled(Submission, frozen=True, kw_only=True):
    """A submission that was cancelled."""

    @property
    def cancelled_at(self) -> datetime:
        """The time when it was cancelled, in UTC."""
        return _ended(self)


class SubmissionStatus(Struct, frozen=True):
    """Base of the four states: `isinstance(status, SubmissionStatus.InProgress)`."""

    InProgress: ClassVar[type[_InProgress]]
    Completed: ClassVar[type[_Completed]]
    Failed: ClassVar[type[_Failed]]
    Cancelled: ClassVar[type[_Cancelled]]


class _InProgress(SubmissionStatus, frozen=True):
    submission: Submission


class _Completed(SubmissionStatus, frozen=True):
    submission: SubmissionCompleted


class _Failed(SubmissionStatus, frozen=True):
    submission: SubmissionFailed
    chunk: ChunkFailed


class _Cancelled(SubmissionStatus, frozen=True):
    submission: SubmissionCancelled


class SubmissionNotCancellable(Struct, frozen=True):
    """Base of the three states of a submission that can't be cancelled, as in the error."""

    Completed: ClassVar[type[_NotCancellableCompleted]]
    Failed: ClassVar[type[_NotCancellableFailed]]
    Cancelled: ClassVar[type[_NotCancellableCancelled]]


class _NotCancellableCompleted(SubmissionNotCancellable, frozen=True):
    submission: SubmissionCompleted


class _NotCancellableFailed(SubmissionNotCancellable, frozen=True):
    submission: SubmissionFailed
    chunk: ChunkFailed


class _NotCancellableCancelled(SubmissionNotCancellable, frozen=True):
    submission: SubmissionCancelled


def _name(outer: type, **classes: type) -> None:
    for name, cls in classes.items():
        cls.__name__, cls.__qualname__ = name, f"{outer.__name__}.{name}"
        setattr(outer, name, cls)


_name(
    SubmissionStatus,
    InProgress=_InProgress,
    Completed=_Completed,
    Failed=_Failed,
    Cancelled=_Cancelled,
)
_name(
    SubmissionNotCancellable,
    Completed=_NotCancellableCompleted,
    Failed=_NotCancellableFailed,
    Cancelled=_NotCancellableCancelled,
)


def status_of(submission: Submission) -> SubmissionStatus:
    """Return a submission's state as a class."""
    match submission.state:
        case SubmissionState.IN_PROGRESS:
            return _InProgress(submission)
        case SubmissionState.COMPLETED:
            return _Completed(_as(SubmissionCompleted, submission))
        case SubmissionState.FAILED:
            return _Failed(as_failed(submission), submission.failed_chunk)
        case SubmissionState.CANCELLED:
            return _Cancelled(as_cancelled(submission))


def not_cancellable(submission: Submission) -> SubmissionNotCancellable:
    """Return the state of an ended submission as a class."""
    match submission.state:
        case SubmissionState.COMPLETED:
            return _NotCancellableCompleted(_as(SubmissionCompleted, submission))
        case SubmissionState.FAILED:
            return _NotCancellableFailed(as_failed(submission), submission.failed_chunk)
        case _:
            return _NotCancellableCancelled(as_cancelled(submission))


def as_failed(submission: Submission) -> SubmissionFailed:
    """Return a failed submission as its class."""
    return _as(SubmissionFailed, submission)


def as_cancelled(submission: Submission) -> SubmissionCancelled:
    """Return a cancelled submission as its class."""
    return _as(SubmissionCancelled, submission)


def as_ended(submission: Submission) -> Submission:
    """Return a submission as the class of its state; one in progress stays as it is."""
    match submission.state:
        case SubmissionState.IN_PROGRESS:
            return submission
        case SubmissionState.COMPLETED:
            return _as(SubmissionCompleted, submission)
        case SubmissionState.FAILED:
            return as_failed(submission)
        case SubmissionState.CANCELLED:
            return as_cancelled(submission)


def _as(kind: type[Kind], submission: Submission) -> Kind:
    if isinstance(submission, kind):
        return submission
    return kind(**msgspec.structs.asdict(submission))


def _ended(submission: Submission) -> datetime:
    return submission.created_at if submission.ended_at is None else submission.ended_at
