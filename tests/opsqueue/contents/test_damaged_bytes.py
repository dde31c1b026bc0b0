"""Damaged bytes from a store decode to the original values or raise one of opsqueue's errors."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import MAGIC, decode_output, encode_output, errors_of
from opsqueue.exceptions import EncodingError
from opsqueue.model.chunk import OperationError

BOUNDS = settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# Not pickle, which does what the bytes say, and is for stores that are trusted.
CODECS = [name + zstd for name in ("msgpack", "json", "cbor") for zstd in ("", "+zstd")]
RESULTS = [7, -1, 2**63, "é", None, True, 1.5, {"a": [1, {"b": 2}]}, [[]], "x" * 300]
BAD = OperationError(type="ValueError", message="no luck", traceback="line 1\n")


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, overwritten or lengthened, in up to three places; or anything at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=40))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        put = draw(st.binary(max_size=9))
        skipped = draw(st.sampled_from([0, 1, len(put), len(data)]))
        data = data[:at] + put + data[at + skipped :]
    return data


@pytest.mark.parametrize("name", CODECS)
def test_a_damaged_chunk_is_read_or_said_to_be_damaged(name: str) -> None:
    """Nothing else comes out of a codec, whatever its library raises."""
    codec = open_codec(name)
    whole = codec.encode(RESULTS)

    @BOUNDS
    @given(damaged(whole))
    def read(data: bytes) -> None:
        try:
            assert isinstance(codec.decode(data), list)
        except EncodingError as exc:
            assert 10 < len(str(exc)) < 500  # noqa: PT017 both are right

    read()


@pytest.mark.parametrize("name", CODECS)
def test_a_damaged_output_is_read_or_said_to_be_damaged(name: str) -> None:
    """The envelope about results and errors likewise; its errors are in order and within it."""
    codec = open_codec(name)
    whole = encode_output([*RESULTS, BAD, BAD], codec, collects=True).data

    @BOUNDS
    @given(damaged(whole) | st.binary(max_size=40).map(lambda tail: MAGIC + tail))
    def read(data: bytes) -> None:
        for use in (errors_of, lambda data: decode_output(data, codec)):
            try:
                found: list[Any] = list(use(data))
            except EncodingError as exc:
                assert 10 < len(str(exc)) < 500  # noqa: PT017 both are right
            else:
                assert use is not errors_of or found == sorted(found)

    read()


NEST = 100_000
BOMBS = {
    "msgpack-list-of-2**32": ("msgpack", b"\xdd\xff\xff\xff\xff"),
    "msgpack-dict-of-2**32": ("msgpack", b"\xdf\xff\xff\xff\xff"),
    "msgpack-4-gb": ("msgpack", b"\x91\xc6\xff\xff\xff\xff"),
    "msgpack-nested": ("msgpack", b"\x91" * NEST),
    "cbor-list-of-2**60": ("cbor", b"\x9b" + struct.pack(">Q", 2**60)),
    "cbor-dict-of-2**40": ("cbor", b"\xbb" + struct.pack(">Q", 2**40)),
    "cbor-1-tb": ("cbor", b"\x81\x5b" + struct.pack(">Q", 2**40)),
    "cbor-text-of-1-tb": ("cbor", b"\x81\x7b" + struct.pack(">Q", 2**40)),
    "cbor-nested": ("cbor", b"\x81" * NEST),
    "cbor-nested-tags": ("cbor", b"\xc2" * NEST),
    "cbor-without-ends": ("cbor", b"\x9f" * NEST),
    "cbor-shared-without-end": ("cbor", b"\x81\xd8\x1d\x18\x63"),
    "cbor-no-date": ("cbor", b"\x81\xc1\x1b" + struct.pack(">Q", 2**62)),
    "json-nested": ("json", b"[" * NEST),
    "json-more-digits-than-python-reads": ("json", b"[" + b"9" * 5_000 + b"]"),
    "zstd-says-8-eb": ("msgpack+zstd", b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**63)),
    "zstd-says-no-size": (
        "msgpack+zstd",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"\x90" * 10**6),
    ),
    "zstd-says-2-gb": ("msgpack+zstd", b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**31)),
}


@pytest.mark.parametrize(("name", "data"), BOMBS.values(), ids=BOMBS)
def test_a_few_bytes_that_say_they_are_many_cost_no_memory(name: str, data: bytes) -> None:
    """A declared length is not trusted."""
    tracemalloc.start()

    with pytest.raises(EncodingError):
        open_codec(name).decode(data)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_an_envelope_that_says_it_has_many_operations_costs_no_memory() -> None:
    """Nor one whose records say that they are longer than the object."""
    codec = open_codec("json")
    records = b"\x93\xcf" + b"\x7f" + b"\xff" * 7 + b"\x90\x90"
    tracemalloc.start()

    for length in (len(records), 2**63):
        with pytest.raises(EncodingError, match="damaged"):
            decode_output(MAGIC + length.to_bytes(8, "big") + records + b"[]", codec)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
