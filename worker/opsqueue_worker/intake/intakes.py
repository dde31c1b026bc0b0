"""The intakes of a worker: one for each partition of its queues; new partitions get one, too."""

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
    """All intakes of a worker; iterating yields the current ones.

    Args:
        queues: the queues that the worker serves.
        make: creates the intake of a partition.
        look_every_s: seconds between two checks for new partitions.
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
        # Redis has not been asked yet, but every queue has this partition.
        self._intakes = [make(queue.part(0)) for queue in queues]
        self._not_looked_at = {queue.name for queue in queues}
        self._is_stopping = threading.Event()

    def __iter__(self) -> Iterator[Intake]:
        """Yield each intake once; ones added meanwhile appear in the next iteration."""
        return iter(list(self._intakes))

    def parts(self) -> list[Queue]:
        """Return the partitions, for the sweeper."""
        return [intake.queue for intake in self._intakes]

    def held_of(self, queue: str) -> int:
        """Count the chunks of a queue that this worker holds."""
        return sum(intake.count_held() for intake in self if intake.queue.name == queue)

    @property
    def is_drained(self) -> bool:
        """True if every partition is drained.

        False while Redis has not answered for some queue, since it may have unknown partitions.
        """
        return not self._not_looked_at and all(intake.is_drained for intake in self)

    def start(self) -> None:
        """Start the intakes of all partitions, and check regularly for new partitions."""
        for intake in self:
            intake.start()
        self._look()
        threading.Thread(target=self._look_for_ever, name="partitions", daemon=True).start()

    def stop_taking(self) -> None:
        """Stop reserving chunks; reports are still sent."""
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
                    logger.info(
                        "queue %s: also serving its new partition %s", queue.name, part.label
                    )
                    intake = self._make(part)
                    self._intakes.append(intake)
                    intake.start()
                    if self._is_stopping.is_set():
                        intake.stop_taking()
            # Only now, when `is_drained` covers the new intakes, too.
            self._not_looked_at.discard(queue.name)
