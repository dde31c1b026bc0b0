"""A submission's contents in the object store: operations cut, encoded and stored, results read.

The I/O is the store's. Producers and the API share this, so that both store alike.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from opsqueue.codec import Codec
from opsqueue.exceptions import (
    EncodingError,
    InvalidArgumentError,
    OpsqueueError,
    SubmissionCancelledError,
    SubmissionFailedError,
    SubmissionNotCompletedYetError,
)
from opsqueue.store import ObjectStore, input_key, output_key
from opsqueue.store.parallel import DEFAULT_AT_ONCE, create_many, get_many
from opsqueue.submission import MAX_CHUNKS, Submission, SubmissionState

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How much was stored."""

    chunks_total: int
    operations_total: int


def fresh_prefix(queue: str) -> str:
    """Give a prefix that nobody has: the queue, then 12 hex digits of time and 20 of chance.

    Ascending in time as UUIDv7 is, so that a listing of the store is in order of submission.
    """
    return f"{queue}/{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def store_operations(
    store: ObjectStore,
    operations: Iterable[object],
    *,
    prefix: str,
    chunk_size: int,
    codec: Codec,
    at_once: int = DEFAULT_AT_ONCE,
) -> Stored:
    """Cut any iterable into chunks and store them under a fresh prefix; memory for a few chunks.

    Whatever is raised, by the iterable too, comes out unchanged, KeyboardInterrupt included, after
    what was stored has been deleted as far as possible.

    Raises:
        EncodingError: names the chunk and the operation.
        StoreUnavailableError: the store refuses or does not answer.
    """
    chunks_total = operations_total = 0

    def items() -> Iterator[tuple[str, bytes]]:
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

    try:
        create_many(store, items(), at_once=at_once)
    except BaseException:
        discard(store, prefix)
        raise
    return Stored(chunks_total=chunks_total, operations_total=operations_total)


def discard(store: ObjectStore, prefix: str) -> None:
    """Delete contents that no submission uses; what can't be deleted is logged, not raised."""
    try:
        store.delete_prefix(prefix)
    except OpsqueueError as exc:
        _LOG.warning("unused objects stay below %s/%s: %s", store.url, prefix, exc)


def check_completed(submission: Submission) -> None:
    """Raise the exception that says why there are no results, unless the submission completed.

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
            message = (
                f"submission {submission.id} is in progress, {submission.chunks_done:,} of "
                f"{submission.chunks_total:,} chunks are done: results are there when all are"
            )
            raise SubmissionNotCompletedYetError(message, submission.id)


def results_by_chunk(
    store: ObjectStore, submission: Submission, *, codec: Codec, at_once: int = DEFAULT_AT_ONCE
) -> Iterator[list[object]]:
    """Yield the results of a completed submission, a list a chunk, in order, reading ahead.

    Nothing is read before the first is asked for.

    Raises:
        ObjectNotFoundError: they were deleted, after the retention or by somebody.
        StoreUnavailableError, EncodingError.
    """
    keys = (output_key(submission.prefix, index) for index in range(submission.chunks_total))
    for data in get_many(store, keys, at_once=at_once):
        yield codec.decode(data)
