"""Whether a chunk's output can be read and has a result or an error for each operation.

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
from typing import Final

import zstandard

from opsqueue.codec import RAW, open_codec
from opsqueue.exceptions import EncodingError, InvalidArgumentError
from opsqueue.output import MAGIC, count_envelope, decode_output, envelope_end

HEAD_BYTES: Final = 160 * 1024
"""zstd gives nothing before it has a whole block, which is 128 KiB at most."""

MAX_ERRORS_BYTES: Final = 16 * 1024 * 1024
"""Of the errors in an output: they are read whole, to be counted."""

_DECODED_BYTES: Final = 256 * 1024
"""Of a stored output that is decoded to be counted: some milliseconds."""

_PLAIN_HEAD_BYTES: Final = 64
_ZSTD: Final = "+zstd"
_OURS: Final = ("msgpack", "json", "cbor", "pickle", "raw")
_NO_LIST: Final = -1
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_CBOR_TAGS: Final = (b"\xd9\xd9\xf7", b"\xd8\x1c")
"""In front of a value that they leave as it is: self-described, and shareable."""

Read = Callable[[int, int], bytes]
"""Returns so many bytes from an offset on; fewer where the output ends."""


def count_errors(data: bytes, *, codec: str, operations: int) -> int:
    """Return how many operations failed in an output, all of which is decoded.

    Args:
        data: the output.
        codec: its name. What a codec has written that can't be opened here, pickle or a user's own,
            is judged as a stored output is.
        operations: of the chunk.

    Raises:
        EncodingError: it can't be read, or lacks results; says which.
    """
    # The length that it declares first: a list that is too long must not be built.
    errors, _ = _look_at(
        lambda start, size_bytes: data[start : start + size_bytes], codec, operations
    )
    _decode(data, codec, operations)
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
        _decode(small, codec, operations)
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
    plain_bytes = _check_list(part, codec, operations - errors)
    return errors, head if is_whole and plain_bytes <= _DECODED_BYTES else None


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


def _check_list(head: bytes, codec: str, expected: int) -> int:
    """Check how a list begins; return its size before compression, as far as is known."""
    if not head:
        message = "it is empty"
        raise EncodingError(message)
    name = codec.removesuffix(_ZSTD)
    plain_bytes = len(head)
    if name not in _OURS:
        return plain_bytes
    if name != codec:
        head, plain_bytes = _decompress_head(head)
    declared: int | None
    match name:
        case "msgpack":
            declared = _msgpack_length(head)
        case "cbor":
            declared = _cbor_length(head)
        case "json":
            declared = None if head.lstrip(b" \t\r\n").startswith(b"[") else _NO_LIST
        case "pickle":
            declared = None if _begins_pickle(head) else _NO_LIST
        case _:
            declared = None
    if declared == _NO_LIST:
        message = f"it is no list in codec {codec!r}: it was written by another codec, or damaged"
        raise EncodingError(message)
    if declared is not None and declared != expected:
        raise _miscounted(declared, expected)
    return plain_bytes


def _decompress_head(head: bytes) -> tuple[bytes, int]:
    """Return how a frame's content begins, and the size that it says to have."""
    try:
        plain_bytes = zstandard.get_frame_parameters(head).content_size
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(head)) as stream:
            return stream.read(_PLAIN_HEAD_BYTES), plain_bytes
    except zstandard.ZstdError as exc:
        message = f"it can't be decompressed ({exc}): it was written by another codec, or damaged"
        raise EncodingError(message) from exc


def _begins_pickle(head: bytes) -> bool:
    if head.startswith(b"\x80"):
        return head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    # A list or a tuple of the protocols 0 and 1; zstd begins with a bracket, too.
    return head.startswith((b"(", b"]", b")")) and not head.startswith(_ZSTD_MAGIC)


def _msgpack_length(head: bytes) -> int:
    """Return the length that a list declares; _NO_LIST: it is none."""
    match head[:1]:
        case b"":
            return _NO_LIST
        case b"\xdc":
            return int.from_bytes(head[1:3], "big")
        case b"\xdd":
            return int.from_bytes(head[1:5], "big")
        case first:
            return first[0] & 0x0F if first[0] & 0xF0 == 0x90 else _NO_LIST


def _cbor_length(head: bytes) -> int | None:
    """Return the length that a list declares; None: it ends where it ends; _NO_LIST: it is none."""
    while head.startswith(_CBOR_TAGS):
        head = head[3:] if head.startswith(_CBOR_TAGS[0]) else head[2:]
    if not head or head[0] >> 5 != 4:
        return _NO_LIST
    short = head[0] & 0x1F
    if short < 24:
        return short
    if short < 28:
        return int.from_bytes(head[1 : 1 + (1 << short - 24)], "big")
    return None if short == 31 else _NO_LIST


def _decode(data: bytes, codec: str, operations: int) -> None:
    try:
        opened = open_codec(codec)
    except InvalidArgumentError:
        return  # pickle, which would run anybody's code, or a user's own
    found = len(decode_output(data, opened))
    if found != operations and codec.removesuffix(_ZSTD) != RAW.name:
        raise _miscounted(found, operations)


def _miscounted(found: int, operations: int) -> EncodingError:
    return EncodingError(
        f"it has {found:,} results for {operations:,} operations: give one for each, in their order"
    )
