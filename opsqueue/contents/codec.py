"""Codecs, which encode a chunk's operations and its results as bytes. Pure, no I/O.

A chunk is one encoded list. The codec's name is recorded with the submission, so that its readers
need not agree on it by other means. Every failure in either direction is an EncodingError that says
which operation can't be encoded, and with which codec it could be.

| name      | carries                                  | comes back changed                      |
|-----------|------------------------------------------|-----------------------------------------|
| `msgpack` | plain data, bytes; integers of 64 bits   | tuple, set, frozenset: list; dataclass, |
|           |                                          | Struct: dict; Enum: its value; Decimal, |
|           |                                          | UUID, date, time, timedelta, naive      |
|           |                                          | datetime: str; other datetimes: in UTC  |
| `json`    | plain data; integers of 4,300 digits,    | tuple: list; keys of a dict that are    |
|           | NaN and infinities                       | not text: their JSON text               |
| `cbor`    | plain data, bytes, any integer, datetime | tuple and other sequences: list;        |
|           | with a zone, date, Decimal, Fraction,    | frozenset: set; a datetime's zone: its  |
|           | complex, UUID, IP addresses, set,        | offset from UTC; infinite Decimal: float |
|           | compiled patterns without flags          |                                         |
| `raw`     | one bytes object a chunk, as it is       | nothing                                 |
| `pickle`  | any object that can be imported there    | nothing; only with allow_pickle         |

`+zstd` after any of these compresses it.

In all but pickle an instance of a subclass of a plain type (an IntEnum, an OrderedDict, a
namedtuple) comes back as that type, and bytearray as bytes.

`encode` refuses values that could not be read back: values nested deeper than MAX_DEPTH, a dict of
which two keys would become the same, and values that a library writes but can't read, or reads as
something else. It does not check the meaning of the bytes in msgspec's Raw and Ext, nor whether
pickled classes can be imported elsewhere.
"""

from __future__ import annotations

import gc
import io
import json
import marshal
import pickle
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, is_dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import chain
from typing import Final, TypeVar
from uuid import UUID

import cbor2
import msgspec
import zstandard

from opsqueue.contents import pieces
from opsqueue.exceptions import ChunkTooLargeError, EncodingError, InvalidArgumentError

PRODUCER_CODEC = "cbor+zstd"
"""The default of a ProducerClient. It keeps Python's types, and takes 1 to 4 us more for each
operation than msgpack does."""

MAX_CHUNK_BYTES: Final = 1 << 30
"""The default limit of a chunk before compression, for writing and reading. A few bytes from
outside must not fill the memory."""

MAX_DEPTH: Final = 128
"""The nesting limit of lists, dicts and other containers within an operation or a result, for all
codecs, and so for JSON over HTTP. The decoders can read more: cbor2 400 levels, of which a set
takes two, the others as many as Python's recursion limit of 1,000 allows on a fresh stack."""

_SMALL_BYTES: Final = 1 << 20
"""The largest size that is allocated only because a frame claims it."""

VALUE_BYTES: Final = 8
"""The number of bytes for each value that a chunk may hold where memory is bounded. A value of one
byte, such as an empty dict, can take up to 80 bytes of memory."""

_PIECE_BYTES: Final = 1 << 10
"""The size of compressed data that is read at a time. Four bytes can stand for a block of 128 KiB,
so that this size holds 32 MiB at most."""

CBOR_TAG: Final = b"\xd9\xd9\xf7"
"""The tag of self-described CBOR. It stands in front of a value and does not change it."""

CBOR_UNDECLARED: Final = b"\x9f"
"""The first byte of a list that does not declare its length."""

_ZSTD = "+zstd"
_ZSTD_LEVEL = 3
_PICKLE_PROTOCOL = 5
_STACK_GLOBAL: Final = b"\x93"
"""The opcode of that protocol that names a class or a function."""

_MINUTE: Final = timedelta(minutes=1)
_CBOR_SCALARS: Final = frozenset({date, UUID})
_T = TypeVar("_T")
_R = TypeVar("_R")


def _declares_nothing(_data: bytes) -> None:
    return None


def _on_enough_stack(function: Callable[[_T], _R], value: _T) -> _R:
    """Call a function that may recurse MAX_DEPTH times, even from deep in a call stack."""
    try:
        return function(value)
    except RecursionError:
        # A thread begins with an empty stack. It costs 0.1 ms, so only where it is needed.
        with ThreadPoolExecutor(1) as fresh:
            return fresh.submit(function, value).result()


@dataclass(frozen=True, slots=True)
class Codec:
    """A named pair of functions between a list and bytes; safe to use from several threads."""

    name: str
    dumps: Callable[[list[object]], bytes]
    loads: Callable[[bytes], object]
    declared: Callable[[bytes], int | None] = _declares_nothing
    """Returns the length that the list's head declares, or None."""
    heads: pieces.Heads | None = None
    """The first bytes of values, if the codec declares their lengths."""
    is_compressed: bool = False

    @property
    def plain_name(self) -> str:
        """The name without compression."""
        return self.name.removesuffix(_ZSTD)

    def as_in(self, recorded: str) -> Codec:
        """Return this codec, compressed if the one that a submission records is compressed.

        A program that names a plain codec, or none for raw bytes, can thus read another program's
        compressed submission. Only the recorded name decides, and not the look of the bytes.
        """
        is_compressed = recorded.endswith(_ZSTD)
        if self.name == recorded or self.is_compressed == is_compressed:
            return self
        name = self.plain_name + (_ZSTD if is_compressed else "")
        return replace(self, name=name, is_compressed=is_compressed)

    def encode(self, operations: Sequence[object], *, noun: str = "operation") -> bytes:
        """Encode the operations of a chunk, or their results.

        Args:
            operations: the operations, in the order of the chunk.
            noun: the word for one of them in errors, in front of its number.

        Raises:
            EncodingError: an operation can't be encoded. The message names the first such one, its
                type, and what helps.

        """
        try:
            data = _on_enough_stack(self.dumps, list(operations))
        except EncodingError:
            raise
        # Any exception: the code of custom or pickled objects may raise anything.
        except Exception as exc:
            raise self._not_encodable(operations, noun, exc) from exc
        if not isinstance(data, bytes):
            message = f"codec {self.name!r} returned {_type_of(data)} instead of bytes"
            raise EncodingError(message)
        if len(data) > MAX_CHUNK_BYTES:
            message = (
                f"the chunk has {len(data):,} bytes before compression, the limit is "
                f"{MAX_CHUNK_BYTES:,}: make chunks smaller"
            )
            raise EncodingError(message)
        return _compress(data) if self.is_compressed else data

    def decode(
        self,
        data: bytes,
        *,
        operations: int | None = None,
        limit_bytes: int = MAX_CHUNK_BYTES,
        limit_values: int | None = None,
    ) -> list[object]:
        """Decode bytes into the list that they were made from.

        Args:
            data: the return value of `encode`.
            operations: the length that the list must have. If the list declares its length in front
                (MessagePack, CBOR), it is checked before anything is built, otherwise afterwards.
            limit_bytes: the limit of the list before compression. Compressed data is decompressed
                up to the limit only, whatever size it claims.
            limit_values: the limit of all values that a large list contains, for MessagePack, CBOR
                and JSON. A value can take 80 times the memory of its bytes. None: no limit.

        Raises:
            ChunkTooLargeError: the list has more bytes than `limit_bytes`, or more values.
            EncodingError: the bytes are cut short, damaged, of another codec, not a list, or a list
                of another length.

        """
        try:
            found = self._read(data, operations, limit_bytes, limit_values)
        except EncodingError:
            raise
        except Exception as exc:  # as above; damaged pickles can raise any exception
            message = (
                f"{len(data):,} bytes can't be read by codec {self.name!r} "
                f"({_text_of(exc)}): they are damaged, or were written by another codec"
            )
            raise EncodingError(message) from exc
        if isinstance(found, tuple):
            found = list(found)  # the reference's client pickles tuples
        if not isinstance(found, list):
            message = f"codec {self.name!r} read {_type_of(found)}: a chunk is a list"
            raise EncodingError(message)
        self._check_length(len(found), operations)
        return found

    def decode_each(
        self, data: bytes, *, limit_bytes: int, operations: int, piece_bytes: int
    ) -> Iterator[object]:
        """Yield the values of a list in MessagePack, CBOR or JSON one by one, decompressing it.

        It is for lists that are too large to be decoded at once, and takes memory for a piece.

        Args:
            data: the return value of `encode`.
            limit_bytes: the limit of the list.
            operations: the length that it must have.
            piece_bytes: the limit of each value in it. The number of values within each is limited
                to an eighth of it.

        Raises:
            ChunkTooLargeError, EncodingError: see `decode`; also after values were yielded.
        """
        parts = _decompressed_parts(data, limit_bytes) if self.is_compressed else iter((data,))
        window = _Window(parts, piece_bytes)
        try:
            if self.plain_name == "json":
                found = _each_in_json(window)
            elif self.heads is not None:
                window.grow()
                self._check_length(self.declared(window.data), operations)
                found = _each_of(window, self.heads, self.loads)
            else:
                raise ChunkTooLargeError(piece_bytes)  # noqa: TRY301 like the errors of the others
            count = 0
            for value in found:
                count += 1
                if count > operations:
                    break
                yield value
        except (EncodingError, GeneratorExit):
            raise
        except pieces.ManyValuesError as exc:
            raise ChunkTooLargeError(piece_bytes) from exc
        except Exception as exc:
            message = (
                f"{len(data):,} bytes can't be read by codec {self.name!r} ({_text_of(exc)}): "
                "they are damaged, or were written by another codec"
            )
            raise EncodingError(message) from exc
        self._check_length(count, operations)

    def _check_values(self, plain: bytes, limit_values: int) -> None:
        try:
            if self.heads is not None:
                pieces.end_of_value(plain, 0, self.heads, limit_values=limit_values)
            elif self.plain_name == "json":
                pieces.check_json(plain, limit_values=limit_values)
        except pieces.ManyValuesError as exc:
            raise ChunkTooLargeError(limit_values, "values") from exc
        except pieces.IncompleteError as exc:
            message = f"the chunk of {len(plain):,} bytes is cut short"
            raise EncodingError(message) from exc

    def _read(
        self, data: bytes, operations: int | None, limit_bytes: int, limit_values: int | None
    ) -> object:
        plain = _decompress(data, limit_bytes) if self.is_compressed else data
        if len(plain) > limit_bytes:
            raise ChunkTooLargeError(limit_bytes)
        if operations is not None:
            self._check_length(self.declared(plain), operations)
        if limit_values is not None and len(plain) > max(limit_values, _SMALL_BYTES):
            self._check_values(plain, limit_values)
        return _on_enough_stack(self.loads, plain)

    def _check_length(self, found: int | None, expected: int | None) -> None:
        if found != expected and found is not None and expected is not None:
            message = (
                f"codec {self.name!r} read a list of {found:,}, the chunk has {expected:,} "
                "operations: it is damaged, or the bytes belong to another chunk"
            )
            raise EncodingError(message)

    def refusal_of(
        self, operation: object, *, position: int, noun: str = "operation"
    ) -> EncodingError | None:
        """Return the error for an operation or result that can't be encoded; None if it can."""
        try:
            _on_enough_stack(self.dumps, [operation])
        except Exception as exc:  # noqa: BLE001  as in encode
            return EncodingError(
                f"codec {self.name!r} can't encode {noun} {position} of the chunk, "
                f"{_type_of(operation)} ({_text_of(exc)}): {_helps(self.name)}"
            )
        return None

    def _not_encodable(
        self, operations: Sequence[object], noun: str, failure: Exception
    ) -> EncodingError:
        for position, operation in enumerate(operations):
            if refusal := self.refusal_of(operation, position=position, noun=noun):
                return refusal
        # Each of them alone passes: it is a failure of the whole, such as a lack of memory.
        return EncodingError(
            f"codec {self.name!r} can't encode the chunk ({_text_of(failure)}), although it can "
            "encode each of its parts; try smaller chunks"
        )


@dataclass(frozen=True, slots=True)
class CustomCodec(Codec):
    """A user's codec: `dumps` turns a list into bytes, `loads` does the reverse.

    Both must be safe to call from several threads. Workers and producers must use the same codec
    under the same name.
    """

    def __post_init__(self) -> None:
        """Refuse the names of built-in codecs, so that a recorded name has one meaning."""
        if not self.name or self.name.removesuffix(_ZSTD) in _PLAIN:
            message = f"a custom codec can't be called {self.name!r}: choose a name of your own"
            raise InvalidArgumentError(message)


def open_codec(name: str, *, allow_pickle: bool = False) -> Codec:
    """Return the codec of a name: `msgpack`, `json`, `cbor` or `pickle`, each also with `+zstd`.

    Raises:
        InvalidArgumentError: the name is unknown, or it is `pickle` and `allow_pickle` is false.

    """
    plain = _PLAIN.get(name.removesuffix(_ZSTD))
    if plain is None:
        known = ", ".join(_PLAIN)
        message = f"no codec is called {name!r}: there are {known}, each also with {_ZSTD}"
        raise InvalidArgumentError(message)
    if plain is _PICKLE and not allow_pickle:
        message = (
            f"codec {name!r} runs any code that is in the bytes: if you trust everybody who can "
            "write to the store, pass allow_pickle=True to the producer and to the handler"
        )
        raise InvalidArgumentError(message)
    return _COMPRESSED[plain.name] if name.endswith(_ZSTD) else plain


def readable_codecs(*, allow_pickle: bool, custom: Iterable[str] = ()) -> list[str]:
    """Return the names of the codecs that can be read, without `+zstd`, and the custom ones."""
    own = [name for name in _PLAIN if allow_pickle or name != _PICKLE.name]
    return sorted({*own, *custom})


def _compress(data: bytes) -> bytes:
    if len(data) < len(_STORED):
        return _STORED[len(data)] + data
    return _OF_THREAD.compressor.compress(data)


def _stored(size_bytes: int) -> bytes:
    """Return the head of a zstd frame that holds so many bytes uncompressed.

    Source: RFC 8878: magic number, one segment with its size in a byte, a last block that is raw.
    """
    return (
        b"\x28\xb5\x2f\xfd\x20" + bytes([size_bytes]) + (size_bytes << 3 | 1).to_bytes(3, "little")
    )


_STORED: Final = [_stored(size_bytes) for size_bytes in range(256)]
"""The heads of such frames by size. Compressing a small chunk would take longer than all other work
on it, and gains little. Every zstd decoder reads such a frame."""


class _Zstd(threading.local):
    """A thread's own objects: zstandard's can't be shared, and creating one takes 0.02 ms."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_OF_THREAD: Final = _Zstd()


def uncompressed(data: bytes, *, limit_bytes: int) -> bytes:
    """Decompress data of a codec with `+zstd`.

    Raises:
        ChunkTooLargeError: the result has more bytes than `limit_bytes`.
        EncodingError: the data is damaged.
    """
    try:
        return _decompress(data, limit_bytes)
    except zstandard.ZstdError as exc:
        message = f"{len(data):,} bytes can't be decompressed ({exc}): they are damaged"
        raise EncodingError(message) from exc


def _decompress(data: bytes, limit_bytes: int) -> bytes:
    """Decompress one frame, up to the limit."""
    size_bytes = len(data) - len(_STORED[0])
    if 0 <= size_bytes < len(_STORED) and data.startswith(_STORED[size_bytes]):
        return data[len(_STORED[0]) :]
    # zstandard allocates what a frame claims to hold, so only small claims are decompressed at
    # once. Frames with larger claims, or without one, are decompressed with a running limit.
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
        ChunkTooLargeError: the frame holds more than the limit.
        EncodingError: the frame has no end, or something follows it.
    """
    # Not a stream_reader, which accepts a frame that is cut short.
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


class _Window:
    """The part of a list that is decompressed; values that were read are dropped from its front."""

    def __init__(self, parts: Iterator[bytes], limit_bytes: int) -> None:
        self._parts = parts
        self._limit_bytes = limit_bytes
        self.data = b""
        self.at = 0

    def grow(self) -> bool:
        """Decompress about as many bytes as are left unread; return False if there are no more.

        Raises:
            ChunkTooLargeError: one value is larger than the limit.
        """
        rest = self.data[self.at :]
        if len(rest) > self._limit_bytes:
            raise ChunkTooLargeError(self._limit_bytes)
        found, wanted_bytes = [rest], max(len(rest), _SMALL_BYTES)
        while wanted_bytes > 0 and (part := next(self._parts, None)) is not None:
            found.append(part)
            wanted_bytes -= len(part)
        self.data, self.at = b"".join(found), 0
        return len(found) > 1

    @property
    def limit_values(self) -> int:
        """The limit of the values within each value of the list."""
        return self._limit_bytes // VALUE_BYTES


def _each_of(
    window: _Window, heads: pieces.Heads, loads: Callable[[bytes], object]
) -> Iterator[object]:
    """Yield the values of a list whose head declares their number, or which a BREAK ends."""
    number = _declared_length(window, heads)
    while number != 0:
        if number is None:
            if window.at >= len(window.data) and not window.grow():
                raise pieces.IncompleteError
            if window.data[window.at] == pieces.BREAK:
                window.at += 1
                break
        else:
            number -= 1
        while True:
            try:
                end = pieces.end_of_value(
                    window.data, window.at, heads, limit_values=window.limit_values
                )
                break
            except pieces.IncompleteError:
                if not window.grow():
                    raise
        piece = window.data[window.at : end]
        window.at = end
        yield _on_enough_stack(loads, piece)
    if window.at < len(window.data) or window.grow():
        message = "bytes follow the end of the chunk: it is damaged"
        raise EncodingError(message)


def _declared_length(window: _Window, heads: pieces.Heads) -> int | None:
    """Read the head of a list; return its length, or None if it ends with a BREAK."""
    if heads is pieces.CBOR:
        if window.data.startswith(CBOR_TAG):
            window.at = len(CBOR_TAG)
        if window.data[window.at : window.at + 1] == CBOR_UNDECLARED:
            window.at += 1
            return None
    length = (_cbor_length if heads is pieces.CBOR else _msgpack_length)(window.data)
    head = heads[window.data[window.at]] if length is not None else None
    if head is None:
        message = "it is not a list: it was written by another codec, or is damaged"
        raise EncodingError(message)
    window.at += head.size
    return length


_JSON_SPACE: Final = re.compile(rb"[ \t\r\n]*+")


def _each_in_json(window: _Window) -> Iterator[object]:
    _json_mark(window, b"[")
    if _json_mark(window, b"]", is_asked=True):
        _json_end(window)
        return
    while True:
        end = _json_value_end(window)
        piece = window.data[window.at : end]
        pieces.check_json(piece, limit_values=window.limit_values)
        window.at = end
        yield _on_enough_stack(_load_json, piece)
        if not _json_mark(window, b",", is_asked=True):
            _json_mark(window, b"]")
            _json_end(window)
            return


_JSON_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)

_JSON_DEPTH: Final = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}


def _json_value_end(window: _Window) -> int:
    """Return the end of the value that begins at the window's position, growing the window.

    Raises:
        pieces.ManyValuesError: it contains more values than the window's limit.
        pieces.IncompleteError: it has no end.
    """
    depth = marks = seen_bytes = 0
    while True:
        unfinished = len(window.data)
        for found in _JSON_TOKEN.finditer(window.data, window.at + seen_bytes):
            mark = window.data[found.start()]
            if mark == 0x22:
                if found.end() == found.start() + 1:
                    unfinished = found.start()  # a text that does not end here
                    break
                continue
            change = _JSON_DEPTH.get(mark, 0)
            if depth == 0 and change <= 0:
                return found.start()
            depth += change
            marks += change >= 0
            if marks > window.limit_values:
                raise pieces.ManyValuesError
        seen_bytes = unfinished - window.at
        if not window.grow():
            raise pieces.IncompleteError


def _json_mark(window: _Window, mark: bytes, *, is_asked: bool = False) -> bool:
    """Skip white space and the mark, and return whether it is there.

    Raises:
        EncodingError: it is missing, unless `is_asked`.
    """
    while True:
        window.at = _JSON_SPACE.match(window.data, window.at).end()  # type: ignore[union-attr]
        if window.at < len(window.data) or not window.grow():
            break
    is_there = window.data[window.at : window.at + 1] == mark
    if is_there:
        window.at += 1
    elif not is_asked:
        message = f"{mark.decode()} is missing"
        raise EncodingError(message)
    return is_there


def _json_end(window: _Window) -> None:
    if _json_mark(window, b" ", is_asked=True) or window.at == len(window.data):
        return  # `_json_mark` has skipped all spaces already
    message = "bytes follow the end of the chunk: it is damaged"
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
    data = data.removeprefix(CBOR_TAG)
    head = data[0] if data else 0
    if not 0x80 <= head <= 0x9B:
        return None
    # 24 to 27: the length is in the 1, 2, 4 or 8 bytes that follow.
    short = head & 0x1F
    return short if short < 24 else int.from_bytes(data[1 : 1 + (1 << short - 24)], "big")


class _UnreadableError(ValueError):
    """A value could be written but not read back."""


_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, bytearray})
_TEXT: Final = frozenset({str})
_SHARED_BELOW_DEPTH: Final = 3
"""Below this depth an object that occurs more than once in a level is checked once."""


def _nothing_in(_value: object) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """A check for values that a codec would write but not read back; 50 to 100 ns for each value.

    Args:
        by_tracking: check the values that the garbage collector tracks, instead of all but scalars.
        inner: returns the contents of a value that is not of a plain type, or None if it is not a
            container; raises _UnreadableError.
        plain_keys: types of keys that come back unchanged.
        is_lossy: returns whether a dict with other keys would come back with fewer of them.
        may_be_cyclic: the codec can encode lists that contain themselves. An object counts at the
            depth where it occurs first.
    """

    by_tracking: bool = False
    inner: Callable[[object], Iterable[object] | None] = _nothing_in
    plain_keys: frozenset[type] = _SCALARS
    is_lossy: Callable[[Mapping[object, object]], bool] | None = None
    may_be_cyclic: bool = False

    def __call__(self, operations: Iterable[object]) -> None:
        """Raise _UnreadableError with the reason if operations could not be read back.

        It works level by level and not recursively, since values nested too deep would exhaust the
        stack, which cbor2 answers by ending the process.
        """
        level = operations
        seen: dict[int, object] = {}
        for depth in range(MAX_DEPTH + 1):
            # The innermost dict may hold only scalars, so in the last level all values are checked.
            if self.by_tracking and depth < MAX_DEPTH:
                found = list(filter(gc.is_tracked, level))
            else:
                found = [value for value in level if type(value) not in _SCALARS]
            if depth > _SHARED_BELOW_DEPTH or self.may_be_cyclic:
                # Otherwise a list that holds the same list twice, which holds the same list twice,
                # and so on, would never end.
                distinct = {id(value): value for value in found}
                found = [value for id_, value in distinct.items() if id_ not in seen]
                if self.may_be_cyclic:
                    seen |= distinct
            parts = self._parts(found)
            if not parts:
                return
            if depth == MAX_DEPTH:
                message = f"it is nested deeper than the limit of {MAX_DEPTH} levels"
                raise _UnreadableError(message)
            level = chain.from_iterable(parts)

    def _parts(self, found: list[object]) -> list[Iterable[object]]:
        """Return the contents of values."""
        dicts = [value for value in found if type(value) is dict]
        parts: list[Iterable[object]] = list(map(dict.values, dicts))
        if len(dicts) < len(found):
            for value in found:
                if type(value) is list or isinstance(value, _SEQUENCES):
                    parts.append(value)
                elif type(value) is dict:
                    continue
                elif isinstance(value, dict):
                    dicts.append(value)
                    parts.append(value.values())
                elif (contained := self.inner(value)) is not None:
                    parts.append(contained)
        if not self.plain_keys.issuperset(map(type, chain.from_iterable(dicts))):
            if self.is_lossy is not None and any(map(self.is_lossy, dicts)):
                message = "two keys of a dict become the same key"
                raise _UnreadableError(message)
            parts.extend(dicts)
        return parts


_SEQUENCES: Final = (list, tuple, set, frozenset)


_MSGPACK: Final = msgspec.msgpack.Encoder()
"""An encoder shared by all threads: msgspec's objects keep no state between calls."""

_SMALL_MSGPACK_BYTES: Final = 1 << 10
_AT_ONCE: Final = 1_000
"""The number of operations that are copied into memory together."""


def _dump_msgpack(operations: list[object]) -> bytes:
    data = _MSGPACK.encode(operations)
    # msgspec takes 0.08 ms for 1,000 small dicts; checking each of their keys and values takes 5
    # times as long. So in larger chunks of plain data only values that the garbage collector tracks
    # are checked, and not scalars or dicts of scalars. That ignores the depth of tuples of scalars,
    # but the decoder reads far more levels than MAX_DEPTH.
    is_large = len(data) > _SMALL_MSGPACK_BYTES
    check = _CHECK_PLAIN_MSGPACK if is_large and _is_plain(operations) else _CHECK_MSGPACK
    check(operations)
    return data


def _is_plain(operations: list[object]) -> bool:
    """Return whether all values are of types that `marshal` can write, which is a fast check."""
    try:
        for at in range(0, len(operations), _AT_ONCE):
            marshal.dumps(operations[at : at + _AT_ONCE])
    except ValueError:
        return False
    return True


def _in_msgpack(value: object) -> Iterable[object] | None:
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.astuple(value)
    if isinstance(value, Enum):
        return (value.value,)
    if is_dataclass(value) or hasattr(value, "__attrs_attrs__"):
        fields = getattr(value, "__dataclass_fields__", ()) or [
            attribute.name for attribute in getattr(value, "__attrs_attrs__", ())
        ]
        return [getattr(value, name, None) for name in fields]
    return None


def _is_lossy_in_msgpack(value: Mapping[object, object]) -> bool:
    data = _MSGPACK.encode(dict.fromkeys(value))
    return len(msgspec.msgpack.decode(data, type=dict)) != len(value)


_CHECK_MSGPACK: Final = _Check(inner=_in_msgpack, is_lossy=_is_lossy_in_msgpack)
_CHECK_PLAIN_MSGPACK: Final = _Check(
    by_tracking=True, inner=_in_msgpack, is_lossy=_is_lossy_in_msgpack
)


def _is_lossy_in_json(value: Mapping[object, object]) -> bool:
    return len(json.loads(json.dumps(dict.fromkeys(value)))) != len(value)


_CHECK_JSON: Final = _Check(plain_keys=_TEXT, is_lossy=_is_lossy_in_json)


def _dump_json(operations: list[object]) -> bytes:
    _CHECK_JSON(operations)
    return json.dumps(operations, ensure_ascii=False, separators=(",", ":")).encode()


def _load_json(data: bytes) -> object:
    # Decode the text first: json.loads would guess UTF-16 or UTF-32 from damaged bytes.
    return json.loads(data.decode())


def _in_cbor(value: object) -> Iterable[object] | None:
    """Return a value's contents; raise _UnreadableError if it would come back as another value."""
    if type(value) is Decimal:
        # cbor2 turns a NaN into a float.
        is_readable = not value.is_nan() and len(value.as_tuple().digits) <= _MAX_DIGITS
    elif type(value) is datetime:
        offset = value.utcoffset()
        if offset is None:
            message = "it has no time zone: give it one, such as datetime.UTC"
            raise _UnreadableError(message)
        # cbor2 writes some offsets with seconds in a way that it can't read.
        is_readable = not offset % _MINUTE or _comes_back_from_cbor(value)
    elif type(value) in _CBOR_SCALARS or isinstance(value, int | float | str | bytes | bytearray):
        is_readable = True
    elif isinstance(value, Mapping):
        return chain(value, value.values())
    elif isinstance(value, Sequence) and not isinstance(value, memoryview):
        return value
    elif isinstance(value, cbor2.CBORTag):
        is_readable = type(value.value) in _SCALARS and _comes_back_from_cbor(value)
    else:
        is_readable = _comes_back_from_cbor(value)
    if not is_readable:
        message = f"{_type_of(value)} would not come back as it is: {value!r:.100}"
        raise _UnreadableError(message)
    return None


_CHECK_CBOR: Final = _Check(inner=_in_cbor)


def _dump_cbor(operations: list[object]) -> bytes:
    _CHECK_CBOR(operations)  # before encoding: cbor2 exhausts the stack on too deep nesting
    return cbor2.dumps(operations)


def _comes_back_from_cbor(value: object) -> bool:
    # Only for rare types that contain no other values.
    try:
        found = _load_cbor(cbor2.dumps(value))
    except (cbor2.CBORDecodeError, EncodingError):
        return False
    return type(found) is type(value) and (found == value or repr(found) == repr(value))


def _no_reference(_value: object, _is_immutable: object = False) -> object:  # noqa: FBT002 called by cbor2
    message = "it refers to another part of itself, which opsqueue does not write"
    raise EncodingError(message)


def _of_bounded_integers(tag: int) -> Callable[..., object]:
    def decoded(value: object, _is_immutable: object = False) -> object:  # noqa: FBT002 called by cbor2
        for number in value if isinstance(value, list | tuple) else ():
            if isinstance(number, int) and number.bit_length() > _MAX_BITS:
                message = f"a number has more than {_MAX_DIGITS:,} digits"
                raise EncodingError(message)
        return cbor2.loads(cbor2.dumps(cbor2.CBORTag(tag, value)))

    return decoded


_MAX_DIGITS: Final = 4_300
"""The longest integer that Python reads. The time for decimals and fractions grows with its square.
"""

_MAX_BITS: Final = 14_285
"""The number of bits of the largest number with `_MAX_DIGITS` digits."""

_DECODERS: Final = {
    # Shared values and strings: a few bytes could refer to each other so often that their JSON form
    # does not fit into any memory.
    **dict.fromkeys((25, 28, 29, 256), _no_reference),
    **{tag: _of_bounded_integers(tag) for tag in (4, 5, 30)},
}


def _load_cbor(data: bytes) -> object:
    # Without the tag: cbor2 turns lists within tags into tuples.
    stream = io.BytesIO(data.removeprefix(CBOR_TAG))
    return _at_end(stream, cbor2.CBORDecoder(stream, semantic_decoders=_DECODERS).decode())


_CHECK_PICKLE: Final = _Check(may_be_cyclic=True)


def _dump_pickle(operations: list[object]) -> bytes:
    _CHECK_PICKLE(operations)
    data = pickle.dumps(operations, protocol=_PICKLE_PROTOCOL)
    # The pickles of many classes can't be read, such as those of exceptions with arguments of their
    # own. So pickles that name classes are read back, which about doubles the time. Plain data is
    # not.
    if _STACK_GLOBAL in data:
        pickle.loads(data)  # noqa: S301  our own
    return data


def _load_pickle(data: bytes) -> object:
    stream = io.BytesIO(data)
    return _at_end(stream, pickle.load(stream))  # noqa: S301  allowed by the user: see open_codec


def _at_end(stream: io.BytesIO, value: object) -> object:
    # cbor2 and pickle ignore bytes after the first value; here they mean that it is damaged.
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
"""The codec of chunks that are bytes already; only their producer knows what is in them."""


def is_raw(name: str) -> bool:
    """Return whether chunks of a codec of this name are bytes that only their producer knows."""
    return name.removesuffix(_ZSTD) == RAW.name


_PICKLE = Codec("pickle", _dump_pickle, _load_pickle)
_PLAIN: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec(
            "msgpack",
            _dump_msgpack,
            msgspec.msgpack.Decoder().decode,
            _msgpack_length,
            pieces.MSGPACK,
        ),
        Codec("json", _dump_json, _load_json),
        Codec("cbor", _dump_cbor, _load_cbor, _cbor_length, pieces.CBOR),
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
            return "the codec's own dumps refused it"


def _text_of(exc: Exception) -> str:
    # cbor2 wraps what our own decoders raise.
    reason = exc.__cause__ if isinstance(exc, cbor2.CBORDecodeError) else exc
    if isinstance(reason, _UnreadableError | EncodingError):
        return str(reason)
    if isinstance(exc, RecursionError):
        return f"it is nested deeper than the limit of {MAX_DEPTH} levels"
    return f"{type(exc).__name__}: {exc}"[:300]


def _type_of(value: object) -> str:
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
