"""The intakes of a worker: one a partition of each of its queues, more as these get more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from opsqueue.exceptions import OpsqueueError
from opsqueue.queue.queue import Queue
from opsqueue_worker.intake.intake import Intake

logger = logging.getLogger("opsqueue.worker")

_LOOK_EVERY_S: Final = 5.0


class Intakes:
    """All intakes; iterating gives those that there are now.

    Args:
        queues: that the worker serves.
        make: makes the intake of a partition.
        look_every_s: after which it looks whether a queue has new partitions.
    """

    def __init__(
        self,
        queues: Sequence[Queue],
        make: Callable[[Queue], Intake],
        *,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._queues = queues
        self._make = make
        self._look_every_s = look_every_s
        # Before Redis is asked for the first time: every queue has this one.
        self._intakes = [make(queue.part(0)) for queue in queues]
        self._not_looked_at = {queue.name for queue in queues}
        self._is_stopping = threading.Event()

    def __iter__(self) -> Iterator[Intake]:
        """Give each once; those that come meanwhile, the next time."""
        return iter(list(self._intakes))

    def parts(self) -> list[Queue]:
        """Give the partitions, for who sweeps."""
        return [intake.queue for intake in self._intakes]

    def held_of(self, queue: str) -> int:
        """Count the chunks of a queue that are in hand."""
        return sum(intake.count_held() for intake in self if intake.queue.name == queue)

    @property
    def is_drained(self) -> bool:
        """Whether every partition is, and none can be unknown because Redis did not answer."""
        return not self._not_looked_at and all(intake.is_drained for intake in self)

    def start(self) -> None:
        """Start those of all partitions that there are, and look for new ones from now on."""
        for intake in self:
            intake.start()
        self._look()
        threading.Thread(target=self._look_for_ever, name="partitions", daemon=True).start()

    def stop_taking(self) -> None:
        """Reserve no more; reports still go out."""
        self._is_stopping.set()
        for intake in self:
            intake.stop_taking()

    def _look_for_ever(self) -> None:
        while not self._is_stopping.wait(self._look_every_s):
            self._look()

    def _look(self) -> None:
        known = {intake.queue.label for intake in self}
        for queue in self._queues:
            try:
                parts = queue.parts()
            except OpsqueueError as exc:
                logger.debug("partitions of queue %s: %s", queue.name, exc)
                continue
            for part in parts:
                if part.label not in known:
                    logger.info("queue %s: partition %s is served, too", queue.name, part.label)
                    intake = self._make(part)
                    self._intakes.append(intake)
                    intake.start()
                    if self._is_stopping.is_set():
                        intake.stop_taking()
            # Only now: the new ones are among those that are asked whether they are drained.
            self._not_looked_at.discard(queue.name)
