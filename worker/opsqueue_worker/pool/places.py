"""Places: how many more chunks to reserve, for all queues of a worker together.

How far ahead depends on the queue: about 100 ms of work, so that tiny chunks share round trips; one
chunk for each slot while their duration is unknown; none if they take more than a second. A
reserved chunk therefore takes up a share of a slot: 1/65 if 64 of its kind are reserved ahead, all
of it if none is.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from opsqueue_worker.pool.durations import Durations

AHEAD_S: Final = 0.1
AHEAD_AT_MOST: Final = 64
LONG_S: Final = 1.0
"""Chunks that take longer are reserved only when they can begin: other workers may be idle."""
_ROUNDING: Final = 1e-9
_WAITS_FOR_TURN_S: Final = 1.0
_STALLS_S: Final = 60.0
"""A worker that is to become empty goes on if none of its chunks has ended for so long, and three
times as long as they usually take: a handler may wait for chunks that this worker would run."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Places that a queue may fill; it returns those that it does not use."""

    number: int
    is_alone: bool = False
    """True if the worker holds nothing else, so that it may ask for a suspect."""


NO_PLACES: Final = Promise(0)


class Places:
    """Counts the chunks in hand and promises places to queues. The pool's lock guards it.

    A queue that was refused has its turn before the others, in the order in which they asked.
    Otherwise one with tiny chunks would always be the first to fill the small room that they leave.

    Args:
        fixed: the chunks to reserve ahead for each slot; None: by the durations of each queue.
        durations: the durations of each queue's chunks.
        clock: returns seconds since any fixed instant.
    """

    def __init__(
        self,
        fixed: int | None,
        durations: Durations,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed = fixed
        self._durations = durations
        self._clock = clock
        self._in_hand: Counter[str] = Counter()
        self._refused: dict[str, None] = {}
        self._suspects = 0
        self._moved_at = 0.0
        self._next_alone: str | None = None
        self._empty_since: float | None = None

    @property
    def in_hand(self) -> int:
        """Chunks that the pool has or that are being reserved for it."""
        return self._in_hand.total()

    @property
    def is_hosting(self) -> bool:
        """True while a suspect is in hand."""
        return self._suspects > 0

    @property
    def is_fixed(self) -> bool:
        """True if the user has chosen how far ahead to reserve."""
        return self._fixed is not None

    def ahead(self, queue: str) -> int:
        """Return the number of chunks of a queue to reserve ahead for each slot."""
        if self._fixed is not None:
            return self._fixed
        usual_s = self._durations.usual_s(queue)
        if usual_s is None:
            return 1
        if usual_s > LONG_S:
            return 0
        wanted = math.ceil(AHEAD_S / max(usual_s, AHEAD_S / AHEAD_AT_MOST))
        return max(1, min(AHEAD_AT_MOST, wanted))

    def take(
        self, label: str, limit: int, *, slots: int, most: int, is_stuck: bool = False
    ) -> Promise:
        """Promise places to a partition of a queue.

        Args:
            label: the partition.
            limit: the most places that it can use.
            slots: the slots that take chunks.
            most: the chunks that can be in hand at all, because children are replaced after a
                number of chunks.
            is_stuck: all slots have been busy for long, so that nothing is reserved ahead.
        """
        if limit <= 0:
            self.withdraw(label)
            return NO_PLACES
        if not self._may_ask(label):
            return NO_PLACES
        queue = queue_of(label)
        free = min(limit, self._free(queue, slots, is_stuck=is_stuck), most - self.in_hand)
        if free <= 0 or next(iter(self._refused), label) != label:
            self._refused[label] = None
            return NO_PLACES
        self._refused.pop(label, None)
        promise = Promise(free, is_alone=self.in_hand == 0)
        self._in_hand[queue] += free
        self._next_alone = self._empty_since = None
        return promise

    def _may_ask(self, label: str) -> bool:
        if self.is_hosting:
            return False
        if self._next_alone is None:
            return True
        if self.in_hand:
            return False
        if self._empty_since is None:
            self._empty_since = self._clock()
        if label != self._next_alone and self._clock() - self._empty_since < _WAITS_FOR_TURN_S:
            return False
        # The others must not wait longer for a queue that does not ask.
        self._refused.pop(label, None)
        self._refused = {label: None, **self._refused}
        return True

    def _free(self, queue: str, slots: int, *, is_stuck: bool) -> int:
        if is_stuck:
            return slots - self.in_hand
        load = sum(number / (1 + self.ahead(of)) for of, number in self._in_hand.items())
        return math.floor((slots - load) * (1 + self.ahead(queue)) + _ROUNDING)

    def whose_turn(self) -> str | None:
        """Return the partition that is promised places before the others; None: any."""
        return self._next_alone or next(iter(self._refused), None)

    def withdraw(self, label: str) -> None:
        """Note that a partition that was refused does not wait for places now."""
        self._refused.pop(label, None)

    def give_back(self, label: str, number: int) -> None:
        """Return places that were promised, or those of chunks that have left the pool."""
        queue = queue_of(label)
        self._in_hand[queue] -= number
        if self._in_hand[queue] <= 0:
            del self._in_hand[queue]
        self._moved_at = self._clock()

    def host(self, suspects: int) -> None:
        """Promise nothing until the suspects that have just come have left."""
        self._suspects += suspects

    def dismiss(self, suspects: int) -> None:
        """Note that suspects have left."""
        self._suspects -= suspects

    def drain(self, label: str) -> None:
        """Promise nothing until no chunk is in hand, and then places to this partition first."""
        self._next_alone = label
        self._empty_since = None
        self._moved_at = self._clock()

    def stop_draining(self) -> bool:
        """Promise places again if the worker does not become empty; return whether that is new."""
        if self._next_alone is None or not self.in_hand:
            return False
        usual_s = max(self._durations.usual_s(of) or 0.0 for of in self._in_hand)
        if self._clock() - self._moved_at < max(_STALLS_S, 3 * usual_s):
            return False
        self._next_alone = None
        return True


def queue_of(label: str) -> str:
    """Return the queue's name, given the label of one of its partitions."""
    return label.partition("/")[0]
