"""The chunks that one consumer has reserved, their reports, and the thread that sends heartbeats.

All I/O goes through a `ConsumerQueue`. Nothing here refers to the client, so that an unreferenced
client can be collected, which ends its thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from opsqueue.consumer.backends import ConsumerQueue
from opsqueue.exceptions import (
    ChunkNotFoundError,
    ConnectionTroubleError,
    EncodingError,
    InvalidArgumentError,
    OpsqueueError,
)
from opsqueue.handlers.execute import (
    Done,
    Failed,
    Fetched,
    GivenBack,
    Report,
    fetch,
    left_to_readers,
)
from opsqueue.model.backoff import NO_ROOM, RetryBackoff
from opsqueue.model.checks import counted
from opsqueue.model.chunk import ChunkFailure, Dropped, Lost, Reservation, Retried, Token
from opsqueue.model.process import Origin
from opsqueue.model.submission import ChunkIndex, SubmissionId
from opsqueue.store import ObjectStore
from opsqueue.store.parallel import DEFAULT_AT_ONCE
from opsqueue.strategy import AnyStrategy
from opsqueue.tracing import spans

if TYPE_CHECKING:
    from opsqueue.queue.sweeper import Sweeper

logger = logging.getLogger("opsqueue.consumer")

Key = tuple[SubmissionId, int]
_REMEMBERED: Final = 1_000
WAIT_S: Final = 10.0
"""The longest wait of one request for a chunk. Over HTTP `stop` takes effect after it."""
REPORT_WITHIN_S: Final = 60.0
_BACKOFF: Final = RetryBackoff(first_s=0.1, max_s=5.0, brisk=50)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Connected:
    """A queue that a worker is connected to."""

    queue: ConsumerQueue
    url: str
    """The URL of Redis or the API, without credentials."""
    check: Callable[[], object]
    """Called before the first chunk. Raises if nothing answers, or if it can't hold a queue."""
    sweeper: Sweeper | None = None
    on_due: Callable[[], object] | None = None
    """Called if a heartbeat is answered that something should have been swept by now."""
    timeout_ms: int | None = None
    """After this long without a heartbeat the worker counts as dead; None: the queue's setting."""


class InHand:
    """The chunks that a consumer holds, by submission and index; safe to use from several threads.

    Args:
        queue: the queue that the chunks are reserved from and reported to.
        worker: the name of the worker that holds them.
        timeout_ms: after this long without a heartbeat the worker counts as dead; None: the queue's
            setting.
        info: JSON that lists of workers show.
        interval_s: the time between heartbeats.
        reservation_ms: how long a chunk may be held.
        on_due: see `Connected`.
    """

    def __init__(
        self,
        queue: ConsumerQueue,
        *,
        worker: str,
        timeout_ms: int | None,
        info: bytes,
        interval_s: float,
        reservation_ms: int,
        on_due: Callable[[], object] | None = None,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._timeout_ms = timeout_ms
        self._reservation_ms = reservation_ms
        self._on_due = on_due
        self.is_stopping = threading.Event()
        """If set, nothing more is reserved. Reports are still sent, for a minute."""
        self._info = info
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._held: dict[Key, Reservation] = {}
        self._revoked: set[Token] = set()
        self._let_go: deque[Key] = deque(maxlen=_REMEMBERED)
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._origin = Origin()

    def also_reads(self, codec: str) -> None:
        """Add a codec to those that the heartbeats list as readable."""
        info = msgspec.json.decode(self._info)
        if codec not in info["codecs"]:
            self._info = msgspec.json.encode(info | {"codecs": [*info["codecs"], codec]})

    def is_here(self) -> bool:
        """Return whether this is the process that holds the chunks, and not a forked child."""
        return self._origin.is_here()

    def check_is_here(self) -> None:
        """Raise OtherProcessError in a forked child, since its parent reports the chunks."""
        self._origin.check(
            "a reserved chunk", "end a child that the callback forks, with os._exit()"
        )

    def add(self, reservations: Sequence[Reservation]) -> None:
        """Add reservations to those that are held."""
        with self._lock:
            self._held.update({_key_of(chunk): chunk for chunk in reservations})

    def find(self, submission_id: SubmissionId, chunk_index: int) -> Reservation | None:
        """Return the reservation of a chunk; None if it is not held."""
        with self._lock:
            return self._held.get((submission_id, chunk_index))

    def was_let_go(self, submission_id: SubmissionId, chunk_index: int) -> bool:
        """Return whether the chunk was held before; only the last thousand are remembered."""
        with self._lock:
            return (submission_id, chunk_index) in self._let_go

    def let_go(self, reservation: Reservation) -> None:
        """Remove a reservation, which was reported."""
        key = _key_of(reservation)
        with self._lock:
            # If it was lost and then reserved again, the one held now is another reservation.
            if (held := self._held.get(key)) and held.token == reservation.token:
                del self._held[key]
                self._let_go.append(key)
            self._revoked.discard(reservation.token)

    def tokens(self) -> list[Token]:
        """Return the tokens of all held reservations."""
        with self._lock:
            return [chunk.token for chunk in self._held.values()]

    def is_revoked(self, token: Token) -> Callable[[], bool]:
        """Return a function that returns whether the last heartbeat found a reservation revoked."""
        return lambda: token in self._revoked

    def start(self) -> None:
        """Start the thread that sends heartbeats, unless it was started before."""
        with self._lock:
            if self._thread is None and not self._is_closed.is_set():
                self._thread = threading.Thread(
                    target=self._beat_for_ever, name="opsqueue-heartbeat", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """End the heartbeats and retire the worker, which releases its chunks; may be repeated."""
        self.check_is_here()
        with self._lock:
            thread, self._thread = self._thread, None
            was_closed = self._is_closed.is_set()
            self._is_closed.set()
        if was_closed or thread is None:
            return
        # A heartbeat after the retirement would register the worker again.
        thread.join(timeout=self._interval_s + 20)
        try:
            self._queue.retire_worker(self._worker)
        except OpsqueueError as exc:
            logger.warning("could not sign off: %s; reserved chunks are reclaimed later", exc)

    def beat(self) -> None:
        """Send one heartbeat."""
        tokens = self.tokens()
        alive = self._queue.heartbeat(
            self._worker, tokens=tokens, info=self._info, timeout_ms=self._timeout_ms
        )
        if alive.released:
            logger.warning(
                "queue %s: %s, reserved for worker %s without its knowledge, released",
                self._queue.name,
                counted(alive.released, "chunk"),
                self._worker,
            )
        if alive.lost:
            logger.warning("%d reservations were removed from Redis by something else", alive.lost)
        if alive.is_due and self._on_due is not None:
            self._on_due()
        with self._lock:
            still_held = {chunk.token for chunk in self._held.values()}
            self._revoked = set(alive.revoked) & still_held

    def reserve(self, limit: int, strategy: AnyStrategy) -> Sequence[Reservation]:
        """Reserve chunks as soon as there are any; return none after WAIT_S."""
        self.check_is_here()
        if not isinstance(strategy, AnyStrategy):
            message = f"strategy {strategy!r}: give an instance, such as Strategy.Random()"
            raise InvalidArgumentError(message)
        asked_at = time.monotonic()

        def reserve() -> Sequence[Reservation]:
            began_ns = time.time_ns()
            found = self._queue.reserve_when_free(
                self._worker,
                limit=limit,
                reservation_ms=self._reservation_ms,
                strategy=strategy,
                heartbeat_timeout_ms=self._timeout_ms,
                wait_s=WAIT_S,
                is_gone=self.is_stopping.is_set,
            ).chunks
            spans.received(self._queue.name, self._worker, found, began_ns=began_ns)
            return found

        try:
            reservations = self._until_answered(
                reserve, is_over=lambda _s: self.is_stopping.is_set()
            )
        except ConnectionTroubleError:
            return ()
        self.add(reservations)
        if not reservations and time.monotonic() - asked_at < WAIT_S / 2:
            self.is_stopping.wait(NO_ROOM.pause_s(1))
        return reservations

    def settle(
        self, reservation: Reservation, report: Report, *, within_s: float | None = None
    ) -> None:
        """Send a report until it is answered; an output that is refused fails the attempt."""
        self.check_is_here()
        token = reservation.token
        if isinstance(report, Failed):
            report = left_to_readers(report, self._queue.list_workers, worker=self._worker)
        failure = report.failure if isinstance(report, Failed) else None

        def send() -> object:
            match report:
                case Done(operations_failed=failed, output=output):
                    return self._queue.complete_chunks(
                        [token],
                        operations_failed={token: failed},
                        outputs={} if output is None else {token: output},
                    )[0]
                case Failed(failure=failure):
                    return self._queue.fail_chunk(token, failure, is_final=report.is_final)
                case GivenBack(delay_ms=delay_ms):
                    reason = report.shown_reason
                    return self._queue.release_chunks([token], delay_ms=delay_ms, reason=reason)[0]

        def is_over(seconds: float) -> bool:
            limit_s = REPORT_WITHIN_S if self.is_stopping.is_set() else within_s
            return limit_s is not None and seconds > limit_s

        with spans.settle(self._queue.name, self._worker, reservation, failure):
            try:
                outcome = self._until_answered(send, is_over=is_over)
            except EncodingError as exc:
                if not isinstance(report, Done):
                    raise
                # The API can't use what is stored: nor could it after another attempt to report.
                report = Failed(token=token, failure=ChunkFailure.of(exc))
                outcome = self._until_answered(send, is_over=is_over)
        self.let_go(reservation)
        _log(reservation, report, outcome)

    def named(
        self, submission_id: SubmissionId, chunk_index: ChunkIndex | int, prefix: str | None
    ) -> Reservation | None:
        """Return the reservation of a chunk to report; None if it was reported before.

        Raises:
            ChunkNotFoundError: it was never held.
            InvalidArgumentError: the prefix is not its submission's.
        """
        id_, index = SubmissionId(submission_id), int(chunk_index)
        reservation = self.find(id_, index)
        if reservation is None:
            if not self.was_let_go(id_, index):
                raise ChunkNotFoundError(id_, index)
            logger.warning("chunk %s/%d was reported before: nothing changes", id_, index)
        elif prefix is not None and prefix != reservation.source.prefix:
            message = (
                f"prefix {prefix!r} is not that of submission {id_}: give the chunk's own "
                f"submission_prefix, {reservation.source.prefix!r}"
            )
            raise InvalidArgumentError(message)
        return reservation

    def fetch(self, reservations: Sequence[Reservation], store: ObjectStore) -> list[Fetched]:
        """Get the inputs in parallel; chunks without one are reported and left out."""
        if not reservations:
            return []
        with ThreadPoolExecutor(min(DEFAULT_AT_ONCE, len(reservations))) as pool:
            results = list(pool.map(lambda one: fetch(one, store), reservations))
        fetched = []
        for reservation, result in zip(reservations, results, strict=True):
            if isinstance(result, Fetched):
                fetched.append(result)
            else:
                self.settle(reservation, result)
        return fetched

    @contextmanager
    def given_back_if_interrupted(self, reservations: Sequence[Reservation]) -> Iterator[None]:
        """Release the chunks that are still held if an exception ends the work, and raise it."""
        try:
            yield
        except BaseException:
            if not self.is_here():
                raise
            held = set(self.tokens())
            left = [one for one in reservations if one.token in held]
            try:
                if left:
                    self._queue.release_chunks([one.token for one in left])
            except OpsqueueError as exc:
                logger.warning("could not release %d chunks: %s", len(left), exc)
            for one in left:
                self.let_go(one)
            raise

    def _until_answered(
        self, ask: Callable[[], Answer], *, is_over: Callable[[float], bool]
    ) -> Answer:
        """Repeat a request, with growing pauses, until there is an answer or `is_over`.

        `is_over` is called with the seconds since the first try.

        Raises:
            ConnectionTroubleError: there was no answer before `is_over` returned True.
        """
        started, failures = time.monotonic(), 0
        while True:
            try:
                answer = ask()
            except ConnectionTroubleError as exc:
                failures += 1
                if is_over(time.monotonic() - started):
                    raise
                if failures == 1:
                    logger.warning("%s; trying again until it works", exc)
                # Not `is_stopping.wait`, which returns at once when it is set.
                time.sleep(_BACKOFF.pause_s(failures))
            else:
                if failures:
                    logger.info("works again")
                return answer

    def _beat_for_ever(self) -> None:
        failures = 0
        while not self._is_closed.is_set():
            try:
                self.beat()
            except ConnectionTroubleError as exc:
                failures += 1
                if failures == 1:
                    logger.warning("heartbeat: %s; trying again until it works", exc)
            except OpsqueueError:
                logger.exception("heartbeat")
            else:
                failures = 0
            self._is_closed.wait(self._interval_s)


def _key_of(reservation: Reservation) -> Key:
    return reservation.source.submission_id, reservation.chunk_index


def _log(reservation: Reservation, report: Report, outcome: object) -> None:
    """Log the outcome of a chunk's report."""
    match outcome, report:
        case Lost(), _:
            logger.warning(
                "lost chunk %s: its reservation had ended, its report was sent twice, or Redis "
                "lost its data; if that goes on, raise reservation_ms or make chunks smaller",
                reservation,
            )
        case Dropped(), _:
            logger.info("chunk %s dropped: its submission had ended", reservation)
        case _, Failed(failure=failure):
            logger.log(
                logging.INFO if isinstance(outcome, Retried) else logging.WARNING,
                "chunk %s failed attempt %d of %d: %s: %s",
                reservation,
                reservation.attempt,
                reservation.source.max_attempts,
                failure.type,
                failure.message.partition("\n")[0][:500],
            )
        case _, GivenBack(reason=reason):
            logger.info("chunk %s released: %s", reservation, reason)
        case _:
            logger.debug("chunk %s completed", reservation)
