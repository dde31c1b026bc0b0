"""Codecs: values survive a round trip, and others are refused before they are stored."""

from __future__ import annotations

import json
import math
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opsqueue.contents import codec as codec_module
from opsqueue.contents.codec import CustomCodec, open_codec
from opsqueue.exceptions import ChunkTooLargeError, EncodingError, InvalidArgumentError
from opsqueue.model.new_submission import DEFAULT_CODEC

if TYPE_CHECKING:
    from opsqueue.contents.codec import Codec

PLAIN_NAMES = ["msgpack", "json", "cbor", "pickle"]
NAMES = [*PLAIN_NAMES, *(f"{name}+zstd" for name in PLAIN_NAMES)]

INT_64 = st.integers(-(2**63), 2**64 - 1)
# What every codec carries unchanged: JSON's types, integers of 64 bits.
PLAIN = st.recursive(
    st.none() | st.booleans() | INT_64 | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ANY_INT = st.integers(-(2**200), 2**200)
DATES = st.datetimes(timezones=st.just(UTC))


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Give each codec in turn."""
    name: str = request.param
    return open_codec(name, allow_pickle=True)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(operations=st.lists(PLAIN, max_size=8))
def test_plain_data_comes_back_as_it_was(name: str, operations: list[object]) -> None:
    """Every codec carries JSON's types unchanged, types included."""
    codec = open_codec(name, allow_pickle=True)

    decoded = codec.decode(codec.encode(operations))

    assert repr(operations) == repr(decoded)


@pytest.mark.parametrize("name", ["msgpack", "cbor+zstd", "pickle"])
@settings(max_examples=30)
@given(operations=st.lists(st.binary() | st.dictionaries(INT_64, st.binary(), max_size=3)))
def test_bytes_and_integer_keys_come_back_but_in_json(name: str, operations: list[object]) -> None:
    """The binary codecs support bytes and keys that are not text."""
    codec = open_codec(name, allow_pickle=True)

    assert operations == codec.decode(codec.encode(operations))


@pytest.mark.parametrize("name", ["json", "cbor", "pickle"])
@given(operations=st.lists(ANY_INT))
def test_integers_of_any_size_come_back(name: str, operations: list[int]) -> None:
    """Only msgpack is limited to 64 bits."""
    codec = open_codec(name, allow_pickle=True)

    assert operations == codec.decode(codec.encode(operations))


@settings(max_examples=50)
@given(operations=st.lists(st.decimals(allow_nan=False) | DATES | st.sets(INT_64)))
def test_cbor_carries_decimals_dates_and_sets(operations: list[object]) -> None:
    """The module's docstring has a table of these types."""
    codec = open_codec("cbor")

    assert operations == codec.decode(codec.encode(operations))


def test_not_a_number_comes_back(codec: Codec) -> None:
    """NaN and the infinities are floats like others."""
    operations = [math.nan, math.inf, -math.inf]

    decoded = codec.decode(codec.encode(operations))

    assert repr(operations) == repr(decoded)


def test_a_tuple_of_operations_is_a_chunk_too(codec: Codec) -> None:
    """Any sequence may be encoded; a list is what comes back."""
    assert codec.decode(codec.encode((1, 2))) == [1, 2]


def test_the_default_is_compressed_msgpack() -> None:
    """Its name is what is recorded with a submission."""
    codec = open_codec(DEFAULT_CODEC)

    assert codec.name == "msgpack+zstd"
    assert len(codec.encode(["same"] * 10_000)) < 100


def test_json_is_compact_and_readable() -> None:
    """No blanks, and letters as they are."""
    assert open_codec("json").encode([{"a": "ж"}, 1]) == '[{"a":"ж"},1]'.encode()


@pytest.mark.parametrize(
    ("name", "operation", "kind", "helps"),
    [
        ("msgpack", 2**64, "an int", "integers beyond 64 bits: codec 'cbor'"),
        ("msgpack+zstd", object(), "an object", "instances: 'pickle'"),
        ("msgpack", "\ud800", "a str", "plain data"),
        ("json", b"bytes", "a bytes", "bytes and dates: codec 'cbor'"),
        ("json+zstd", datetime(2026, 1, 1, tzinfo=UTC), "a datetime.datetime", "codec 'cbor'"),
        ("cbor", threading.Lock(), "a _thread.lock", "codec 'pickle'"),
        ("pickle+zstd", lambda: None, "a function", "no lambdas"),
    ],
)
def test_what_cannot_be_carried_is_found(
    name: str, operation: object, kind: str, helps: str
) -> None:
    """The message names the codec, the position, the type, and what helps."""
    codec = open_codec(name, allow_pickle=True)

    with pytest.raises(EncodingError) as caught:
        codec.encode([Decimal(1) if name == "cbor" else 1, "two", operation, 4])

    assert f"codec {name!r} can't encode operation 2 of the chunk, {kind} (" in str(caught.value)
    assert helps in str(caught.value)


def test_a_ring_cannot_be_carried() -> None:
    """A list that contains itself raises an EncodingError instead of looping."""
    ring: list[object] = []
    ring.append(ring)

    for name in ("msgpack", "json", "cbor"):
        with pytest.raises(EncodingError, match="operation 0"):
            open_codec(name).encode([ring])


@pytest.mark.parametrize("name", ["msgpack", "json", "cbor", "msgpack+zstd"])
@settings(max_examples=300)
@given(data=st.binary(max_size=64))
@example(data=b"")
@example(data=b"[" * 100_000)
@example(data=b"\x91" * 100_000)
@example(data=b"\x81" * 100_000)
@example(data=b"\xdd\xff\xff\xff\xff")
@example(data=b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
def test_any_bytes_are_a_chunk_or_an_encoding_error(name: str, data: bytes) -> None:
    """No bytes from a store raise anything else, nor crash."""
    codec = open_codec(name)

    try:
        decoded = codec.decode(data)
    except EncodingError:
        return

    assert isinstance(decoded, list)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_damaged_chunk_is_a_chunk_or_an_encoding_error(name: str, data: st.DataObject) -> None:
    """Cut short, a chunk is refused; with changed bytes nothing but EncodingError is raised."""
    codec = open_codec(name, allow_pickle=True)
    whole = codec.encode([{"id": 1, "name": "one"}, [1.5, None, "text" * 20]])
    cut = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    if not name.startswith("pickle"):  # a pickle's changed byte may run anything
        changed[cut] ^= data.draw(st.integers(1, 255))

    with pytest.raises(EncodingError):
        codec.decode(whole[:cut])
    try:
        codec.decode(bytes(changed))
    except EncodingError:
        return


def test_bytes_after_the_end_are_damage(codec: Codec) -> None:
    """Decoders that would ignore them refuse them, too."""
    with pytest.raises(EncodingError):
        codec.decode(codec.encode([1, 2]) + b"\x01")


@pytest.mark.parametrize(
    ("name", "data"), [("json", b"{}"), ("msgpack", b"\x80"), ("cbor", b"\xa0"), ("cbor", b"\x01")]
)
def test_a_chunk_is_a_list(name: str, data: bytes) -> None:
    """Other values are refused, with what was found."""
    with pytest.raises(EncodingError, match=r"read (a dict|an int): a chunk is a list"):
        open_codec(name).decode(data)


def test_another_codecs_bytes_are_refused() -> None:
    """The message explains the likely cause."""
    data = open_codec("msgpack").encode([1])

    with pytest.raises(EncodingError, match="were written by another codec"):
        open_codec("msgpack+zstd").decode(data)


def test_a_frame_that_claims_more_than_the_limit_is_refused_by_its_head() -> None:
    """None of it is decompressed."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(70_000)))
    at = frame.index((70_000).to_bytes(4, "little"))
    frame[at : at + 4] = (2**31).to_bytes(4, "little")

    with pytest.raises(ChunkTooLargeError, match=r"limit of 1,073,741,824 bytes"):
        open_codec("msgpack+zstd").decode(bytes(frame))


@pytest.mark.parametrize("has_size", [True, False])
def test_a_decompression_bomb_ends_at_the_limit(*, has_size: bool) -> None:
    """A gigabyte in 32 KB takes only the limit and a piece; its declared size is ignored."""
    size = 1 << 30
    compressor = zstandard.ZstdCompressor(write_content_size=has_size).compressobj(
        size=size if has_size else -1
    )
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    frame = b"".join([*parts, compressor.flush()])
    assert len(frame) < 40_000
    if has_size:
        at = frame.index(size.to_bytes(4, "little"))
        frame = frame[:at] + (8 << 20).to_bytes(4, "little") + frame[at + 4 :]
    tracemalloc.start()

    with pytest.raises(EncodingError):
        open_codec("raw+zstd").decode(frame, limit_bytes=8 << 20)

    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("size", [1_000, 300_000, 5_000_000])
def test_a_frame_needs_no_size_but_an_end(size: int) -> None:
    """A frame without its size is read; cut short, or with a second one behind it, it is not."""
    data = bytes(size)
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    codec = open_codec("raw+zstd")

    assert codec.decode(frame) == [data]
    for bad in (frame[:-1], frame + b"x", frame + frame):
        with pytest.raises(EncodingError):
            codec.decode(bad)
    with pytest.raises(ChunkTooLargeError):
        codec.decode(frame, limit_bytes=size - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_another_length_is_refused(name: str) -> None:
    """A chunk is of as many operations as its submission says."""
    codec = open_codec(name, allow_pickle=True)
    data = codec.encode(range(300))

    assert codec.decode(data, operations=300) == list(range(300))
    for operations in (0, 1, 299, 301):
        with pytest.raises(EncodingError, match=f"list of 300, the chunk has {operations} opera"):
            codec.decode(data, operations=operations)


@pytest.mark.parametrize("name", ["msgpack", "cbor"])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 23, 24, 255, 256, 65_535, 65_536])
def test_a_declared_length_is_read_from_the_head(name: str, length: int) -> None:
    """Of each form that the encoders write."""
    codec = open_codec(name)

    assert codec.declared(codec.encode([None] * length)) == length


@pytest.mark.parametrize(
    ("name", "head"), [("msgpack", b"\xdd\x10\x00\x00\x00"), ("cbor", b"\x9a\x10\x00\x00\x00")]
)
def test_a_declared_length_is_checked_before_anything_is_built(name: str, head: bytes) -> None:
    """The list alone would take 2 GiB."""
    with pytest.raises(EncodingError, match="list of 268,435,456, the chunk has 2 operations"):
        open_codec(name).decode(head, operations=2)


def test_a_custom_codec_that_reads_another_number_is_caught() -> None:
    """Its loads is the user's, but a chunk has as many operations as it has."""
    codec = CustomCodec("half", lambda it: json.dumps(it[::2]).encode(), json.loads)

    with pytest.raises(EncodingError, match="list of 2, the chunk has 4 operations"):
        codec.decode(codec.encode([1, 2, 3, 4]), operations=4)


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 5_000])
def test_any_zstd_reads_a_compressed_chunk(size: int) -> None:
    """Also a small one, which stands in its frame as it is, and a large one of any zstd's."""
    codec, data = open_codec("raw+zstd"), bytes(range(256)) * 20

    frame = codec.encode([data[:size]])

    assert data[:size] == zstandard.ZstdDecompressor().decompress(frame)
    assert [data[:size]] == codec.decode(frame)
    assert [data[:size]] == codec.decode(zstandard.ZstdCompressor().compress(data[:size]))


def test_what_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit applies in both directions."""
    monkeypatch.setattr(codec_module, "MAX_CHUNK_BYTES", 100)

    with pytest.raises(EncodingError, match="make chunks smaller"):
        open_codec("json+zstd").encode(["x" * 100])


@pytest.mark.parametrize("name", ["", "yaml", "zstd", "+zstd", "json+zstd+zstd", "JSON"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    """A typo is answered with the names there are."""
    with pytest.raises(
        InvalidArgumentError, match="msgpack, json, cbor, raw, pickle, each also with"
    ):
        open_codec(name)


@pytest.mark.parametrize("name", ["pickle", "pickle+zstd"])
def test_pickle_must_be_asked_for(name: str) -> None:
    """Neither direction works by accident."""
    with pytest.raises(InvalidArgumentError, match="pass allow_pickle=True to the producer and"):
        open_codec(name)


def test_a_custom_codec_is_a_pair_of_functions() -> None:
    """It gets the whole list, and its failures are EncodingErrors too."""
    codec = CustomCodec("text", lambda it: json.dumps(it).encode(), json.loads)

    assert codec.decode(codec.encode([1, "a"])) == [1, "a"]
    with pytest.raises(EncodingError, match="codec 'text' can't encode operation 1"):
        codec.encode([1, b"x"])
    with pytest.raises(EncodingError, match="codec 'text'"):
        codec.decode(b"[")


def test_a_custom_codec_gives_bytes() -> None:
    """A dumps that returns text raises an error at its first use."""
    # The mistake that the type checker would find too.
    codec = CustomCodec("text", json.dumps, json.loads)  # type: ignore[arg-type]

    with pytest.raises(EncodingError, match="returned a str instead of bytes"):
        codec.encode([1])


@pytest.mark.parametrize("name", ["", "json", "msgpack+zstd"])
def test_a_custom_codec_has_a_name_of_its_own(name: str) -> None:
    """A recorded name means one codec."""
    with pytest.raises(InvalidArgumentError, match="choose a name of your own"):
        CustomCodec(name, lambda _: b"", lambda _: [])


def test_a_failure_of_the_whole_chunk_is_said_to_be() -> None:
    """If each operation can be encoded alone, none is blamed."""

    def at_most_one(operations: list[object]) -> bytes:
        if len(operations) > 1:
            raise MemoryError
        return b""

    codec = CustomCodec("small", at_most_one, lambda _: [])

    with pytest.raises(EncodingError, match="try smaller chunks"):
        codec.encode([1, 2])


def test_threads_share_a_codec(codec: Codec) -> None:
    """Eight threads get their own chunks back."""
    chunks = [[index, str(index) * 100] for index in range(400)]

    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda chunk: codec.decode(codec.encode(chunk)), chunks))

    assert chunks == decoded
