"""The heartbeat: tells Redis that this worker lives and what it holds, hears what of that is void.

In threads of the parent process, in which no handler ever runs, so that none can block them. Each
queue, and each of its partitions, has one of its own: of a cluster one node may hang, whose answer
is waited for until the connection is given up, while the others must hear of this worker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from opsqueue.exceptions import OpsqueueError
from opsqueue.model.checks import counted
from opsqueue.model.chunk import Token
from opsqueue.queue.sweeper import lost_reservations
from opsqueue_worker.intake.intake import Intake

logger = logging.getLogger("opsqueue.worker")


class Heartbeat:
    """Beats for one worker on all its queues.

    Args:
        intakes: of the queues.
        worker: its name.
        info: makes the JSON that lists of workers show, of the codecs that a handler reads.
        interval_s: between beats.
        timeout_s: after so long a silence the worker is dead to the others.
        redis_timeout_s: what Redis has not answered within it, it never will.
        on_void: called with the tickets of chunks that nobody wants any more.
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
        on_void: Callable[[Iterable[Token]], None],
    ) -> None:
        self._intakes = intakes
        self._worker = worker
        self._info = info
        self._interval_s = interval_s
        self._timeout_ms = int(timeout_s * 1000)
        # A reserve that was not answered within the socket's timeout never will be.
        self._unknown_ms = int(2_000 * redis_timeout_s)
        self._on_void = on_void
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Beat in threads of their own."""
        threading.Thread(target=self._look_for_ever, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Beat no more."""
        self._is_stopping.set()

    def _look_for_ever(self) -> None:
        """Begin with those that there are, and with new partitions as they come."""
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
        """Beat once, for one queue."""
        alive = intake.queue.heartbeat(
            self._worker,
            tokens=intake.held(),
            info=self._info(intake.codecs),
            unknown_ms=self._unknown_ms,
            timeout_ms=self._timeout_ms,
        )
        if alive.released:
            logger.warning(
                "queue %s: %s were reserved for worker %s unnoticed, and are given back",
                intake.queue.label,
                counted(alive.released, "chunk"),
                self._worker,
            )
        if alive.lost:
            logger.warning("queue %s: %s", intake.queue.label, lost_reservations(alive.lost))
        if alive.void:
            self._on_void(intake.ticket(token) for token in alive.void)
