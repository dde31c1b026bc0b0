"""Pauses before this process repeats a call that was not answered."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBackoff:
    """Pauses between repetitions: doubling, capped, half of each jitter.

    Half of it and not all, so that a server that comes back has some time at least. The back-off
    between attempts of a chunk is `model.new_submission.Backoff`.
    """

    first_s: float
    max_s: float

    def pause_s(self, failures: int) -> float:
        """Return how long to wait after this many failures in a row, from 1."""
        # The failures of an outage of half an hour exceed a float's powers of two.
        full_s = min(self.max_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return full_s * random.uniform(0.5, 1.0)  # noqa: S311 jitter needs no cryptography


NO_ROOM: Final = RetryBackoff(first_s=1.0, max_s=1.0)
"""After a long poll that was answered at once: the API can't wait for it, or is stopping."""
