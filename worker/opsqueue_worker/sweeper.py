"""The sweeper: what workers do for each other and for the queue, in bounded steps, now and then.

Takes chunks back from workers that died and from handlers that hang, frees what a lost stream left
nowhere, forgets ended submissions and deletes their objects. Any worker may; a short lock in Redis
lets one do it at a time.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from typing import Final

from opsqueue.exceptions import OpsqueueError
from opsqueue.queue import Queue
from opsqueue.store import ObjectStore

logger = logging.getLogger("opsqueue.worker")

_INTERVAL_S: Final = 1.0
_SLOW_EVERY: Final = 5
_MOST_STEPS: Final = 1_000


class Sweeper:
    """Sweeps the queues of one worker.

    Args:
        queues: to be swept.
        worker: who does it.
        heartbeat_timeout_s: a worker without a sign of life for this long is dead.
        store: where ended submissions' objects are deleted.
    """

    def __init__(
        self,
        queues: Sequence[Queue],
        *,
        worker: str,
        heartbeat_timeout_s: float,
        store: ObjectStore,
    ) -> None:
        self._queues = queues
        self._worker = worker
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._store = store
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Sweep in a thread of its own."""
        threading.Thread(target=self._sweep_for_ever, name="sweeper", daemon=True).start()

    def stop(self) -> None:
        """Sweep no more."""
        self._is_stopping.set()

    def _sweep_for_ever(self) -> None:
        rounds = 0
        # Out of step with other workers: the lock lets only one in.
        while not self._is_stopping.wait(_INTERVAL_S * random.uniform(0.7, 1.3)):  # noqa: S311 jitter
            rounds += 1
            for queue in self._queues:
                try:
                    self.reclaim_from_the_dead(queue)
                    self.repair(queue)
                    if rounds % _SLOW_EVERY == 0:
                        self.reclaim_expired(queue)
                        self.forget(queue)
                except OpsqueueError as exc:
                    logger.debug("sweep of queue %s: %s", queue.name, exc)

    def reclaim_from_the_dead(self, queue: Queue) -> None:
        """Take chunks back from workers without a sign of life."""
        for _ in range(_MOST_STEPS):
            swept = queue.reclaim_dead(
                self._worker, timeout_ms=int(self._heartbeat_timeout_s * 1000)
            )
            if swept and swept.chunks:
                logger.warning("took %d chunks back from dead workers", swept.chunks)
            if swept is None or swept.next_from is None:
                return

    def reclaim_expired(self, queue: Queue) -> None:
        """Take chunks back whose reservation is over."""
        page_from = "-"
        for _ in range(_MOST_STEPS):
            swept = queue.reclaim_expired(self._worker, page_from=page_from)
            if swept and swept.chunks:
                logger.warning("took %d chunks back whose reservation was over", swept.chunks)
            if swept is None or swept.next_from is None:
                return
            page_from = swept.next_from

    def repair(self, queue: Queue) -> None:
        """Go on with a repair, if one has begun."""
        for _ in range(_MOST_STEPS):
            swept = queue.repair()
            if swept is None:
                return
            if swept.chunks:
                logger.warning("freed %d chunks that Redis had lost track of", swept.chunks)

    def forget(self, queue: Queue) -> None:
        """Forget ended submissions after their retention, and delete their objects."""
        deleted: list[str] = []
        for _ in range(_MOST_STEPS):
            forgotten = queue.forget_submissions(deleted_prefixes=deleted)
            if not forgotten.prefixes:
                return
            deleted = []
            for prefix in forgotten.prefixes:
                self._store.delete_prefix(prefix)
                deleted.append(prefix)
            logger.info("deleted the objects of %d ended submissions", len(deleted))
