"""How fast something goes, and how long it still takes. Pure: instants are handed in."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW_S: Final = 30.0
"""Long enough to be steady, short enough to follow workers that come and go."""


class Pace:
    """The rate over the last while.

    Args:
        at_s: when `done` was read, in seconds of any clock.
        done: so many by then.
        window_s: how long the while is.
    """

    def __init__(self, at_s: float, done: int, *, window_s: float = _WINDOW_S) -> None:
        """Begin there."""
        self._samples = deque([(at_s, done)])
        self._window_s = window_s

    def add(self, at_s: float, done: int) -> None:
        """Take a new reading; a step back, as after a retry, begins anew."""
        if done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((at_s, done))
        while len(self._samples) > 2 and self._samples[1][0] <= at_s - self._window_s:
            self._samples.popleft()

    @property
    def span_s(self) -> float:
        """How long it has been watched for, the window at the most: what the rate is over."""
        return self._samples[-1][0] - self._samples[0][0]

    @property
    def per_second(self) -> float:
        """0 while nothing is known."""
        (from_s, before), (to_s, now) = self._samples[0], self._samples[-1]
        return (now - before) / (to_s - from_s) if to_s > from_s else 0.0

    def left_s(self, left: int) -> float | None:
        """Give how long so many still take; None: not known."""
        if left <= 0:
            return 0.0
        return left / self.per_second if self.per_second > 0 else None
