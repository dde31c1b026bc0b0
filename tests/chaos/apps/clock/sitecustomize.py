"""Shifts the machine's clock for Python programs that read it by the module time.

The file that CHAOS_CLOCK names has the number of seconds. `time.time` and `time.time_ns` are
shifted, and `time.localtime` and `time.gmtime` without arguments. `time.monotonic` is not, since
no step of a real clock moves it, nor is datetime's `now`, which reads the system's clock itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _shift(path: Path) -> None:
    real_ns = time.time_ns

    def offset_ns() -> int:
        try:
            return int(float(path.read_text()) * 1e9)
        except (OSError, ValueError):
            return 0  # not there yet, or just being written

    def time_ns() -> int:
        return real_ns() + offset_ns()

    def now() -> float:
        return time_ns() / 1e9

    class Shifted:
        """No function: in a class, as logging has it, that would become a method."""

        def __init__(self, function: Callable[[float], Any]) -> None:
            self._function = function

        def __call__(self, seconds: float | None = None) -> Any:
            return self._function(now() if seconds is None else seconds)

    time.time, time.time_ns = now, time_ns
    # Programs call them with an instant or without; nobody reads their attributes.
    vars(time).update(localtime=Shifted(time.localtime), gmtime=Shifted(time.gmtime))


if os.environ.get("CHAOS_CLOCK"):
    _shift(Path(os.environ["CHAOS_CLOCK"]))
