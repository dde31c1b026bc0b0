"""Submissions that Redis has lost, inserted again from what the object store has of them.

What each is stands in its manifest, which chunks are done is told by their outputs. A submission
that Redis knows is left alone, so a rebuild may be repeated, and run beside producers and workers.
The I/O is that of the store and of the queue.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

from opsqueue.contents.output_check import count_errors
from opsqueue.exceptions import (
    EncodingError,
    InvalidArgumentError,
    ObjectNotFoundError,
    OpsqueueError,
)
from opsqueue.http.manifest import read_manifest
from opsqueue.model.chunk import Finished
from opsqueue.model.names import check_queue_name
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, output_key
from opsqueue.store.parallel import get_many

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
AT_ONCE: Final = 8
"""Submissions that are read at a time; of each, the store reads several outputs at once."""
MAX_REDO: Final = 10_000
"""Chunks below the cursor that are not done; beyond, done ones are handed out once more, and the
output that is there stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A submission that was inserted again, or would be."""

    prefix: str
    submission_id: SubmissionId | None
    """Its new one; None: nothing was inserted, since only a look was asked for."""
    chunks_total: int
    chunks_done: int
    operations_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Objects that no submission has, and of which none can be made."""

    prefix: str
    reason: str


def queues_in(store: ObjectStore) -> list[str]:
    """Give the names of the queues that a store has folders of, with folders in them."""
    return sorted(
        name
        for name in store.list_folders("")
        if _is_queue_name(name) and any(True for _ in store.list_folders(name))
    )


def rebuild(
    store: ObjectStore,
    queue: Queue,
    *,
    is_dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[Rebuilt | Skipped]:
    """Insert a queue's lost submissions again, the oldest first; yield what became of each.

    What the store has of AT_ONCE submissions is read at a time.

    Args:
        store: has manifests, inputs and outputs.
        queue: to insert into.
        is_dry_run: only look.
        on_progress: called after each submission with how many were looked at, of how many.

    Raises:
        StoreUnavailableError, RedisUnavailableError: repeat it; what was inserted stays.
    """
    prefixes = sorted(store.list_folders(queue.name))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="opsqueue-rebuild") as pool:
        ahead = deque[Future[_Found | Skipped | None]]()
        following = iter(prefixes)
        try:
            for prefix in islice(following, AT_ONCE):
                ahead.append(pool.submit(_look_for, store, queue, prefix))
            for number in range(1, len(prefixes) + 1):
                found = ahead.popleft().result()
                for prefix in islice(following, 1):
                    ahead.append(pool.submit(_look_for, store, queue, prefix))
                outcome = _restored(queue, found, is_dry_run=is_dry_run)
                if outcome is not None:
                    yield outcome
                on_progress(number, len(prefixes))
        finally:
            for coming in ahead:
                coming.cancel()


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store has of a lost submission."""

    new: NewSubmission
    finished: Finished
    idempotency_key: str


def _look_for(store: ObjectStore, queue: Queue, prefix: str) -> _Found | Skipped | None:
    """Read what the store has of a submission; None: Redis knows it."""
    if not _is_unknown(queue, prefix):
        return None
    try:
        new, key = _described(store, queue, prefix)
        return _Found(new, find_finished(store, new), key)
    except (ObjectNotFoundError, EncodingError, InvalidArgumentError) as exc:
        return _skipped(queue, prefix, exc)


def _restored(
    queue: Queue, found: _Found | Skipped | None, *, is_dry_run: bool
) -> Rebuilt | Skipped | None:
    if not isinstance(found, _Found):
        return found
    new, finished, id_ = found.new, found.finished, None
    if not is_dry_run:
        try:
            key = found.idempotency_key
            id_ = queue.restore_submission(new, finished, idempotency_key=key).id
        except InvalidArgumentError as exc:
            return _skipped(queue, new.prefix, exc)
    return Rebuilt(
        prefix=new.prefix,
        submission_id=id_,
        chunks_total=new.chunks_total,
        chunks_done=finished.chunks_done,
        operations_failed=finished.operations_failed,
    )


def _skipped(queue: Queue, prefix: str, exc: OpsqueueError) -> Skipped | None:
    # Else somebody inserted it meanwhile.
    return Skipped(prefix=prefix, reason=str(exc)) if _is_unknown(queue, prefix) else None


def find_finished(store: ObjectStore, new: NewSubmission) -> Finished:
    """Find out which chunks of a submission are done; reads each of their outputs.

    Whether an output is whole, with a result or an error for each operation, is seen where its
    codec is one of ours, but for pickle.

    Takes memory for three bits a chunk, and for MAX_REDO chunks.

    Raises:
        ObjectNotFoundError: a chunk has neither input nor output.
        EncodingError: an output is damaged.
        StoreUnavailableError.
    """
    outputs = _list_chunks(store, new)
    cursor, redo = _cut(outputs, new.chunks_total)
    size = (cursor + 7) // 8
    done, errors = outputs[:size], bytearray(size)
    for index in range(cursor, size * 8):
        _clear(done, index)
    chunks_done = operations_failed = 0
    last_error = -1
    keys = (output_key(new.prefix, index) for index in _indexes(done))
    for index, data in zip(_indexes(done), get_many(store, keys), strict=True):
        chunks_done += 1
        try:
            failed = count_errors(data, codec=new.codec, operations=_operations_in(new, index))
        except EncodingError as exc:
            name = output_key(new.prefix, index)
            message = f"{name} is damaged ({exc}): delete it, and its chunk runs again"
            raise EncodingError(message) from exc
        if failed:
            operations_failed += failed
            _set(errors, index)
            last_error = index
    operations_done = chunks_done * new.chunk_size
    if chunks_done and _has(done, new.chunks_total - 1):
        operations_done += new.operations - new.chunks_total * new.chunk_size
    return Finished(
        cursor=cursor,
        redo=redo,
        chunks_done=chunks_done,
        done=bytes(done),
        operations_done=operations_done,
        operations_failed=operations_failed,
        errors=bytes(errors),
        last_error=last_error,
    )


def _operations_in(new: NewSubmission, index: int) -> int:
    if index < new.chunks_total - 1:
        return new.chunk_size
    return new.operations - (new.chunks_total - 1) * new.chunk_size


def _is_queue_name(name: str) -> bool:
    try:
        check_queue_name(name)
    except InvalidArgumentError:
        return False
    return True


def _is_unknown(queue: Queue, prefix: str) -> bool:
    try:
        return bool(queue.unknown_prefixes([prefix]))
    except InvalidArgumentError:
        return False  # no submission can have it, so the folder is not ours


def _described(store: ObjectStore, queue: Queue, prefix: str) -> tuple[NewSubmission, str]:
    """Give what was to be inserted, and its idempotency key."""
    try:
        manifest = read_manifest(store, prefix)
    except ObjectNotFoundError as exc:
        message = "it has no manifest: an upload that never ended, or of an older version"
        raise EncodingError(message) from exc
    new = manifest.to_new_submission()
    if (manifest.queue, new.prefix) != (queue.name, prefix):
        message = f"its manifest is that of {new.prefix}, queue {manifest.queue}: it was moved"
        if manifest.queue != queue.name and manifest.queue.lower() == queue.name.lower():
            message = (
                f"it is queue {manifest.queue}'s, and the store does not tell capital letters from "
                f"small ones: rebuild it with --queue {manifest.queue}"
            )
        raise EncodingError(message)
    return new, manifest.idempotency_key


def _list_chunks(store: ObjectStore, new: NewSubmission) -> bytearray:
    """Give the bitmap of outputs, having made sure that each other chunk has its input."""
    # As long as the last chunk that is there: a damaged manifest may say billions.
    inputs, outputs = bytearray(), bytearray()
    bits = {"in": inputs, "out": outputs}
    for key in store.list_prefix(new.prefix):
        number, _, suffix = key.removeprefix(f"{new.prefix}/").partition("-")
        # Not `01-in`, nor digits of other scripts, which int() reads, too.
        if suffix in bits and _INDEX.fullmatch(number) and int(number) < new.chunks_total:
            _set(bits[suffix], int(number))
    there = int.from_bytes(inputs, "little") | int.from_bytes(outputs, "little")
    if missing := new.chunks_total - there.bit_count():
        size = there.bit_length() // 8 + 1
        found = there.to_bytes(size, "little")
        first = next(index for index in range(size * 8 + 1) if not _has(found, index))
        message = (
            f"inputs are missing, of {missing:,} of {new.chunks_total:,} chunks (first: {first}): "
            "they were deleted, and have no output either"
        )
        raise EncodingError(message)
    outputs.extend(bytes((new.chunks_total + 7) // 8 - len(outputs)))
    return outputs


def _cut(outputs: bytearray, chunks_total: int) -> tuple[int, list[int]]:
    """Give the cursor, and the chunks below it that are not done: at most MAX_REDO."""
    cursor, redo, free = 0, list[int](), list[int]()
    for index in range(chunks_total):
        if _has(outputs, index):
            cursor = index + 1
            redo += free
            free.clear()
        elif len(redo) + len(free) >= MAX_REDO:
            break
        else:
            free.append(index)
    return cursor, redo


def _indexes(bits: bytearray) -> Iterator[int]:
    return (
        index
        for at, byte in enumerate(bits)
        if byte
        for index in range(at * 8, at * 8 + 8)
        if _has(bits, index)
    )


# As Redis counts bits: the highest of a byte comes first.


def _has(bits: bytes | bytearray, index: int) -> bool:
    return index // 8 < len(bits) and bool(bits[index // 8] >> (7 - index % 8) & 1)


def _set(bits: bytearray, index: int) -> None:
    if index // 8 >= len(bits):
        bits.extend(bytes(index // 8 + 1 - len(bits)))
    bits[index // 8] |= 1 << (7 - index % 8)


def _clear(bits: bytearray, index: int) -> None:
    bits[index // 8] &= ~(1 << (7 - index % 8))
