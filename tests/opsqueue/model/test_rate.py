"""Rates and remaining times."""

from __future__ import annotations

from opsqueue.model.rate import Pace


def test_a_pace_follows_the_last_half_minute() -> None:
    """Not what was before; a retry begins anew."""
    pace = Pace(0, 0)
    for second in range(1, 101):
        pace.add(second, second if second <= 50 else 50 + 10 * (second - 50))

    assert 10.0 == pace.per_second
    assert 2.0 == pace.left_s(20)
    pace.add(101, 0)
    assert (0.0, None, 0.0) == (pace.per_second, pace.left_s(20), pace.left_s(0))


def test_a_window_can_be_of_another_length() -> None:
    """What is older has no part in the rate; the span says over how long it is."""
    pace = Pace(0, 0, window_s=60)
    assert (pace.span_s, pace.left_s(10)) == (0, None)

    pace.add(10, 1_000)
    assert (pace.span_s, pace.per_second, pace.left_s(500)) == (10, 100, 5)
    for second in range(20, 200, 10):
        pace.add(second, 1_000)
    assert (pace.span_s, pace.per_second, pace.left_s(500)) == (60, 0, None)
