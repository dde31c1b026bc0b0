"""The intakes of a worker: one for each partition of its queues; new partitions get one, too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from opsqueue.exceptions import OpsqueueError
from opsqueue.handlers.execute import Report
from opsqueue.model.chunk import Token
from opsqueue.queue.queue import Queue
from opsqueue_worker.intake.intake import Intake, label_of

logger = logging.getLogger("opsqueue.worker")

Item = TypeVar("Item")


class Intakes:
    """All intakes of a worker; iterating yields the current ones.

    Args:
        queues: the queues that the worker serves.
        make: creates the intake of a partition.
    """

    def __init__(self, queues: Sequence[Queue], make: Callable[[Queue], Intake]) -> None:
        self._queues = {queue.name: queue for queue in queues}
        self._make = make
        self._lock = threading.Lock()
        # Redis has not been asked yet, but every queue has this partition.
        first = [queue.part(0) for queue in queues]
        self._intakes = {part.label: make(part) for part in first}
        self._not_looked_at = set(self._queues)
        self._is_stopping = False

    def __iter__(self) -> Iterator[Intake]:
        """Yield each intake once; ones added meanwhile appear in the next iteration."""
        return iter(list(self._intakes.values()))

    def parts(self) -> list[Queue]:
        """Return the partitions, for the sweeper."""
        return [intake.queue for intake in self]

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
        """Start the intakes of all partitions."""
        for intake in self:
            intake.start()
        for name, queue in self._queues.items():
            try:
                self.learn(name, [queue.partitions.look()])
            except OpsqueueError as exc:
                logger.debug("partitions of queue %s: %s", name, exc)  # a heartbeat will answer

    def learn(self, name: str, numbers: Sequence[int]) -> None:
        """Start the intakes of partitions that are new, given a queue's numbers of partitions."""
        queue = self._queues[name]
        for part in [queue.part(number) for number in range(numbers[-1])]:
            with self._lock:
                if self._is_stopping:
                    return
                if part.label in self._intakes:
                    continue
                intake = self._intakes[part.label] = self._make(part)
                try:
                    intake.start()
                except OpsqueueError as exc:
                    logger.debug("partition %s: %s", part.label, exc)
                    del self._intakes[part.label]  # it is learnt again
                    return
            logger.info("queue %s: also serving its new partition %s", name, part.label)
        # Only now, when `is_drained` covers the new intakes, too.
        self._not_looked_at.discard(name)

    def stop_taking(self) -> None:
        """Stop reserving chunks; reports are still sent."""
        with self._lock:
            self._is_stopping = True
        for intake in self:
            intake.stop_taking()

    def report(self, reports: Sequence[Report]) -> list[tuple[Intake, list[Report]]]:
        """Pass each report on to the intake of its chunk; return which got which."""
        by_intake = self._by_intake(reports, [report.token for report in reports])
        for intake, mine in by_intake:
            intake.report(mine)
        return by_intake

    def begin(self, tickets: Sequence[Token]) -> None:
        """Pass chunks that are about to begin on to their intakes."""
        for intake, mine in self._by_intake(tickets, tickets):
            intake.begin(mine)

    def _by_intake(
        self, items: Iterable[Item], tickets: Iterable[Token]
    ) -> list[tuple[Intake, list[Item]]]:
        groups: dict[str, list[Item]] = {}
        for item, ticket in zip(items, tickets, strict=True):
            groups.setdefault(label_of(ticket), []).append(item)
        return [(self._intakes[label], mine) for label, mine in groups.items()]
