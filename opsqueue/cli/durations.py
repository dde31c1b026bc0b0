"""Spans of time, as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

import click

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class Age(click.ParamType[timedelta]):
    """`90s`, `15m`, `2h`, `1.5d`, `3w`."""

    name = "age"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        """Read it."""
        if isinstance(value, timedelta):
            return value
        match = _AGE.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no age: give one such as 90s, 15m, 2h, 1d or 3w", param, ctx)
        try:
            return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
        except OverflowError:
            self.fail(f"{value!r} is longer than time has been", param, ctx)


def short(seconds: float) -> str:
    """Give two units at most: `4 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 24 * 3600)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days:,} d {hours} h"
    if hours:
        return f"{hours} h {minutes} m"
    return f"{minutes} m {left} s" if minutes else f"{left} s"
