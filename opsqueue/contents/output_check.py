"""Checks that a chunk's output can be read and has a result or an error for each operation.

An output in memory is decoded. An output that is stored already is judged by its head, of which a
bounded number of bytes is read: the codec, and the length that its list declares. If it is small,
it is decoded as well. Pure, except that a function reads the parts of a stored output.

| codec                     | check of a stored output                                        |
|---------------------------|-----------------------------------------------------------------|
| `msgpack`, `cbor`         | that it is a list, and its declared length                      |
| `json`                    | that it is a list                                               |
| `pickle`                  | its first bytes: reading it would run any code that is in it    |
| `raw`                     | that it exists: only the submitter knows what is in it          |
| a custom codec            | that it is not empty                                            |
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import zstandard

from opsqueue.contents.codec import (
    CBOR_TAG,
    CBOR_UNDECLARED,
    MAX_CHUNK_BYTES,
    RAW,
    is_raw,
    open_codec,
)
from opsqueue.contents.output import MAGIC, count_envelope, decode_output, envelope_end
from opsqueue.exceptions import ChunkTooLargeError, EncodingError, InvalidArgumentError

HEAD_BYTES: Final = 160 * 1024
"""The size of a head. zstd needs a whole block, of up to 128 KiB, to decompress anything."""

MAX_ERRORS_BYTES: Final = 16 * 1024 * 1024
"""The limit of the errors in an output, all of which are read to count them."""

_DECODED_BYTES: Final = 256 * 1024
"""The limit of a stored output that is decoded to count its results, in some milliseconds."""

_PLAIN_HEAD_BYTES: Final = 64
_ZSTD: Final = "+zstd"
_OURS: Final = ("msgpack", "json", "cbor", "pickle", "raw")
_MSGPACK_LISTS: Final = {*(bytes([head]) for head in range(0x90, 0xA0)), b"\xdc", b"\xdd"}
_CBOR_LISTS: Final = {*(bytes([head]) for head in range(0x80, 0x9C)), CBOR_UNDECLARED}
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
Read = Callable[[int, int], bytes]
"""A function that returns a number of bytes from an offset on; fewer at the end of the output."""


def count_errors(
    data: bytes,
    *,
    codec: str,
    operations: int,
    limit_bytes: int = MAX_CHUNK_BYTES,
    limit_values: int | None = None,
) -> int:
    """Return the number of failed operations in an output, after decoding all of it.

    Args:
        data: the output.
        codec: the codec's name. The output of a codec that can't be opened here (pickle or a custom
            one) is only judged by its head, like a stored output.
        operations: the number of operations in the chunk.
        limit_bytes: the limit of the results before compression.
        limit_values: the limit of all values in the results; see `Codec.decode`.

    Raises:
        ChunkTooLargeError: the results exceed the limits.
        EncodingError: the output can't be read, or lacks results; the message says which.
    """
    # Check the declared length first: a list that is too long must not be built.
    errors, _ = _look_at(
        lambda start, size_bytes: data[start : start + size_bytes], codec, operations
    )
    _decode(data, codec, operations, limit_bytes, limit_values)
    return errors


def count_stored_errors(read: Read, *, codec: str, operations: int) -> int:
    """Return the number of failed operations in an output, reading a bounded part of it.

    Args:
        read: reads parts of the output.
        codec: the name of the submission's codec.
        operations: the number of operations in the chunk.

    Raises:
        EncodingError: as far as that part shows, the output can't be read or lacks results.
    """
    errors, small = _look_at(read, codec, operations)
    if small is not None:
        # An output that decompresses to far more has been judged by its head.
        with suppress(ChunkTooLargeError):
            _decode(small, codec, operations, _DECODED_BYTES, None)
    return errors


def _look_at(read: Read, codec: str, operations: int) -> tuple[int, bytes | None]:
    """Check an output's head; return its number of errors, and all of it if it is small."""
    head = read(0, HEAD_BYTES)
    if codec == RAW.name:
        return 0, None
    is_whole = len(head) < HEAD_BYTES
    errors, begin = 0, 0
    if head.startswith(MAGIC):
        errors, begin = _open_envelope(head, read, operations)
    part = head[begin:] if is_whole or not begin else read(begin, HEAD_BYTES)
    _check_list(part, codec, operations - errors)
    return errors, head if is_whole else None


def _open_envelope(head: bytes, read: Read, operations: int) -> tuple[int, int]:
    """Return the number of errors, and where the list of results begins."""
    end = envelope_end(head)
    if end > MAX_ERRORS_BYTES:
        message = (
            f"its errors take {end:,} bytes, the limit is {MAX_ERRORS_BYTES:,}: shorten their "
            "messages, or make chunks smaller"
        )
        raise EncodingError(message)
    total, errors = count_envelope(head if end <= len(head) else read(0, end))
    if total != operations:
        raise _miscounted(total, operations)
    return errors, end


def _check_list(head: bytes, codec: str, expected: int) -> None:
    """Check the beginning of the codec's list of results."""
    if not head:
        message = "it is empty"
        raise EncodingError(message)
    name = codec.removesuffix(_ZSTD)
    if name not in _OURS:
        return
    plain = _decompress_head(head) if name != codec else head
    declared: int | None = None
    match name:
        case "msgpack":
            is_list, declared = plain[:1] in _MSGPACK_LISTS, _declared("msgpack", plain)
        case "cbor":
            plain = plain.removeprefix(CBOR_TAG)
            is_list, declared = plain[:1] in _CBOR_LISTS, _declared("cbor", plain)
        case "json":
            is_list = plain.lstrip(b" \t\r\n").startswith(b"[")
        case "pickle":
            is_list = _begins_pickle(plain)
        case _:
            is_list = True  # raw
    if not is_list:
        message = f"it is not a list in codec {codec!r}: written by another codec, or damaged"
        raise EncodingError(message)
    if declared is not None and declared != expected:
        raise _miscounted(declared, expected)


def _declared(name: str, head: bytes) -> int | None:
    return open_codec(name).declared(head)


def _decompress_head(head: bytes) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(head)) as stream:
            return stream.read(_PLAIN_HEAD_BYTES)
    except zstandard.ZstdError as exc:
        message = f"it can't be decompressed ({exc}): it was written by another codec, or damaged"
        raise EncodingError(message) from exc


def _begins_pickle(head: bytes) -> bool:
    if head.startswith(b"\x80"):
        return head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    # A list or a tuple of the protocols 0 and 1; zstd begins with a bracket, too.
    return head.startswith((b"(", b"]", b")")) and not head.startswith(_ZSTD_MAGIC)


def _decode(
    data: bytes, codec: str, operations: int, limit_bytes: int, limit_values: int | None
) -> None:
    try:
        opened = open_codec(codec)
    except InvalidArgumentError:
        return  # pickle, which would run anybody's code, or a custom codec
    found = len(decode_output(data, opened, limit_bytes=limit_bytes, limit_values=limit_values))
    if found != operations and not is_raw(codec):
        raise _miscounted(found, operations)


def _miscounted(found: int, operations: int) -> EncodingError:
    return EncodingError(
        f"it has {found:,} results for {operations:,} operations: give one for each, in their order"
    )
