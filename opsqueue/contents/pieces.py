"""Finding where values begin and end in encoded bytes, without building them. Pure, no I/O.

A byte can stand for a dict or a list that takes 60 bytes of memory and more. So values are counted
before they are decoded, and large chunks are decoded one value at a time.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from opsqueue.exceptions import EncodingError

_JSON_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class _Head(NamedTuple):
    """The meaning of a first byte of a MessagePack or CBOR value."""

    size: int
    """The length of the head, including a payload of fixed size."""
    children: int = 0
    length_bytes: int = 0
    """The size in bytes of a number that follows the first byte."""
    payload_times: int = 0
    """The factor by which that number is multiplied for the payload's size, in bytes."""
    children_times: int = 0
    """The factor by which that number is multiplied for the number of values that follow."""


Heads = tuple[_Head | None, ...]
"""The heads by first byte; None: no value begins with it."""

_UNDECLARED: Final = _Head(0)
"""A CBOR container of undeclared length: its values follow, up to a BREAK."""

BREAK: Final = 0xFF


def _msgpack_heads() -> Heads:
    heads: list[_Head | None] = [_Head(1)] * 256
    heads[0xC1] = None
    for short in range(16):
        heads[0x80 + short] = _Head(1, 2 * short)
        heads[0x90 + short] = _Head(1, short)
    for short in range(32):
        heads[0xA0 + short] = _Head(1 + short)
    for power, size in enumerate((1, 2, 4)):
        heads[0xC4 + power] = heads[0xD9 + power] = _Head(1 + size, 0, size, 1)
        heads[0xC7 + power] = _Head(2 + size, 0, size, 1)
    for power, size in enumerate((2, 4)):
        heads[0xDC + power] = _Head(1 + size, 0, size, 0, 1)
        heads[0xDE + power] = _Head(1 + size, 0, size, 0, 2)
    heads[0xCA], heads[0xCB] = _Head(5), _Head(9)
    for power in range(4):
        heads[0xCC + power] = heads[0xD0 + power] = _Head(1 + (1 << power))
    for power in range(5):
        heads[0xD4 + power] = _Head(2 + (1 << power))
    return tuple(heads)


def _cbor_heads() -> Heads:
    heads: list[_Head | None] = [None] * 256
    for major in range(8):
        for short in range(28):
            size = 0 if short < 24 else 1 << short - 24
            number = short if short < 24 else 0
            match major:
                case 2 | 3:
                    head = _Head(1 + size + number, 0, size, 1)
                case 4 | 5:
                    head = _Head(1 + size, number * (major - 3), size, 0, major - 3)
                case _:
                    head = _Head(1 + size, 1 if major == 6 else 0)
            heads[major << 5 | short] = head
    for major in (2, 3, 4, 5):
        heads[major << 5 | 31] = _UNDECLARED
    return tuple(heads)


MSGPACK: Final = _msgpack_heads()
CBOR: Final = _cbor_heads()


class ManyValuesError(Exception):
    """The bytes contain more values than the limit."""


class IncompleteError(Exception):
    """The bytes end within a value."""


def end_of_value(data: bytes, begin: int, heads: Heads, *, limit_values: int) -> int:
    """Return the end of the value that begins at `begin`.

    It takes about 0.2 us for each value that this value contains.

    Raises:
        ManyValuesError: it contains more values than the limit.
        IncompleteError: the bytes end before the value does.
        EncodingError: the bytes are not a value.
    """
    at, left, total, seen = begin, 1, len(data), 0
    undeclared: list[int] = []
    while left or undeclared:
        if at >= total:
            raise IncompleteError
        if not left:
            if data[at] == BREAK:
                left = undeclared.pop()
                at += 1
                continue
            left = 1
        head = heads[data[at]]
        if head is None:
            message = f"byte {at:,} does not begin a value"
            raise EncodingError(message)
        size, children, length_bytes, payload_times, children_times = head
        seen += 1
        left += children - 1
        if not size:
            undeclared.append(left)
            left, at = 0, at + 1
        if length_bytes:
            number = int.from_bytes(data[at + 1 : at + 1 + length_bytes], "big")
            left += number * children_times
            at += number * payload_times
        at += size
        if seen + left > limit_values:
            raise ManyValuesError
    if at > total:
        raise IncompleteError
    return at


def check_json(data: bytes, *, limit_values: int) -> None:
    """Raise ManyValuesError if JSON may hold more values than the limit."""
    # Strings may contain such characters, too. Removing them is slow, so it is done only if there
    # are many characters.
    has_many = len(data) > limit_values and _json_marks(data) > limit_values
    if has_many and _json_marks(_JSON_TEXT.sub(b"0", data)) > limit_values:
        raise ManyValuesError


def _json_marks(data: bytes) -> int:
    return 1 + sum(map(data.count, (b",", b"[", b"{", b":")))
