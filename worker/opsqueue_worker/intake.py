"""The intake of one queue: reports finished chunks and reserves the next, in one round trip.

It asks for no more chunks than the pool has places for. When the queue is empty it sleeps until
Redis's wake stream says that a chunk became free, a delayed chunk is due, or there is something to
report. When Redis does not answer it keeps the reports and tries again, more slowly each time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from typing import Final

from opsqueue.answers import Reserved
from opsqueue.app import Handler
from opsqueue.chunk import Dropped, FailOutcome, FinallyFailed, Lost, Reservation, Token
from opsqueue.connection import BLOCK_MS
from opsqueue.exceptions import OpsqueueError
from opsqueue.execution import Done, Failed, GivenBack, Report
from opsqueue.queue import Queue
from opsqueue_worker.pool import ProcessPool

logger = logging.getLogger("opsqueue.worker")

MAX_RESERVE: Final = 100
MAX_REPORTS: Final = 200
_SLOWEST_RETRY_S: Final = 1.5


class Intake:
    """One queue's chunks on their way in and out.

    Args:
        queue: where chunks come from.
        handler: serves the queue.
        worker: the name under which they are reserved.
        pool: works on them.
        changed: guards and announces every change: reports, free places, wake-ups, the end.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        worker: str,
        pool: ProcessPool,
        changed: threading.Condition,
    ) -> None:
        self.queue = queue
        self._handler = handler
        self._worker = worker
        self._pool = pool
        self._changed = changed
        self._held: dict[Token, Reservation] = {}
        self._reports: deque[Report] = deque()
        self._is_stopping = False
        self._is_empty = False
        self._wake_id = "0-0"
        self._due_at: float | None = None
        self.chunks_done = 0

    # Called by other threads

    def start(self) -> None:
        """Start its two threads."""
        for work in (self._exchange_for_ever, self._watch_for_ever):
            name = f"{work.__name__.strip('_').split('_')[0]}-{self.queue.name}"
            threading.Thread(target=work, name=name, daemon=True).start()

    def report(self, report: Report) -> bool:
        """Take a report to be sent; False when the chunk is not of this queue."""
        with self._changed:
            if report.token not in self._held:
                return False
            self._reports.append(report)
            self._changed.notify_all()
            return True

    def held(self) -> list[Token]:
        """Everything in this worker's hands, also what is done and not yet reported."""
        with self._changed:
            return list(self._held)

    @property
    def is_holding(self) -> bool:
        """Whether anything is in hand or not yet reported; for who holds `changed`."""
        return bool(self._held)

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
            try:
                self._exchange(reports, places)
                failures = 0
            except OpsqueueError as exc:
                with self._changed:
                    self._reports.extendleft(reversed(reports))
                failures += 1
                if failures == 1:
                    logger.warning(
                        "queue %s: %s; trying again, %d reports are kept",
                        self.queue.name, exc, len(reports),
                    )  # fmt: skip
                time.sleep(min(_SLOWEST_RETRY_S, 0.05 * 2**failures) * random.uniform(0.5, 1))  # noqa: S311 jitter

    def _wait_for_something_to_do(self) -> tuple[list[Report], int]:
        with self._changed:
            while True:
                if self._due_at is not None and time.monotonic() >= self._due_at:
                    self._is_empty, self._due_at = False, None
                places = 0
                if not (self._is_stopping or self._is_empty):
                    places = self._pool.take_places(MAX_RESERVE)
                if self._reports or places:
                    count = min(MAX_REPORTS, len(self._reports))
                    return [self._reports.popleft() for _ in range(count)], places
                timeout = None
                if self._due_at is not None and not self._is_stopping:
                    timeout = max(0.0, self._due_at - time.monotonic())
                self._changed.wait(timeout)

    def _exchange(self, reports: list[Report], places: int) -> None:
        try:
            reserved = self._send(reports, places)
        except BaseException:
            self._pool.give_places_back(places)
            raise
        with self._changed:
            for report in reports:
                self._held.pop(report.token, None)
            self._changed.notify_all()
            if reserved is None:
                return
            for chunk in reserved.chunks:
                self._held[chunk.token] = chunk
            if len(reserved.chunks) < places:
                self._is_empty, self._wake_id = True, reserved.wake_id
                if reserved.next_due_in_ms is not None and not reserved.is_paused:
                    self._due_at = time.monotonic() + reserved.next_due_in_ms / 1000
        self._pool.give_places_back(places - len(reserved.chunks))
        for chunk in reserved.chunks:
            self._pool.submit(chunk)

    def _send(self, reports: list[Report], places: int) -> Reserved | None:
        done = [r for r in reports if isinstance(r, Done)]
        if done:
            outcomes = self.queue.complete_chunks([r.token for r in done])
            for report, outcome in zip(done, outcomes, strict=True):
                if isinstance(outcome, Lost | Dropped):
                    self._explain(report.token, outcome)
                else:
                    self.chunks_done += 1
        for other in reports:
            match other:
                case Failed(token=token, failure=failure):
                    self._explain(token, self.queue.fail_chunk(token, failure))
                case GivenBack(token=token, reason=reason, delay_ms=delay_ms):
                    self.queue.release_chunks([token], delay_ms=delay_ms)
                    logger.info("chunk %s given back: %s", self._held.get(token), reason)
                case Done():
                    pass
        if not places:
            return None
        return self.queue.reserve_chunks(
            self._worker,
            limit=places,
            reservation_ms=self._handler.reservation_ms,
            strategy=self._handler.strategy,
        )

    def _explain(self, token: Token, outcome: FailOutcome) -> None:
        chunk = self._held.get(token)
        match outcome:
            case Lost():
                logger.warning(
                    "worker %s lost chunk %s: its reservation had ended (reservation_ms=%d), or "
                    "its report was repeated; raise time_limit_s or make chunks smaller",
                    self._worker, chunk, self._handler.reservation_ms,
                )  # fmt: skip
            case Dropped():
                logger.info("chunk %s dropped: its submission had ended", chunk)
            case FinallyFailed(attempt=attempt):
                logger.error(
                    "chunk %s failed attempt %d, its last: the submission failed", chunk, attempt
                )
            case other:
                logger.warning(
                    "chunk %s failed attempt %d; it is tried again", chunk, other.attempt
                )

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
                time.sleep(_SLOWEST_RETRY_S / 3)
            with self._changed:
                # Also without a wake-up: a look now and then costs nothing, and finds what no
                # wake-up announced (a lost stream, a wake stream that was deleted).
                if is_awake or self._wake_id == wake_id:
                    self._is_empty = False
                    self._changed.notify_all()
