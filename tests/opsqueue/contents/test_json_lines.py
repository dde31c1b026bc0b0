"""JSON lines: one JSON value per line, and errors that name the place."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsqueue.contents.json_lines import MAX_LINE_BYTES, JsonLineError, is_blank, values_of

BOM = b"\xef\xbb\xbf"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def read(text: bytes) -> list[Any]:
    return list(values_of(io.BytesIO(text)))


def refusal_of(text: bytes) -> JsonLineError:
    with pytest.raises(JsonLineError) as caught:
        read(text)
    return caught.value


@given(st.lists(VALUES, max_size=4), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_what_was_written_is_read(values: list[Any], is_ascii: bool, end: str) -> None:  # noqa: FBT001 Hypothesis
    """Each value, in order; characters that end lines elsewhere do not end them here."""
    lines = [json.dumps(value, ensure_ascii=is_ascii) for value in values]

    assert values == read(end.join(lines).encode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (b" \t\r\n", []),
        (BOM, []),
        (BOM + b"\n1", [1]),
        (BOM + b"1\r\n2\r\n", [1, 2]),
        (b"1", [1]),
        (b" 1 \t\n\t2", [1, 2]),
        ('"\u2028\u2029\x85\x7f"'.encode(), ["\u2028\u2029\x85\x7f"]),
        (b'"\\u000b\\u0000"', ["\x0b\x00"]),
        (b'"\xef\xbb\xbf"', ["\ufeff"]),
        (b'"\\ud83d\\ude00"', ["\U0001f600"]),
        (b"-0\n-0.0", [0, -0.0]),
        (b"18446744073709551616", [2**64]),
        (b"-" + b"9" * 400, [-(10**400 - 1)]),
        (b"1e-400", [0.0]),
        (b"0.1000000000000000055511151231257827", [0.1]),
        (b'{"a": 1, "a": 2}', [{"a": 2}]),
    ],
)
def test_a_line_is_a_value(text: bytes, expected: list[Any]) -> None:
    """Integers exact, floats as near as they come, of a key that is repeated the last."""
    assert repr(expected) == repr(read(text))


@pytest.mark.parametrize(
    ("line", "column", "why"),
    [
        (b"{", 2, "property name"),
        (b"[1, 2", 6, "delimiter"),
        (b'"abc', 1, "Unterminated"),
        (b"tru", 1, "Expecting value"),
        (b"1 2", 3, "each line is one JSON value"),
        (b"1\x0c", 2, "each line is one JSON value"),
        (b"\x0b1", 1, "Expecting value"),
        ("\x851".encode(), 1, "Expecting value"),
        (b"'a'", 1, "Expecting value"),
        (b"NaN", 1, "NaN is not JSON"),
        (b"[true, -Infinity]", 8, "-Infinity is not JSON"),
        (b'["NaN", Infinity]', 9, "Infinity is not JSON"),
        (b"1e400", 1, "1e400 is beyond"),
        (b'{"price": -1E+999}', 11, "-1E+999 is beyond"),
        (b'["1e400", 1e400]', 11, "1e400 is beyond"),
        (b"[1, " + b"9" * 5_000 + b"]", 5, "is beyond"),
        (b'["a", "\\ud800"]', 7, "lone surrogate"),
        (b'"\\udc00\\ud800"', 1, "lone surrogate"),
        (b'"\xed\xa0\x80"', 2, "not UTF-8"),
        ('"ä'.encode() + b'\xff"', 3, "not UTF-8"),
        ('"ä" x'.encode(), 5, "each line"),
        (b'"\x00"', 2, "NUL"),
        (b"1\x00", 2, "NUL"),
        (b'"\t"', 2, "control character"),
        (b"[[" * 3_000, 129, "the limit of 128 levels"),
        (b'{"[": ' * 3_000, 769, "the limit of 128 levels"),
        (BOM + b"1", 1, "byte order mark"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_place(line: bytes, column: int, why: str) -> None:
    """Lines and columns from 1 on, in characters."""
    found = refusal_of(b"1\n\n" + line + b"\n2")

    assert (3, column) == (found.line, found.column)
    assert why in found.why
    assert f"line 3, column {column:,}: " in str(found)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_called_by_name(encoding: str) -> None:
    """Spreadsheets and shells on Windows write them."""
    assert "UTF-16" in refusal_of('{"a": 1}\n'.encode(encoding)).why


def test_a_second_byte_order_mark_is_refused() -> None:
    """Concatenated files have one."""
    assert "byte order mark" in refusal_of(BOM + BOM + b"1").why


def test_a_line_has_a_limit() -> None:
    """The line's end does not count."""
    longest = b'"' + b"x" * (MAX_LINE_BYTES - 2) + b'"'

    assert len(read(longest + b"\n1")) == 2
    assert "16,777,216 bytes" in refusal_of(b"1\n" + b" " + longest).why


def test_what_is_shown_of_a_line_is_short_and_printable() -> None:
    """It goes to a terminal."""
    assert refusal_of(b"\x1b[2J" + b"x" * 100).text == "\ufffd[2J" + "x" * 56 + "…"


def test_the_reason_is_found_in_time_for_any_line() -> None:
    """However it is meant: one pass, not one for each quote."""
    line = b"[" * 5_000 + b'"\\' * 1_000_000
    started = time.monotonic()

    refusal_of(line)

    assert time.monotonic() - started < 20


@pytest.mark.parametrize("line", [b"", b" \t\r\n", BOM, BOM + b"\r\n"])
def test_blank_lines_are_told_apart(line: bytes) -> None:
    """They have no value; a form feed is not white space in JSON."""
    assert is_blank(line, 1)
    assert not is_blank(b"\x0c", 1)
    assert not is_blank(BOM, 2)
