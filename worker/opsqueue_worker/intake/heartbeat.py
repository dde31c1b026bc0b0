"""The heartbeat: reports to Redis that this worker is alive and which chunks it holds.

Redis answers with the reservations that were revoked. Heartbeats run in threads of the parent
process. No handler ever runs there, so none can block them. Each partition of each queue has its
own thread: when one node of a cluster hangs, its thread waits until the connection times out,
while the other nodes must still receive heartbeats.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from opsqueue.exceptions import OpsqueueError
from opsqueue.model.checks import counted
from opsqueue.queue.sweeper import lost_reservations
from opsqueue_worker.intake.intake import Intake
from opsqueue_worker.pool.pool import Slots
from opsqueue_worker.pool.waiting import boot_time

logger = logging.getLogger("opsqueue.worker")


class Heartbeat:
    """The heartbeats of one worker on all its queues.

    Args:
        intakes: the intakes of the queues.
        worker: the worker's name.
        info: returns the JSON that lists of workers show, given the codecs that a handler reads.
        interval_s: seconds between two heartbeats.
        timeout_s: the worker counts as dead after so many seconds of silence.
        redis_timeout_s: Redis never answers a command later than this.
        slots: are told which chunks were revoked, and that the others are still this worker's.
    """

    def __init__(
        self,
        intakes: Iterable[Intake],
        *,
        worker: str,
        info: Callable[[Sequence[str]], bytes],
        interval_s: float,
        timeout_s: float,
        redis_timeout_s: float,
        slots: Slots,
    ) -> None:
        self._intakes = intakes
        self._worker = worker
        self._info = info
        self._interval_s = interval_s
        self._timeout_ms = int(timeout_s * 1000)
        # A reserve that was not answered within the socket's timeout never will be answered.
        self._unknown_ms = int(2_000 * redis_timeout_s)
        self._slots = slots
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        threading.Thread(target=self._look_for_ever, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop all threads before their next heartbeat."""
        self._is_stopping.set()

    def _look_for_ever(self) -> None:
        """Start a thread for each partition, and for new partitions as they appear."""
        beating = set[str]()
        while not self._is_stopping.is_set():
            for intake in self._intakes:
                label = intake.queue.label
                if label not in beating:
                    beating.add(label)
                    threading.Thread(
                        target=self._beat_for_ever,
                        args=(intake,),
                        name=f"heartbeat-{label}",
                        daemon=True,
                    ).start()
            self._is_stopping.wait(self._interval_s)

    def _beat_for_ever(self, intake: Intake) -> None:
        while not self._is_stopping.is_set():
            try:
                self.beat(intake)
            except OpsqueueError as exc:
                logger.warning("heartbeat of queue %s: %s", intake.queue.label, exc)
            intake.sum_up()
            self._is_stopping.wait(self._interval_s)

    def beat(self, intake: Intake) -> None:
        """Send one heartbeat for one partition, and handle the answer."""
        asked_at = boot_time()
        alive = intake.queue.heartbeat(
            self._worker,
            tokens=intake.held(),
            begun=intake.begun(),
            info=self._info(intake.codecs),
            unknown_ms=self._unknown_ms,
            timeout_ms=self._timeout_ms,
        )
        if alive.released:
            logger.warning(
                "queue %s: %s had been reserved for worker %s without its knowledge and were "
                "released",
                intake.queue.label,
                counted(alive.released, "chunk"),
                self._worker,
            )
        if alive.lost:
            logger.warning("queue %s: %s", intake.queue.label, lost_reservations(alive.lost))
        if alive.revoked:
            self._slots.revoke([intake.ticket(token) for token in alive.revoked])
        intake.note_heartbeat()
        self._slots.confirm(intake.queue.label, asked_at)
