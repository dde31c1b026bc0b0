"""The intake of one queue: reports finished chunks and reserves the next, in one round trip.

It asks for no more chunks than the pool has free places. When the queue is empty it sleeps until a
message wakes it, a delayed chunk is due, a heartbeat finds something, or there is something to
report. When Redis does not answer it keeps the reports and tries again, with growing pauses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import structs

from opsqueue.exceptions import OpsqueueError, RedisUnavailableError
from opsqueue.handlers.app import Handler
from opsqueue.handlers.execute import Failed, Report, left_to_readers
from opsqueue.model.answers import Alive, Reserved
from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue, wake_channel
from opsqueue.queue.reader import Watch
from opsqueue.strategy import AnyStrategy
from opsqueue.tracing import spans
from opsqueue_worker.intake.exchanges import Exchanges, Next
from opsqueue_worker.intake.reporter import Batch, Reporter, batches_of
from opsqueue_worker.pool.places import NO_PLACES, Promise
from opsqueue_worker.pool.pool import Slots
from opsqueue_worker.pool.waiting import Clearance, PoolChunk, boot_time

logger = logging.getLogger("opsqueue.worker")

MAX_RESERVE: Final = 200
MAX_REPORTS: Final = 500
MAX_HELD: Final = 9_000
"""Each heartbeat names all of them, a page after the other."""
_COUNTS_AS_DEAD: Final = "this worker counts as dead until its next heartbeat"
_BACKOFF: Final = RetryBackoff(first_s=0.1, max_s=1.5, brisk=50)


@dataclass(frozen=True, slots=True)
class _Work:
    """The work of one exchange."""

    reports: list[Report]
    promise: Promise
    wakes_next: bool
    """Wake another worker, since this one has no place for what it was woken for."""
    looks_seen: int
    """The value of `_looks` before the exchange."""


class Intake:
    """The chunks of one queue's partition on their way in and out.

    Args:
        queue: the partition that chunks come from.
        handler: serves the queue.
        strategy: chooses the next chunk.
        worker: the name that chunks are reserved under.
        slots: work on the chunks.
        exchanges: runs this intake.
        changed: guards its state, and announces what was reported.
        heartbeat_timeout_ms: the worker's timeout, until its first heartbeat sends it.
        on_round_trip: called with the seconds that Redis took, the number of chunks asked for, and
            the number reported.
    """

    def __init__(  # noqa: PLR0913 the parts that it connects
        self,
        queue: Queue,
        handler: Handler,
        *,
        strategy: AnyStrategy,
        worker: str,
        slots: Slots,
        exchanges: Exchanges,
        changed: threading.Condition,
        heartbeat_timeout_ms: int = commands.DEFAULT_TIMEOUT_MS,
        on_round_trip: Callable[[float, int, int], None] | None = None,
    ) -> None:
        self.queue = queue
        self.label = queue.label
        self.server = queue.server()
        self._handler = handler
        self.strategy = strategy
        self._worker = worker
        self._slots = slots
        self._exchanges = exchanges
        self._changed = changed
        self._heartbeat_timeout_ms = heartbeat_timeout_ms
        self._on_round_trip = on_round_trip
        self._reporter = Reporter(queue.name, worker=worker)
        self._held: dict[Token, Reservation] = {}
        self._reports: deque[Report] = deque()
        self._to_begin: list[Token] = []
        self._said_begun: list[Token] | None = None
        """The chunks that Redis knows to have begun; None: that is not known."""
        self._is_stopping = False
        self._is_empty = False
        self._has_looked = False
        self._scan_from = ""
        self._due_at: float | None = None
        self._has_alarm = True
        """True if it is to come back by itself then; else it is told."""
        self._is_woken = False
        """A message has come for which this worker has not asked for chunks yet."""
        self._looks = 0
        """Messages and heartbeats that made it look."""
        self._failures = 0
        self._watch: Watch | None = None

    # Called by other threads

    def start(self) -> None:
        """Reserve the first chunks, and watch for the next."""
        self._watch = self.queue.watch(wake_channel(self._worker, self.strategy), self.wake)
        self._exchanges.offer(self)

    def wake(self) -> None:
        """Ask for chunks: one may have become free."""
        with self._changed:
            self._looks += 1
            self._is_woken, self._is_empty = True, False
        self._exchanges.offer(self)

    def look(self, alive: Alive) -> None:
        """Ask for chunks if a heartbeat has found that there may be some.

        A wake-up may have been lost, or was never sent: a stream that is deleted tells nobody.
        """
        with self._changed:
            is_due = self._due_at is not None and time.monotonic() >= self._due_at
            if not (self._is_empty and (alive.is_free or is_due)):
                return
            self._looks += 1
            self._is_empty = False
        self._exchanges.offer(self)

    def report(self, reports: Sequence[Report]) -> None:
        """Queue reports of this partition's chunks, named by their tickets, for sending."""
        with self._changed:
            for report in reports:
                token = self._token_of(report.token)
                if token in self._held:
                    self._reports.append(replace(report, token=token))
        self._exchanges.offer(self)

    def begin(self, tickets: Sequence[Token]) -> None:
        """Report chunks of this partition to Redis as about to begin, and then to the slots.

        If Redis does not answer, they wait, and the report is repeated.
        """
        with self._changed:
            self._to_begin += map(self._token_of, tickets)
        self._exchanges.offer(self)

    def note_heartbeat(self) -> None:
        """Report again what has begun: a heartbeat may have replaced a later report of that."""
        self._said_begun = None

    def begun(self) -> list[Token]:
        """Return the tokens of this partition's chunks that have begun and not ended."""
        begun = self._slots.begun()
        return [self._token_of(t) for t in begun if label_of(t) == self.label]

    def _token_of(self, ticket: Token) -> Token:
        return Token(ticket[len(self.label) + 1 :])

    def ticket(self, token: Token) -> Token:
        """Return the name that the pool has for a chunk.

        A token is unique only within its queue; another queue may have the same one.
        """
        return Token(f"{self.queue.label}/{token}")

    def held(self) -> list[Token]:
        """Return the tokens of all chunks that this worker holds, including finished ones.

        Finished chunks are held until they are reported.
        """
        with self._changed:
            return list(self._held)

    @property
    def is_idle(self) -> bool:
        """True if it holds nothing and sleeps until something is free."""
        with self._changed:
            return self._is_empty and not self._held and not self._is_stopping

    @property
    def codecs(self) -> list[str]:
        """Names of the codecs that the handler reads."""
        return self._handler.readable_codecs

    def count_held(self) -> int:
        """Count the chunks that this worker holds."""
        with self._changed:
            return len(self._held)

    @property
    def is_holding(self) -> bool:
        """True if any chunk is held or not yet reported; the caller must hold `changed`."""
        return bool(self._held)

    @property
    def is_drained(self) -> bool:
        """True if the last reserve found the queue empty, no chunk is delayed and none is held."""
        with self._changed:
            return self._has_looked and self._is_empty and not self._held and self._due_at is None

    @property
    def chunks_done(self) -> int:
        """Chunks that this worker completed."""
        return self._reporter.chunks_done

    def sum_up(self, *, is_last: bool = False) -> None:
        """Log the number of completed chunks; see `Reporter.sum_up`."""
        self._reporter.sum_up(is_last=is_last)

    def stop_taking(self) -> None:
        """Stop reserving chunks; reports are still sent."""
        with self._changed:
            self._is_stopping = True
        self._exchanges.offer(self)

    # The path of a chunk, in and out

    def run(self) -> Next:
        """Report and reserve in one round trip, if there is something to do; see `Exchanges`."""
        work = self._work()
        if work is None:
            return self._next()
        if work.promise.number:
            self._exchanges.places_are_free()  # it was this queue's turn, and is the next one's
        error = self._exchange(work)
        if error is None:
            if self._failures:
                logger.info("queue %s: working again", self.queue.label)
            self._failures = 0
            return Next(at_once=True)
        self._failures += 1
        if self._failures == 1:
            logger.warning("queue %s: %s; trying again until it works", self.queue.label, error)
        return Next(at=time.monotonic() + _BACKOFF.pause_s(self._failures), is_paused=True)

    def _next(self) -> Next:
        with self._changed:
            if self._is_stopping:
                return Next()
            at = self._due_at if self._is_empty and self._has_alarm else None
            return Next(at=at, wants_places=not self._is_empty)

    def _work(self) -> _Work | None:
        """Return what there is to do now."""
        with self._changed:
            is_due = self._due_at is not None and time.monotonic() >= self._due_at
            if is_due and self._has_alarm:
                self._is_empty, self._due_at = False, None
            promise = NO_PLACES
            if not (self._is_stopping or self._is_empty):
                room = max(0, MAX_HELD - len(self._held))
                promise = self._slots.take_places(self.queue.label, min(MAX_RESERVE, room))
            # Another worker may have places for the chunk that this one was woken for.
            wakes_next = self._is_woken and not promise.number
            self._is_woken = False
            if not (self._reports or self._to_begin or promise.number or wakes_next):
                return None
            if not promise.number:
                self._slots.withdraw(self.queue.label)
            count = min(MAX_REPORTS, len(self._reports))
            return _Work(
                reports=[self._reports.popleft() for _ in range(count)],
                promise=promise,
                wakes_next=wakes_next,
                looks_seen=self._looks,
            )

    def _exchange(self, work: _Work) -> OpsqueueError | None:
        """Send reports and reserve chunks in one round trip.

        Returns:
            The first error, if any. Reports that could not be sent are kept.
        """
        reports, promise = work.reports, work.promise
        batches = batches_of(
            [
                left_to_readers(report, self.queue.list_workers, worker=self._worker)
                if isinstance(report, Failed)
                else report
                for report in reports
            ]
        )
        to_begin = list(self._to_begin)  # before `begun`, which has them
        begun = self.begun()
        says_begun = begun != self._said_begun or bool(to_begin)
        requests: list[commands.Command[Any]] = [batch.call for batch in batches]
        if promise.number:
            requests.append(self._reserve(promise, begun if says_begun else None))
        elif says_begun:
            requests.append(commands.note_begun(self._worker, begun=begun))
        if work.wakes_next:
            requests.append(commands.wake_next(self.strategy))
        began, began_ns, reserved_at = time.monotonic(), time.time_ns(), boot_time()
        try:
            answers = self.queue.pipeline(requests)
        except RedisUnavailableError as exc:
            answers = [exc] * len(requests)
        if self._on_round_trip is not None:
            self._on_round_trip(time.monotonic() - began, promise.number, len(reports))
        self._settle(batches, answers, began_ns)
        said = answers[len(batches)] if says_begun else None
        if says_begun and not self._note_said(said, begun, to_begin):
            answers.append(OpsqueueError(_COUNTS_AS_DEAD))
        reserved = answers[len(batches)] if promise.number else None
        if isinstance(reserved, Reserved):
            spans.received(self.queue.name, self._worker, reserved.chunks, began_ns=began_ns)
            self._take(reserved, work, reserved_at)
        else:
            self._give_places_back(promise.number)
        return next((answer for answer in answers if isinstance(answer, OpsqueueError)), None)

    def _reserve(self, promise: Promise, begun: list[Token] | None) -> commands.Command[Any]:
        return commands.reserve_chunks(
            self._worker,
            limit=promise.number,
            reservation_ms=self._handler.reservation_ms,
            strategy=self.strategy,
            scan_from=self._scan_from,
            heartbeat_timeout_ms=self._heartbeat_timeout_ms,
            begun=begun,
            alone=promise.is_alone,
            sleeps=True,
        )

    def _settle(self, batches: Sequence[Batch], answers: Sequence[Any], began_ns: int) -> None:
        settled: list[tuple[Reservation, ChunkFailure | None]] = []
        with self._changed:
            for batch, answer in zip(batches, answers, strict=False):
                again = self._reporter.settle(batch, answer, self._held)
                self._reports.extendleft(reversed(again))
                for report in batch.reports[: len(batch.reports) - len(again)]:
                    if chunk := self._held.pop(report.token, None):
                        failure = report.failure if isinstance(report, Failed) else None
                        settled.append((chunk, failure))
            self._changed.notify_all()
        spans.settled(self.queue.name, self._worker, settled, began_ns=began_ns)

    def _note_said(self, answer: object, begun: list[Token], to_begin: list[Token]) -> bool:
        """Handle the answer of Redis to which chunks have begun, or are about to.

        Returns:
            False if some can't begin, since Redis takes this worker for dead.
        """
        if isinstance(answer, OpsqueueError) or answer is False:
            self._said_begun = None
            return answer is not False or not to_begin
        self._said_begun = begun
        with self._changed:
            del self._to_begin[: len(to_begin)]
        if to_begin:
            self._slots.may_begin([self.ticket(token) for token in to_begin])
        return True

    def _take(self, reserved: Reserved, work: _Work, reserved_at: float) -> None:
        places = work.promise.number
        with self._changed:
            for chunk in reserved.chunks:
                # Without the input, so that chunks that wait to be reported take little memory.
                self._held[chunk.token] = structs.replace(chunk, input=None)
            # If it is not '', the strategy has not looked at everything yet: continue at once.
            self._scan_from = "" if reserved.chunks else reserved.scan_from
            self._has_looked = not self._scan_from
            is_all = not (self._scan_from or reserved.is_cut or reserved.must_drain)
            # A suspect comes alone, whatever else the queue has.
            if len(reserved.chunks) < places and is_all and not reserved.is_suspect:
                # Not if it was woken in the meantime: the answer may be older than that.
                self._is_empty = work.looks_seen == self._looks
                self._has_alarm, self._due_at = reserved.has_alarm, None
                if reserved.next_due_in_ms is not None and not reserved.is_paused:
                    self._due_at = time.monotonic() + reserved.next_due_in_ms / 1000
                self._changed.notify_all()
        if reserved.must_drain:
            self._slots.drain(self.queue.label)
        self._give_places_back(places - len(reserved.chunks))
        if reserved.chunks:
            begin_by = reserved_at + self._handler.reservation_ms / 2_000
            named_at = boot_time()  # they are in `_held`
            self._slots.submit(
                [
                    PoolChunk(
                        reservation=structs.replace(chunk, token=self.ticket(chunk.token)),
                        reserved_at=reserved_at,
                        named_at=named_at,
                        begin_by=begin_by,
                        clearance=Clearance.NEEDED if chunk.again else Clearance.NOT_NEEDED,
                        is_suspect=reserved.is_suspect,
                    )
                    for chunk in reserved.chunks
                ]
            )

    def _give_places_back(self, number: int) -> None:
        if number:
            self._slots.give_places_back(self.queue.label, number)
            # Another queue's intake may wait because all places were promised to this one.
            self._exchanges.places_are_free()


def label_of(ticket: Token) -> str:
    """Return the label of the partition that a ticket's chunk is of."""
    return ticket.rpartition("/")[0]
