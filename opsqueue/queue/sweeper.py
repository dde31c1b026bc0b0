"""The sweeper: upkeep of queues in bounded steps, where something is due.

It reclaims chunks of dead workers and hanging handlers, frees chunks whose stream entries were
lost, forgets ended submissions and deletes their objects. Workers, consumers on Redis and the API
run it. One of them all leads and sweeps the partitions of all queues that the index (`due.py`)
names; the others ask rarely whether they may lead. What the index lacks is found by a slow round
over all names, and by heartbeats, whose answers say that a partition is overdue.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from opsqueue.exceptions import OpsqueueError, RedisUnavailableError
from opsqueue.model.answers import Due, RepairStep, SpentInputs
from opsqueue.model.checks import counted
from opsqueue.model.names import parse_label
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.cluster import Client
from opsqueue.queue.due import LEASE_MS, DueIndex, Leading, Refused
from opsqueue.queue.queue import IN_PROGRESS_LOOK_MS, Queue
from opsqueue.queue.script import queue_names
from opsqueue.store import ObjectStore, input_key

logger = logging.getLogger("opsqueue.sweeper")

_INTERVAL_S: Final = 1.0
_EXPIRY_EVERY_S: Final = 5.0
_OBJECTS_EVERY_S: Final = 5.0
_OTHERS_OBJECTS_EVERY_S: Final = 60.0
"""Only a sweeper that has their store, or the API, deletes them."""
_PAGE: Final = 250
_SWEEP_FOR_S: Final = 1.0
_SLOW_PARTITIONS: Final = 10
"""So many partitions the slow round looks at each second."""
_SLOW_EVERY_S: Final = 5.0
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_ASKS_A_SECOND: Final = 50
"""So often, together, candidates ask whether the leader has gone, until _LONGEST_WAIT_S."""
_MOST_WAITING: Final = 1_000
_FAILED_AGAIN_S: Final = 5.0
_HANGS_S: Final = 1.0
_HANGING_FOR_S: Final = 30.0
"""A node that hung is left alone for so long, or until another one has its keys."""
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


class _Waiting:
    """Queues or partitions that wait for a thread, each once, in order; bounded."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._parts: dict[str, Queue] = {}
        self._is_closed = False

    def add(self, part: Queue) -> None:
        """Add one, unless it or too many others wait."""
        with self._changed:
            if len(self._parts) < _MOST_WAITING:
                self._parts.setdefault(part.label, part)
                self._changed.notify()

    def next(self, timeout_s: float | None = None) -> Queue | None:
        """Remove and return the first one; None after the time or after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self._is_closed, timeout_s)
            if self._is_closed or not self._parts:
                return None
            return self._parts.pop(next(iter(self._parts)))

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


@dataclass(slots=True)
class _Walk:
    """The walk over a partition's reservations in search of expired ones."""

    page_from: str = "-"
    at: float = 0.0
    """The instant at which the next page is due, on the monotonic clock."""


class Sweeper:
    """Sweeps what is due in all queues while it leads, and what it is asked to.

    Args:
        queues: returns the queues whose objects are in `store`; called in each round.
        client: connects to all queues.
        sweeper: the name of this sweeper, in the form of a worker's name.
        store: the store from which objects of ended submissions are deleted.
        sweeps_all: `store` has the objects of all queues. It takes the lead from sweepers that
            don't have them.
    """

    def __init__(
        self,
        queues: Callable[[], Sequence[Queue]],
        *,
        client: Client,
        sweeper: str,
        store: ObjectStore,
        sweeps_all: bool = False,
    ) -> None:
        self._queues = queues
        self._client = client
        self._sweeper = sweeper
        self._store = store
        self._sweeps_all = sweeps_all
        self._index = DueIndex(client)
        self._is_stopping = threading.Event()
        self._called = _Waiting()
        self._to_clean = _Waiting()
        self._needs_cleaner = False
        """True from the start on until there is the thread that deletes objects."""
        self._swept: dict[str, float | None] = {}
        """Partitions swept since the last round -> when they are due next; monotonic clock."""
        self._walks: dict[str, _Walk] = {}
        self._slow_round: Iterator[Queue] = iter(())
        self._slow_round_at = float("-inf")
        self._hanging: dict[str, float] = {}

    def start(self) -> None:
        """Start sweeping in its own threads."""
        self._needs_cleaner = True
        threading.Thread(target=self._sweep_for_ever, name="sweeper", daemon=True).start()

    def stop(self) -> None:
        """Stop sweeping."""
        self._is_stopping.set()
        self._called.close()
        self._to_clean.close()

    def sweep_soon(self, queue: Queue) -> None:
        """Sweep one of `queues`, or one partition, within about a second, whoever leads."""
        self._called.add(queue)

    def _sweep_for_ever(self) -> None:
        round_at = time.monotonic() + _INTERVAL_S * _jitter()
        while not self._is_stopping.is_set():
            if (left_s := round_at - time.monotonic()) > 0:
                if (queue := self._called.next(left_s)) is not None:
                    for part in self._parts_of(queue):
                        self._sweep(part, cleans=True)
            else:
                round_at = time.monotonic() + self._round()
        self._resign()

    def _clean_soon(self, part: Queue) -> None:
        """Delete objects in a thread of its own: a store that hangs must not hold up reclaiming."""
        self._to_clean.add(part)
        if self._needs_cleaner:
            self._needs_cleaner = False
            threading.Thread(target=self._clean_for_ever, name="cleaner", daemon=True).start()

    def _clean_for_ever(self) -> None:
        while (part := self._to_clean.next()) is not None:
            self._clean(part)

    def _clean(self, part: Queue) -> None:
        try:
            self.forget(part)
            self.delete_inputs(part)
        except OpsqueueError as exc:
            logger.debug("objects of queue %s: %s", part.label, exc)

    # Leading

    def _round(self) -> float:
        """Sweep what is due if this sweeper leads; return the seconds until the next round."""
        until = time.monotonic() + _INTERVAL_S
        try:
            taken = self._take()
            cleaned = {queue.name for queue in self._queues()}
        except OpsqueueError as exc:
            logger.debug("sweep: %s", exc)
            return _FIRST_WAIT_S * _jitter()
        if isinstance(taken, Refused):
            self._walks.clear()
            wait_s = taken.candidates / _ASKS_A_SECOND
            return min(max(wait_s, _FIRST_WAIT_S), _LONGEST_WAIT_S) * _jitter()
        for label in taken.labels:
            # The others are due at once again.
            self._swept[label] = time.monotonic()
            if not self._is_stopping.is_set() and time.monotonic() < until:
                self._sweep_named(label, cleaned)
        for _ in range(_SLOW_PARTITIONS):
            part = self._next_of_slow_round()
            if part is None or self._is_stopping.is_set():
                break
            self._sweep_found(part, cleaned)
        # A full page: more may be due.
        return 0.0 if len(taken.labels) == _PAGE else max(0.0, until - time.monotonic())

    def _take(self, *, is_last: bool = False) -> Leading | Refused:
        now = time.monotonic()
        taken = self._index.take(
            self._sweeper,
            sweeps_all=self._sweeps_all,
            swept={
                label: None if at is None else max(0, round((at - now) * 1000))
                for label, at in self._swept.items()
            },
            limit=_PAGE,
            lease_ms=0 if is_last else LEASE_MS,
        )
        self._swept.clear()
        return taken

    def _resign(self) -> None:
        with suppress(OpsqueueError):
            self._take(is_last=True)

    def _sweep_named(self, label: str, cleaned: Container[str]) -> None:
        try:
            name, partition = parse_label(label)
        except OpsqueueError as exc:
            logger.debug("the index of sweepers: %s", exc)
            self._swept[label] = None
            return
        self._sweep_found(Queue(self._client, name, partition=partition), cleaned)

    def _sweep_found(self, part: Queue, cleaned: Container[str]) -> None:
        cleans = self._sweeps_all or part.name in cleaned
        self._swept[part.label] = self._sweep(part, cleans=cleans)

    def _next_of_slow_round(self) -> Queue | None:
        """Return partitions of all queues in turn, each at most every _SLOW_EVERY_S."""
        part = next(self._slow_round, None)
        if part is None and time.monotonic() - self._slow_round_at >= _SLOW_EVERY_S:
            self._slow_round_at = time.monotonic()
            self._slow_round = self._all_parts()
            part = next(self._slow_round, None)
        return part

    def _all_parts(self) -> Iterator[Queue]:
        try:
            names = queue_names(self._client)
        except OpsqueueError as exc:
            logger.debug("sweep: %s", exc)
            return
        for name in names:
            yield from self._parts_of(Queue(self._client, name))

    def _parts_of(self, queue: Queue) -> list[Queue]:
        try:
            with self._sparing(queue):
                return queue.parts()
        except OpsqueueError as exc:
            logger.debug("sweep of queue %s: %s", queue.name, exc)
            return []

    # One partition

    def _sweep(self, part: Queue, *, cleans: bool) -> float | None:
        """Sweep a partition where something is due; return when more is, None: never."""
        try:
            with self._sparing(part):
                due = part.next_due()
                if self._reclaim(part, due):
                    due = part.next_due()
                if cleans and due.objects_in_ms == 0:
                    self._clean_soon(part)
                next_at = self._next_at(part, due, cleans=cleans)
                if next_at is None and part.partition == 0:
                    part.forget_unused()
        except OpsqueueError as exc:
            logger.debug("sweep of queue %s: %s", part.label, exc)
            return time.monotonic() + _FAILED_AGAIN_S
        return next_at

    @contextmanager
    def _sparing(self, part: Queue) -> Iterator[None]:
        """Send nothing to a node that hung lately: each call would hold up all other queues."""
        began_at = time.monotonic()
        node = part.server()
        if self._hanging.get(node, began_at) > began_at:
            message = f"{node} hung lately"
            raise RedisUnavailableError(message)
        try:
            yield
        except RedisUnavailableError:
            if time.monotonic() - began_at >= _HANGS_S:
                self._hanging[node] = time.monotonic() + _HANGING_FOR_S
            raise

    def _reclaim(self, part: Queue, due: Due) -> bool:
        """Reclaim chunks, as far as that is due; return whether it was."""
        is_due = False
        if due.dead_in_ms == 0:
            self.reclaim_from_the_dead(part)
            is_due = True
        if due.is_repairing:
            self.repair(part)
            is_due = True
        if not due.chunks_in_hand:
            self._walks.pop(part.label, None)
        else:
            walk = self._walks.setdefault(part.label, _Walk())
            if time.monotonic() >= walk.at:
                walk.page_from = self.reclaim_expired(part, page_from=walk.page_from) or "-"
                is_over = walk.page_from == "-"
                walk.at = time.monotonic() + (_EXPIRY_EVERY_S if is_over else 0.0)
                is_due = True
        return is_due

    def _next_at(self, part: Queue, due: Due, *, cleans: bool) -> float | None:
        now = time.monotonic()
        in_s: list[float] = []
        if due.dead_in_ms is not None:
            in_s.append(due.dead_in_ms / 1000)
        if due.is_repairing:
            in_s.append(0.0)
        if due.chunks_in_hand:
            walk = self._walks.get(part.label)
            in_s.append(0.0 if walk is None else max(0.0, walk.at - now))
        if due.objects_in_ms is not None:
            again_s = _OBJECTS_EVERY_S if cleans else _OTHERS_OBJECTS_EVERY_S
            in_s.append(due.objects_in_ms / 1000 or again_s)
        if due.in_progress:
            # Queues that were used at the same time get out of step.
            in_s.append(IN_PROGRESS_LOOK_MS / 1000 * _jitter())
        return now + min(in_s) if in_s else None

    def reclaim_from_the_dead(self, queue: Queue) -> None:
        """Reclaim chunks of workers whose own heartbeat timeout has passed, for a bounded time."""
        until = time.monotonic() + _SWEEP_FOR_S
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
            if swept is None or swept.next_from is None or time.monotonic() >= until:
                return

    def reclaim_expired(self, queue: Queue, *, page_from: str = "-") -> str | None:
        """Reclaim chunks whose reservation has expired, for a bounded time.

        Returns the page from which to go on; None after the last one.
        """
        until = time.monotonic() + _SWEEP_FOR_S
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
                return None
            page_from = swept.next_from
            if time.monotonic() >= until:
                break
        return page_from

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


def _jitter() -> float:
    return random.uniform(0.7, 1.3)  # noqa: S311 chance needs no cryptography


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
