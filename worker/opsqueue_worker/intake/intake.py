"""The intake of one queue: reports finished chunks and reserves the next, in one round trip.

It asks for no more chunks than the pool has places for. When the queue is empty it sleeps until
Redis's wake stream says that a chunk became free, a delayed chunk is due, or there is something to
report. When Redis does not answer it keeps the reports and tries again, more slowly each time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from msgspec import structs

from opsqueue.exceptions import OpsqueueError, RedisUnavailableError
from opsqueue.handlers.app import Handler
from opsqueue.handlers.execute import Failed, Report, left_to_readers
from opsqueue.model.answers import Reserved
from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue.queue import commands
from opsqueue.queue.connection import BLOCK_MS
from opsqueue.queue.queue import Queue
from opsqueue.strategy import AnyStrategy
from opsqueue.tracing import spans
from opsqueue_worker.intake.reporter import Reporter, batches_of
from opsqueue_worker.pool.pool import Pool

logger = logging.getLogger("opsqueue.worker")

MAX_RESERVE: Final = 200
MAX_REPORTS: Final = 500
MAX_HELD: Final = 9_000
"""Fewer than the pending chunks that one heartbeat looks at (heartbeat.lua): it takes those that it
does not get to for void."""
_BACKOFF: Final = RetryBackoff(first_s=0.1, max_s=1.5)


class Intake:
    """One queue's chunks on their way in and out.

    Args:
        queue: where chunks come from.
        handler: serves the queue.
        strategy: which chunk next.
        worker: the name under which they are reserved.
        pool: works on them.
        changed: guards and announces every change: reports, free places, wake-ups, the end.
        heartbeat_timeout_ms: of the worker, until its first heartbeat says it.
        on_round_trip: hears how many seconds Redis took, how many chunks it was asked for, and how
            many were reported.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        strategy: AnyStrategy,
        worker: str,
        pool: Pool,
        changed: threading.Condition,
        heartbeat_timeout_ms: int = commands.DEFAULT_TIMEOUT_MS,
        on_round_trip: Callable[[float, int, int], None] | None = None,
    ) -> None:
        self.queue = queue
        self._handler = handler
        self._strategy = strategy
        self._worker = worker
        self._pool = pool
        self._changed = changed
        self._heartbeat_timeout_ms = heartbeat_timeout_ms
        self._on_round_trip = on_round_trip
        self._reporter = Reporter(queue.name, worker=worker)
        self._held: dict[Token, Reservation] = {}
        self._reports: deque[Report] = deque()
        self._is_stopping = False
        self._is_empty = False
        self._has_looked = False
        self._look_from = ""
        self._wake_id = "0-0"
        self._due_at: float | None = None

    # Called by other threads

    def start(self) -> None:
        """Start its two threads."""
        for work, name in ((self._exchange_for_ever, "intake"), (self._watch_for_ever, "watch")):
            threading.Thread(target=work, name=f"{name}-{self.queue.label}", daemon=True).start()

    def report(self, reports: Sequence[Report]) -> list[Report]:
        """Take reports to be sent; give those that are of this queue."""
        mine = []
        with self._changed:
            for report in reports:
                label, _, token = report.token.rpartition("/")
                if label == self.queue.label:
                    mine.append(report)
                    if token in self._held:
                        self._reports.append(replace(report, token=Token(token)))
            if mine:
                self._changed.notify_all()
        return mine

    def ticket(self, token: Token) -> Token:
        """Give the name that the pool has for a chunk.

        A token is unique in its queue alone: that of another queue may be the same.
        """
        return Token(f"{self.queue.label}/{token}")

    def held(self) -> list[Token]:
        """Everything in this worker's hands, also what is done and not yet reported."""
        with self._changed:
            return list(self._held)

    @property
    def codecs(self) -> list[str]:
        """Names of the codecs that the handler reads."""
        return self._handler.readable_codecs

    def count_held(self) -> int:
        """Count what is in this worker's hands."""
        with self._changed:
            return len(self._held)

    @property
    def is_holding(self) -> bool:
        """Whether anything is in hand or not yet reported; for who holds `changed`."""
        return bool(self._held)

    @property
    def is_drained(self) -> bool:
        """Whether the queue was empty at the last look, nothing delayed, nothing in hand."""
        with self._changed:
            return self._has_looked and self._is_empty and not self._held and self._due_at is None

    @property
    def chunks_done(self) -> int:
        """Chunks that this worker completed."""
        return self._reporter.chunks_done

    def sum_up(self, *, is_last: bool = False) -> None:
        """Log how many chunks were completed; see `Reporter.sum_up`."""
        self._reporter.sum_up(is_last=is_last)

    def stop_taking(self) -> None:
        """Reserve no more; reports still go out."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    # The path of a chunk, in and out

    def _exchange_for_ever(self) -> None:
        failures = 0
        while True:
            reports, places = self._wait_for_something_to_do()
            trouble = self._exchange(reports, places)
            if trouble is None:
                if failures:
                    logger.info("queue %s: works again", self.queue.label)
                failures = 0
                continue
            failures += 1
            if failures == 1:
                logger.warning(
                    "queue %s: %s; trying again until it works", self.queue.label, trouble
                )
            time.sleep(_BACKOFF.pause_s(failures))

    def _wait_for_something_to_do(self) -> tuple[list[Report], int]:
        with self._changed:
            while True:
                if self._due_at is not None and time.monotonic() >= self._due_at:
                    self._is_empty, self._due_at = False, None
                places = 0
                if not (self._is_stopping or self._is_empty):
                    room = max(0, MAX_HELD - len(self._held))
                    places = self._pool.take_places(min(MAX_RESERVE, room))
                if self._reports or places:
                    count = min(MAX_REPORTS, len(self._reports))
                    return [self._reports.popleft() for _ in range(count)], places
                timeout = None
                if self._due_at is not None and not self._is_stopping:
                    timeout = max(0.0, self._due_at - time.monotonic())
                self._changed.wait(timeout)

    def _exchange(self, reports: list[Report], places: int) -> OpsqueueError | None:
        """Send reports, take chunks; give the trouble met, with what it concerns kept."""
        batches = batches_of(
            [
                left_to_readers(report, self.queue.list_workers, worker=self._worker)
                if isinstance(report, Failed)
                else report
                for report in reports
            ]
        )
        requests = [batch.call for batch in batches]
        if places:
            requests.append(
                commands.reserve_chunks(
                    self._worker,
                    limit=places,
                    reservation_ms=self._handler.reservation_ms,
                    strategy=self._strategy,
                    look_from=self._look_from,
                    heartbeat_timeout_ms=self._heartbeat_timeout_ms,
                )
            )
        began = time.monotonic()
        began_ns = time.time_ns()
        try:
            answers = self.queue.pipeline(requests)
        except RedisUnavailableError as exc:
            answers = [exc] * len(requests)
        if self._on_round_trip is not None:
            self._on_round_trip(time.monotonic() - began, places, len(reports))
        reserved = answers[-1] if places else None
        settled: list[tuple[Reservation, ChunkFailure | None]] = []
        with self._changed:
            for batch, answer in zip(batches, answers, strict=False):
                again = self._reporter.settle(batch, answer, self._held)
                self._reports.extendleft(reversed(again))
                if not again:
                    for report in batch.reports:
                        if chunk := self._held.pop(report.token, None):
                            failure = report.failure if isinstance(report, Failed) else None
                            settled.append((chunk, failure))
            self._changed.notify_all()
        spans.settled(self.queue.name, self._worker, settled, began_ns=began_ns)
        if isinstance(reserved, Reserved):
            spans.received(self.queue.name, self._worker, reserved.chunks, began_ns=began_ns)
            self._take(reserved, places)
        else:
            self._give_places_back(places)
        return next((answer for answer in answers if isinstance(answer, OpsqueueError)), None)

    def _take(self, reserved: Reserved, places: int) -> None:
        with self._changed:
            for chunk in reserved.chunks:
                # Without its input: what waits to be reported takes little memory.
                self._held[chunk.token] = structs.replace(chunk, input=None)
            # Not '': the strategy has not looked at everything yet, go on at once.
            self._look_from = "" if reserved.chunks else reserved.look_from
            self._has_looked = not self._look_from
            is_all = not (self._look_from or reserved.is_cut)
            if len(reserved.chunks) < places and is_all:
                self._is_empty, self._wake_id, self._due_at = True, reserved.wake_id, None
                if reserved.next_due_in_ms is not None and not reserved.is_paused:
                    self._due_at = time.monotonic() + reserved.next_due_in_ms / 1000
                self._changed.notify_all()
        self._give_places_back(places - len(reserved.chunks))
        if reserved.chunks:
            self._pool.submit(
                [
                    structs.replace(chunk, token=self.ticket(chunk.token))
                    for chunk in reserved.chunks
                ]
            )

    def _give_places_back(self, number: int) -> None:
        if number:
            self._pool.give_places_back(number)
            # Another queue's intake may be asleep because all of them were promised to us.
            with self._changed:
                self._changed.notify_all()

    # Sleeping while the queue is empty

    def _watch_for_ever(self) -> None:
        """Wait for Redis's wake-ups, on a connection of its own, while there is nothing to do."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_empty)
                wake_id = self._wake_id
            try:
                is_awake = self.queue.wait_for_wake(wake_id, block_ms=BLOCK_MS)
            except OpsqueueError:
                # The exchange meets the same trouble, says so, and slows down.
                is_awake = True
                time.sleep(_BACKOFF.max_s / 3)
            with self._changed:
                # Also without a wake-up: a look now and then costs nothing, and finds what none
                # announced (a lost stream, a wake stream that was deleted).
                if is_awake or self._wake_id == wake_id:
                    self._is_empty = False
                    self._changed.notify_all()
