"""Codecs: how a chunk's operations, and its results, become bytes. Pure, no I/O.

A chunk is one encoded list. The codec's name is recorded with the submission, so that nobody has
to agree on it by word of mouth. Whatever goes wrong in either direction is an EncodingError that
says which operation can't be carried, and by what it could be.

| name      | carries                                   | comes back changed                     |
|-----------|-------------------------------------------|----------------------------------------|
| `msgpack` | plain data, bytes; integers of 64 bits    | tuple, set: list; dataclass: dict;     |
|           |                                           | Decimal, UUID, naive datetime: str     |
| `json`    | plain data; integers of any size, NaN     | tuple: list; keys of a dict: str       |
| `cbor`    | plain data, bytes, any integer, datetime, | tuple: list                            |
|           | Decimal, UUID, set                        |                                        |
| `raw`     | one bytes object a chunk, as it is        | nothing                                |
| `pickle`  | any object that can be imported there     | nothing; only with allow_pickle        |

`+zstd` after any of these compresses it.
"""

from __future__ import annotations

import io
import json
import pickle
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import cbor2
import msgspec
import zstandard

from opsqueue.exceptions import ChunkTooLargeError, EncodingError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_CODEC = "msgpack+zstd"
"""Of operations that come as JSON, and of a submission that does not say."""

PRODUCER_CODEC = "cbor+zstd"
"""Of a ProducerClient that is not told another: Python's types survive, for 1 to 2 us an operation
more than msgpack takes."""

MAX_CHUNK_BYTES: Final = 1 << 30
"""Default limit of a chunk before compression, in both directions: what is larger is not written,
and a few bytes from outside must not fill the memory."""

_SMALL_BYTES: Final = 1 << 20
"""May be allocated because a frame claims it."""

_PIECE_BYTES: Final = 1 << 10
"""Of compressed data at a time. Four bytes can stand for a block of 128 KiB, so this much holds
32 MiB at most."""

_ZSTD = "+zstd"
_ZSTD_LEVEL = 3
_PICKLE_PROTOCOL = 5


def _declares_nothing(_data: bytes) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Codec:
    """A named pair of functions between a list and bytes; may be used from several threads."""

    name: str
    dumps: Callable[[list[object]], bytes]
    loads: Callable[[bytes], object]
    declared: Callable[[bytes], int | None] = _declares_nothing
    """Return the length that the list's head declares; None: it declares none."""
    is_compressed: bool = False

    @property
    def plain_name(self) -> str:
        """The name without compression."""
        return self.name.removesuffix(_ZSTD)

    def encode(self, operations: Sequence[object], *, noun: str = "operation") -> bytes:
        """Turn the operations of a chunk into bytes, or their results.

        Args:
            operations: in the order of the chunk.
            noun: what errors call one of them, in front of its number.

        Raises:
            EncodingError: names the first operation that can't be carried, its type, what helps.

        """
        try:
            data = self.dumps(list(operations))
            if self.is_compressed:
                data = _compress(data)
        except EncodingError:
            raise
        # Everything: a custom or pickled object's own code may raise what it likes.
        except Exception as exc:
            raise self._not_encodable(operations, noun, exc) from exc
        if not isinstance(data, bytes):
            message = f"codec {self.name!r} gave {_type_of(data)} instead of bytes"
            raise EncodingError(message)
        return data

    def decode(
        self,
        data: bytes,
        *,
        operations: int | None = None,
        limit_bytes: int = MAX_CHUNK_BYTES,
    ) -> list[object]:
        """Turn bytes into the list that they were made from.

        Args:
            data: what `encode` gave.
            operations: the length that the list must have. Where the list declares its length in
                front (MessagePack, CBOR) it is checked before anything is built, else afterwards.
            limit_bytes: of the list before compression. Compressed data is decompressed up to the
                limit only, whatever size it claims.

        Raises:
            ChunkTooLargeError: the list has more bytes than `limit_bytes`.
            EncodingError: the bytes are cut short, damaged, of another codec, no list, or a list
                of another length.

        """
        try:
            found = self._read(data, operations, limit_bytes)
        except EncodingError:
            raise
        except Exception as exc:  # as above, and damaged pickles raise anything at all
            message = (
                f"{len(data):,} bytes can't be read by codec {self.name!r} "
                f"({_text_of(exc)}): they are damaged, or were written by another codec"
            )
            raise EncodingError(message) from exc
        if isinstance(found, tuple):
            found = list(found)  # as the reference's client pickles them
        if not isinstance(found, list):
            message = f"codec {self.name!r} read {_type_of(found)}: a chunk is a list"
            raise EncodingError(message)
        self._check_length(len(found), operations)
        return found

    def _read(self, data: bytes, operations: int | None, limit_bytes: int) -> object:
        plain = _decompress(data, limit_bytes) if self.is_compressed else data
        if len(plain) > limit_bytes:
            raise ChunkTooLargeError(limit_bytes)
        if operations is not None:
            self._check_length(self.declared(plain), operations)
        return self.loads(plain)

    def _check_length(self, found: int | None, expected: int | None) -> None:
        if found != expected and found is not None and expected is not None:
            message = (
                f"codec {self.name!r} read a list of {found:,}, the chunk has {expected:,} "
                "operations: it is damaged, or the bytes are of another chunk"
            )
            raise EncodingError(message)

    def refusal_of(
        self, operation: object, *, position: int, noun: str = "operation"
    ) -> EncodingError | None:
        """Say why an operation, or its result, can't be carried; None: alone it can."""
        try:
            self.dumps([operation])
        except Exception as exc:  # noqa: BLE001  as in encode
            return EncodingError(
                f"codec {self.name!r} can't carry {noun} {position} of the chunk, "
                f"{_type_of(operation)} ({_text_of(exc)}): {_helps(self.name)}"
            )
        return None

    def _not_encodable(
        self, operations: Sequence[object], noun: str, failure: Exception
    ) -> EncodingError:
        for position, operation in enumerate(operations):
            if refusal := self.refusal_of(operation, position=position, noun=noun):
                return refusal
        # One by one they all pass: the failure is of the whole, such as memory.
        return EncodingError(
            f"codec {self.name!r} can't carry the chunk ({_text_of(failure)}): "
            "each of its parts alone it can; try smaller chunks"
        )


@dataclass(frozen=True, slots=True)
class CustomCodec(Codec):
    """A codec of the user's: `dumps` takes a list and gives bytes, `loads` the reverse.

    Both must be safe to call from several threads. Workers and producers must be given the same
    one under the same name.
    """

    def __post_init__(self) -> None:
        """Refuse the names of our own codecs: a recorded name must have one meaning."""
        if not self.name or self.name.removesuffix(_ZSTD) in _PLAIN:
            message = f"a custom codec can't be called {self.name!r}: choose a name of your own"
            raise InvalidArgumentError(message)


def open_codec(name: str, *, allow_pickle: bool = False) -> Codec:
    """Return the codec of a name: `msgpack`, `json`, `cbor` or `pickle`, each also with `+zstd`.

    Raises:
        InvalidArgumentError: the name is unknown, or it is pickle's and `allow_pickle` is false.

    """
    plain = _PLAIN.get(name.removesuffix(_ZSTD))
    if plain is None:
        known = ", ".join(_PLAIN)
        message = f"no codec is called {name!r}: there are {known}, each also with {_ZSTD}"
        raise InvalidArgumentError(message)
    if plain is _PICKLE and not allow_pickle:
        message = (
            f"codec {name!r} runs whatever code the bytes tell it to: if you trust everybody who "
            "can write to the store, pass allow_pickle=True to the producer and to the handler"
        )
        raise InvalidArgumentError(message)
    return _COMPRESSED[plain.name] if name.endswith(_ZSTD) else plain


def _compress(data: bytes) -> bytes:
    if len(data) > MAX_CHUNK_BYTES:
        message = (
            f"the chunk has {len(data):,} bytes before compression, "
            f"{MAX_CHUNK_BYTES:,} are allowed: make chunks smaller"
        )
        raise EncodingError(message)
    if len(data) < len(_STORED):
        return _STORED[len(data)] + data
    return _OF_THREAD.compressor.compress(data)


def _stored(size_bytes: int) -> bytes:
    """Give what stands in front of so many bytes in a frame that holds them as they are.

    Source: RFC 8878: magic number, one segment with its size in a byte, a last block that is raw.
    """
    return (
        b"\x28\xb5\x2f\xfd\x20" + bytes([size_bytes]) + (size_bytes << 3 | 1).to_bytes(3, "little")
    )


_STORED: Final = [_stored(size_bytes) for size_bytes in range(256)]
"""By size: to compress a small chunk takes longer than all else that is done with it, and gains
little. Any zstd reads such a frame."""


class _Zstd(threading.local):
    """A thread's own: zstandard's objects must not be shared, and making one takes 0.02 ms."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_OF_THREAD: Final = _Zstd()


def _decompress(data: bytes, limit_bytes: int) -> bytes:
    """Decompress one frame, up to the limit."""
    size_bytes = len(data) - len(_STORED[0])
    if 0 <= size_bytes < len(_STORED) and data.startswith(_STORED[size_bytes]):
        return data[len(_STORED[0]) :]
    # zstandard allocates what a frame claims to hold, so only small claims are tried at once. What
    # is larger, or claims nothing, is decompressed with a running limit.
    claimed_bytes = zstandard.get_frame_parameters(data).content_size
    has_claim = claimed_bytes not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)
    if has_claim and claimed_bytes > limit_bytes:
        raise ChunkTooLargeError(limit_bytes)
    if has_claim and claimed_bytes <= _SMALL_BYTES:
        return _OF_THREAD.decompressor.decompress(data, allow_extra_data=False)
    return b"".join(_decompressed_parts(data, limit_bytes))


def _decompressed_parts(data: bytes, limit_bytes: int) -> Iterator[bytes]:
    """Decompress one frame in parts of bounded size.

    Raises:
        ChunkTooLargeError: there is more than the limit.
        EncodingError: the frame has no end, or something follows it.
    """
    # Not a stream_reader, which takes a frame that is cut short for a whole one.
    decompressor = _OF_THREAD.decompressor.decompressobj()
    left = limit_bytes
    for at in range(0, len(data), _PIECE_BYTES):
        part = decompressor.decompress(data[at : at + _PIECE_BYTES])
        left -= len(part)
        if left < 0:
            raise ChunkTooLargeError(limit_bytes)
        if part:
            yield part
        if decompressor.eof:
            following = len(decompressor.unused_data) + max(0, len(data) - at - _PIECE_BYTES)
            if following:
                message = f"{following:,} bytes follow the end of the compressed chunk"
                raise EncodingError(message)
            return
    message = f"the compressed chunk of {len(data):,} bytes has no end: it is cut short"
    raise EncodingError(message)


def _msgpack_length(data: bytes) -> int | None:
    match data[:1]:
        case b"\xdc":
            return int.from_bytes(data[1:3], "big")
        case b"\xdd":
            return int.from_bytes(data[1:5], "big")
        case head if b"\x90" <= head <= b"\x9f":
            return head[0] & 0x0F
        case _:
            return None


def _cbor_length(data: bytes) -> int | None:
    head = data[0] if data else 0
    if not 0x80 <= head <= 0x9B:
        return None
    # 24 to 27: the length stands in the 1, 2, 4 or 8 bytes that follow.
    short = head & 0x1F
    return short if short < 24 else int.from_bytes(data[1 : 1 + (1 << short - 24)], "big")


def _dump_json(operations: list[object]) -> bytes:
    return json.dumps(operations, ensure_ascii=False, separators=(",", ":")).encode()


def _load_json(data: bytes) -> object:
    # Decoded here: json.loads would guess UTF-16 and UTF-32 from damaged bytes.
    return json.loads(data.decode())


def _load_cbor(data: bytes) -> object:
    stream = io.BytesIO(data)
    return _at_end(stream, cbor2.CBORDecoder(stream).decode())


def _dump_pickle(operations: list[object]) -> bytes:
    return pickle.dumps(operations, protocol=_PICKLE_PROTOCOL)


def _load_pickle(data: bytes) -> object:
    stream = io.BytesIO(data)
    return _at_end(stream, pickle.load(stream))  # noqa: S301  see open_codec: asked for


def _at_end(stream: io.BytesIO, value: object) -> object:
    # cbor2 and pickle ignore what follows the first value: for us it is damage.
    left = len(stream.read())
    if left:
        message = f"{left:,} bytes follow the end of the chunk: it is damaged"
        raise EncodingError(message)
    return value


def _dump_raw(operations: list[object]) -> bytes:
    if len(operations) != 1 or not isinstance(operations[0], bytes):
        message = f"a raw chunk is one bytes object: got {[_type_of(op) for op in operations[:3]]}"
        raise EncodingError(message)
    return operations[0]


RAW = Codec("raw", _dump_raw, lambda data: [data])
"""Of chunks that are bytes already: the producer's own affair what is in them."""

_PICKLE = Codec("pickle", _dump_pickle, _load_pickle)
_PLAIN: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        # msgspec's objects keep no state between calls and may be shared by threads.
        Codec(
            "msgpack",
            msgspec.msgpack.Encoder().encode,
            msgspec.msgpack.Decoder().decode,
            _msgpack_length,
        ),
        Codec("json", _dump_json, _load_json),
        Codec("cbor", cbor2.dumps, _load_cbor, _cbor_length),
        RAW,
        _PICKLE,
    )
}

_COMPRESSED: Final = {
    name: replace(plain, name=plain.name + _ZSTD, is_compressed=True)
    for name, plain in _PLAIN.items()
}

_PLAIN_DATA = "give plain data (None, bool, int, float, str, list, dict)"


def _helps(name: str) -> str:
    match name.removesuffix(_ZSTD):
        case "msgpack":
            return f"{_PLAIN_DATA}; integers beyond 64 bits: codec 'cbor'; instances: 'pickle'"
        case "json":
            return f"{_PLAIN_DATA}; bytes and dates: codec 'cbor'; instances: 'pickle'"
        case "cbor":
            return f"{_PLAIN_DATA}; instances: codec 'pickle'"
        case "pickle":
            return "it must be importable by name; no lambdas, open files, locks or connections"
        case _:
            return "its dumps refused it"


def _text_of(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"[:300]


def _type_of(value: object) -> str:
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
