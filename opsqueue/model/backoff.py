"""Pauses before this process repeats a call that was not answered."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

_BRISK_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBackoff:
    """Pauses between repetitions: doubling, capped, half of each jitter.

    Half of it and not all, so that a server that comes back has some time at least. The back-off
    between attempts of a chunk is `model.new_submission.Backoff`.

    Args:
        first_s: the first pause.
        max_s: the longest one.
        brisk: so many pauses are of half a second before they grow further, so that a program works
            again within a second after a failover that takes no longer.
    """

    first_s: float
    max_s: float
    brisk: int = 0

    def pause_s(self, failures: int) -> float:
        """Return how long to wait after this many failures in a row, from 1."""
        full_s = self._doubled_s(failures - 1)
        if self.brisk and full_s > _BRISK_S:
            full_s = max(_BRISK_S, self._doubled_s(max(0, failures - 1 - self.brisk)))
        return full_s * random.uniform(0.5, 1.0)  # noqa: S311 jitter needs no cryptography

    def _doubled_s(self, times: int) -> float:
        # The failures of an outage of half an hour exceed a float's powers of two.
        return min(self.max_s, self.first_s * 2.0 ** min(times, 60))


NO_ROOM: Final = RetryBackoff(first_s=1.0, max_s=1.0)
"""After a long poll that was answered at once: the API can't wait for it, or is stopping."""
