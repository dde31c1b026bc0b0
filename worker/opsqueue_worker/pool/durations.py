"""The usual duration of a queue's chunks, as this worker has seen it lately."""

from __future__ import annotations

from typing import Final

_WEIGHT_OF_LAST: Final = 0.2


class Durations:
    """Moving averages of how long handlers run, one for each queue."""

    def __init__(self) -> None:
        self._usual_s: dict[str, float] = {}

    def saw(self, queue: str, duration_s: float) -> None:
        """Record the duration of a chunk."""
        before = self._usual_s.get(queue, duration_s)
        self._usual_s[queue] = before + _WEIGHT_OF_LAST * (duration_s - before)

    def usual_s(self, queue: str) -> float | None:
        """Return the usual duration of a queue's chunks in seconds; None while it is unknown."""
        return self._usual_s.get(queue)
