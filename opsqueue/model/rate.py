"""The rate of progress, and the time that is left. Pure: callers pass all instants."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW_S: Final = 30.0
"""Long enough to be steady, short enough to follow workers that come and go."""


class Pace:
    """The rate over a recent period.

    Args:
        at_s: when `done` was read, in seconds of any clock.
        done: how many were done by then.
        window_s: the length of the period.
    """

    def __init__(self, at_s: float, done: int, *, window_s: float = _WINDOW_S) -> None:
        """Start with one reading."""
        self._samples = deque([(at_s, done)])
        self._window_s = window_s

    def add(self, at_s: float, done: int) -> None:
        """Add a reading; a lower number, as after a retry, starts the measurement again."""
        if done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((at_s, done))
        while len(self._samples) > 2 and self._samples[1][0] <= at_s - self._window_s:
            self._samples.popleft()

    @property
    def span_s(self) -> float:
        """The period that the rate covers, at most the window."""
        return self._samples[-1][0] - self._samples[0][0]

    @property
    def per_second(self) -> float:
        """The rate; 0 while it is not known."""
        (from_s, before), (to_s, now) = self._samples[0], self._samples[-1]
        return (now - before) / (to_s - from_s) if to_s > from_s else 0.0

    def left_s(self, left: int) -> float | None:
        """Return how many seconds `left` items will take; None: not known."""
        if left <= 0:
            return 0.0
        return left / self.per_second if self.per_second > 0 else None
