"""No codec writes values it can't read: they are returned as documented, or refused by name."""

from __future__ import annotations

import gc
import json
import re
import sys
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any
from uuid import UUID

import cbor2
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from opsqueue.contents.codec import MAX_DEPTH, open_codec
from opsqueue.contents.output import decode_output, encode_output, errors_of
from opsqueue.exceptions import EncodingError

NAMES = ["msgpack", "json", "cbor", "pickle"]
BOUNDS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

OFFSETS = st.timedeltas(
    min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)
)
ZONES = st.just(UTC) | OFFSETS.map(timezone) | st.timezones()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.decimals()
    | st.datetimes(timezones=st.none() | ZONES)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.fractions()
    | st.complex_numbers()
    | st.ip_addresses()
)
HASHABLE = SCALARS.filter(lambda value: not (isinstance(value, Decimal) and value.is_snan()))
KEYS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("1ntrue", max_size=3) | HASHABLE,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2),
    max_leaves=3,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.sets(KEYS, max_size=3)
    ),
    max_leaves=8,
)


class Colour(Enum):
    """An enumeration of no plain type."""

    RED = 1


class Level(IntEnum):
    """One of a plain type."""

    LOW = 1


class Name(StrEnum):
    """Another."""

    A = "a"


Point = namedtuple("Point", "x y")  # noqa: PYI024 its simplest form is what users have


class Node(msgspec.Struct):
    """Nests in itself."""

    inner: Any = None


@dataclass
class Item:
    """Nests in itself, too."""

    inner: Any = None


def nested(depth: int, kind: type = list) -> Any:
    """Nest a number so deep."""
    value: Any = 1
    for _ in range(depth):
        value = {"k": value} if kind is dict else kind([value])
    return value


def simplified(value: object) -> object:
    """Return what CBOR's row of the table promises: tuples as lists, unless they are keys."""
    if isinstance(value, list | tuple):
        return [simplified(item) for item in value]
    if isinstance(value, dict):
        return {key: simplified(item) for key, item in value.items()}
    return value


def is_same(one: Any, other: Any) -> bool:
    """Compare like ==, but NaN is itself, True is not 1, and an ambiguous hour is compared, too."""
    match one, other:
        case (dict(), dict()):
            return len(one) == len(other) and all(
                is_same(a, b) for a, b in zip(one.items(), other.items(), strict=True)
            )
        case (list(), list()) | (tuple(), tuple()):
            return len(one) == len(other) and all(map(is_same, one, other))
        case (set() | frozenset(), set() | frozenset()):
            return len(one) == len(other) and (
                one == other or sorted(map(repr, one)) == sorted(map(repr, other))
            )
        case (datetime(), datetime()) if one.tzinfo and other.tzinfo:
            return one.astimezone(UTC) == other.astimezone(UTC) if _in_range(one) else one == other
        case (Decimal(), float()):
            return float(one) == other and not one.is_finite()
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


def _in_range(value: datetime) -> bool:
    return 1 < value.year < 9999


@BOUNDS
@given(value=VALUES)
@example(value=Decimal("NaN"))
@example(value=Decimal("sNaN"))
@example(value=datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1))))
@example(value=datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))))
@example(value={(1, (2,)): [(1,)]})
def test_cbor_gives_back_equal_values(value: object) -> None:
    """Of the same types, but for the table's; or it refuses them."""
    codec = open_codec("cbor")
    try:
        data = codec.encode([value])
    except EncodingError as exc:
        assert "operation 0 of the chunk" in str(exc)  # noqa: PT017 both are right
        return

    (found,) = codec.decode(data, operations=1)

    assert is_same(simplified(value), found)


@pytest.mark.parametrize("name", ["msgpack", "json", "pickle"])
def test_what_is_written_can_be_read(name: str) -> None:
    """Nothing is lost."""
    codec = open_codec(name, allow_pickle=True)

    @BOUNDS
    @given(value=VALUES)
    @example(value={1: "a", "1": "b"})
    @example(value={None: "a", "null": "b"})
    @example(value={Decimal(1): "a", "1": "b", (2,): []})
    def check(value: object) -> None:
        try:
            data = codec.encode([value])
        except EncodingError:
            return
        (found,) = codec.decode(data, operations=1)
        assert _size(value) == _size(found)

    check()


def _size(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_size, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) + sum(map(_size, value))
    return 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [list, dict, tuple])
def test_one_limit_of_depth_holds_for_all_codecs(name: str, kind: type) -> None:
    """At the limit a value comes back, beyond it is refused, by number and limit; at any depth."""
    codec = open_codec(name + "+zstd", allow_pickle=True)
    allowed = nested(MAX_DEPTH, kind)

    found = codec.decode(codec.encode([allowed]))

    assert json.dumps(found) == json.dumps([allowed])
    for depth in (MAX_DEPTH + 1, 200, 399, 401, 450, 5_000, 200_000):
        with pytest.raises(EncodingError, match=r"operation 2 of the chunk, a .*limit of 128 leve"):
            codec.encode([1, 2, nested(depth, kind)])


def test_tuples_that_the_garbage_collector_forgot_are_as_deep_as_before() -> None:
    """It untracks tuples of scalars, and then tuples of these."""
    deep = nested(100_000, tuple)
    gc.collect()
    gc.collect()

    for name in ("cbor", "json"):
        with pytest.raises(EncodingError, match="limit of 128 levels"):
            open_codec(name).encode([{"k": deep}])
    with pytest.raises(EncodingError, match="limit of 128 levels"):
        open_codec("msgpack").encode([{"k": deep}])


def test_sets_of_sets_reach_the_limit_in_cbor() -> None:
    """Each takes two of its decoder's levels."""
    codec = open_codec("cbor")
    value = [nested(MAX_DEPTH - 1, frozenset)]

    assert codec.decode(codec.encode([value])) == [value]


@pytest.mark.parametrize("kind", [Node, Item])
def test_objects_of_classes_count_in_msgpack(kind: type) -> None:
    """They come back as dicts."""
    value: Any = [1]
    for _ in range(MAX_DEPTH):
        value = kind(value)

    with pytest.raises(EncodingError, match="limit of 128 levels"):
        open_codec("msgpack").encode([value])
    assert open_codec("msgpack").encode([value.inner])


@pytest.mark.parametrize("name", ["msgpack", "json", "cbor"])
def test_a_value_that_holds_itself_is_refused(name: str) -> None:
    """Directly, in a dict, and twice in each level, which is as many values as 2 to the 1,000."""
    ring: list[object] = [1]
    ring.append({"ring": ring})
    double: list[object] = []
    for _ in range(1_000):
        double = [double, double]

    for value in (ring, double) if name != "msgpack" else (ring,):
        with pytest.raises(EncodingError, match="operation 1 of the chunk, a list"):
            open_codec(name).encode([0, value])


def test_pickle_carries_a_value_that_holds_itself() -> None:
    """As it always did."""
    codec = open_codec("pickle", allow_pickle=True)
    ring: list[Any] = [1]
    ring.append(ring)

    (found,) = codec.decode(codec.encode([ring]))

    assert isinstance(found, list)
    assert found[1] is found


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_holds_deep_in_a_call_stack(name: str) -> None:
    """Where Python's own limit leaves few levels, in both directions."""
    codec = open_codec(name, allow_pickle=True)
    value = nested(MAX_DEPTH)
    frames = sys.getrecursionlimit() - 120

    def at_depth(left: int) -> list[object]:
        return at_depth(left - 1) if left else codec.decode(codec.encode([value]))

    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(at_depth(frames)))
    thread.start()
    thread.join()

    assert found == [value]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("json", {1: "a", "1": "b"}),
        ("json", {True: "a", "true": "b"}),
        ("json", {None: "a", "null": "b"}),
        ("json", {1.5: "a", "1.5": "b"}),
        ("json", {Level.LOW: "a", "1": "b"}),
        ("msgpack", {Colour.RED: "a" * 200, 1: "b"}),
        ("msgpack", {UUID(int=1): ["a" * 200], str(UUID(int=1)): "b"}),
        ("msgpack", {(1, 2): "a" * 200, frozenset({(1, 2)}): [], frozenset((1, 2)): "b"}),
    ],
)
def test_keys_that_become_one_are_refused(name: str, value: object) -> None:
    """Otherwise one of the values would be lost silently."""
    for operation in (value, [value], {"in": value}):
        with pytest.raises(EncodingError, match=r"operation 1 of the chunk.*two keys of a dict"):
            open_codec(name).encode([0, operation])


@pytest.mark.parametrize(
    "value",
    [
        {date(2020, 1, 1): 1, "2020-01-01": 2},
        {Decimal(1): 1, "1": 2},
        {timedelta(1): 1, "P1D": 2},
        {"in": [{UUID(int=1): 1, str(UUID(int=1)): 2}]},
    ],
)
def test_keys_that_become_one_are_refused_in_large_chunks_of_msgpack(value: object) -> None:
    """Where only part of the values is looked at, each for itself."""
    with pytest.raises(EncodingError, match=r"operation 0 of the chunk.*two keys of a dict"):
        open_codec("msgpack").encode([value, "x" * 5_000])


@pytest.mark.parametrize("name", ["raw", "msgpack", "json", "cbor", "pickle", "cbor+zstd"])
def test_no_codec_writes_more_than_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed or not; a gigabyte, made small here."""
    monkeypatch.setattr("opsqueue.contents.codec.MAX_CHUNK_BYTES", 1_000)

    with pytest.raises(EncodingError, match="the limit is 1,000: make chunks smaller"):
        open_codec(name, allow_pickle=True).encode(
            [b"x" * 2_000 if name != "json" else "x" * 2_000]
        )


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1" * 4_301),
        Fraction(10**4_301, 3),
        Fraction(3, 10**4_301),
        Decimal("NaN"),
        datetime(2026, 1, 1),  # noqa: DTZ001 that is the point
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
        re.compile("a", re.IGNORECASE),
        memoryview(b"a"),
        cbor2.CBORTag(0, "no date"),
        cbor2.CBORTag(2, b"a"),
        cbor2.CBORTag(28, [1]),
        cbor2.CBORTag(4000, [1]),
        "\ud800",
        time(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cbor_would_read_as_another_value_is_refused(value: object) -> None:
    """Wherever it is: alone, in a list, as a value, as a key, in a set."""
    held: list[object] = [value, [value], {"k": [value]}]
    if isinstance(value, datetime | str) or value != value:  # noqa: PLR0124 NaN
        held += [{value: 1}, {(1, value): 1}, {value}]
    for operation in held:
        with pytest.raises(EncodingError, match="codec 'cbor' can't encode operation 0"):
            open_codec("cbor").encode([operation])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1, seconds=1))), None),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), None),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(-timedelta(hours=5))), None),
        (date(1, 1, 1), None),
        (-0.0, None),
        (Decimal("1.10"), None),
        (2**4_000, None),
        (-(2**64) - 1, None),
        (Fraction(1, 3), None),
        (Decimal("-9." + "9" * 4_299), None),
        (Decimal("1E+999999"), None),
        (Fraction(10**4_299 + 1, 10**4_299), None),
        (ip_address("fe80::1%eth0"), None),
        (ip_network("10.0.0.0/8"), None),
        (ip_interface("10.0.0.1/8"), None),
        (re.compile("a.c"), None),
        (cbor2.undefined, None),
        (cbor2.CBORSimpleValue(99), None),
        (cbor2.CBORTag(4000, "text"), None),
        (Level.LOW, 1),
        (Name.A, "a"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Point(1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (bytearray(b"a"), b"a"),
        (frozenset({1}), {1}),
        (Decimal("-Infinity"), float("-inf")),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_cbor_carries_what_the_table_says(value: object, found: object) -> None:
    """None: as it is."""
    codec = open_codec("cbor")

    assert repr(codec.decode(codec.encode([value]))) == repr([value if found is None else found])


class _Unreadable(Exception):  # noqa: N818 an exception as many packages have it
    """Pickled with one argument, made of two."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def test_pickle_refuses_what_can_be_written_only() -> None:
    """Such as exceptions whose arguments are not those that they are made of."""
    with pytest.raises(EncodingError, match="operation 1 of the chunk"):
        open_codec("pickle", allow_pickle=True).encode([0, _Unreadable(1, "x")])


@pytest.mark.parametrize("name", ["msgpack", "json", "cbor", "pickle"])
def test_a_result_that_nests_too_deep_is_collected(name: str) -> None:
    """The others of its chunk are kept."""
    codec = open_codec(name + "+zstd", allow_pickle=True)

    output = encode_output([1, nested(450), {"ok": [2]}], codec, collects=True)

    found = decode_output(output.data, codec, operations=3)
    assert output.operations_failed == 1
    assert [1, {"ok": [2]}] == [found[0], found[2]]
    assert "the result of operation 1 of the chunk" in errors_of(output.data)[1].message
    assert "limit of 128 levels" in errors_of(output.data)[1].message


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\xd8\x1c\x80",  # a shared list
        b"\x82\xd8\x1c\x81\x00\xd8\x1d\x00",
        b"\x81\xd9\x01\x00\x82\x63abc\xd8\x19\x00",  # a text that refers to another
        b"\x81" + b"\xd8\x1c\x82" * 100 + b"\xd8\x1d\x00" * 101,
        b"\x81" + b"\xc1" * 100_000 + b"\x00",
        b"\x81\x5b\x00\x00\x00\x04\x00\x00\x00\x00",  # 16 GiB of bytes
        b"\x81\xd9\x01\x02\x9a\xff\xff\xff\xff",
        b"\x81" + b"\x9a\x0f\xff\xff\xff" * 300,
    ],
)
def test_cbor_of_a_stranger_can_not_refer_to_itself_or_claim_what_is_not_there(
    data: bytes,
) -> None:
    """Lists shared 60 levels deep would be written as JSON of 2 to the 60 values."""
    with pytest.raises(EncodingError):
        open_codec("cbor").decode(data)
