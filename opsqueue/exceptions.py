"""Every error that a user of opsqueue can meet, in one tree.

    OpsqueueError
    |
    |   the caller's mistakes: repeating the same call fails in the same way
    +-- IncorrectUsageError                 also a TypeError, as in the reference's client
    |   +-- InvalidArgumentError            a value out of range, of the wrong form, too large
    |   |   +-- ChunkSizeIsZeroError        chunk_size below 1
    |   |   +-- PrefixTakenError            the prefix of an insert belongs to another submission
    |   +-- EncodingError                   operations or results that the codec can't carry
    |   |   +-- ChunkTooLargeError          a chunk holds more than may be decoded at once
    |   +-- HandlerError                    an app or handler that can't be served
    |   +-- TooManyMatchingSubmissionsError a look-up finds more submissions than its limit
    |   +-- ChunkNotFoundError              no chunk has this index
    |   +-- SubmissionNotFoundError         the queue has no such id (unknown, or cleaned up)
    |   +-- SubmissionForgottenError        the idempotency key is of a submission cleaned up since
    |   +-- IdempotencyKeyReusedError       the idempotency key is of a different insert
    |   +-- SubmissionNotCompletedYetError  results were requested before the submission completed
    |   +-- QueueInUseError                 a queue to be deleted is not empty
    |   +-- NewObjectStoreClientError       a store URL that can't be used, or a missing extra
    |   +-- AccessDeniedError               the API requires a token, or one with the right scope
    |   +-- OtherProcessError               begun before a fork, continued in the child
    |
    |   the state of a submission: the call was correct, but can't be carried out
    +-- SubmissionFailedError               a chunk failed its last attempt, or too many operations
    +-- OperationFailedError                reading results reached an operation that failed
    +-- SubmissionCancelledError            the submission was cancelled
    +-- SubmissionNotCancellableError       the submission has already ended
    +-- SubmissionNotRetryableError         the submission is in progress or has completed
    |
    |   data of a newer version: upgrade the program that raises this
    +-- FormatTooNewError                   a queue or store has a format that it can't read
    |
    |   raised in handlers
    +-- SoftTimeLimitExceeded               the chunk has run for longer than soft_time_limit
    |
    |   not the caller's mistake: the base class that the reference's programs catch
    +-- OpsqueueInternalError
        |
        |   failures of external services: trying again later can help
        +-- ConnectionTroubleError
        |   +-- RedisUnavailableError       no answer: the transition may or may not have happened
        |   +-- SubmissionNotConfirmedError inserted, but not yet as durable as requested
        |   +-- StoreUnavailableError       bucket missing, credentials refused, network down
        |   |   +-- ObjectUnusableError     one object can't be read or written; the store works
        |   +-- ApiUnavailableError         the HTTP API did not answer, or something else did
        |
        |   the reference's names for failures of chunks; a StoreUnavailableError is each of them
        +-- ChunkRetrievalError             contents can't be read
        |   |   +-- ObjectNotFoundError     the store has no object with that key
        +-- ChunksStorageError              operations can't be read from their iterable, or stored
        +-- ChunkStorageError               an output can't be stored
        |
        |   a fault between the client and the API: opsqueue does not repeat the request
        +-- WrongAnswerError                an answer that belongs to another request
        |
        |   defects of opsqueue: please report them
        +-- ScriptError                     a Lua script failed; the message has file and line

Attributes hold the data; the message names the thing, what happened, and what helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsqueue.model.errors import (
    IncorrectUsageError,
    InvalidArgumentError,
    OpsqueueError,
    OtherProcessError,
    TryFromIntError,
)
from opsqueue.model.status import (
    SubmissionCancelled,
    SubmissionFailed,
    SubmissionNotCancellable,
    as_cancelled,
    as_ended,
    as_failed,
    not_cancellable,
)
from opsqueue.model.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opsqueue.model.chunk import OperationFailed
    from opsqueue.model.submission import ChunkFailed, Submission, SubmissionId, SubmissionState

__all__ = [
    "AccessDeniedError",
    "ApiUnavailableError",
    "ChunkCountIsZeroError",
    "ChunkNotFoundError",
    "ChunkRetrievalError",
    "ChunkSizeIsZeroError",
    "ChunkStorageError",
    "ChunkTooLargeError",
    "ChunksStorageError",
    "ConnectionTroubleError",
    "EncodingError",
    "FormatTooNewError",
    "HandlerError",
    "IdempotencyKeyReusedError",
    "IncorrectUsageError",
    "InternalConsumerClientError",
    "InternalProducerClientError",
    "InvalidArgumentError",
    "NewObjectStoreClientError",
    "ObjectNotFoundError",
    "ObjectUnusableError",
    "OperationFailedError",
    "OpsqueueError",
    "OpsqueueInternalError",
    "OtherProcessError",
    "PrefixTakenError",
    "QueueInUseError",
    "RedisUnavailableError",
    "ScriptError",
    "SoftTimeLimitExceeded",
    "StoreUnavailableError",
    "SubmissionCancelledError",
    "SubmissionFailedError",
    "SubmissionForgottenError",
    "SubmissionNotCancellableError",
    "SubmissionNotCompletedYetError",
    "SubmissionNotConfirmedError",
    "SubmissionNotFoundError",
    "SubmissionNotRetryableError",
    "TooManyMatchingSubmissionsError",
    "TryFromIntError",
    "UnexpectedOpsqueueConsumerServerResponseError",
    "WrongAnswerError",
]


raised_by_handlers: list[Callable[[int, str, int], BaseException | None]] = []
"""Look-ups of what handlers have raised in this process, which becomes the `__cause__` of errors.

Each is called with a submission's id, "chunk" or "operation", and an index. Only where handlers run
in the producer's process, in `opsqueue.testing`, is there any.
"""


def _set_cause(error: BaseException, submission_id: int, kind: str, index: int) -> None:
    for find in raised_by_handlers:
        if (cause := find(submission_id, kind, index)) is not None:
            error.__cause__ = cause


def partial_hint(submission: Submission) -> str:
    """Return a sentence on how to read results of finished chunks; "" if none has finished."""
    if not submission.chunks_done:
        return ""
    return (
        "the results of finished chunks can be read by "
        f"`opsqueue results {submission.id} --partial`, over HTTP with ?partial=true, in Python by "
        "ProducerClient.partial_results"
    )


class ChunkSizeIsZeroError(InvalidArgumentError):
    """`chunk_size` counts operations and is at least 1."""

    def __init__(self, chunk_size: object = 0) -> None:
        """Create the error for the value that was given."""
        super().__init__(f"chunk_size is {chunk_size!r}: it counts operations, give 1 or more")


class PrefixTakenError(InvalidArgumentError):
    """The objects below a prefix belong to another submission, or are being deleted."""


class EncodingError(IncorrectUsageError):
    """The codec can't carry the operations or results, or can't decode the bytes."""


class ChunkTooLargeError(EncodingError):
    """A chunk, or its output, is larger than this program's limit for decoding."""

    def __init__(self, limit: int, unit: str = "bytes") -> None:
        """Store the limit as an attribute."""
        self.limit = limit
        super().__init__(
            f"the chunk holds more than the limit of {limit:,} {unit} (max-chunk-bytes) that are "
            "decoded at once: make chunks smaller, or raise the limit of this program"
        )


class HandlerError(IncorrectUsageError):
    """An app can't be found or loaded, or a handler is declared in a way that can't work."""


class TooManyMatchingSubmissionsError(IncorrectUsageError):
    """A look-up by strategic metadata finds more submissions than its limit."""

    def __init__(self, max_submissions: int) -> None:
        """Store the limit as an attribute."""
        self.max_submissions = max_submissions
        super().__init__(
            f"more than {max_submissions:,} submissions match: give more pairs, or a higher limit"
        )


class SubmissionNotFoundError(IncorrectUsageError):
    """The queue has no submission with this id: it never had, or the submission was cleaned up."""

    def __init__(self, submission_id: int, queue: str = "default") -> None:
        """Store the id as an int."""
        self.submission_id = submission_id
        self.queue = queue
        super().__init__(
            f"queue {queue!r} has no submission {submission_id}: "
            "check the id and the queue; ended submissions are cleaned up after their retention"
        )


class SubmissionForgottenError(IncorrectUsageError):
    """The submission with this idempotency key has ended and was forgotten since.

    `submission_id` is its id. `state` is how it ended, or None where that is no longer known.
    """

    def __init__(
        self, submission_id: SubmissionId, queue: str, state: SubmissionState | None
    ) -> None:
        self.submission_id = submission_id
        self.queue = queue
        self.state = state
        ended = "has ended" if state is None else "failed" if state == "failed" else f"was {state}"
        super().__init__(
            f"queue {queue!r} knows the idempotency key: it was that of submission "
            f"{submission_id}, which {ended} and was forgotten after its retention; give another "
            "key to insert it once more, or a longer retention to have its results"
        )


class IdempotencyKeyReusedError(IncorrectUsageError):
    """An insert has the idempotency key of an earlier insert with different contents or options.

    `submission_id` is the id of the first submission; `differing` names the fields that differ.
    """

    def __init__(self, submission_id: SubmissionId, queue: str, differing: Sequence[str]) -> None:
        self.submission_id = submission_id
        self.queue = queue
        self.differing = tuple(differing)
        super().__init__(
            f"queue {queue!r} knows the idempotency key: it is that of submission {submission_id}, "
            f"which was inserted with a different {', '.join(differing)}; repeat the same insert "
            "to get that submission, or use another key for a new one"
        )


class ChunkNotFoundError(IncorrectUsageError):
    """A consumer reported a chunk that it has not reserved."""

    def __init__(self, submission_id: int, chunk_index: int) -> None:
        """Store both as attributes."""
        self.submission_id = submission_id
        self.chunk_index = chunk_index
        super().__init__(
            f"chunk {submission_id}/{chunk_index} is not reserved by this consumer: report a chunk "
            "with the client, and in the process, whose reserve_chunks returned it"
        )


class SubmissionNotCompletedYetError(IncorrectUsageError):
    """Results were requested of a submission that has not completed."""

    def __init__(self, message: str, submission_id: int) -> None:
        """Set `args` to (message, id), as in the reference's client."""
        self.submission_id = submission_id
        super().__init__(message, submission_id)

    def __str__(self) -> str:
        """Return the message without the id."""
        return str(self.args[0])


class NewObjectStoreClientError(IncorrectUsageError):
    """An object store URL is malformed, of an unknown scheme, or needs an extra."""


class AccessDeniedError(IncorrectUsageError):
    """The HTTP API does not know the token, or the token does not permit this request."""


class QueueInUseError(IncorrectUsageError):
    """A queue can be deleted only when it is empty. `found` counts its contents by name."""

    def __init__(self, queue: str, found: Mapping[str, int]) -> None:
        self.queue = queue
        self.found = found
        what = ", ".join(f"{name}: {number:,}" for name, number in found.items())
        super().__init__(
            f"queue {queue!r} can't be deleted ({what}): cancel what is in progress, wait "
            "for the retention of what has ended, and stop its workers"
        )


class SubmissionFailedError(OpsqueueError):
    """The submission failed: a chunk failed its last attempt, or too many operations failed.

    `submission` is a SubmissionFailed with `failed_at` and `failed_chunk_id`. `chunk` is the chunk
    that failed. `failure` is the text of its failure with the traceback.
    """

    submission: SubmissionFailed

    def __init__(self, submission: Submission, chunk: ChunkFailed | None = None) -> None:
        """Store the failed submission. `chunk` is used where `submission` does not name it."""
        self.submission = as_failed(submission)
        self.chunk = chunk or submission.failed_chunk
        self.failure = self.chunk.failure
        super().__init__(self.submission)
        _set_cause(self, submission.id, "chunk", self.chunk.chunk_index)

    def __str__(self) -> str:
        """Name the submission, the chunk and the failure with its traceback."""
        failure, hint = self.submission.failure, partial_hint(self.submission)
        message = f"submission {self.submission.id} failed"
        if failure is None:
            pass
        elif failure.is_of_operations:
            message += (
                f": {failure.message}; its errors can be read, and retrying it lifts that limit"
            )
        else:
            message += (
                f": chunk {failure.chunk_index} failed "
                f"attempt {failure.attempt} of {self.submission.max_attempts}:\n{failure.text}"
            )
        return f"{message}\n{hint}" if hint else message


class OperationFailedError(OpsqueueError):
    """An operation has an error instead of a result. The results before it were yielded."""

    def __init__(self, failed: OperationFailed, submission_id: int) -> None:
        """Store the operation and its submission."""
        self.failed = failed
        self.submission_id = submission_id
        super().__init__(failed, submission_id)
        _set_cause(self, submission_id, "operation", failed.index)

    def __str__(self) -> str:
        """Name operation and submission, with the traceback and how to continue reading."""
        return (
            f"operation {self.failed.index} of submission {self.submission_id} failed (in chunk "
            f"{self.failed.chunk_index}; errors='yield' or 'skip' reads on):\n{self.failed.text}"
        )


class SubmissionCancelledError(OpsqueueError):
    """The submission was cancelled, so its results will never be complete.

    `submission` is a SubmissionCancelled with `cancelled_at`.
    """

    submission: SubmissionCancelled

    def __init__(self, submission: Submission) -> None:
        """Store the submission."""
        self.submission = as_cancelled(submission)
        super().__init__(self.submission)

    def __str__(self) -> str:
        """Return the message with the number of chunks that were done."""
        done, total = self.submission.chunks_done, self.submission.chunks_total
        message = (
            f"submission {self.submission.id} was cancelled with {done:,} of {total:,} chunks done"
        )
        hint = partial_hint(self.submission)
        return f"{message}: {hint}" if hint else message


class _SubmissionHasEndedError(OpsqueueError):
    """Base of the errors for submissions whose state does not permit the call."""

    action: str
    wants: str

    def __init__(self, submission: Submission, chunk: ChunkFailed | None = None) -> None:
        self.ended = as_ended(submission)
        self._chunk = chunk
        super().__init__(self.ended)

    def __str__(self) -> str:
        state = self.ended.state.value.replace("_", " ")
        return f"submission {self.ended.id} is {state}: only {self.wants} can be {self.action}"


class SubmissionNotCancellableError(_SubmissionHasEndedError):
    """Only a submission in progress can be cancelled.

    The class of `submission` tells its state (SubmissionNotCancellable.Completed, …). `chunk` is
    the chunk that failed, if one did. `ended` is the submission as one value with a `state`.
    """

    action = "cancelled"
    wants = "a submission in progress"

    @property
    def submission(self) -> SubmissionNotCancellable:
        """The submission as the class of its state."""
        return not_cancellable(self.ended)

    @property
    def chunk(self) -> ChunkFailed | None:
        """The chunk whose failure ended the submission, or None."""
        if self.ended.failure is None:
            return self._chunk
        return self.ended.failed_chunk


class SubmissionNotRetryableError(_SubmissionHasEndedError):
    """Only a failed or cancelled submission can be retried.

    `submission` is a SubmissionCompleted with `completed_at`, or a submission in progress.
    """

    action = "retried"
    wants = "a failed or cancelled submission"

    @property
    def submission(self) -> Submission:
        """The submission as the class of its state."""
        return self.ended


class OpsqueueInternalError(OpsqueueError):
    """Base of errors that are not the caller's mistake.

    Raised itself, it is a defect of opsqueue: please report it.
    """


class ChunkRetrievalError(OpsqueueInternalError):
    """The contents of a chunk can't be read."""


class ChunksStorageError(OpsqueueInternalError):
    """Operations can't be stored, or reading their iterable raised (see `__cause__`)."""


class ChunkStorageError(OpsqueueInternalError):
    """The output of a chunk can't be stored."""


class ObjectNotFoundError(ChunkRetrievalError):
    """The object store has no object with this key."""

    def __init__(self, key: str, store: str, why: str = "") -> None:
        """Create the error; `store` is a URL without credentials, `why` what the reader knows."""
        self.key = key
        self.store = store
        super().__init__(
            f"{store} has no object {key!r}: "
            + (why or "was it deleted, or stored by a program with another store URL?")
        )


class FormatTooNewError(OpsqueueError):
    """A queue or store has a format that this program can't read; nothing was changed."""

    def __init__(
        self,
        name: str,
        found: int,
        readable: int,
        *,
        kind: str = "queue",
        program: str = f"opsqueue {__version__}",
    ) -> None:
        """Store the queue or store, its format, and the newest format that the program reads."""
        self.kind = kind
        self.name = name
        self.found = found
        self.readable = readable
        super().__init__(
            f"{kind} {name} has format {found}, and {program} reads formats up to {readable}: "
            "upgrade that program"
        )


class ConnectionTroubleError(OpsqueueInternalError):
    """An external service did not answer as it should; trying again later can help."""


class RedisUnavailableError(ConnectionTroubleError):
    """Redis did not answer, so it is not known whether the transition happened."""


class SubmissionNotConfirmedError(ConnectionTroubleError):
    """A submission was inserted, but is not known to be as durable as requested."""

    def __init__(self, submission_id: int, why: str) -> None:
        """Store both as attributes."""
        self.submission_id = submission_id
        self.why = why
        super().__init__(
            f"submission {submission_id} is inserted, but not yet known to be durable: {why}. "
            "Repeating the insert with the same idempotency key is safe and waits again; without a "
            "key it would insert another submission"
        )


class StoreUnavailableError(
    ConnectionTroubleError, ChunkRetrievalError, ChunksStorageError, ChunkStorageError
):
    """The object store refused a request or did not answer: bucket, credentials, network."""


class ObjectUnusableError(StoreUnavailableError):
    """One object can't be read or written, while the store works for other objects.

    Examples are a file of another user, or an archived or damaged object. Waiting does not help, so
    the attempt of the chunk fails.
    """


class ApiUnavailableError(ConnectionTroubleError):
    """The HTTP API did not answer, or the answer is not from an opsqueue API."""


class WrongAnswerError(OpsqueueInternalError):
    """An answer does not belong to its request. It was dropped and its connection closed.

    The request may have been carried out. This is not a ConnectionTroubleError: code that repeats
    requests on those would hide that a proxy or a shared socket mixes up answers.
    """


class SoftTimeLimitExceeded(OpsqueueError):  # noqa: N818 the field's name for it
    """A chunk has run for longer than its soft_time_limit: the handler should clean up and end.

    An `async def` handler gets a cancellation (asyncio.CancelledError) instead, unless it blocks
    its event loop.
    """


class ScriptError(OpsqueueInternalError):
    """A Lua script failed. The message has file and line."""


class ChunkCountIsZeroError(IncorrectUsageError):
    """Defined for programs that name it, and never raised: no chunks means completed at once."""


# The reference's client has several names for what is one class here.
UnexpectedOpsqueueConsumerServerResponseError = ApiUnavailableError
InternalConsumerClientError = InternalProducerClientError = ConnectionTroubleError
