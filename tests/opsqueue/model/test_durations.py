"""Parsing and formatting of durations."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.durations import as_text, milliseconds, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5s", timedelta(milliseconds=1_500)),
        ("250ms", timedelta(milliseconds=250)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_numbers_with_units(text: str, expected: timedelta) -> None:
    """Several parts are added."""
    assert expected == parse_duration(text)


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1 h", "1y", "1h,", "999999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Above all a number without a unit, which is ambiguous."""
    with pytest.raises(InvalidArgumentError, match="duration"):
        parse_duration(text)


def test_seconds_and_timedelta_are_taken_alike() -> None:
    """What is less than a millisecond is not taken for none."""
    given_: list[timedelta | float] = [timedelta(hours=1), 3_600, 0.5, 0.0001, 0]

    assert [milliseconds(one) for one in given_] == [3_600_000, 3_600_000, 500, 1, 0]


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, True, "7d", timedelta(seconds=-1)])
def test_what_is_no_length_of_time_is_refused(wrong: Any) -> None:
    """Names what was given."""
    with pytest.raises(InvalidArgumentError, match="give a timedelta or seconds"):
        milliseconds(wrong)


@given(st.integers(0, 10**14))
def test_what_is_written_can_be_read(ms: int) -> None:
    """Nothing is lost."""
    assert ms == milliseconds(parse_duration(as_text(ms)))
