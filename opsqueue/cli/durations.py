"""Durations, as people write and read them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.durations import parse_duration


class Duration(click.ParamType[timedelta]):
    """`90s`, `15m`, `1h30m`, `1.5d`, `3w`."""

    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        """Parse a duration."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value))
        except InvalidArgumentError as exc:
            self.fail(str(exc), param, ctx)


def short(seconds: float) -> str:
    """Return a duration in at most two units: `4 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`."""
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
