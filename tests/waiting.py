"""Waiting for a change in another process or a server that sends no notification."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    is_so: Callable[[], object],
    what: str = "it",
    *,
    within_s: float = 30.0,
    every_s: float = 0.02,
) -> None:
    """Poll until the condition holds, since there is no event to wait for."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
