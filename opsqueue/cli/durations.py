"""Spans of time, as people read them."""

from __future__ import annotations


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
