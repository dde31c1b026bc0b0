"""The producer's client: inserts submissions, waits for them and streams their results.

This module has the public methods; insert.py has the steps of an insert. All I/O goes through the
object store and a `Backend`, which is also the seam for tests.
"""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal, Required, Self, TypedDict, Unpack, cast, overload

from msgspec.structs import replace

from opsqueue.common import DEFAULT_SERIALIZATION_FORMAT, SerializationFormat
from opsqueue.contents.chunks import (
    ErrorMode,
    all_pages,
    check_completed,
    check_error_mode,
    errors_by_chunk,
    failed_operations,
    fresh_prefix,
    indexed_results,
    results_by_chunk,
)
from opsqueue.contents.codec import PRODUCER_CODEC, RAW, Codec, is_raw, open_codec
from opsqueue.contents.formats import codec_of_format
from opsqueue.contents.inline import reader_of
from opsqueue.exceptions import (
    ChunkSizeIsZeroError,
    ChunksStorageError,
    InvalidArgumentError,
    NewObjectStoreClientError,
    OpsqueueError,
    StoreUnavailableError,
    SubmissionForgottenError,
    SubmissionNotFoundError,
)
from opsqueue.model.answers import Inserted
from opsqueue.model.checks import is_whole
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.durations import milliseconds
from opsqueue.model.new_submission import (
    INLINE_BYTES,
    Backoff,
    NewSubmission,
    idempotency_key_of_retry,
    is_idempotency_key,
    own_idempotency_key,
)
from opsqueue.model.status import (
    SubmissionStatus,
    status_of,
)
from opsqueue.model.submission import (
    MAX_LOOKED_UP,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.producer.aio import Batched, Threads, each, fed_in_thread, in_thread, streamed
from opsqueue.producer.backends import Backend, Order
from opsqueue.producer.follow import chunks_as_they_come, chunks_done, chunks_in_order
from opsqueue.producer.insert import SubmissionInserter, check_is_operations
from opsqueue.producer.retry import check_only, empty_retry_of
from opsqueue.producer.wait import LONG_POLL_S, Waiting
from opsqueue.store import ObjectStore, Readable, open_store, with_options
from opsqueue.store.base import read_store_id
from opsqueue.store.parallel import DEFAULT_AT_ONCE
from opsqueue.tracing import current_carrier, spans

_LOG: Final = logging.getLogger("opsqueue.producer")
_AS_THE_QUEUE_HAS_IT: Final = Backoff()


class ChunksOptions(TypedDict, total=False):
    """Options of `ProducerClient.insert_submission_chunks`; see `insert_submission`."""

    metadata: bytes | None
    strategic_metadata: Mapping[str, int] | None
    max_attempts: int | None
    max_failed_operations: float | None
    backoff: Backoff
    retention: timedelta | float | None
    delete_inputs_at_completion: bool
    idempotency_key: str | None


class SubmissionOptions(ChunksOptions, total=False):
    """Options of `ProducerClient.insert_submission`."""

    chunk_size: Required[int]
    serialization_format: SerializationFormat | None


class ClientOptions(TypedDict, total=False):
    """Options of a client, see `ProducerClient`."""

    queue: str
    at_once: int
    inline_bytes: int
    codec: str | Codec
    allow_pickle: bool


@dataclass(frozen=True, slots=True)
class ChunkResults:
    """The results of a chunk, whose first operation is number index * chunk_size."""

    index: int
    results: list[Any]

    @property
    def chunk_index(self) -> int:
        """The same as `index`, under the name that a handler's chunk uses."""
        return self.index


class ProducerClient:
    """A client that inserts submissions into one queue; safe to use from several threads.

    Each method has an asynchronous form, `async_…`, which never blocks the event loop and also
    accepts an asynchronous iterable of operations.

    Args:
        opsqueue_url: where `opsqueue-api` listens: http://host:3999, https://…, or host:port.
        object_store_url: the object store, the same one that the workers and the API use.
        object_store_options: pairs that are added to the store's URL as `?name=value`.
        queue: the queue's name.
        token: the API's token, if it requires one.
        at_once: how many objects are uploaded, downloaded or read ahead in parallel.
        inline_bytes: submissions whose encoded chunks are at most this large together travel
            through Redis, without the object store; 0 turns this off.
        codec: how chunks are encoded; its name is recorded with each submission.
        allow_pickle: allow the codec `pickle`, also for results. Reading pickled data runs code of
            anybody who can write to the store.

    The client makes no request before the first call. Every call raises ApiUnavailableError if the
    API does not answer after some retries, and StoreUnavailableError if the store does not.

    `serialization_format`, where a method accepts one, is an object with `dumps` and `loads`, such
    as the module cbor2. It takes precedence over the client's codec. A format of your own must be
    registered in the workers' app, `Opsqueue(codecs=[…])`; if no live worker of the queue reads it,
    the insert logs a warning. Results are decoded with the codec that their submission records.

    Raises:
        InvalidArgumentError: an argument is invalid.
        NewObjectStoreClientError: the store's URL can't be used, or its extra is not installed.
    """

    def __init__(  # noqa: PLR0913 two URLs and the options
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
        # httpx takes long to import, and clients made by `over` need none of it.
        from opsqueue.http.client import WAIT_PATIENCE  # noqa: PLC0415 as above
        from opsqueue.producer.http_api import HttpBackend  # noqa: PLC0415 as above

        with ExitStack() as resources:
            api = HttpBackend(opsqueue_url, token=token, patience=WAIT_PATIENCE)
            resources.callback(api.close)
            store = open_store(with_options(object_store_url, object_store_options))
            resources.callback(store.close)
            self._set_up(
                api,
                store,
                queue=queue,
                at_once=at_once,
                inline_bytes=inline_bytes,
                codec=codec,
                allow_pickle=allow_pickle,
            )
            self._name = f"ProducerClient({api.url!r}, {store.url!r}, queue={queue!r})"
            self._resources = resources.pop_all()

    @classmethod
    def over(
        cls,
        api: Backend,
        store: ObjectStore,
        *,
        whole_bytes: int | None = None,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """Create a client from an existing back end and store; `close` does not close them.

        `whole_bytes` limits how much a retry of failed operations decodes at once, see
        `failed_operations`.
        """
        self = cls.__new__(cls)
        self._set_up(api, store, **options)
        self._name = f"ProducerClient.over({api!r}, {store.url!r}, queue={self.queue!r})"
        self._whole_bytes = whole_bytes
        self._resources = ExitStack()
        return self

    def _set_up(
        self,
        api: Backend,
        store: ObjectStore,
        *,
        queue: str = "default",
        at_once: int = DEFAULT_AT_ONCE,
        inline_bytes: int = INLINE_BYTES,
        codec: str | Codec = PRODUCER_CODEC,
        allow_pickle: bool = False,
    ) -> None:
        if at_once < 1:
            message = f"at_once is {at_once}: it counts objects, give 1 or more"
            raise InvalidArgumentError(message)
        self.threads = Threads()
        self._api = api
        self._has_answered = False
        self._store = store
        self._at_once = at_once
        self._allow_pickle = allow_pickle
        self._codec = (
            open_codec(codec, allow_pickle=allow_pickle) if isinstance(codec, str) else codec
        )
        self._inserter_of = partial(
            SubmissionInserter, store=store, at_once=at_once, inline_bytes=inline_bytes
        )
        self.queue = queue
        self._whole_bytes: int | None = None

    @property
    def queue(self) -> str:
        """The queue's name; assign another name to switch to that queue."""
        return self._on.name

    @queue.setter
    def queue(self, name: str) -> None:
        self._on = self._api.queue(name)
        self._inserter = self._inserter_of(self._on)

    def __repr__(self) -> str:
        """Show the URLs without credentials, and never the token."""
        return self._name

    def insert_submission(  # noqa: PLR0913 the options of a submission
        self,
        ops: Iterable[Any],
        *,
        chunk_size: int,
        serialization_format: SerializationFormat | None = None,
        metadata: bytes | None = None,
        strategic_metadata: Mapping[str, int] | None = None,
        max_attempts: int | None = None,
        max_failed_operations: float | None = None,
        backoff: Backoff = _AS_THE_QUEUE_HAS_IT,
        retention: timedelta | float | None = None,
        delete_inputs_at_completion: bool = False,
        idempotency_key: str | None = None,
    ) -> SubmissionId:
        """Upload operations as chunks, in parallel, and submit them without waiting for workers.

        Args:
            ops: any iterable. It is consumed once, with a few chunks in memory at a time. If it
                raises, nothing is submitted; an Exception becomes the cause of a
                ChunksStorageError.
            chunk_size: the number of operations in a chunk.
            serialization_format: used instead of the client's codec.
            metadata: opaque bytes for the handler.
            strategic_metadata: keys and numbers that strategies and look-ups read.
            max_attempts: how often each chunk is attempted. If it is not given, the queue's default
                applies (`opsqueue defaults`), else the API's, else 10. The same holds for the
                back-off and the retention.
            max_failed_operations: where the handler collects errors, how many operations may fail
                before the submission fails: a count (int), or a share of all (float, 0.0 to 1.0).
            backoff: the pauses between attempts. Either of them may be left out; the built-in
                default is 1 s, doubling to 60 s.
            retention: how long the submission is kept after its end: a timedelta or seconds. The
                built-in default is one day.
            delete_inputs_at_completion: delete the uploaded operations soon after the submission
                has completed; everything else is kept for its retention.
            idempotency_key: at most 255 printable characters. If a submission with this key was
                inserted in the last 24 hours, its id is returned and this upload is deleted.

        Raises:
            ChunkSizeIsZeroError, InvalidArgumentError: before anything is consumed; the latter also
                for a text, which is an iterable of its characters, and for a dict or a data frame,
                which are iterables of keys and column names.
            EncodingError: an operation can't be encoded; the message names it and its chunk.
            SubmissionForgottenError: the key's submission has ended and has been forgotten since.
            IdempotencyKeyReusedError: the key's submission has other options, another number of
                operations or, where both are small, other operations.
            ChunksStorageError: `ops` raised an exception.
            ApiUnavailableError: unless the API was never reached, the submission may or may not
                have been inserted. Call again with the same idempotency key.
        """
        if not is_whole(chunk_size) or chunk_size < 1:
            raise ChunkSizeIsZeroError(chunk_size)
        check_is_operations(ops)
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
        return self._insert(empty, ops, codec, idempotency_key)

    def _insert(
        self, empty: NewSubmission, ops: Iterable[Any], codec: Codec, idempotency_key: str | None
    ) -> SubmissionId:
        if idempotency_key is not None and not is_idempotency_key(idempotency_key):
            message = (
                f"idempotency key {idempotency_key[:80]!r}: 1 to 255 printable ASCII characters"
            )
            raise InvalidArgumentError(message)
        with spans.send(self.queue) as span:
            if not self._has_answered:
                # Find out before an hour of uploads, not after it, that the API is unreachable.
                self._api.version()
                self._check_store()
                self._has_answered = True
            # A retry by a caller without a trace stays in the trace of the first submission.
            empty = replace(empty, trace_context=current_carrier() or empty.trace_context)
            ops = _iterated(iter(ops))
            # Generate a key if none is given, so that repeating the request is safe.
            key = idempotency_key or own_idempotency_key()
            try:
                inserted = self._inserter.insert(empty, ops, codec, key)
            except SubmissionForgottenError as exc:
                if idempotency_key is not None:
                    raise
                # The key is ours, so this is our own submission: the answer was lost, and its
                # retention is over already.
                inserted = Inserted(id=exc.submission_id, is_new=True)
            span.note(spans.sent(inserted))
        if inserted.warning:
            _LOG.warning("submission %s: %s", inserted.id, inserted.warning)
        return inserted.id

    def _check_store(self) -> None:
        """Check, before anything is stored, that the API uses the same object store.

        Raises:
            NewObjectStoreClientError: the API uses another one.
        """
        expected = self._api.store_id
        if not expected:
            return
        try:
            found = read_store_id(self._store, self._store.url)
        except StoreUnavailableError:
            return  # small submissions need no store, and the first upload of others raises
        if found != expected:
            message = (
                f"{self._store.url} is not the object store of the API "
                f"({'its id is ' + found if found else 'it has no id'}, the API's is {expected}): "
                "give the URL that the API and the workers use, and mount the same disk"
            )
            raise NewObjectStoreClientError(message)
        self._store.store_id = found

    def run_submission(
        self,
        ops: Iterable[Any],
        *,
        errors: ErrorMode = "raise",
        **options: Unpack[SubmissionOptions],
    ) -> Batched[Any]:
        """Submit operations, block until all are done, and return the results in order, lazily.

        The options are those of `insert_submission`; the errors are those of `insert_submission`
        and `blocking_stream_completed_submission`. If the call is interrupted, the submission goes
        on.
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
        """Submit chunks that are bytes already; they are stored as they are.

        Args:
            chunk_contents: the chunks.
            chunk_size: how many operations each chunk holds. Backlog, progress and rates count by
                it. The chunks are not opened: the last one counts as full. The default is 1.
            options: those of `insert_submission`, except `serialization_format`.

        Raises:
            as `insert_submission`.
        """
        return self.insert_submission(
            chunk_contents,
            chunk_size=1 if chunk_size is None else chunk_size,
            serialization_format=RAW,
            **options,
        )

    def run_submission_chunks(
        self,
        chunk_contents: Iterable[bytes],
        *,
        chunk_size: int | None = None,
        **options: Unpack[ChunksOptions],
    ) -> Batched[bytes]:
        """Submit chunks, block until all are done, and return their outputs as bytes, in order."""
        submission_id = self.insert_submission_chunks(
            chunk_contents, chunk_size=chunk_size, **options
        )
        return self.blocking_stream_completed_submission_chunks(submission_id)

    async def async_run_submission_chunks(
        self,
        chunk_contents: Iterable[bytes] | AsyncIterable[bytes],
        *,
        chunk_size: int | None = None,
        **options: Unpack[ChunksOptions],
    ) -> AsyncIterator[bytes]:
        """Do what `run_submission_chunks` does."""
        submission_id = await self.async_insert_submission_chunks(
            chunk_contents, chunk_size=chunk_size, **options
        )
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
        """Resume a failed or cancelled submission, or submit only its failed operations again.

        Without `only`, the submission is in progress again. Its finished chunks stay finished,
        including the errors of their operations. Its `max_failed_operations` no longer applies.

        With `only`, a new submission of the operations that have an error, in their order, is
        inserted, and its id returned. It has all settings of the old one except
        `max_failed_operations`. It does not contain operations that were dropped. The old
        submission stays as it is.

        Args:
            submission_id: a failed or cancelled submission; with `only` also a completed one.
            only: "failed".
            max_failed_operations: of the new submission; it is not copied from the old one.
            idempotency_key: of the new submission. Without one, the same call returns the same new
                submission for 24 hours. The old one is gone by then, unless its retention is
                longer.

        Raises:
            SubmissionNotFoundError, SubmissionNotRetryableError.
            SubmissionNotCompletedYetError: with `only`, if the submission is in progress.
            InvalidArgumentError: with `only`, if none of its operations failed.
        """
        if only is None:
            if max_failed_operations is not None or idempotency_key is not None:
                message = "max_failed_operations and idempotency_key need only='failed'"
                raise InvalidArgumentError(message)
            self._on.retry_submission(SubmissionId(submission_id))
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
        key = idempotency_key or idempotency_key_of_retry(old.id, old.operations_failed)
        return self._insert(empty, ops, codec, key)

    # Existing submissions

    def get_submission(self, submission_id: SubmissionId) -> Submission:
        """Return a submission as it is now.

        Raises:
            SubmissionNotFoundError: also after its retention.
        """
        return self._on.get_submission(SubmissionId(submission_id))

    def get_submission_status(self, submission_id: SubmissionId) -> SubmissionStatus | None:
        """Return a submission's state as a class, such as SubmissionStatus.InProgress.

        None if the queue has no submission of this id.
        """
        try:
            return status_of(self.get_submission(submission_id))
        except SubmissionNotFoundError:
            return None

    def is_completed(self, submission_id: SubmissionId) -> bool:
        """Return whether all chunks of a submission are done.

        Raises:
            SubmissionNotFoundError.
        """
        return self.get_submission(submission_id).state is SubmissionState.COMPLETED

    def wait_for_submission(
        self, submission_id: SubmissionId, *, timeout: float | None = None
    ) -> Submission:
        """Block until a submission has ended, in whatever state, and return it.

        Args:
            submission_id: its id.
            timeout: seconds; None waits as long as it takes. If the API does not answer, requests
                are repeated for about a minute before ApiUnavailableError is raised.

        Raises:
            TimeoutError: the submission is still in progress.
            SubmissionNotFoundError: also if the submission was cleaned up meanwhile.
        """
        waiting = self._waiting(submission_id, timeout)
        with spans.wait(self.queue, submission_id):
            while (submission := waiting.turn()) is None:
                pass
        return submission

    async def async_wait_for_submission(
        self,
        submission_id: SubmissionId,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 as above
    ) -> Submission:
        """Do what `wait_for_submission` does; any number may wait at once."""
        waiting = self._waiting(submission_id, timeout)
        with spans.wait(self.queue, submission_id):
            return await self.threads.wait(waiting.turn, turn_s=LONG_POLL_S)

    def _waiting(self, submission_id: SubmissionId, timeout: float | None) -> Waiting:
        return Waiting(self._on, SubmissionId(submission_id), timeout=timeout)

    def cancel_submission(self, submission_id: SubmissionId) -> None:
        """Cancel a submission in progress: chunks that are not done are dropped.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        self._on.cancel_submission(SubmissionId(submission_id))

    def update_strategic_metadata(
        self, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> None:
        """Change strategic metadata while a submission is in progress, such as its priority.

        Args:
            submission_id: its id.
            changes: new values by key; None removes a key. Other keys keep their values.

        Raises:
            InvalidArgumentError: a key or value is invalid, or there are too many pairs.
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        self._on.update_metadata(SubmissionId(submission_id), changes)

    def lookup_submission_ids_by_strategic_metadata(
        self,
        strategic_metadata: Mapping[str, int],
        *,
        states: Iterable[SubmissionState] = (SubmissionState.IN_PROGRESS,),
        limit: int = MAX_LOOKED_UP,
    ) -> list[SubmissionId]:
        """Return the ids of all submissions that have all these pairs, ascending.

        Args:
            strategic_metadata: the pairs; an empty mapping matches all submissions.
            states: the states to look in.
            limit: at most MAX_LOOKED_UP.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """
        return self._on.lookup_submissions(strategic_metadata, states=states, limit=limit)

    def lookup_submission_id_by_prefix(self, prefix: str) -> SubmissionId | None:
        """Return the submission whose contents lie below a prefix of the object store."""
        return self._on.lookup_prefix(prefix)

    def list_submissions(
        self, wanted: SubmissionFilter | None = None, *, order: Order = "newest"
    ) -> Batched[Submission]:
        """Yield the matching submissions by creation, requesting the next page when needed."""
        return Batched(self._pages(wanted or SubmissionFilter(), order))

    async def async_list_submissions(
        self, wanted: SubmissionFilter | None = None, *, order: Order = "newest"
    ) -> AsyncIterator[Submission]:
        """Do what `list_submissions` does."""
        async for submission in each(self.list_submissions(wanted, order=order), self.threads):
            yield submission

    def _pages(
        self, wanted: SubmissionFilter, order: Order
    ) -> Generator[Iterable[Submission], None, None]:
        after: SubmissionId | None = None
        while True:
            page = self._on.list_submissions(wanted, after=after, order=order, limit=100)
            yield page.submissions
            if page.next in (None, after):
                return
            after = page.next

    def count_submissions(self) -> int:
        """Count the queue's submissions in progress."""
        return self._on.count_queue().submissions[SubmissionState.IN_PROGRESS]

    def server_version(self) -> str:
        """Return the API's version."""
        return self._api.version()

    # Results in order

    def blocking_stream_completed_submission(
        self,
        submission_id: SubmissionId,
        *,
        serialization_format: SerializationFormat | None = None,
        errors: ErrorMode = "raise",
    ) -> Batched[Any]:
        """Block until a submission has completed, then return its results in order, lazily.

        Args:
            submission_id: its id.
            serialization_format: used instead of the recorded codec.
            errors: how failed operations appear, where the handler collects errors. "raise" raises
                OperationFailedError in the place of the first one, "yield" yields an
                OperationFailed in the place of each, "skip" omits them.

        Raises at the call:
            SubmissionFailedError, SubmissionCancelledError, SubmissionNotFoundError.
        """
        check_error_mode(errors)
        submission = self.wait_for_submission(submission_id)
        return self._results_of(submission, errors, serialization_format)

    async def async_stream_completed_submission(
        self,
        submission_id: SubmissionId,
        *,
        serialization_format: SerializationFormat | None = None,
        errors: ErrorMode = "raise",
    ) -> AsyncIterator[Any]:
        """Do what `blocking_stream_completed_submission` does."""
        check_error_mode(errors)
        submission = await self.async_wait_for_submission(submission_id)
        results = self._results_of(submission, errors, serialization_format)
        return each(results, self.threads)

    def try_stream_completed_submission(
        self,
        submission_id: SubmissionId,
        *,
        serialization_format: SerializationFormat | None = None,
        errors: ErrorMode = "raise",
    ) -> Batched[Any]:
        """Return a completed submission's results in order, lazily; do not wait.

        The arguments are those of `blocking_stream_completed_submission`.

        Raises at the call:
            SubmissionNotCompletedYetError, SubmissionFailedError, SubmissionCancelledError,
            SubmissionNotFoundError.
        """
        check_error_mode(errors)
        submission = self.get_submission(submission_id)
        return self._results_of(submission, errors, serialization_format)

    # Results as they come

    def iter_results(
        self,
        submission_id: SubmissionId,
        *,
        ordered: bool = True,
        start: int = 0,
        errors: ErrorMode = "raise",
    ) -> Batched[Any]:
        """Yield results while the submission still runs, chunk by chunk, each when it is done.

        Args:
            submission_id: its id.
            ordered: yield in the order of the operations; otherwise in the order in which chunks
                are done.
            start: the first chunk. Pass the chunk where an earlier reader stopped to go on from
                there, see `iter_chunk_results`.
            errors: as in `blocking_stream_completed_submission`.

        Raises while iterating:
            SubmissionFailedError, SubmissionCancelledError: after all available results.
            SubmissionNotFoundError, InvalidArgumentError (there is no such chunk).
        """
        chunks = self._follow(submission_id, ordered=ordered, start=start, errors=errors)
        return Batched(results for batch in chunks for _, results in batch or [(0, ())])

    def iter_chunk_results(
        self,
        submission_id: SubmissionId,
        *,
        ordered: bool = True,
        start: int = 0,
        errors: ErrorMode = "raise",
    ) -> Batched[ChunkResults]:
        """Yield the results of `iter_results` by chunk, with its index, to resume later."""
        chunks = self._follow(submission_id, ordered=ordered, start=start, errors=errors)
        return Batched(
            tuple(ChunkResults(index, list(results)) for index, results in batch)
            for batch in chunks
        )

    def _follow(
        self, submission_id: SubmissionId, *, ordered: bool, start: int, errors: ErrorMode
    ) -> Iterator[Iterable[tuple[int, Iterable[Any]]]]:
        check_error_mode(errors)
        submission = self.get_submission(submission_id)
        codec = self._codec_of(submission.codec, None)
        follow = chunks_in_order if ordered else chunks_as_they_come
        for indexes in follow(self._on, submission.id, start=start):
            by_chunk = results_by_chunk(
                self._reader_of(submission),
                submission,
                codec=codec,
                errors=errors,
                chunk_indexes=indexes,
                at_once=self._at_once,
            )
            yield zip(indexes, by_chunk, strict=True)

    # Results of what is done

    def partial_results(
        self,
        submission_id: SubmissionId,
        *,
        start: int = 0,
        errors: ErrorMode = "yield",
        serialization_format: SerializationFormat | None = None,
    ) -> Batched[tuple[int, Any]]:
        """Return the results of the chunks that are done, in whatever state the submission is.

        Args:
            submission_id: its id.
            start: the first chunk.
            errors: as in `blocking_stream_completed_submission`, but "yield" is the default.
            serialization_format: used instead of the recorded codec.

        Returns pairs of an operation's index, which is its position in the submission, and its
        result, in the order of the operations, lazily. For a submission in progress these are the
        chunks that are done at the time of reading; for a completed one they are all. The method
        does not wait.

        Raises at the call:
            SubmissionNotFoundError.

        Raises while iterating:
            InvalidArgumentError: the submission has no chunk `start`.
        """
        check_error_mode(errors)
        submission = self.get_submission(submission_id)
        codec = self._codec_of(submission.codec, serialization_format)
        return Batched(
            results
            for indexes in chunks_done(self._on, submission.id, start=start)
            for results in indexed_results(
                self._reader_of(submission),
                submission,
                indexes,
                codec=codec,
                errors=errors,
                at_once=self._at_once,
            )
        )

    # Chunks as bytes

    def blocking_stream_completed_submission_chunks(
        self, submission_id: SubmissionId
    ) -> Batched[bytes]:
        """Block until a submission has completed, then return its outputs as bytes, in order."""
        return self._outputs_of(self.wait_for_submission(submission_id))

    async def async_stream_completed_submission_chunks(
        self, submission_id: SubmissionId
    ) -> AsyncIterator[bytes]:
        """Do what `blocking_stream_completed_submission_chunks` does."""
        outputs = self._outputs_of(await self.async_wait_for_submission(submission_id))
        return each(outputs, self.threads)

    def try_stream_completed_submission_chunks(self, submission_id: SubmissionId) -> Batched[bytes]:
        """Return a completed submission's outputs as bytes, in order; do not wait."""
        return self._outputs_of(self.get_submission(submission_id))

    # Errors of single operations

    def iter_errors(self, submission_id: SubmissionId) -> Batched[OperationFailed]:
        """Yield the errors of single operations in order, lazily.

        These are the errors in finished chunks; the submission may be in any state.

        Raises at the call:
            SubmissionNotFoundError.
        """
        submission = self.get_submission(submission_id)
        by_chunk = errors_by_chunk(
            self._reader_of(submission),
            submission,
            self._chunks_with_errors(submission),
            at_once=self._at_once,
        )
        return Batched(errors for errors in by_chunk)

    def _chunks_with_errors(self, submission: Submission) -> Iterator[int]:
        if submission.operations_failed == 0:
            return iter(())
        return all_pages(partial(self._on.chunks_with_errors, submission.id))

    def _results_of(
        self, submission: Submission, errors: ErrorMode, given: SerializationFormat | None
    ) -> Batched[Any]:
        check_completed(submission)
        codec = self._codec_of(submission.codec, given)
        by_chunk = results_by_chunk(
            self._reader_of(submission),
            submission,
            codec=codec,
            errors=errors,
            at_once=self._at_once,
        )
        return Batched(results for results in by_chunk)

    def _outputs_of(self, submission: Submission) -> Batched[bytes]:
        check_completed(submission)
        reader = self._reader_of(submission)
        codec = RAW.as_in(submission.codec)
        outputs = results_by_chunk(reader, submission, codec=codec, at_once=self._at_once)
        return Batched(cast(Iterator[bytes], output) for output in outputs)

    def _reader_of(self, submission: Submission) -> Readable:
        return reader_of(submission, self._store, self._on.inline_contents)

    def _codec_of(self, name: str, given: SerializationFormat | None) -> Codec:
        """Choose the codec to decode with: the given one, else the client's, else the recorded."""
        if given is None and is_raw(name):
            given = DEFAULT_SERIALIZATION_FORMAT
        if given is not None:
            return codec_of_format(given).as_in(name)
        if name == self._codec.name:
            return self._codec
        return open_codec(name, allow_pickle=self._allow_pickle)

    def close(self) -> None:
        """Close the connections; may be called again."""
        self.threads.close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Asynchronous forms of methods that run in a thread

    async_insert_submission = fed_in_thread(insert_submission)
    async_insert_submission_chunks = fed_in_thread(insert_submission_chunks)
    async_retry_submission = in_thread(retry_submission)
    async_get_submission = in_thread(get_submission)
    async_get_submission_status = in_thread(get_submission_status)
    async_is_completed = in_thread(is_completed)
    async_cancel_submission = in_thread(cancel_submission)
    async_update_strategic_metadata = in_thread(update_strategic_metadata)
    async_lookup_submission_ids_by_strategic_metadata = in_thread(
        lookup_submission_ids_by_strategic_metadata
    )
    async_lookup_submission_id_by_prefix = in_thread(lookup_submission_id_by_prefix)
    async_count_submissions = in_thread(count_submissions)
    async_server_version = in_thread(server_version)
    async_try_stream_completed_submission = streamed(try_stream_completed_submission)
    async_try_stream_completed_submission_chunks = streamed(try_stream_completed_submission_chunks)
    async_iter_results = streamed(iter_results)
    async_iter_chunk_results = streamed(iter_chunk_results)
    async_partial_results = streamed(partial_results)
    async_iter_errors = streamed(iter_errors)


def _iterated(ops: Iterator[Any]) -> Iterator[Any]:
    """Yield operations, and raise an exception of their iterable as a ChunksStorageError.

    Errors of opsqueue and exceptions that end a program are raised as they are.
    """
    try:
        yield from ops
    except (OpsqueueError, GeneratorExit):
        raise
    except Exception as exc:
        message = (
            f"the iterable of operations raised {type(exc).__name__}: {exc}; nothing was submitted"
        )
        raise ChunksStorageError(message) from exc
