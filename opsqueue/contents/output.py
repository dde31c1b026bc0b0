"""A chunk's output as bytes: its results, and the errors of its failed operations.

One object holds both, since two attempts may fail at different operations: results of one attempt
and errors of another would not add up to the chunk. Without errors it is only the codec's list,
with errors an envelope around it. Pure, no I/O.

| bytes       | contents                                                                      |
|-------------|-------------------------------------------------------------------------------|
| 8           | `MAGIC`; its first byte begins no MessagePack, no JSON, no pickle, no zstd     |
| 8           | length of the records, big-endian                                             |
| that many   | records, MessagePack: operations, tracebacks, (index, type, message, number of |
|             | the traceback) of each error, ascending; MessagePack for every codec          |
| the rest    | the codec's list of the results, in order                                     |
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Final

import msgspec

from opsqueue.contents.codec import MAX_CHUNK_BYTES, Codec, is_raw
from opsqueue.exceptions import EncodingError, OpsqueueInternalError
from opsqueue.model.chunk import MAX_FAILURE_CHARACTERS, OperationError, encodable

MAGIC: Final = b"\xc1OQERR\x01\n"
MAX_TRACEBACK_CHARACTERS: Final = 1_000_000
"""The limit of all different tracebacks of a chunk. Errors beyond it are stored without a
traceback, unless theirs was stored with an earlier error."""

MAX_TRACEBACK_READ: Final = 2 * MAX_FAILURE_CHARACTERS
"""The limit of one traceback that is read. It is above what any of our programs writes."""

_RESULT: Final = "the result of operation"
_LENGTH_BYTES: Final = 8
_Records = tuple[int, list[str], list[tuple[int, str, str, int]]]
_DECODER: Final = msgspec.msgpack.Decoder(_Records)
_NO_ERRORS: Final[Mapping[int, OperationError]] = {}


class _NoResult:
    """The type of NO_RESULT."""

    def __repr__(self) -> str:
        return "NO_RESULT"


NO_RESULT: Final = _NoResult()
"""A placeholder for an operation without a result or an error; None is a valid result."""

_NO_VALUES: Final = frozenset(
    {
        _NoResult,
        AsyncGeneratorType,
        CoroutineType,
        GeneratorType,
        asyncio.Future,
        asyncio.Task,
        concurrent.futures.Future,
    }
)
"""The types of calls that have not run to their end; a lenient codec would write their `repr`."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An output, ready to be stored."""

    data: bytes
    operations_failed: int
    refused: Mapping[int, str] = field(default_factory=dict)
    """Why the results of some operations could not be encoded; they are among the failed ones."""


def encode_output(results: Sequence[object], codec: Codec, *, collects: bool = False) -> Encoded:
    """Encode the results that a handler returned for the operations of a chunk.

    Args:
        results: the results, in the order of the operations.
        codec: the submission's codec.
        collects: an OperationError among the results is the error of its operation, and a result
            that the codec can't encode becomes one.

    Raises:
        EncodingError: a result is not a value, such as a coroutine that was not awaited, or can't
            be encoded. With `collects`, this is raised only if the results can't be encoded
            together, although each of them could.
        OpsqueueInternalError: an operation has neither a result nor an error.
    """
    if not _NO_VALUES.isdisjoint(map(type, results)):
        results = [_value(result, i, collects=collects) for i, result in enumerate(results)]
    if not collects:
        return Encoded(_enveloped(codec.encode(results, noun=_RESULT), len(results), _NO_ERRORS), 0)
    errors = {i: result for i, result in enumerate(results) if isinstance(result, OperationError)}
    refused: dict[int, OperationError] = {}
    try:
        data = codec.encode([result for i, result in enumerate(results) if i not in errors])
    except EncodingError:
        refused = {
            i: OperationError(type="EncodingError", message=str(refusal))
            for i, result in enumerate(results)
            if i not in errors and (refusal := codec.refusal_of(result, position=i, noun=_RESULT))
        }
        if not refused:
            raise
        errors = dict(sorted({**errors, **refused}.items()))
        data = codec.encode([result for i, result in enumerate(results) if i not in errors])
    why = {i: error.message for i, error in refused.items()}
    return Encoded(_enveloped(data, len(results), errors), len(errors), why)


def _value(result: object, index: int, *, collects: bool) -> object:
    """Return a result, or the error of an operation that returned an unfinished call."""
    if type(result) not in _NO_VALUES:
        return result
    if result is NO_RESULT:
        message = f"operation {index:,} of the chunk has neither a result nor an error"
        raise OpsqueueInternalError(message)
    message = (
        f"the result of operation {index:,} of the chunk is a {type(result).__name__}, which has "
        "not run to its end: return its value (`await` a coroutine or future in a handler that is "
        "`async def` itself, make a list of a generator)"
    )
    if not collects:
        raise EncodingError(message)
    return OperationError(type="EncodingError", message=message)


def decode_output(
    data: bytes,
    codec: Codec,
    *,
    operations: int | None = None,
    limit_bytes: int = MAX_CHUNK_BYTES,
    limit_values: int | None = None,
) -> list[object]:
    """Return the results of a chunk's operations, an OperationError for each that failed.

    Args:
        data: the output.
        codec: the submission's codec.
        operations: the number of operations in the chunk. It is checked before the results are
            built if the codec declares their number. None: unknown. Ignored for raw outputs.
        limit_bytes: the limit of the results before compression.
        limit_values: the limit of all values in the results; see `Codec.decode`.

    Raises:
        ChunkTooLargeError: the results have more bytes than `limit_bytes`.
        EncodingError: the bytes are damaged, were written by another codec, or are the output of a
            chunk of another length.
    """
    # A raw output may begin with anything.
    if is_raw(codec.name):
        # In an output with errors only the list of results is compressed.
        end = envelope_end(data) if codec.is_compressed and data.startswith(MAGIC) else 0
        plain = codec.decode(data[end:], limit_bytes=limit_bytes)
        return [data[:end] + bytes(part) for part in plain if isinstance(part, bytes)]
    if not data.startswith(MAGIC):
        return codec.decode(
            data, operations=operations, limit_bytes=limit_bytes, limit_values=limit_values
        )
    recorded, errors, encoded = _opened(data)
    if operations is not None and recorded != operations:
        message = (
            f"the output has {recorded:,} operations, the chunk has {operations:,}: it belongs to "
            "another chunk"
        )
        raise EncodingError(message)
    results = codec.decode(
        encoded,
        operations=recorded - len(errors),
        limit_bytes=limit_bytes,
        limit_values=limit_values,
    )
    following = iter(results)
    return [errors[i] if i in errors else next(following) for i in range(recorded)]


def decode_each_outcome(
    data: bytes, codec: Codec, *, operations: int, limit_bytes: int, piece_bytes: int
) -> Iterator[object]:
    """Yield what `decode_output` returns, one by one, with memory for a piece.

    Raises:
        ChunkTooLargeError, EncodingError: also after outcomes were yielded.
    """
    errors: Mapping[int, OperationError] = _NO_ERRORS
    if data.startswith(MAGIC):
        recorded, errors, data = _opened(data)
        if recorded != operations:
            message = f"the output has {recorded:,} operations, the chunk has {operations:,}"
            raise EncodingError(message)
    results = codec.decode_each(
        data,
        operations=operations - len(errors),
        limit_bytes=limit_bytes,
        piece_bytes=piece_bytes,
    )
    for index in range(operations):
        if index in errors:
            yield errors[index]
        else:
            yield next(results)
    # Read to the end, where bytes that follow are noticed.
    yield from results


def errors_of(data: bytes) -> Mapping[int, OperationError]:
    """Return the errors in an output by index within the chunk, ascending; no codec is needed.

    Raises:
        EncodingError: the bytes are damaged.
    """
    return _opened(data)[1] if data.startswith(MAGIC) else _NO_ERRORS


def envelope_end(head: bytes) -> int:
    """Return where the errors end and the codec's list begins, from the head of an envelope."""
    begin = len(MAGIC) + _LENGTH_BYTES
    return begin + int.from_bytes(head[len(MAGIC) : begin], "big")


def count_envelope(data: bytes) -> tuple[int, int]:
    """Return the number of operations in an envelope, and how many of them failed.

    Raises:
        EncodingError: the bytes are damaged.
    """
    operations, errors, _ = _opened(data)
    return operations, len(errors)


def _enveloped(data: bytes, operations: int, errors: Mapping[int, OperationError]) -> bytes:
    # A custom codec's list may begin with anything, even with the magic.
    if not errors and not data.startswith(MAGIC):
        return data
    # A thousand operations that fail in the same line have one traceback.
    numbers: dict[str, int] = {"": 0}
    left = MAX_TRACEBACK_CHARACTERS
    rows = []
    for index, error in errors.items():
        traceback = encodable(error.traceback)
        if traceback not in numbers and len(traceback) <= left:
            left -= len(traceback)
            numbers[traceback] = len(numbers)
        number = numbers.get(traceback, 0)
        rows.append((index, encodable(error.type), encodable(error.message), number))
    records = msgspec.msgpack.encode((operations, list(numbers), rows))
    return b"".join((MAGIC, len(records).to_bytes(_LENGTH_BYTES, "big"), records, data))


def _opened(data: bytes) -> tuple[int, Mapping[int, OperationError], bytes]:
    """Parse an envelope: the number of operations, the errors, the codec's list."""
    end = envelope_end(data)
    try:
        operations, tracebacks, rows = _DECODER.decode(data[len(MAGIC) + _LENGTH_BYTES : end])
        errors = {
            index: OperationError(type=type_, message=message, traceback=tracebacks[number])
            for index, type_, message, number in rows
            if 0 <= index < operations and number >= 0
        }
        longest = max(map(len, tracebacks), default=0)
    except (msgspec.DecodeError, IndexError, UnicodeDecodeError) as exc:
        message = f"the errors in an output of {len(data):,} bytes can't be read ({exc}): damaged"
        raise EncodingError(message) from exc
    if len(errors) != len(rows) or list(errors) != sorted(errors):
        message = f"the errors in an output of {len(data):,} bytes are out of order: damaged"
        raise EncodingError(message)
    if longest > MAX_TRACEBACK_READ:
        # Thousands of errors may refer to it, in a few bytes each, and each would be written out
        # with all of it.
        message = (
            f"a traceback in an output has {longest:,} characters, the limit is "
            f"{MAX_TRACEBACK_READ:,}"
        )
        raise EncodingError(message)
    return operations, errors, data[end:]
