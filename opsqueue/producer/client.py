"""The producer's client: hands in submissions, waits for them, streams their results.

What can be asked for is here; how a submission gets in is in producer/insert.py. I/O is the store's
and that of a `SubmissionApi`, which is also the seam for tests.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
)
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Required, Self, TypedDict, Unpack, overload

from opsqueue.common import SerializationFormat
from opsqueue.contents.chunks import (
    ErrorMode,
    failed_operations,
    fresh_prefix,
)
from opsqueue.contents.codec import PRODUCER_CODEC, RAW, Codec
from opsqueue.contents.formats import codec_of_format
from opsqueue.exceptions import (
    ChunkSizeIsZeroError,
    InvalidArgumentError,
    SubmissionFailedError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.http.client import WAIT_PATIENCE
from opsqueue.model.checks import is_whole, shown
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.durations import milliseconds
from opsqueue.model.new_submission import INLINE_BYTES, Backoff, NewSubmission
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
from opsqueue.producer.aio import Batched, fed_in_thread, in_thread
from opsqueue.producer.backends import SubmissionApi
from opsqueue.producer.http_api import HttpApi
from opsqueue.producer.insert import HandingIn
from opsqueue.producer.results_client import ChunkResults, ResultsClient
from opsqueue.producer.retry import check_only, empty_retry_of
from opsqueue.store import ObjectStore, open_store, with_options
from opsqueue.store.parallel import DEFAULT_AT_ONCE

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

_DEFAULT_BACKOFF: Final = Backoff()


class ChunksOptions(TypedDict, total=False):
    """What a submission can be told, see `ProducerClient.insert_submission`."""

    metadata: bytes | None
    strategic_metadata: Mapping[str, int] | None
    max_attempts: int
    max_failed_operations: float | None
    backoff: Backoff
    retention: timedelta | float | None
    delete_inputs_at_completion: bool
    idempotency_key: str | None


class SubmissionOptions(ChunksOptions, total=False):
    """The same, where operations are handed in."""

    chunk_size: Required[int]
    serialization_format: SerializationFormat | None


class ProducerClient(ResultsClient):
    """Hands in submissions to one queue; may be used from several threads.

    Each method has an asynchronous form, `async_…`, that never blocks the event loop; there an
    iterable of operations may be an asynchronous one.

    Args:
        opsqueue_url: where `opsqueue-api` listens: http://host:3999, https://…, or host:port.
        object_store_url: the object store, the one that workers and API have.
        object_store_options: pairs that are added to the store's URL as `?name=value`.
        queue: the queue's name.
        token: of the API, if it asks for one.
        at_once: objects up- or downloaded in parallel, and read ahead.
        inline_bytes: submissions whose chunks, encoded, are at most this large together travel
            through Redis, without the object store; 0: none does.
        codec: how chunks are encoded; its name is recorded with each submission.
        allow_pickle: let the codec `pickle` be used, also for results: it runs code of whoever can
            write to the store.

    Nothing is asked of the API before the first call. Every call raises ApiUnavailableError when
    the API does not answer after some repetitions, and StoreUnavailableError likewise.

    `serialization_format`, where a method takes one, is an object with `dumps` and `loads`, such as
    the module cbor2, and goes before the client's codec. A result is read by the codec that its
    submission records, so nobody has to give one for reading.

    Raises:
        InvalidArgumentError: of the arguments.
        NewObjectStoreClientError: the store's URL can't be used, or its extra is not installed.
    """

    def __init__(  # noqa: PLR0913 two URLs and what can be set
        self,
        opsqueue_url: str,
        object_store_url: str,
        *,
        object_store_options: Iterable[tuple[str, str]] = (),
        queue: str = "default",
        token: str | None = None,
        at_once: int = DEFAULT_AT_ONCE,
        inline_bytes: int = INLINE_BYTES,
        codec: str | Codec = PRODUCER_CODEC,
        allow_pickle: bool = False,
    ) -> None:
        with ExitStack() as resources:
            api = HttpApi(opsqueue_url, token=token, patience=WAIT_PATIENCE)
            resources.callback(api.close)
            store = open_store(with_options(object_store_url, object_store_options))
            resources.callback(store.close)
            super().__init__(
                api, store, queue=queue, at_once=at_once, codec=codec, allow_pickle=allow_pickle
            )
            self._name = f"ProducerClient({api.url!r}, {store.url!r}, queue={queue!r})"
            self._handing_in = HandingIn(api, store, at_once=at_once, inline_bytes=inline_bytes)
            self._whole_bytes: int | None = None
            self._resources = resources.pop_all()

    @classmethod
    def over(
        cls,
        api: SubmissionApi,
        store: ObjectStore,
        *,
        queue: str = "default",
        at_once: int = DEFAULT_AT_ONCE,
        inline_bytes: int = INLINE_BYTES,
        codec: str | Codec = PRODUCER_CODEC,
        allow_pickle: bool = False,
        whole_bytes: int | None = None,
    ) -> Self:
        """Make a client of parts that are there already; `close` leaves them to the caller.

        `whole_bytes` limits what a retry of failed operations decodes, see `failed_operations`.
        """
        self = cls.__new__(cls)
        ResultsClient.__init__(
            self, api, store, queue=queue, at_once=at_once, codec=codec, allow_pickle=allow_pickle
        )
        self._name = f"ProducerClient.over({api!r}, {store.url!r}, queue={queue!r})"
        self._handing_in = HandingIn(api, store, at_once=at_once, inline_bytes=inline_bytes)
        self._whole_bytes = whole_bytes
        self._resources = ExitStack()
        return self

    def __repr__(self) -> str:
        """URLs without credentials, never the token."""
        return self._name

    def insert_submission(  # noqa: PLR0913 what a submission can be told
        self,
        ops: Iterable[Any],
        *,
        chunk_size: int,
        serialization_format: SerializationFormat | None = None,
        metadata: bytes | None = None,
        strategic_metadata: Mapping[str, int] | None = None,
        max_attempts: int = 10,
        max_failed_operations: float | None = None,
        backoff: Backoff = _DEFAULT_BACKOFF,
        retention: timedelta | float | None = None,
        delete_inputs_at_completion: bool = False,
        idempotency_key: str | None = None,
    ) -> SubmissionId:
        """Upload operations as chunks, in parallel, and hand them in; does not wait for workers.

        Args:
            ops: any iterable, consumed once, a few chunks in memory at a time. What it raises,
                KeyboardInterrupt too, is raised here, and nothing is handed in.
            chunk_size: operations a chunk.
            serialization_format: in place of the client's codec.
            metadata: opaque bytes for the handler.
            strategic_metadata: what strategies and look-ups read.
            max_attempts: of each chunk.
            max_failed_operations: where the handler collects errors, how many operations may fail
                before the submission does: a count (int), or a share of all (float, 0.0 to 1.0).
            backoff: between attempts.
            retention: how long it is kept after its end, a timedelta or seconds. Without it as the
                queue has it (`opsqueue retention`), else a day.
            delete_inputs_at_completion: delete the uploaded operations soon after it completed, and
                only the rest of it after its retention.
            idempotency_key: at most 255 printable characters. A submission with this key that is
                there already (24 hours) is given instead, and this upload deleted.

        Raises:
            ChunkSizeIsZeroError, InvalidArgumentError: before anything is consumed; the latter also
                for a text, which is an iterable of its characters.
            EncodingError: names chunk and operation.
            ApiUnavailableError: whether it was handed in is then not known, except when the API
                was never reached: repeat with the same idempotency key.
        """
        if not is_whole(chunk_size) or chunk_size < 1:
            raise ChunkSizeIsZeroError(chunk_size)
        if isinstance(ops, str | bytes):
            message = f"{shown(ops)} would be an operation a character: give a list of operations"
            raise InvalidArgumentError(message)
        codec = codec_of_format(serialization_format) if serialization_format else self._codec
        empty = NewSubmission(
            prefix=fresh_prefix(self.queue),
            chunks_total=0,
            chunk_size=chunk_size,
            operations_total=0,
            codec=codec.name,
            max_attempts=max_attempts,
            max_failed_operations=max_failed_operations,
            backoff=backoff,
            metadata=metadata,
            strategic_metadata=dict(strategic_metadata or {}),
            retention_ms=None if retention is None else milliseconds(retention),
            delete_inputs_at_completion=delete_inputs_at_completion,
        )
        return self._handing_in.hand_in(self.queue, empty, ops, codec, idempotency_key)

    def run_submission(
        self,
        ops: Iterable[Any],
        *,
        errors: ErrorMode = "raise",
        **options: Unpack[SubmissionOptions],
    ) -> Batched[Any]:
        """Hand operations in, block until all are done, give the results in order, lazily.

        Takes what `insert_submission` takes; raises what it and
        `blocking_stream_completed_submission` raise. Interrupting it leaves the submission running.
        """
        submission_id = self.insert_submission(ops, **options)
        return self.blocking_stream_completed_submission(
            submission_id, errors=errors, serialization_format=options.get("serialization_format")
        )

    async def async_run_submission(
        self,
        ops: Iterable[Any] | AsyncIterable[Any],
        *,
        errors: ErrorMode = "raise",
        **options: Unpack[SubmissionOptions],
    ) -> AsyncIterator[Any]:
        """Do what `run_submission` does."""
        submission_id = await self.async_insert_submission(ops, **options)
        return await self.async_stream_completed_submission(
            submission_id, errors=errors, serialization_format=options.get("serialization_format")
        )

    # Chunks that are bytes already

    def insert_submission_chunks(
        self,
        chunk_contents: Iterable[bytes],
        *,
        chunk_size: int | None = None,
        **options: Unpack[ChunksOptions],
    ) -> SubmissionId:
        """Do what `insert_submission` does with chunks that are bytes already, stored as they are.

        Args:
            chunk_contents: the chunks.
            chunk_size: not needed: how many operations are in a chunk is nobody's business here.
            options: those of `insert_submission`, but no `serialization_format`.
        """
        del chunk_size
        return self.insert_submission(
            chunk_contents, chunk_size=1, serialization_format=RAW, **options
        )

    def run_submission_chunks(
        self,
        chunk_contents: Iterable[bytes],
        **options: Unpack[ChunksOptions],
    ) -> Batched[bytes]:
        """Hand chunks in, block until all are done, give their outputs as bytes in order."""
        submission_id = self.insert_submission_chunks(chunk_contents, **options)
        return self.blocking_stream_completed_submission_chunks(submission_id)

    async def async_run_submission_chunks(
        self,
        chunk_contents: Iterable[bytes] | AsyncIterable[bytes],
        **options: Unpack[ChunksOptions],
    ) -> AsyncIterator[bytes]:
        """Do what `run_submission_chunks` does."""
        submission_id = await self.async_insert_submission_chunks(chunk_contents, **options)
        return await self.async_stream_completed_submission_chunks(submission_id)

    @overload
    def retry_submission(self, submission_id: SubmissionId) -> None: ...

    @overload
    def retry_submission(
        self,
        submission_id: SubmissionId,
        *,
        only: Literal["failed"],
        max_failed_operations: float | None = None,
        idempotency_key: str | None = None,
    ) -> SubmissionId: ...

    def retry_submission(
        self,
        submission_id: SubmissionId,
        *,
        only: Literal["failed"] | None = None,
        max_failed_operations: float | None = None,
        idempotency_key: str | None = None,
    ) -> SubmissionId | None:
        """Put a failed or cancelled submission back to work; or only operations that failed.

        Without `only` the submission goes on as it is: finished chunks stay finished, errors of
        operations in them too, and its `max_failed_operations` holds no longer.

        With `only` a new submission is handed in, and its id given: of the operations that have an
        error, in order. It has all settings of the old one but `max_failed_operations`; the old
        one stays as it is. Operations that were dropped are not in it.

        Args:
            submission_id: failed or cancelled; with `only` also completed.
            only: "failed".
            max_failed_operations: of the new one; that of the old one does not hold for it.
            idempotency_key: of the new one. Without one, the same call gives the same new
                submission for 24 hours; by then, unless it is kept for longer, the old one is gone.

        Raises:
            SubmissionNotFoundError, SubmissionNotRetryableError.
            SubmissionNotCompletedYetError: with `only`: it is in progress.
            InvalidArgumentError: with `only`: no operation of it failed.
        """
        if only is None:
            if max_failed_operations is not None or idempotency_key is not None:
                message = "max_failed_operations and idempotency_key go with only='failed'"
                raise InvalidArgumentError(message)
            self._api.retry(self.queue, SubmissionId(submission_id))
            return None
        check_only(only)
        old = self.get_submission(submission_id)
        empty = empty_retry_of(
            old, prefix=fresh_prefix(self.queue), max_failed_operations=max_failed_operations
        )
        codec = self._codec_of(old.codec, None)
        ops = failed_operations(
            self._reader_of(old),
            old,
            self._chunks_with_errors(old),
            codec=codec,
            at_once=self._at_once,
            whole_bytes=self._whole_bytes,
        )
        # With the number: after a retry of the old one in place, more of it may have failed.
        key = idempotency_key or f"retry-failed-{old.id}-{old.operations_failed}"
        return self._handing_in.hand_in(self.queue, empty, ops, codec, key)

    def close(self) -> None:
        """Give connections back; may be repeated."""
        self.threads.close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async_insert_submission = fed_in_thread(insert_submission)
    async_insert_submission_chunks = fed_in_thread(insert_submission_chunks)
    async_retry_submission = in_thread(retry_submission)
