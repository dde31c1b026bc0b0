"""A submission's contents in the object store: storing operations in chunks, and reading results.

All I/O goes through the store. Producers and the API share this module, so both store alike.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final, Literal, get_args

from opsqueue.contents.codec import MAX_CHUNK_BYTES, VALUE_BYTES, Codec, is_raw
from opsqueue.contents.output import MAGIC, Encoded, decode_each_outcome, decode_output, errors_of
from opsqueue.contents.output_check import count_stored_errors
from opsqueue.exceptions import (
    ChunkTooLargeError,
    EncodingError,
    InvalidArgumentError,
    ObjectNotFoundError,
    OperationFailedError,
    OpsqueueError,
    SubmissionCancelledError,
    SubmissionFailedError,
    SubmissionNotCompletedYetError,
    partial_hint,
)
from opsqueue.model.answers import ErrorChunks
from opsqueue.model.chunk import OperationError, OperationFailed, Source
from opsqueue.model.new_submission import INLINE_BYTES, INLINE_CHUNKS, MAX_CHUNKS, NewSubmission
from opsqueue.model.process import Origin
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.store import ObjectStore, Readable, input_key, output_key
from opsqueue.store.base import check_format
from opsqueue.store.parallel import DEFAULT_AT_ONCE, create_many, get_many

ErrorMode = Literal["raise", "yield", "skip"]
"""The treatment of failed operations among results."""

_FRESH_PREFIX: Final = re.compile(r"[^/]+/([0-9a-f]{12})[0-9a-f]{20}")
_LOG: Final = logging.getLogger("opsqueue.contents")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The numbers of chunks and operations that were stored."""

    chunks_total: int
    operations_total: int
    inline: tuple[bytes, ...] | None = None
    """The encoded chunks, if they were few and small enough: then nothing was stored."""


def fresh_prefix(queue: str) -> str:
    """Return a unique prefix: the queue, then 12 hex digits of time and 20 random ones.

    Like UUIDv7 they ascend in time, so that a listing of the store is in the order of submission.
    """
    return f"{queue}/{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def began_at(prefix: str) -> datetime | None:
    """Return the instant when `fresh_prefix` made a prefix; None if it has another form."""
    found = _FRESH_PREFIX.fullmatch(prefix)
    if found is None:
        return None
    try:
        return datetime.fromtimestamp(int(found[1], 16) / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None  # hex digits that are not a valid instant


def check_inline_bytes(inline_bytes: int) -> int:
    """Return the number, or raise InvalidArgumentError unless it is 0 to INLINE_BYTES."""
    if not 0 <= inline_bytes <= INLINE_BYTES:
        message = f"inline_bytes is {inline_bytes}: give 0 (no inline chunks) to {INLINE_BYTES:,}"
        raise InvalidArgumentError(message)
    return inline_bytes


def store_operations(
    store: ObjectStore,
    operations: Iterable[object],
    *,
    prefix: str,
    chunk_size: int,
    codec: Codec,
    inline_bytes: int = 0,
    at_once: int = DEFAULT_AT_ONCE,
) -> Stored:
    """Cut any iterable into chunks and store them under a fresh prefix.

    A few chunks are in memory at a time. If all chunks are at most `inline_bytes` together, and no
    more than INLINE_CHUNKS, they are returned instead, and the store is not used.

    Every exception, including those of the iterable and KeyboardInterrupt, is raised unchanged,
    after the stored chunks have been deleted as far as possible.

    Raises:
        EncodingError: an operation can't be encoded; the message names it and its chunk.
        FormatTooNewError: a newer version has raised the store's format.
        StoreUnavailableError: the store refuses or does not answer.
    """
    origin = Origin()
    chunks_total = operations_total = 0

    def encoded() -> Iterator[tuple[str, bytes]]:
        nonlocal chunks_total, operations_total
        rest = iter(operations)
        while chunk := list(islice(rest, chunk_size)):
            if chunks_total >= MAX_CHUNKS:
                message = f"more than {MAX_CHUNKS:,} chunks: give a larger chunk_size"
                raise InvalidArgumentError(message)
            try:
                data = codec.encode(chunk)
            except EncodingError as exc:
                message = f"chunk {chunks_total}: {exc}"
                raise EncodingError(message) from exc
            yield input_key(prefix, chunks_total), data
            chunks_total += 1
            operations_total += len(chunk)

    items = encoded()
    first: list[tuple[str, bytes]] = []
    bytes_left = inline_bytes
    while inline_bytes and bytes_left >= 0 and len(first) <= INLINE_CHUNKS:
        item = next(items, None)
        if item is None:
            return Stored(
                chunks_total=chunks_total,
                operations_total=operations_total,
                inline=tuple(data for _, data in first),
            )
        key, data = item
        # A copy: zstandard's bytes hold as much memory as the uncompressed chunk could have taken.
        first.append((key, bytes(memoryview(data))))
        bytes_left -= len(data)
    check_format(store)
    try:
        create_many(store, chain(first, items), at_once=at_once)
    except BaseException:
        if origin.is_here():  # otherwise the iterable has forked, and the parent goes on storing
            discard(store, prefix)
        raise
    return Stored(chunks_total=chunks_total, operations_total=operations_total)


def store_output(store: ObjectStore, source: Source, chunk_index: int, output: Encoded) -> int:
    """Store a chunk's output unless it has one; return the number of failed operations in it.

    The first output that is stored stays. The number is that of the stored output, since other
    operations may have failed in another attempt.

    Raises:
        EncodingError: the output that was there can't be read, or lacks results.
        StoreUnavailableError: the output may or may not be stored; it is safe to repeat the call.
    """
    if store.create(output_key(source.prefix, chunk_index), output.data):
        return output.operations_failed
    return failed_in_output(store, source, chunk_index)


def failed_in_output(store: ObjectStore, source: Source, chunk_index: int) -> int:
    """Return the number of failed operations in a chunk's stored output, reading a part of it.

    Raises:
        EncodingError: it can't be read, or lacks results.
        ObjectNotFoundError, StoreUnavailableError.
    """
    key = output_key(source.prefix, chunk_index)
    try:
        return count_stored_errors(
            lambda start, size_bytes: store.get_range(key, start, size_bytes),
            codec=source.codec,
            operations=source.operations_in(chunk_index),
        )
    except EncodingError as exc:
        message = (
            f"output {key}, which is stored already and stays, can't be used: {exc}; once it is "
            "deleted the chunk can be run again"
        )
        raise EncodingError(message) from exc


def discard_unless_owned(
    store: ObjectStore,
    new: NewSubmission,
    owner_of: Callable[[str], SubmissionId | None],
) -> SubmissionId | None:
    """Delete the objects of an insert that was refused, unless a submission uses them.

    Redis may have lost its data since the manifest was stored, and a rebuild may have found it.

    Args:
        store: the store with the objects.
        new: the submission that was not inserted.
        owner_of: returns the submission that has a prefix.

    Returns the submission that uses them, or None.
    """
    if new.inline is not None:
        return None
    owner = owner_of(new.prefix)
    if owner is None:
        discard(store, new.prefix)
    return owner


def discard(store: ObjectStore, prefix: str) -> None:
    """Delete contents that no submission uses; if that fails, log it instead of raising."""
    try:
        store.delete_prefix(prefix)
    except OpsqueueError as exc:
        _LOG.warning("unused objects stay below %s/%s: %s", store.url, prefix, exc)


def check_error_mode(errors: str) -> None:
    """Raise InvalidArgumentError unless it is an ErrorMode, so that typos are noticed."""
    if errors not in get_args(ErrorMode):
        message = f"errors={errors!r}: give one of {', '.join(get_args(ErrorMode))}"
        raise InvalidArgumentError(message)


def check_completed(submission: Submission) -> None:
    """Raise the exception that says why there are no results, unless the submission is completed.

    Raises:
        SubmissionNotCompletedYetError, SubmissionFailedError, SubmissionCancelledError.
    """
    match submission.state:
        case SubmissionState.COMPLETED:
            return
        case SubmissionState.FAILED:
            raise SubmissionFailedError(submission)
        case SubmissionState.CANCELLED:
            raise SubmissionCancelledError(submission)
        case SubmissionState.IN_PROGRESS:
            hint = partial_hint(submission)
            message = (
                f"submission {submission.id} is in progress, {submission.chunks_done:,} of "
                f"{submission.chunks_total:,} chunks are done: results are available when all are"
                + (f"; {hint}" if hint else "")
            )
            raise SubmissionNotCompletedYetError(message, submission.id)


def results_by_chunk(
    store: Readable,
    submission: Submission,
    *,
    codec: Codec,
    errors: ErrorMode = "raise",
    chunk_indexes: Iterable[int] | None = None,
    at_once: int = DEFAULT_AT_ONCE,
    whole_bytes: int | None = None,
) -> Iterator[Iterator[object]]:
    """Yield the results of a submission, chunk by chunk, in order, reading ahead.

    Nothing is read before the first chunk is requested.

    Args:
        store: the store with the results.
        submission: a completed submission, or one of which the given chunks are done.
        codec: the submission's codec.
        errors: "raise" raises OperationFailedError in the place of the first failed operation,
            "yield" yields an OperationFailed in the place of each, "skip" omits them.
        chunk_indexes: chunks that are done; None: all.
        at_once: how many objects are read ahead.
        whole_bytes: a chunk is decoded one result at a time, as they are requested, if its results
            have more bytes than this, or more values than an eighth of it. None: every chunk is
            decoded as a whole.

    Raises:
        OperationFailedError: see `errors`.
        ChunkTooLargeError: a chunk has more than MAX_CHUNK_BYTES, or one of its results is too
            large.
        ObjectNotFoundError: the results were deleted, after the retention or by somebody.
        StoreUnavailableError, EncodingError.
    """
    asked: deque[int] = deque()

    def keys() -> Iterator[str]:
        for index in range(submission.chunks_total) if chunk_indexes is None else chunk_indexes:
            asked.append(index)
            yield output_key(submission.prefix, index)

    for data in _contents(store, submission, keys(), at_once=at_once):
        index = asked.popleft()
        outcomes = _outcomes(data, codec, _operations_in(submission, index), whole_bytes)
        has_errors = data.startswith(MAGIC)
        yield _seen(outcomes, submission, index, errors) if has_errors else iter(outcomes)


def indexed_results(
    store: Readable,
    submission: Submission,
    chunk_indexes: Sequence[int],
    *,
    codec: Codec,
    errors: ErrorMode,
    at_once: int = DEFAULT_AT_ONCE,
    whole_bytes: int | None = None,
) -> Iterator[Iterator[tuple[int, object]]]:
    """Yield what `results_by_chunk` yields, each result with the index of its operation.

    If chunks were submitted as bytes, each result has the index of its chunk.
    """
    by_chunk = results_by_chunk(
        store,
        submission,
        codec=codec,
        errors="raise" if errors == "raise" else "yield",
        chunk_indexes=chunk_indexes,
        at_once=at_once,
        whole_bytes=whole_bytes,
    )
    for chunk_index, outcomes in zip(chunk_indexes, by_chunk, strict=True):
        first = chunk_index * submission.chunk_size
        yield (
            (first + min(position, submission.chunk_size - 1), outcome)
            for position, outcome in enumerate(outcomes)
            if errors != "skip" or not isinstance(outcome, OperationFailed)
        )


def _contents(
    store: Readable, submission: Submission, keys: Iterable[str], *, at_once: int
) -> Iterator[bytes]:
    """Yield what `get_many` yields; for missing objects the error names the retention."""
    try:
        yield from get_many(store, keys, at_once=at_once)
    except ObjectNotFoundError as exc:
        if submission.ended_at is None:
            raise
        kept_ms = submission.retention_ms
        kept = "its queue's retention" if kept_ms is None else f"{kept_ms / 1000:,g} seconds"
        why = (
            f"submission {submission.id} ended at {submission.ended_at:%Y-%m-%d %H:%M:%S} UTC and "
            f"is kept for {kept} from then on; if reading takes longer, set a longer retention. If "
            "that time is not over, somebody has deleted the object"
        )
        raise ObjectNotFoundError(exc.key, exc.store, why) from exc


def _operations_in(submission: Submission, chunk_index: int) -> int | None:
    """Return the number of operations in a chunk; None for raw chunks, which are opaque."""
    if is_raw(submission.codec):
        return None
    before = chunk_index * submission.chunk_size
    return min(submission.chunk_size, submission.operations_total - before)


def _outcomes(
    data: bytes, codec: Codec, operations: int | None, whole_bytes: int | None
) -> Iterable[object]:
    if is_raw(codec.name):
        # The raw bytes of any chunk can be requested, too.
        operations = None
    if whole_bytes is None:
        return decode_output(data, codec, operations=operations)
    # One result may be as large as a chunk that is decoded as a whole. It may be larger if its
    # stored form is large, too: it is not a decompression bomb then.
    one_bytes = max(whole_bytes, min(16 * len(data), MAX_CHUNK_BYTES))
    if operations is None:
        return decode_output(data, codec, limit_bytes=one_bytes)
    try:
        return decode_output(
            data,
            codec,
            operations=operations,
            limit_bytes=whole_bytes,
            limit_values=whole_bytes // VALUE_BYTES,
        )
    except ChunkTooLargeError:
        return decode_each_outcome(
            data,
            codec,
            operations=operations,
            limit_bytes=MAX_CHUNK_BYTES,
            piece_bytes=one_bytes,
        )


def _seen(
    outcomes: Iterable[object], submission: Submission, chunk_index: int, errors: ErrorMode
) -> Iterator[object]:
    for index, outcome in enumerate(outcomes):
        if not isinstance(outcome, OperationError):
            yield outcome
        elif errors != "skip":
            failed = _failed(outcome, submission, chunk_index, index)
            if errors == "raise":
                raise OperationFailedError(failed, submission.id)
            yield failed


def _failed(
    error: OperationError, submission: Submission, chunk_index: int, index: int
) -> OperationFailed:
    return OperationFailed(
        index=chunk_index * submission.chunk_size + index,
        chunk_index=chunk_index,
        type=error.type,
        message=error.message,
        traceback=error.traceback,
    )


def all_pages(page_from: Callable[[int], ErrorChunks]) -> Iterator[int]:
    """Yield the indexes of all chunks with errors; `page_from` reads the page from an index on."""
    first_index: int | None = 0
    while first_index is not None:
        page = page_from(first_index)
        yield from page.indexes
        is_further = page.next_index is not None and page.next_index > first_index
        first_index = page.next_index if is_further else None


def errors_by_chunk(
    store: Readable,
    submission: Submission,
    chunk_indexes: Iterable[int],
    *,
    at_once: int = DEFAULT_AT_ONCE,
) -> Iterator[list[OperationFailed]]:
    """Yield a list of errors for each of the given chunks, in order, reading ahead.

    The submission may be in any state and have any codec.

    Raises:
        ObjectNotFoundError, StoreUnavailableError, EncodingError: see `results_by_chunk`.
    """
    asked: deque[int] = deque()

    def keys() -> Iterator[str]:
        for index in chunk_indexes:
            asked.append(index)
            yield output_key(submission.prefix, index)

    for data in _contents(store, submission, keys(), at_once=at_once):
        chunk_index = asked.popleft()
        yield [
            _failed(error, submission, chunk_index, index)
            for index, error in errors_of(data).items()
        ]


def failed_operations(
    store: Readable,
    submission: Submission,
    chunk_indexes: Iterable[int],
    *,
    codec: Codec,
    at_once: int = DEFAULT_AT_ONCE,
    whole_bytes: int | None = None,
) -> Iterator[object]:
    """Yield the operations that failed, as they were submitted, in order, reading ahead.

    `whole_bytes` limits the bytes of a chunk's operations; the limit of the values in them is an
    eighth of it. None: only the limit of all chunks applies.

    Raises:
        ObjectNotFoundError, StoreUnavailableError, EncodingError: see `results_by_chunk`.
        ChunkTooLargeError: a chunk holds more than `whole_bytes`.
    """
    asked: deque[int] = deque()

    def keys() -> Iterator[str]:
        for index in chunk_indexes:
            asked.append(index)
            yield output_key(submission.prefix, index)
            yield input_key(submission.prefix, index)

    objects = _contents(store, submission, keys(), at_once=at_once)
    for output in objects:
        operations = codec.decode(
            next(objects),
            operations=_operations_in(submission, asked.popleft()),
            limit_bytes=MAX_CHUNK_BYTES if whole_bytes is None else whole_bytes,
            limit_values=None if whole_bytes is None else whole_bytes // VALUE_BYTES,
        )
        yield from (operations[index] for index in errors_of(output))
