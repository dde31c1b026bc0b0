"""Reading what became of submissions: results in order or as they come, outputs, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from opsqueue.common import DEFAULT_SERIALIZATION_FORMAT, SerializationFormat
from opsqueue.contents.chunks import (
    ErrorMode,
    all_pages,
    check_completed,
    check_error_mode,
    errors_by_chunk,
    results_by_chunk,
)
from opsqueue.contents.codec import RAW, Codec, open_codec
from opsqueue.contents.formats import codec_of_format
from opsqueue.contents.inline import reader_of
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.producer.aio import Batched, each, streamed
from opsqueue.producer.backends import SubmissionApi
from opsqueue.producer.follow import chunks_as_they_come, chunks_in_order
from opsqueue.producer.submission_client import SubmissionClient
from opsqueue.store import ObjectStore, Readable


@dataclass(frozen=True, slots=True)
class ChunkResults:
    """A chunk's results: those of operations index * chunk_size and on."""

    index: int
    results: list[Any]


class ResultsClient(SubmissionClient):
    """Reads the results of one queue's submissions; may be used from several threads.

    Args:
        api: to ask.
        store: that has the contents.
        queue: the queue's name.
        at_once: objects read ahead.
        codec: the client's own; others are opened by the name that a submission records.
        allow_pickle: let results be read by the codec `pickle`.
    """

    def __init__(
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
        super().__init__(api, queue)
        self._store = store
        self._at_once = at_once
        self._allow_pickle = allow_pickle
        self._codec = (
            open_codec(codec, allow_pickle=allow_pickle) if isinstance(codec, str) else codec
        )

    def blocking_stream_completed_submission(
        self,
        submission_id: SubmissionId,
        *,
        serialization_format: SerializationFormat | None = None,
        errors: ErrorMode = "raise",
    ) -> Batched[Any]:
        """Block until a submission completed, then give its results in order, lazily.

        Args:
            submission_id: its id.
            serialization_format: in place of the recorded codec.
            errors: how operations that failed are seen, where the handler collects errors. "raise"
                raises OperationFailedError in the place of the first, "yield" gives an
                OperationFailed in the place of each, "skip" leaves them out.

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
        """Give a completed submission's results in order, lazily; does not wait.

        Arguments as of `blocking_stream_completed_submission`.

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
        """Give results while the submission still runs, chunk by chunk, each when it is done.

        Args:
            submission_id: its id.
            ordered: in the order of the operations; otherwise as the chunks are done.
            start: the first chunk; where an earlier reader stopped, see `iter_chunk_results`.
            errors: as in `blocking_stream_completed_submission`.

        Raises while iterating:
            SubmissionFailedError, SubmissionCancelledError: after the results that are there.
            SubmissionNotFoundError, InvalidArgumentError (it has no such chunk).
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
        """Give what `iter_results` gives, by the chunk and with its index: to go on later."""
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
        for indexes in follow(self._api, self.queue, submission.id, start=start):
            by_chunk = results_by_chunk(
                self._reader_of(submission),
                submission,
                codec=codec,
                errors=errors,
                chunk_indexes=indexes,
                at_once=self._at_once,
            )
            yield zip(indexes, by_chunk, strict=True)

    # Chunks as bytes

    def blocking_stream_completed_submission_chunks(
        self, submission_id: SubmissionId
    ) -> Batched[bytes]:
        """Block until a submission completed, then give its chunks' outputs as bytes, in order."""
        return self._outputs_of(self.wait_for_submission(submission_id))

    async def async_stream_completed_submission_chunks(
        self, submission_id: SubmissionId
    ) -> AsyncIterator[bytes]:
        """Do what `blocking_stream_completed_submission_chunks` does."""
        outputs = self._outputs_of(await self.async_wait_for_submission(submission_id))
        return each(outputs, self.threads)

    def try_stream_completed_submission_chunks(self, submission_id: SubmissionId) -> Batched[bytes]:
        """Give a completed submission's outputs as bytes, in order; does not wait."""
        return self._outputs_of(self.get_submission(submission_id))

    # Errors of single operations

    def iter_errors(self, submission_id: SubmissionId) -> Batched[OperationFailed]:
        """Give the errors of single operations in order, lazily; of finished chunks, in any state.

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
        return all_pages(partial(self._api.chunks_with_errors, self.queue, submission.id))

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
        outputs = results_by_chunk(reader, submission, codec=RAW, at_once=self._at_once)
        return Batched(cast(Iterator[bytes], output) for output in outputs)

    def _reader_of(self, submission: Submission) -> Readable:
        return reader_of(submission, self._store, partial(self._api.inline_contents, self.queue))

    def _codec_of(self, name: str, given: SerializationFormat | None) -> Codec:
        """Give the codec to read by: what is asked for, our own, maybe a custom one, or another."""
        if given is None and name == RAW.name:
            given = DEFAULT_SERIALIZATION_FORMAT
        if given is not None:
            return codec_of_format(given)
        if name == self._codec.name:
            return self._codec
        return open_codec(name, allow_pickle=self._allow_pickle)

    async_try_stream_completed_submission = streamed(try_stream_completed_submission)
    async_try_stream_completed_submission_chunks = streamed(try_stream_completed_submission_chunks)
    async_iter_results = streamed(iter_results)
    async_iter_chunk_results = streamed(iter_chunk_results)
    async_iter_errors = streamed(iter_errors)
