"""The producer's client: inserts submissions, waits for them and streams their results."""

from opsqueue.exceptions import (
    ChunkSizeIsZeroError,
    SubmissionFailedError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.new_submission import Backoff
from opsqueue.model.status import (
    SubmissionCancelled,
    SubmissionCompleted,
    SubmissionFailed,
    SubmissionNotCancellable,
    SubmissionStatus,
)
from opsqueue.model.submission import (
    ChunkFailed,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.producer.client import ChunkResults, ProducerClient

__all__ = [
    "Backoff",
    "ChunkFailed",
    "ChunkResults",
    "ChunkSizeIsZeroError",
    "OperationFailed",
    "ProducerClient",
    "Submission",
    "SubmissionCancelled",
    "SubmissionCompleted",
    "SubmissionFailed",
    "SubmissionFailedError",
    "SubmissionFilter",
    "SubmissionId",
    "SubmissionNotCancellable",
    "SubmissionNotCancellableError",
    "SubmissionNotFoundError",
    "SubmissionState",
    "SubmissionStatus",
    "TooManyMatchingSubmissionsError",
]
