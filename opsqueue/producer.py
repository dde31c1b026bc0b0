"""The producer's client: hands in submissions, waits for them, streams their results.

Contents go to the object store directly; the API hears only of where they are. Decisions are here,
I/O is the store's and that of a `SubmissionApi`, which is also the seam for tests.
"""

from __future__ import annotations

import logging
import random
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, overload

from opsqueue.codec import DEFAULT_CODEC, Codec, open_codec
from opsqueue.contents import (
    ErrorMode,
    all_pages,
    check_completed,
    check_error_mode,
    discard,
    errors_by_chunk,
    failed_operations,
    fresh_prefix,
    results_by_chunk,
    store_operations,
)
from opsqueue.exceptions import (
    ChunkSizeIsZeroError,
    IncorrectUsageError,
    InvalidArgumentError,
    SubmissionNotFoundError,
)
from opsqueue.http_api import HttpApi
from opsqueue.keys import check_queue_name
from opsqueue.output import OperationFailed
from opsqueue.readings import MAX_LOOKED_UP
from opsqueue.retry import check_only, empty_retry_of
from opsqueue.store import ObjectStore, open_store
from opsqueue.store.parallel import DEFAULT_AT_ONCE
from opsqueue.submission import (
    Backoff,
    NewSubmission,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.submission_api import Order, SubmissionApi

__all__ = [
    "Backoff",
    "OperationFailed",
    "ProducerClient",
    "Submission",
    "SubmissionId",
    "SubmissionState",
]

_LONG_POLL_S: Final = 30.0
"""One request's wait: below what proxies cut off, often 60 s."""

_FIRST_POLL_S: Final = 5.0
"""Then whoever waits is told if there is no worker."""

_LOG: Final = logging.getLogger("opsqueue.producer")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_DEFAULT_BACKOFF: Final = Backoff()


class ProducerClient:
    """Hands in submissions to one queue; may be used from several threads.

    Args:
        api_url: where `opsqueue-api` listens: http://host:3999, https://…, or host:port.
        store_url: the object store, the one that workers and API have.
        queue: the queue's name.
        token: of the API, if it asks for one.
        at_once: objects up- or downloaded in parallel, and read ahead.
        codec: how chunks are encoded; its name is recorded with each submission.
        allow_pickle: let the codec `pickle` be used, also for results: it runs code of whoever can
            write to the store.

    Nothing is asked of the API before the first call. Every call raises ApiUnavailableError when
    the API does not answer after some repetitions, and StoreUnavailableError likewise.

    Raises:
        InvalidArgumentError: of the arguments.
        NewObjectStoreClientError: the store's URL can't be used, or its extra is not installed.
    """

    def __init__(
        self,
        api_url: str,
        store_url: str,
        *,
        queue: str = "default",
        token: str | None = None,
        at_once: int = DEFAULT_AT_ONCE,
        codec: str | Codec = DEFAULT_CODEC,
        allow_pickle: bool = False,
    ) -> None:
        with ExitStack() as resources:
            api = HttpApi(api_url, token=token)
            resources.callback(api.close)
            store = open_store(store_url)
            resources.callback(store.close)
            self._assemble(
                api, store, queue=queue, at_once=at_once, codec=codec, allow_pickle=allow_pickle
            )
            self._name = f"ProducerClient({api.url!r}, {store.url!r}, queue={queue!r})"
            self._resources = resources.pop_all()

    @classmethod
    def over(
        cls,
        api: SubmissionApi,
        store: ObjectStore,
        *,
        queue: str = "default",
        at_once: int = DEFAULT_AT_ONCE,
        codec: str | Codec = DEFAULT_CODEC,
        allow_pickle: bool = False,
    ) -> Self:
        """Make a client of parts that are there already; `close` leaves them to the caller."""
        self = cls.__new__(cls)
        self._assemble(
            api, store, queue=queue, at_once=at_once, codec=codec, allow_pickle=allow_pickle
        )
        self._name = f"ProducerClient.over({api!r}, {store.url!r}, queue={queue!r})"
        self._resources = ExitStack()
        return self

    def _assemble(
        self,
        api: SubmissionApi,
        store: ObjectStore,
        *,
        queue: str,
        at_once: int,
        codec: str | Codec,
        allow_pickle: bool,
    ) -> None:
        if at_once < 1:
            message = f"at_once is {at_once}: it counts objects, give 1 or more"
            raise InvalidArgumentError(message)
        self.queue = check_queue_name(queue)
        self._api = api
        self._store = store
        self._at_once = at_once
        self._allow_pickle = allow_pickle
        self._codec = (
            open_codec(codec, allow_pickle=allow_pickle) if isinstance(codec, str) else codec
        )
        self._has_reached_api = False

    def __repr__(self) -> str:
        """URLs without credentials, never the token."""
        return self._name

    def insert_submission(
        self,
        ops: Iterable[Any],
        *,
        chunk_size: int,
        metadata: bytes | None = None,
        strategic_metadata: Mapping[str, int] | None = None,
        max_attempts: int = 10,
        max_failed_operations: float | None = None,
        backoff: Backoff = _DEFAULT_BACKOFF,
        idempotency_key: str | None = None,
    ) -> SubmissionId:
        """Upload operations as chunks, in parallel, and hand them in; does not wait for workers.

        Args:
            ops: any iterable, consumed once, a few chunks in memory at a time. What it raises,
                KeyboardInterrupt too, is raised here, and nothing is handed in.
            chunk_size: operations a chunk.
            metadata: opaque bytes for the handler.
            strategic_metadata: what strategies and look-ups read.
            max_attempts: of each chunk.
            max_failed_operations: where the handler collects errors, how many operations may fail
                before the submission does: a count (int), or a share of all (float, 0.0 to 1.0).
            backoff: between attempts.
            idempotency_key: at most 255 printable characters. A submission with this key that is
                there already (24 hours) is given instead, and this upload deleted.

        Raises:
            ChunkSizeIsZeroError, InvalidArgumentError: before anything is consumed.
            EncodingError: names chunk and operation.
            ApiUnavailableError: whether it was handed in is then not known, except when the API
                was never reached: repeat with the same idempotency key.
        """
        if chunk_size < 1:
            raise ChunkSizeIsZeroError(chunk_size)
        empty = NewSubmission(
            prefix=fresh_prefix(self.queue),
            chunks_total=0,
            chunk_size=chunk_size,
            operations_total=0,
            codec=self._codec.name,
            max_attempts=max_attempts,
            max_failed_operations=max_failed_operations,
            backoff=backoff,
            metadata=metadata,
            strategic_metadata=dict(strategic_metadata or {}),
        )
        return self._store_and_hand_in(empty, ops, self._codec, idempotency_key)

    def _store_and_hand_in(
        self, empty: NewSubmission, ops: Iterable[Any], codec: Codec, idempotency_key: str | None
    ) -> SubmissionId:
        """Store operations under the prefix of a submission that has none yet, and hand it in."""
        if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            message = (
                f"idempotency key {idempotency_key[:80]!r}: 1 to 255 printable ASCII characters"
            )
            raise InvalidArgumentError(message)
        self._reach_api()
        stored = store_operations(
            self._store,
            ops,
            prefix=empty.prefix,
            chunk_size=empty.chunk_size,
            codec=codec,
            at_once=self._at_once,
        )
        new = replace(
            empty, chunks_total=stored.chunks_total, operations_total=stored.operations_total
        )
        # With a key of our own where none is given, so that a repeated request is safe.
        return self._hand_in(new, idempotency_key or uuid.uuid4().hex)

    def _hand_in(self, new: NewSubmission, idempotency_key: str) -> SubmissionId:
        try:
            submission = self._api.insert(self.queue, new, idempotency_key)
        except IncorrectUsageError:
            # Only a refusal: after a lost answer a submission may be using these objects.
            discard(self._store, new.prefix)
            raise
        if submission.prefix != new.prefix:
            discard(self._store, new.prefix)
        return submission.id

    def _reach_api(self) -> None:
        """Find out that nobody listens before an hour of uploads, not after; once a client."""
        if not self._has_reached_api:
            self._api.version()
            self._has_reached_api = True

    def run_submission(  # noqa: PLR0913 those of both calls that it is made of
        self,
        ops: Iterable[Any],
        *,
        chunk_size: int,
        metadata: bytes | None = None,
        strategic_metadata: Mapping[str, int] | None = None,
        max_attempts: int = 10,
        max_failed_operations: float | None = None,
        backoff: Backoff = _DEFAULT_BACKOFF,
        idempotency_key: str | None = None,
        errors: ErrorMode = "raise",
    ) -> Iterator[Any]:
        """Hand operations in, block until all are done, give the results in order, lazily.

        Takes what `insert_submission` takes; raises what it and
        `blocking_stream_completed_submission` raise. Interrupting it leaves the submission running.
        """
        submission_id = self.insert_submission(
            ops,
            chunk_size=chunk_size,
            metadata=metadata,
            strategic_metadata=strategic_metadata,
            max_attempts=max_attempts,
            max_failed_operations=max_failed_operations,
            backoff=backoff,
            idempotency_key=idempotency_key,
        )
        return self.blocking_stream_completed_submission(submission_id, errors=errors)

    def blocking_stream_completed_submission(
        self, submission_id: SubmissionId, *, errors: ErrorMode = "raise"
    ) -> Iterator[Any]:
        """Block until a submission completed, then give its results in order, lazily.

        Args:
            submission_id: its id.
            errors: how operations that failed are seen, where the handler collects errors. "raise"
                raises OperationFailedError in the place of the first, "yield" gives an
                OperationFailed in the place of each, "skip" leaves them out.

        Raises at the call:
            SubmissionFailedError, SubmissionCancelledError, SubmissionNotFoundError.
        """
        check_error_mode(errors)
        return self._results_of(self.wait_for_submission(submission_id), errors)

    def try_stream_completed_submission(
        self, submission_id: SubmissionId, *, errors: ErrorMode = "raise"
    ) -> Iterator[Any]:
        """Give a completed submission's results in order, lazily; does not wait.

        `errors` as in `blocking_stream_completed_submission`.

        Raises at the call:
            SubmissionNotCompletedYetError, SubmissionFailedError, SubmissionCancelledError,
            SubmissionNotFoundError.
        """
        check_error_mode(errors)
        return self._results_of(self._api.get(self.queue, SubmissionId(submission_id)), errors)

    def iter_errors(self, submission_id: SubmissionId) -> Iterator[OperationFailed]:
        """Give the errors of single operations in order, lazily; of finished chunks, in any state.

        Raises at the call:
            SubmissionNotFoundError.
        """
        submission = self._api.get(self.queue, SubmissionId(submission_id))
        by_chunk = errors_by_chunk(
            self._store, submission, self._chunks_with_errors(submission), at_once=self._at_once
        )
        return (failed for errors in by_chunk for failed in errors)

    def _chunks_with_errors(self, submission: Submission) -> Iterator[int]:
        if submission.operations_failed == 0:
            return iter(())
        return all_pages(partial(self._api.chunks_with_errors, self.queue, submission.id))

    def wait_for_submission(
        self, submission_id: SubmissionId, *, timeout: float | None = None
    ) -> Submission:
        """Block until a submission has ended, in whatever state, and give it.

        Args:
            submission_id: its id.
            timeout: seconds; None waits as long as it takes. An API that does not answer is asked
                again for about a minute each time.

        Raises:
            TimeoutError: it is still in progress.
            SubmissionNotFoundError: also when it was cleaned up meanwhile.
        """
        submission_id = SubmissionId(submission_id)
        deadline = None if timeout is None else time.monotonic() + timeout
        poll_s = _FIRST_POLL_S
        while True:
            asked_at = time.monotonic()
            left_s = poll_s if deadline is None else deadline - asked_at
            wait_s = max(0.0, min(poll_s, left_s))
            submission = self._api.get(self.queue, submission_id, wait_s)
            if submission.state is not SubmissionState.IN_PROGRESS:
                return submission
            if left_s <= 0:
                message = (
                    f"submission {submission_id} is still in progress after {timeout} s: "
                    f"{submission.chunks_done:,} of {submission.chunks_total:,} chunks are done"
                )
                raise TimeoutError(message)
            if poll_s == _FIRST_POLL_S:
                self._warn_if_nobody_works(submission)
                poll_s = _LONG_POLL_S
            if time.monotonic() - asked_at < wait_s / 2:
                # The API has no room for waiting just now, or is stopping: don't spin.
                time.sleep(min(wait_s, random.uniform(0.5, 1.0)))  # noqa: S311 jitter

    def _warn_if_nobody_works(self, submission: Submission) -> None:
        """Say why nothing happens, if it is for want of workers; a typo in a name does that."""
        if submission.chunks_done == 0 and self._api.count(self.queue).workers == 0:
            _LOG.warning(
                "submission %s waits: no worker serves queue %r; is that its right name, and is "
                "opsqueue-worker running?",
                submission.id,
                self.queue,
            )

    def get_submission_status(self, submission_id: SubmissionId) -> Submission | None:
        """Give a submission as it is now; None when the queue has none of this id."""
        try:
            return self._api.get(self.queue, SubmissionId(submission_id))
        except SubmissionNotFoundError:
            return None

    def cancel_submission(self, submission_id: SubmissionId) -> None:
        """Drop what is left of a submission in progress.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        self._api.cancel(self.queue, SubmissionId(submission_id))

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
        error, in order. It has chunk size, codec, metadata and number of attempts of the old one,
        which stays as it is. Operations that were dropped are not in it.

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
        old = self._api.get(self.queue, SubmissionId(submission_id))
        empty = empty_retry_of(
            old, prefix=fresh_prefix(self.queue), max_failed_operations=max_failed_operations
        )
        codec = self._codec_of(old.codec)
        ops = failed_operations(
            self._store, old, self._chunks_with_errors(old), codec=codec, at_once=self._at_once
        )
        # With the number: after a retry of the old one in place, more of it may have failed.
        key = idempotency_key or f"retry-failed-{old.id}-{old.operations_failed}"
        return self._store_and_hand_in(empty, ops, codec, key)

    def update_strategic_metadata(
        self, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> None:
        """Change strategic metadata while a submission is in progress, such as its priority.

        Args:
            submission_id: its id.
            changes: new values; None removes a key, what is not named stays.

        Raises:
            InvalidArgumentError: a key or value that can't be one, or too many pairs.
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        self._api.update_metadata(self.queue, SubmissionId(submission_id), changes)

    def lookup_submission_ids_by_strategic_metadata(
        self,
        strategic_metadata: Mapping[str, int],
        *,
        states: Iterable[SubmissionState] = (SubmissionState.IN_PROGRESS,),
        limit: int = MAX_LOOKED_UP,
    ) -> list[SubmissionId]:
        """Give the ids of all submissions that have all these pairs, ascending.

        Args:
            strategic_metadata: the pairs; none: all submissions.
            states: that they may be in.
            limit: at most MAX_LOOKED_UP.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """
        return self._api.lookup(self.queue, strategic_metadata, states=states, limit=limit)

    def lookup_submission_id_by_prefix(self, prefix: str) -> SubmissionId | None:
        """Give the submission whose contents lie below a prefix of the object store."""
        return self._api.lookup_prefix(self.queue, prefix)

    def list_submissions(
        self,
        wanted: SubmissionFilter | None = None,
        *,
        order: Order = "newest",
    ) -> Iterator[Submission]:
        """Yield the submissions that fit, by creation, asking for the next page when needed."""
        after: SubmissionId | None = None
        while True:
            page = self._api.list(
                self.queue, wanted or SubmissionFilter(), after=after, order=order, limit=100
            )
            yield from page.submissions
            after = page.next
            if after is None:
                return

    def count_submissions(self) -> int:
        """Count the queue's submissions in progress."""
        return self._api.count(self.queue).submissions[SubmissionState.IN_PROGRESS]

    def server_version(self) -> str:
        """Give the API's version."""
        return self._api.version()

    def close(self) -> None:
        """Give connections back; may be repeated."""
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

    def _results_of(self, submission: Submission, errors: ErrorMode) -> Iterator[Any]:
        check_completed(submission)
        codec = self._codec_of(submission.codec)
        by_chunk = results_by_chunk(
            self._store, submission, codec=codec, errors=errors, at_once=self._at_once
        )
        return (result for results in by_chunk for result in results)

    def _codec_of(self, name: str) -> Codec:
        """Give the codec that a submission names: our own, maybe a custom one, or another."""
        if name == self._codec.name:
            return self._codec
        return open_codec(name, allow_pickle=self._allow_pickle)
