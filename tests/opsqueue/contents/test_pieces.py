"""Finding, counting and decoding values one by one in bytes too large to decode at once."""

from __future__ import annotations

import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsqueue.contents.codec import CBOR_TAG, open_codec
from opsqueue.contents.output import decode_each_outcome, decode_output, encode_output
from opsqueue.exceptions import ChunkTooLargeError, EncodingError
from opsqueue.model.chunk import OperationError

NAMES = [name + zstd for name in ("msgpack", "json", "cbor") for zstd in ("", "+zstd")]
MIB = 1 << 20
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\[]{},'), max_size=60),
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=9), inner, max_size=20)
    ),
    max_leaves=30,
)
# Head, what is repeated, how often, end: megabytes that a process should not hold all the time.
BOMBS = [
    *(
        ("msgpack", b"\x91\xdd\x01\xff\xff\xff", byte, 0x01FFFFFF, b"")
        for byte in (b"\xc0", b"\x80")
    ),
    *(("cbor", b"\x81\x9a\x01\xff\xff\xff", byte, 0x01FFFFFF, b"") for byte in (b"\xf6", b"\xa0")),
    ("json", b"[[", b"[],", 1_300_000, b"0]]"),
]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(values=st.lists(VALUES, max_size=10))
def test_values_one_by_one_are_those_of_the_whole(name: str, values: list[object]) -> None:
    """In their order."""
    codec = open_codec(name)
    data = codec.encode(values)

    found = list(codec.decode_each(data, operations=len(values), limit_bytes=MIB, piece_bytes=MIB))

    assert values == found


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_many_pieces_is_read(name: str) -> None:
    """Values begin and end anywhere in what is decompressed at a time."""
    codec = open_codec(name)
    values: list[object] = [["x" * (i * 97 % 50_000), i, {'"': '\\"[,'}] for i in range(400)]
    data = codec.encode(values)

    found = list(codec.decode_each(data, operations=400, limit_bytes=64 * MIB, piece_bytes=MIB))

    assert values == found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_damaged_is_said_to_be(name: str) -> None:
    """Cut short, longer, of another number: not without an error."""
    codec = open_codec(name)
    values = [[i, "text"] for i in range(300)]
    data = codec.encode(values)

    for bad, operations in ((data[:-1], 300), (data + b"x", 300), (data, 299), (data, 301)):
        with pytest.raises(EncodingError):
            list(codec.decode_each(bad, operations=operations, limit_bytes=MIB, piece_bytes=MIB))


def test_errors_of_operations_come_in_their_places() -> None:
    """Between the results."""
    bad = OperationError(type="ValueError", message="no", traceback="")
    codec = open_codec("msgpack+zstd")
    output = encode_output([1, bad, 3, bad], codec, collects=True).data

    found = list(decode_each_outcome(output, codec, operations=4, limit_bytes=MIB, piece_bytes=MIB))

    assert decode_output(output, codec) == found


@pytest.mark.parametrize(("name", "head", "part", "times", "end"), BOMBS)
def test_one_value_may_not_hold_too_many(
    name: str, head: bytes, part: bytes, times: int, end: bytes
) -> None:
    """Whole or in pieces: a byte can take 80 bytes of memory."""
    codec, bomb = open_codec(name), head + part * times + end

    with pytest.raises(ChunkTooLargeError, match="max-chunk-bytes"):
        codec.decode(bomb, operations=1, limit_bytes=32 * MIB, limit_values=MIB // 2)
    with pytest.raises(ChunkTooLargeError, match="max-chunk-bytes"):
        list(codec.decode_each(bomb, operations=1, limit_bytes=1 << 30, piece_bytes=4 * MIB))


def test_texts_of_json_are_not_counted_as_values() -> None:
    """Commas within them are none between values."""
    codec = open_codec("json")
    data = json.dumps(["," * (2 * MIB)]).encode()

    assert codec.decode(data, limit_values=1_000) == ["," * (2 * MIB)]


@pytest.mark.parametrize(
    "data",
    [
        CBOR_TAG + cbor2.dumps([[1, "two"], {"three": 4}, b"5"]),
        b"\x9f\x82\x01\x63two\xa1\x65three\x04\x41\x35\xff",
        CBOR_TAG + b"\x9f\x9f\x01\x63two\xff\xbf\x65three\x04\xff\x41\x35\xff",
        b"\x83\x82\x01\x7f\x62tw\x61o\xff\xa1\x65three\x04\x5f\x41\x35\xff",
    ],
    ids=["tag", "undeclared", "both", "texts in parts"],
)
def test_forms_of_cbor_that_others_write_are_read_alike(data: bytes) -> None:
    """Whole and one by one, whatever is behind a value."""
    codec, expected = open_codec("cbor"), [[1, "two"], {"three": 4}, b"5"]

    each = codec.decode_each(data, operations=3, limit_bytes=MIB, piece_bytes=MIB)

    assert expected == codec.decode(data, operations=3, limit_values=20)
    assert expected == list(each)


@pytest.mark.parametrize(
    "data", [b"\x9f\x01\x02\x03\x04\xff", b"\x9f\x01\x02\xff", b"\x9f\x01\x02\x03", b"\x63abc"]
)
def test_a_list_of_undeclared_length_is_counted(data: bytes) -> None:
    """One that is too long, too short, without its end; and what is no list."""
    codec = open_codec("cbor")

    with pytest.raises(EncodingError):
        codec.decode(data, operations=3)
    with pytest.raises(EncodingError):
        list(codec.decode_each(data, operations=3, limit_bytes=MIB, piece_bytes=MIB))


def test_values_in_lists_of_undeclared_length_are_counted() -> None:
    """As those of declared ones."""
    bomb = b"\x81\x9f" + b"\x80" * 2_000_000 + b"\xff"

    with pytest.raises(ChunkTooLargeError):
        open_codec("cbor").decode(bomb, operations=1, limit_values=MIB)
