"""The sweeper: periodic upkeep of queues in bounded steps.

It reclaims chunks of dead workers and hanging handlers, frees chunks whose stream entries were
lost, forgets ended submissions and deletes their objects. Workers, consumers on Redis and the API
run it; a short lock in Redis admits one at a time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from opsqueue.exceptions import OpsqueueError
from opsqueue.model.answers import RepairStep, SpentInputs
from opsqueue.model.checks import counted
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key

logger = logging.getLogger("opsqueue.sweeper")

_INTERVAL_S: Final = 1.0
_SLOW_EVERY: Final = 5
_QUEUES_A_ROUND: Final = 50
_MOST_STEPS: Final = 1_000
_MOST_FAILURES: Final = 3
_REPAIR_FOR_S: Final = 0.5
_REPAIR_LIMIT: Final = 250
"""A step of some milliseconds, during which all other clients wait."""
_REPAIR_PAUSE: Final = 6.0
"""The pause between two steps of a repair, in multiples of the last step's duration.
So a repair takes a seventh of the server's time."""
_LONGEST_PAUSE_S: Final = 1.0
"""Shorter than the time for which a step locks out other sweepers."""
_NAMED: Final = 5
"""The largest number of workers named in a log line."""
_INPUTS_FOR_S: Final = 1.0
_INPUTS_OF: Final = 20
_INPUTS_AT_ONCE: Final = 1_000


class Sweeper:
    """Sweeps queues with all their partitions, a bounded number of queues each second.

    Args:
        queues: returns the queues to sweep; called in each round.
        sweeper: the name of this sweeper, in the form of a worker's name.
        store: the store from which objects of ended submissions are deleted.
    """

    def __init__(
        self,
        queues: Callable[[], Sequence[Queue]],
        *,
        sweeper: str,
        store: ObjectStore,
    ) -> None:
        self._queues = queues
        self._sweeper = sweeper
        self._store = store
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Start sweeping in its own thread."""
        threading.Thread(target=self._sweep_for_ever, name="sweeper", daemon=True).start()

    def stop(self) -> None:
        """Stop sweeping."""
        self._is_stopping.set()

    def _sweep_for_ever(self) -> None:
        rounds = 0
        # Out of step with other sweepers: the lock admits only one.
        while not self._is_stopping.wait(_INTERVAL_S * random.uniform(0.7, 1.3)):  # noqa: S311 jitter
            self._sweep_round(rounds)
            rounds += 1

    def _sweep_round(self, rounds: int) -> None:
        try:
            queues = self._queues()
        except OpsqueueError as exc:
            logger.debug("sweep: %s", exc)
            return
        # A thousand queues of an API take turns: sweeping must not become Redis's main work.
        turns = max(1, -(-len(queues) // _QUEUES_A_ROUND))
        is_slow_round = rounds // turns % _SLOW_EVERY == _SLOW_EVERY - 1
        for queue in queues[rounds % turns :: turns]:
            try:
                parts = queue.parts()
            except OpsqueueError as exc:
                # Its master does not answer; the masters of other queues may.
                logger.debug("sweep of queue %s: %s", queue.name, exc)
                continue
            for part in parts:
                self._sweep(part, is_slow_round=is_slow_round)

    def _sweep(self, queue: Queue, *, is_slow_round: bool) -> None:
        try:
            self.reclaim_from_the_dead(queue)
            self.repair(queue)
            if is_slow_round:
                self.reclaim_expired(queue)
                self.forget(queue)
                self.delete_inputs(queue)
        except OpsqueueError as exc:
            logger.debug("sweep of queue %s: %s", queue.label, exc)

    def reclaim_from_the_dead(self, queue: Queue) -> None:
        """Reclaim chunks of workers whose own heartbeat timeout has passed."""
        for _ in range(_MOST_STEPS):
            swept = queue.reclaim_dead(self._sweeper)
            if swept and swept.chunks:
                logger.warning(
                    "queue %s: reclaimed %s from dead workers: %s",
                    queue.label,
                    counted(swept.chunks, "chunk"),
                    _named(swept.workers),
                )
            if swept and swept.lost:
                logger.warning("queue %s: %s", queue.label, lost_reservations(swept.lost))
            if swept is None or swept.next_from is None:
                return

    def reclaim_expired(self, queue: Queue) -> None:
        """Reclaim chunks whose reservation has expired."""
        page_from = "-"
        for _ in range(_MOST_STEPS):
            swept = queue.reclaim_expired(self._sweeper, page_from=page_from)
            if swept and swept.chunks:
                logger.warning(
                    "queue %s: reclaimed %s whose reservation had expired, from %s",
                    queue.label,
                    counted(swept.chunks, "chunk"),
                    _named(swept.workers),
                )
            if swept and swept.lost:
                logger.warning("queue %s: %s", queue.label, lost_reservations(swept.lost))
            if swept is None or swept.next_from in (None, page_from):
                return
            page_from = swept.next_from

    def repair(self, queue: Queue) -> None:
        """Continue a repair, if one is running, with a bounded share of time and of the server."""
        until = time.monotonic() + _REPAIR_FOR_S
        freed = 0
        for step in repair_steps(queue, self._sweeper, pause=self._is_stopping.wait):
            freed += step.chunks
            if step.next_from is None and step.lost:
                logger.warning("queue %s: %s", queue.label, lost_reservations(step.lost))
            if time.monotonic() >= until or self._is_stopping.is_set():
                break
        if freed:
            logger.warning(
                "queue %s: freed %s that Redis had lost track of",
                queue.label,
                counted(freed, "chunk"),
            )

    def forget(self, queue: Queue) -> None:
        """Forget submissions whose retention is over, and delete their objects."""
        deleted: list[str] = []
        for _ in range(_MOST_STEPS):
            forgotten = queue.forget_submissions(deleted_prefixes=deleted)
            # The same prefixes again: reporting them as deleted has no effect.
            if set(forgotten.prefixes) <= set(deleted):
                return
            deleted = self._delete_prefixes(forgotten.prefixes)
            if not deleted:
                return
            logger.debug(
                "queue %s: deleted the objects of %d ended submissions", queue.label, len(deleted)
            )

    def _delete_prefixes(self, prefixes: Sequence[str]) -> list[str]:
        """Delete the objects of prefixes; return the prefixes for which this worked.

        A folder that can't be used does not hold up the others: the order is random, and only after
        several failures is the store taken as the cause.
        """
        deleted, failures = list[str](), 0
        for prefix in random.sample(prefixes, len(prefixes)):
            try:
                self._store.delete_prefix(prefix)
            except OpsqueueError as exc:
                failures += 1
                logger.warning("objects of an ended submission are left below %s: %s", prefix, exc)
                if failures >= _MOST_FAILURES:
                    break
            else:
                deleted.append(prefix)
        return deleted

    def delete_inputs(self, queue: Queue) -> None:
        """Delete inputs that completed submissions no longer need, for a bounded time.

        The rest waits for the next round, so that a million of them don't delay anything else. Most
        of a store's time for a deletion is the request's, so pages are large.
        """
        until = time.monotonic() + _INPUTS_FOR_S
        deleted: dict[SubmissionId, int] = {}
        before: list[SpentInputs] = []
        while spent := queue.delete_inputs(limit=_INPUTS_OF, deleted=deleted):
            if spent == before:
                return  # reporting them as deleted has no effect
            before, deleted = spent, {}
            for inputs in spent:
                end = min(inputs.chunks_total, inputs.first_index + _INPUTS_AT_ONCE)
                try:
                    self._store.delete_objects(
                        input_key(inputs.prefix, index) for index in range(inputs.first_index, end)
                    )
                except OpsqueueError as exc:
                    # As above: the others continue, and these inputs are deleted with the rest.
                    logger.warning("inputs are left below %s: %s", inputs.prefix, exc)
                else:
                    deleted[inputs.submission_id] = end
                if time.monotonic() >= until or self._is_stopping.is_set():
                    queue.delete_inputs(limit=1, deleted=deleted)
                    return
            if not deleted:
                return


def _named(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - _NAMED:,} more" if len(workers) > _NAMED else ""
    return ", ".join(workers[:_NAMED]) + more


def repair_steps(
    queue: Queue, sweeper: str, *, begin: bool = False, pause: Callable[[float], object]
) -> Iterator[RepairStep]:
    """Repair one partition step by step, sparing the server; yield each step.

    Ends with the repair, or with a step that found another sweeper busy, or without any step if
    there is nothing to do.

    Args:
        queue: one partition.
        sweeper: the name of the sweeper.
        begin: start a new repair, see `Queue.repair`.
        pause: waits for a number of seconds.
    """
    while True:
        began_at = time.monotonic()
        step = queue.repair(begin=begin, limit=_REPAIR_LIMIT, sweeper=sweeper)
        took_s = time.monotonic() - began_at
        if step is None:
            return
        yield step
        if step.is_busy or step.next_from is None:
            return
        pause(min(took_s * _REPAIR_PAUSE, _LONGEST_PAUSE_S))
        begin = False


def lost_reservations(number: int) -> str:
    """Return the warning about reservations that disappeared from Redis."""
    return (
        f"{number:,} reservations were removed from its stream by something else (XTRIM, or a "
        "server that lost its last writes?): their chunks will be reserved again"
    )
