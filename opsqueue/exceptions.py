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
    |   +-- SubmissionForgottenError        an insert's key is that of one that was cleaned up
    |   +-- IdempotencyKeyReusedError       an insert's key belongs to a different insert
    |   +-- SubmissionNotCompletedYetError  results asked for before they are there
    |   +-- QueueInUseError                 a queue to be deleted has something in it
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
    |
    |   another version's data: upgrade the program that says so
    +-- FormatTooNewError                   a queue or store has a format that it can't read
    |
    |   raised in handlers
    +-- SoftTimeLimitExceeded               its chunk runs for longer than soft_time_limit
    |
    |   not the caller's mistake: the base that the reference's programs catch
    +-- OpsqueueInternalError
        |
        |   the outside's failures: trying again later can help
        +-- ConnectionTroubleError
        |   +-- RedisUnavailableError       no answer: the transition may or may not have happened
        |   +-- SubmissionNotConfirmedError inserted, but not yet as durable as was asked for
        |   +-- StoreUnavailableError       bucket missing, credentials refused, network down
        |   |   +-- ObjectUnusableError     one object can't be read or written, the store can
        |   +-- ApiUnavailableError         no answer from the HTTP API, or not one of ours
        |
        |   the reference's names of what happens to chunks; a StoreUnavailableError is each of them
        +-- ChunkRetrievalError             contents can't be read
        |   +-- ObjectNotFoundError         the store has no object of that key
        +-- ChunksStorageError              operations can't be read from their iterable, or stored
        +-- ChunkStorageError               an output can't be stored
        |
        |   what is wrong between us and the API: not repeated by us
        +-- WrongAnswerError                an answer that belongs to another request
        |
        |   our own defects: please report
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
    from collections.abc import Mapping, Sequence

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


def partial_hint(submission: Submission) -> str:
    """Name the ways to read the results of finished chunks; "": no chunk is finished."""
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

    def __init__(self, submission_id: int, queue: str = "default") -> None:
        """Keep the id as an int."""
        self.submission_id = submission_id
        self.queue = queue
        super().__init__(
            f"queue {queue!r} has no submission {submission_id}: "
            "check the id and the queue; ended submissions are cleaned up after their retention"
        )


class SubmissionForgottenError(IncorrectUsageError):
    """An idempotency key is known, but its submission has ended and was forgotten since.

    `submission_id` is its id; `state` says how it ended, None where that is not known any more.
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
    """An insert has the idempotency key of another one, which asked for something else.

    `submission_id` is the first one's id; `differing` names the fields of the insert that differ.
    """

    def __init__(self, submission_id: SubmissionId, queue: str, differing: Sequence[str]) -> None:
        self.submission_id = submission_id
        self.queue = queue
        self.differing = tuple(differing)
        super().__init__(
            f"queue {queue!r} knows the idempotency key: it is that of submission {submission_id}, "
            f"which was inserted with other {', '.join(differing)}; repeat the insert as it was to "
            "get that submission, or give another key for another one"
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


class QueueInUseError(IncorrectUsageError):
    """A queue can be deleted only when nothing is in it; `found` says what is, by name."""

    def __init__(self, queue: str, found: Mapping[str, int]) -> None:
        self.queue = queue
        self.found = found
        what = ", ".join(f"{name}: {number:,}" for name, number in found.items())
        super().__init__(
            f"queue {queue!r} can't be deleted ({what}): cancel what is in progress, wait "
            "for the retention of what has ended, and stop its workers"
        )


class SubmissionFailedError(OpsqueueError):
    """A chunk failed its last attempt, or too many operations, and the submission with it.

    `submission` is a SubmissionFailed with `failed_at` and `failed_chunk_id`, `chunk` the chunk
    that failed, `failure` the text with its traceback.
    """

    submission: SubmissionFailed

    def __init__(self, submission: Submission, chunk: ChunkFailed | None = None) -> None:
        """Keep everything of the failed submission; `chunk` is where it does not say which."""
        self.submission = as_failed(submission)
        self.chunk = chunk or submission.failed_chunk
        self.failure = self.chunk.failure
        super().__init__(self.submission)

    def __str__(self) -> str:
        """Name the submission, the chunk and the failure with its traceback."""
        failure, hint = self.submission.failure, partial_hint(self.submission)
        message = f"submission {self.submission.id} failed"
        if failure is None:
            pass
        elif failure.is_of_operations:
            message += (
                f": {failure.message}; its errors can be "
                "read, and a retry of it goes on without that limit"
            )
        else:
            message += (
                f": chunk {failure.chunk_index} failed "
                f"attempt {failure.attempt} of {self.submission.max_attempts}:\n{failure.text}"
            )
        return f"{message}\n{hint}" if hint else message


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
        message = (
            f"submission {self.submission.id} was cancelled with {done:,} of {total:,} chunks done"
        )
        hint = partial_hint(self.submission)
        return f"{message}: {hint}" if hint else message


class _SubmissionHasEndedError(OpsqueueError):
    """Base of the refusals that depend on a submission's state."""

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
        if self.ended.failure is None:
            return self._chunk
        return self.ended.failed_chunk


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


class OpsqueueInternalError(OpsqueueError):
    """What is not the caller's mistake; itself a defect of opsqueue's own: please report it."""


class ChunkRetrievalError(OpsqueueInternalError):
    """The contents of a chunk can't be read."""


class ChunksStorageError(OpsqueueInternalError):
    """Operations can't be read from their iterable (its exception is the cause), or stored."""


class ChunkStorageError(OpsqueueInternalError):
    """The output of a chunk can't be stored."""


class ObjectNotFoundError(ChunkRetrievalError):
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


class ConnectionTroubleError(OpsqueueInternalError):
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


class StoreUnavailableError(
    ConnectionTroubleError, ChunkRetrievalError, ChunksStorageError, ChunkStorageError
):
    """The object store refused or did not answer: bucket, credentials, network."""


class ObjectUnusableError(StoreUnavailableError):
    """One object can't be read or written, while the store answers for others.

    Another user's file, an archived or damaged object: waiting does not help, so the chunk's
    attempt fails.
    """


class ApiUnavailableError(ConnectionTroubleError):
    """The HTTP API did not answer, or something answered that is not the API."""


class WrongAnswerError(OpsqueueInternalError):
    """An answer is not that of its request. It was dropped, with the connection that it came on.

    The request may have been carried out. Not a ConnectionTroubleError: what repeats those would
    hide that a proxy or a shared socket mixes answers up.
    """


class SoftTimeLimitExceeded(OpsqueueError):  # noqa: N818 the field's name for it
    """A handler's chunk runs for longer than its soft_time_limit: tidy up, and raise or return.

    In an `async def` handler it is a cancellation (asyncio.CancelledError) that the handler sees.
    """


class ScriptError(OpsqueueInternalError):
    """A Lua script failed. The message says file and line."""


class ChunkCountIsZeroError(IncorrectUsageError):
    """For programs that name it: a submission without chunks is completed at once."""


# Names of the reference's client for what has one name here.
UnexpectedOpsqueueConsumerServerResponseError = ApiUnavailableError
InternalConsumerClientError = InternalProducerClientError = ConnectionTroubleError
