"""Every error that a user of opsqueue can meet, in one tree.

    OpsqueueError
    |
    |   the caller's mistakes: the same call fails the same way again
    +-- IncorrectUsageError                 also a TypeError, as in the reference's client
    |   +-- InvalidArgumentError            a value out of range, of the wrong form, too large
    |   |   +-- ChunkSizeIsZeroError        chunk_size below 1
    |   |   +-- PrefixTakenError            an insert's prefix belongs to another submission
    |   +-- EncodingError                   operations or results that the codec can't carry
    |   |   +-- ChunkTooLargeError          a chunk holds more than may be decoded at once
    |   +-- HandlerError                    an app or handler that can't be served
    |   +-- TooManyMatchingSubmissionsError a look-up finds more than its limit
    |   +-- ChunkNotFoundError              no chunk of this index
    |   +-- SubmissionNotFoundError         no such id in this queue (never was, or cleaned up)
    |   +-- SubmissionNotCompletedYetError  results asked for before they are there
    |   +-- NewObjectStoreClientError       a store URL that can't be used, or a missing extra
    |   +-- AccessDeniedError               the API wants a token, or one that may do this
    |   +-- OtherProcessError               begun before a fork, continued in the child
    |
    |   the world's state: the call was right, the answer is no
    +-- SubmissionFailedError               a chunk failed its last attempt, or too many operations
    +-- OperationFailedError                results were read up to an operation that has none
    +-- SubmissionCancelledError            somebody cancelled it
    +-- SubmissionNotCancellableError       it has ended already
    +-- SubmissionNotRetryableError         it has not ended, or it completed
    +-- ObjectNotFoundError                 the store has no object of that key
    |
    |   another version's data: upgrade the program that says so
    +-- FormatTooNewError                   a queue or store has a format that it can't read
    |
    |   the outside's failures: trying again later can help
    +-- ConnectionTroubleError
    |   +-- RedisUnavailableError           no answer: the transition may or may not have happened
    |   +-- SubmissionNotConfirmedError     inserted, but not yet as durable as was asked for
    |   +-- StoreUnavailableError           bucket missing, credentials refused, network down
    |   |   +-- ObjectUnusableError         one object can't be read or written, the store can
    |   +-- ApiUnavailableError             no answer from the HTTP API, or not one of ours
    |
    |   what is wrong between us and the API: not repeated by us
    +-- WrongAnswerError                    an answer that belongs to another request
    |
    |   raised in handlers
    +-- SoftTimeLimitExceeded               its chunk runs for longer than soft_time_limit
    |
    |   our own defects: please report
    +-- OpsqueueInternalError
        +-- ScriptError                     a Lua script failed; says file and line

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
    from opsqueue.model.chunk import OperationFailed
    from opsqueue.model.submission import ChunkFailed, Submission

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
    "RedisUnavailableError",
    "ScriptError",
    "SoftTimeLimitExceeded",
    "StoreUnavailableError",
    "SubmissionCancelledError",
    "SubmissionFailedError",
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


class ChunkSizeIsZeroError(InvalidArgumentError):
    """`chunk_size` counts operations and is at least 1."""

    def __init__(self, chunk_size: object) -> None:
        """Say what was given."""
        super().__init__(f"chunk_size is {chunk_size!r}: it counts operations, give 1 or more")


class PrefixTakenError(InvalidArgumentError):
    """The objects below a submission's prefix are another one's, or are being deleted."""


class EncodingError(IncorrectUsageError):
    """Operations or results can't be carried by the codec, or bytes are not of it."""


class ChunkTooLargeError(EncodingError):
    """A chunk, or its output, holds more than the reader's limit allows to be decoded."""

    def __init__(self, limit: int, unit: str = "bytes") -> None:
        """Keep the limit."""
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
        """Keep the limit."""
        self.max_submissions = max_submissions
        super().__init__(
            f"more than {max_submissions:,} submissions match: give more pairs, or a higher limit"
        )


class SubmissionNotFoundError(IncorrectUsageError):
    """The queue has no submission of this id: it never had, or it ended and was cleaned up."""

    def __init__(self, submission_id: int, queue: str) -> None:
        """Keep the id as an int."""
        self.submission_id = submission_id
        self.queue = queue
        super().__init__(
            f"queue {queue!r} has no submission {submission_id}: "
            "check the id and the queue; ended submissions are cleaned up after their retention"
        )


class ChunkNotFoundError(IncorrectUsageError):
    """A chunk is reported that this consumer never held."""

    def __init__(self, submission_id: int, chunk_index: int) -> None:
        """Keep both."""
        self.submission_id = submission_id
        self.chunk_index = chunk_index
        super().__init__(
            f"chunk {submission_id}/{chunk_index} is not in this consumer's hands: report chunks "
            "with the client, and in the process, whose reserve_chunks gave them"
        )


class SubmissionNotCompletedYetError(IncorrectUsageError):
    """Results were asked for while the submission has not completed."""

    def __init__(self, message: str, submission_id: int) -> None:
        """`args` are (message, id), as in the reference's client."""
        self.submission_id = submission_id
        super().__init__(message, submission_id)

    def __str__(self) -> str:
        """Only the sentence."""
        return str(self.args[0])


class NewObjectStoreClientError(IncorrectUsageError):
    """An object store URL is malformed, of an unknown scheme, or needs an extra."""


class AccessDeniedError(IncorrectUsageError):
    """The HTTP API does not know the token, or the token is not for this."""


class SubmissionFailedError(OpsqueueError):
    """A chunk failed its last attempt, or too many operations, and the submission with it.

    `submission` is a SubmissionFailed with `failed_at` and `failed_chunk_id`, `chunk` the chunk
    that failed, `failure` the text with its traceback.
    """

    submission: SubmissionFailed

    def __init__(self, submission: Submission) -> None:
        """Keep everything of the failed submission."""
        self.submission = as_failed(submission)
        self.chunk = submission.failed_chunk
        self.failure = self.chunk.failure
        super().__init__(self.submission)

    def __str__(self) -> str:
        """Name the submission, the chunk and the failure with its traceback."""
        failure = self.submission.failure
        if failure is None:
            return f"submission {self.submission.id} failed"
        if failure.is_of_operations:
            return (
                f"submission {self.submission.id} failed: {failure.message}; its errors can be "
                "read, and a retry of it goes on without that limit"
            )
        return (
            f"submission {self.submission.id} failed: chunk {failure.chunk_index} failed "
            f"attempt {failure.attempt} of {self.submission.max_attempts}:\n{failure.text}"
        )


class OperationFailedError(OpsqueueError):
    """An operation has no result but an error; results before it were given."""

    def __init__(self, failed: OperationFailed, submission_id: int) -> None:
        """Keep which operation, and why."""
        self.failed = failed
        self.submission_id = submission_id
        super().__init__(failed, submission_id)

    def __str__(self) -> str:
        """Name operation and submission, with the traceback; say how to read on."""
        return (
            f"operation {self.failed.index} of submission {self.submission_id} failed (in chunk "
            f"{self.failed.chunk_index}; errors='yield' or 'skip' reads on):\n{self.failed.text}"
        )


class SubmissionCancelledError(OpsqueueError):
    """The submission was cancelled, so that its results will never be complete.

    `submission` is a SubmissionCancelled with `cancelled_at`.
    """

    submission: SubmissionCancelled

    def __init__(self, submission: Submission) -> None:
        """Keep the submission."""
        self.submission = as_cancelled(submission)
        super().__init__(self.submission)

    def __str__(self) -> str:
        """Say how far it came."""
        done, total = self.submission.chunks_done, self.submission.chunks_total
        return (
            f"submission {self.submission.id} was cancelled with {done:,} of {total:,} chunks done"
        )


class _SubmissionHasEndedError(OpsqueueError):
    """Base of the refusals that depend on a submission's state."""

    action: str
    wants: str

    def __init__(self, submission: Submission) -> None:
        self.ended = as_ended(submission)
        super().__init__(self.ended)

    def __str__(self) -> str:
        state = self.ended.state.value.replace("_", " ")
        return f"submission {self.ended.id} is {state}: only {self.wants} can be {self.action}"


class SubmissionNotCancellableError(_SubmissionHasEndedError):
    """Only a submission in progress can be cancelled.

    `submission` says by its class what it is (a SubmissionNotCancellable.Completed, …), `chunk`
    which chunk failed where it failed, and `ended` the same as one value with a `state`.
    """

    action = "cancelled"
    wants = "a submission in progress"

    @property
    def submission(self) -> SubmissionNotCancellable:
        """What it is, as a class."""
        return not_cancellable(self.ended)

    @property
    def chunk(self) -> ChunkFailed | None:
        """The chunk that failed it."""
        return self.ended.failed_chunk if self.ended.failure is not None else None


class SubmissionNotRetryableError(_SubmissionHasEndedError):
    """Only a failed or cancelled submission can be retried.

    `submission` is what it is: a SubmissionCompleted with `completed_at`, or one in progress.
    """

    action = "retried"
    wants = "a failed or cancelled submission"

    @property
    def submission(self) -> Submission:
        """What it is."""
        return self.ended


class ObjectNotFoundError(OpsqueueError):
    """The object store has no object of this key."""

    def __init__(self, key: str, store: str, why: str = "") -> None:
        """`store` is the store's URL, without credentials; `why` is what the reader knows."""
        self.key = key
        self.store = store
        super().__init__(
            f"{store} has no object {key!r}: "
            + (why or "was it deleted, or stored by a program with another store URL?")
        )


class FormatTooNewError(OpsqueueError):
    """A queue or store has a format that the program can't read; nothing was changed."""

    def __init__(
        self,
        name: str,
        found: int,
        readable: int,
        *,
        kind: str = "queue",
        program: str = f"opsqueue {__version__}",
    ) -> None:
        """Keep which queue or store it is, its format, and the newest that the program reads."""
        self.kind = kind
        self.name = name
        self.found = found
        self.readable = readable
        super().__init__(
            f"{kind} {name} has format {found}, and {program} reads formats up to {readable}: "
            "upgrade that program"
        )


class ConnectionTroubleError(OpsqueueError):
    """Something outside did not answer as it should; trying again later can help."""


class RedisUnavailableError(ConnectionTroubleError):
    """Redis did not answer: whether the transition happened is not known."""


class SubmissionNotConfirmedError(ConnectionTroubleError):
    """A submission is inserted, but not known to be as durable as was asked for."""

    def __init__(self, submission_id: int, why: str) -> None:
        """Keep both."""
        self.submission_id = submission_id
        self.why = why
        super().__init__(
            f"submission {submission_id} is inserted, but not yet known to be durable: {why}. "
            "Repeating the insert with the same idempotency key is safe and waits again; without a "
            "key it would insert another submission"
        )


class StoreUnavailableError(ConnectionTroubleError):
    """The object store refused or did not answer: bucket, credentials, network."""


class ObjectUnusableError(StoreUnavailableError):
    """One object can't be read or written, while the store answers for others.

    Another user's file, an archived or damaged object: waiting does not help, so the chunk's
    attempt fails.
    """


class ApiUnavailableError(ConnectionTroubleError):
    """The HTTP API did not answer, or something answered that is not the API."""


class WrongAnswerError(OpsqueueError):
    """An answer is not that of its request. It was dropped, with the connection that it came on.

    The request may have been carried out. Not a ConnectionTroubleError: what repeats those would
    hide that a proxy or a shared socket mixes answers up.
    """


class SoftTimeLimitExceeded(OpsqueueError):  # noqa: N818 the field's name for it
    """A handler's chunk runs for longer than its soft_time_limit: tidy up, and raise or return.

    In an `async def` handler it is a cancellation (asyncio.CancelledError) that the handler sees.
    """


class OpsqueueInternalError(OpsqueueError):
    """A defect of opsqueue's own: please report it."""


class ScriptError(OpsqueueInternalError):
    """A Lua script failed. The message says file and line."""


class ChunkCountIsZeroError(IncorrectUsageError):
    """For programs that name it: a submission without chunks is completed at once."""


# Names of the reference's client for what has one name here.
ChunkRetrievalError = ChunksStorageError = ChunkStorageError = StoreUnavailableError
UnexpectedOpsqueueConsumerServerResponseError = ApiUnavailableError
InternalConsumerClientError = InternalProducerClientError = ConnectionTroubleError
