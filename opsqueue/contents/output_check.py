"""Checks that a chunk's output can be read and has a result or an error for each operation.

An output that is at hand is decoded. One that somebody else has stored is judged by its head, with
a bounded number of bytes read: the codec, the length that its list declares, and all of it where it
is small. Pure, except that parts of a stored output come from the function that reads them.

| codec                     | what is checked of a stored output                              |
|---------------------------|-----------------------------------------------------------------|
| `msgpack`, `cbor`         | that it is a list, and the length that this declares            |
| `json`                    | that it is a list                                               |
| `pickle`                  | how it begins: reading it would run whatever code is in it      |
| `raw`                     | that it is there: what is in it is the submitter's affair       |
| another, a user's own     | that it is not empty                                            |
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import zstandard

from opsqueue.contents.codec import CBOR_TAG, CBOR_UNDECLARED, MAX_CHUNK_BYTES, RAW, open_codec
from opsqueue.contents.output import MAGIC, count_envelope, decode_output, envelope_end
from opsqueue.exceptions import ChunkTooLargeError, EncodingError, InvalidArgumentError

HEAD_BYTES: Final = 160 * 1024
"""zstd gives nothing before it has a whole block, which is 128 KiB at most."""

MAX_ERRORS_BYTES: Final = 16 * 1024 * 1024
"""Limit of the errors in an output: they are read whole, to be counted."""

_DECODED_BYTES: Final = 256 * 1024
"""Limit of a stored output that is decoded to be counted: some milliseconds."""

_PLAIN_HEAD_BYTES: Final = 64
_ZSTD: Final = "+zstd"
_OURS: Final = ("msgpack", "json", "cbor", "pickle", "raw")
_MSGPACK_LISTS: Final = {*(bytes([head]) for head in range(0x90, 0xA0)), b"\xdc", b"\xdd"}
_CBOR_LISTS: Final = {*(bytes([head]) for head in range(0x80, 0x9C)), CBOR_UNDECLARED}
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
Read = Callable[[int, int], bytes]
"""Returns so many bytes from an offset on; fewer where the output ends."""


def count_errors(
    data: bytes,
    *,
    codec: str,
    operations: int,
    limit_bytes: int = MAX_CHUNK_BYTES,
    limit_values: int | None = None,
) -> int:
    """Return how many operations failed in an output, all of which is decoded.

    Args:
        data: the output.
        codec: its name. What a codec has written that can't be opened here, pickle or a user's own,
            is judged as a stored output is.
        operations: of the chunk.
        limit_bytes: of the results before compression.
        limit_values: of all that the results contain; see `Codec.decode`.

    Raises:
        ChunkTooLargeError: there is more in the results than the limits allow.
        EncodingError: it can't be read, or lacks results; says which.
    """
    # The length that it declares first: a list that is too long must not be built.
    errors, _ = _look_at(
        lambda start, size_bytes: data[start : start + size_bytes], codec, operations
    )
    _decode(data, codec, operations, limit_bytes, limit_values)
    return errors


def count_stored_errors(read: Read, *, codec: str, operations: int) -> int:
    """Return how many operations failed in an output of which a bounded part is read.

    Args:
        read: reads parts of it.
        codec: the name of the submission's codec.
        operations: of the chunk.

    Raises:
        EncodingError: it can't be read, or lacks results, as far as can be seen.
    """
    errors, small = _look_at(read, codec, operations)
    if small is not None:
        # What is far larger than it looks has been judged by its head.
        with suppress(ChunkTooLargeError):
            _decode(small, codec, operations, _DECODED_BYTES, None)
    return errors


def _look_at(read: Read, codec: str, operations: int) -> tuple[int, bytes | None]:
    """Check an output's head; return its number of errors, and all of it where it is small."""
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
    """Return how many errors there are, and where the list of results begins."""
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
    """Check how the codec's list of results begins."""
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
        message = f"it is no list in codec {codec!r}: it was written by another codec, or damaged"
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
        return  # pickle, which would run anybody's code, or a user's own
    found = len(decode_output(data, opened, limit_bytes=limit_bytes, limit_values=limit_values))
    if found != operations and opened.plain_name != RAW.name:
        raise _miscounted(found, operations)


def _miscounted(found: int, operations: int) -> EncodingError:
    return EncodingError(
        f"it has {found:,} results for {operations:,} operations: give one for each, in their order"
    )
