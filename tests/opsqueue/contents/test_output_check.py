"""Checks that an output is readable and complete, by decoding it or by its head alone."""

from __future__ import annotations

import json
import pickle
from typing import Any

import cbor2
import msgspec
import pytest
import zstandard

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import MAGIC, encode_output
from opsqueue.contents.output_check import HEAD_BYTES, count_errors, count_stored_errors
from opsqueue.exceptions import EncodingError
from opsqueue.model.chunk import OperationError

OURS = ["msgpack", "json", "cbor", "pickle"]
CODECS = [name + suffix for name in OURS for suffix in ("", "+zstd")]
COUNTED = [name for name in CODECS if "pickle" not in name]
FAILED = OperationError(type="ValueError", message="no")


class Stored:
    """An output that is read in parts and counts the bytes read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.read_bytes = 0

    def read(self, start: int, size_bytes: int) -> bytes:
        part = self._data[start : start + size_bytes]
        self.read_bytes += len(part)
        return part


def sent(data: bytes, codec: str, operations: int) -> int:
    return count_errors(data, codec=codec, operations=operations)


def stored(data: bytes, codec: str, operations: int) -> int:
    return count_stored_errors(Stored(data).read, codec=codec, operations=operations)


BOTH = pytest.mark.parametrize("count", [sent, stored])


def codec_of(name: str) -> Any:
    return open_codec(name, allow_pickle=True)


@BOTH
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 23, 24, 300, 70_000])
def test_a_result_for_each_operation_is_enough(count: Any, codec: str, size: int) -> None:
    """Whatever form a codec gives a list of this length."""
    data = encode_output(list(range(size)), codec_of(codec)).data

    assert count(data, codec, size) == 0


@BOTH
@pytest.mark.parametrize("codec", CODECS)
def test_errors_count_as_the_output_has_them(count: Any, codec: str) -> None:
    """Results and errors together are as many as there are operations."""
    output = encode_output([1, FAILED, 3, FAILED], codec_of(codec), collects=True)

    assert count(output.data, codec, 4) == 2
    for operations in (3, 5):
        with pytest.raises(EncodingError, match=f"4 results for {operations} operations"):
            count(output.data, codec, operations)


@BOTH
@pytest.mark.parametrize("codec", COUNTED)
@pytest.mark.parametrize(("size", "operations"), [(0, 1), (1, 2), (3, 2), (16, 15), (300, 70_000)])
def test_another_number_of_results_is_refused(
    count: Any, codec: str, size: int, operations: int
) -> None:
    """Too few, too many, none."""
    data = codec_of(codec).encode(list(range(size)))

    with pytest.raises(EncodingError, match=f"{size:,} results for {operations:,} operations"):
        count(data, codec, operations)


@BOTH
@pytest.mark.parametrize("codec", ["msgpack", "cbor", "msgpack+zstd", "cbor+zstd"])
def test_a_large_output_declares_its_length(count: Any, codec: str) -> None:
    """None of its results has to be read for that."""
    data = codec_of(codec).encode([str(number) * 20 for number in range(50_000)])

    with pytest.raises(EncodingError, match="50,000 results for 49,999 operations"):
        count(data, codec, 49_999)


@BOTH
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x00\x00\x00", b"[", b"text", b"\xff" * 30])
def test_what_is_no_output_is_refused(count: Any, codec: str, damage: bytes) -> None:
    """Nothing, or bytes that no codec has written."""
    with pytest.raises(EncodingError):
        count(damage, codec, 1)


@BOTH
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("other", CODECS)
def test_an_output_of_another_codec_is_refused(count: Any, codec: str, other: str) -> None:
    """Each codec's list begins in a way of its own, but for that of one operation or a few."""
    if codec == other:
        return
    data = codec_of(other).encode([{"number": number} for number in range(100)])

    with pytest.raises(EncodingError):
        count(data, codec, 100)


@BOTH
@pytest.mark.parametrize("codec", COUNTED)
def test_an_output_that_is_cut_off_or_continued_is_refused(count: Any, codec: str) -> None:
    """A small one is decoded, wherever it is."""
    data = codec_of(codec).encode([{"number": number} for number in range(300)])

    for damaged in (data[:-1], data[: len(data) // 2], data + b"\x00"):
        with pytest.raises(EncodingError):
            count(damaged, codec, 300)


@BOTH
@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("msgpack", {"a": 1}),
        ("msgpack", "text"),
        ("json", {"a": 1}),
        ("json", "[1]"),
        ("cbor", {"a": 1}),
        ("cbor", {1}),
        ("cbor", cbor2.CBORTag(28, [1])),
        ("pickle", None),
    ],
)
def test_what_is_no_list_is_refused(count: Any, codec: str, value: object) -> None:
    """An object, a text: as programs in other languages send by mistake."""
    dumps: dict[str, Any] = {
        "msgpack": msgspec.msgpack.encode,
        "json": lambda value: json.dumps(value).encode(),
        "cbor": cbor2.dumps,
        "pickle": lambda _value: b"N.",
    }

    with pytest.raises(EncodingError, match="not a list"):
        count(dumps[codec](value), codec, 1)


@BOTH
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("results", [[1], (1,)])
def test_a_pickle_of_any_protocol_may_be_there(count: Any, protocol: int, results: object) -> None:
    """It is not read: that would run whatever code is in it."""
    assert count(pickle.dumps(results, protocol), "pickle", 1) == 0


@BOTH
def test_cbor_may_have_no_length_or_say_that_it_is_cbor(count: Any) -> None:
    """Other languages' encoders stream lists, or put a tag in front."""
    assert count(b"\x9f\x01\x02\xff", "cbor", 2) == 0
    assert count(b"\xd9\xd9\xf7\x82\x01\x02", "cbor", 2) == 0
    with pytest.raises(EncodingError, match="2 results for 3 operations"):
        count(b"\x9f\x01\x02\xff", "cbor", 3)


@BOTH
def test_raw_bytes_are_the_submitters_affair(count: Any) -> None:
    """They may be empty or begin like an envelope of errors."""
    for data in (b"", b"x", MAGIC, MAGIC + b"\xff" * 20):
        assert count(data, "raw", 7) == 0
    assert count(codec_of("raw+zstd").encode([b"x"]), "raw+zstd", 7) == 0
    with pytest.raises(EncodingError, match="decompressed"):
        count(b"not compressed at all", "raw+zstd", 7)


@BOTH
def test_an_output_of_a_users_own_codec_is_not_empty(count: Any) -> None:
    """Only the user can check more, but errors in it can be counted."""
    envelope = encode_output([1, FAILED], codec_of("json"), collects=True).data

    assert count(b"whatever", "custom:mine", 3) == 0
    assert count(b"whatever", "mine+zstd", 3) == 0
    assert count(envelope, "custom:mine", 2) == 1
    with pytest.raises(EncodingError, match="empty"):
        count(b"", "custom:mine", 3)
    with pytest.raises(EncodingError, match="2 results for 3 operations"):
        count(envelope, "custom:mine", 3)


@BOTH
def test_an_envelope_that_is_damaged_is_refused(count: Any) -> None:
    """It is cut off anywhere or has another number of operations than it says."""
    data = encode_output([1, FAILED, 3], codec_of("msgpack"), collects=True).data

    for end in range(len(data)):
        with pytest.raises(EncodingError):
            count(data[:end], "msgpack", 3)


@pytest.mark.parametrize("codec", ["msgpack", "cbor+zstd", "json"])
def test_little_is_read_of_a_large_output(codec: str) -> None:
    """The bytes read do not grow with the output."""
    numbers = [f"{number * 7919 % 1_000_003:x}" * 40 for number in range(40_000)]
    object_ = Stored(codec_of(codec).encode(numbers))

    count_stored_errors(object_.read, codec=codec, operations=len(numbers))

    assert object_.read_bytes <= HEAD_BYTES


def test_errors_of_any_size_are_counted_up_to_a_limit() -> None:
    """They are read whole, the results behind them are not."""
    failed = [OperationError(type="E", message="x" * 4_000) for _ in range(100)]
    data = encode_output([*failed, *range(100_000)], codec_of("msgpack"), collects=True).data
    object_ = Stored(data)
    many = MAGIC + (1 << 40).to_bytes(8, "big")

    assert count_stored_errors(object_.read, codec="msgpack", operations=100_100) == 100
    assert object_.read_bytes < 1_000_000
    with pytest.raises(EncodingError, match="the limit is 16,777,216"):
        stored(many, "msgpack", 1)


def test_a_frame_that_holds_far_more_than_it_has_is_not_unpacked() -> None:
    """32 KB of zstd can hold a GiB: its head is looked at alone."""
    bomb = zstandard.ZstdCompressor().compress(b"\xdd\x0f\xff\xff\xff" + b"\xc0" * 0x0FFFFFFF)

    with pytest.raises(EncodingError, match="268,435,455 results for 3 operations"):
        stored(bomb, "msgpack+zstd", 3)
    with pytest.raises(EncodingError, match="268,435,455 results for 3 operations"):
        sent(bomb, "msgpack+zstd", 3)
