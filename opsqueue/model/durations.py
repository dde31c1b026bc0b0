"""Durations in the forms that people write: timedelta or seconds in Python, `24h` or `7d` as text.

No I/O.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from opsqueue.model.errors import InvalidArgumentError

_UNITS_MS: Final = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d|w)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


def milliseconds(duration: timedelta | float) -> int:
    """Convert a timedelta, or seconds, to milliseconds; a positive duration becomes at least 1.

    Raises:
        InvalidArgumentError: it is negative, or not a number.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    # This also refuses NaN, for which no comparison is true.
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds < 10**12:
        shown = str(duration) if isinstance(duration, timedelta) else repr(duration)
        message = f"duration {shown}: give a timedelta or seconds, from 0 to below {10**12:,} s"
        raise InvalidArgumentError(message)
    return max(round(seconds * 1000), int(seconds > 0))


def parse_duration(text: str) -> timedelta:
    """Parse `90s`, `24h`, `7d` or `1h30m`; units are ms, s, m, h, d and w.

    Raises:
        InvalidArgumentError: the text has another form.
    """
    if not _DURATION.fullmatch(text):
        message = f"duration {text[:40]!r}: give numbers with units (s, m, h, d, w), like 24h or 7d"
        raise InvalidArgumentError(message)
    ms = sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text))
    try:
        return timedelta(milliseconds=ms)
    except OverflowError as exc:
        message = f"duration {text[:40]!r} is longer than a calendar: give fewer days"
        raise InvalidArgumentError(message) from exc


def as_text(ms: int) -> str:
    """Format milliseconds without loss, as `parse_duration` reads them: `1d12h`, `0s`."""
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        number, ms = divmod(ms, _UNITS_MS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
