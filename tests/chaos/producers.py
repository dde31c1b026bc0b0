"""The producers: threads that insert submissions through the API as long as faults happen.

A request without an answer is repeated with the same idempotency key, so that each producer knows
whether each submission was accepted. Any other error than a missing answer is unexpected, and the
checker reports it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from opsqueue.exceptions import ConnectionTroubleError, SubmissionNotCancellableError
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import Backoff, ProducerClient
from tests.chaos.values import FAIR, IN_STORE, QUEUES, QUICK, Expected, Fault

_OUTSTANDING: Final = 6
_MAX_ATTEMPTS: Final = 1_000
"""So many attempts that chunks do not run out of them by chance."""
_NO_WAIT: Final = Backoff(first_ms=100, max_ms=500)
Answer = TypeVar("Answer")


class Producer:
    """A producer of one queue, with a few submissions at a time.

    Args:
        queue: which.
        api_url: of the API.
        store_url: of the store, behind its proxy.
        seed: of sizes, durations, cancellations.
    """

    def __init__(self, queue: str, *, api_url: str, store_url: str, seed: int) -> None:
        self.queue = queue
        self._chance = random.Random(f"producer {queue} {seed}")
        self._client = ProducerClient(
            api_url, store_url, queue=queue, inline_bytes=0 if queue in IN_STORE else 256 * 1024
        )
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._accepted: dict[int, Expected] = {}
        self._cancellations: list[Fault] = []
        self.surprises: list[str] = []
        self._next = 0
        self._thread = threading.Thread(target=self._run, name=f"producer-{queue}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Stop submitting; wait until the current submissions have ended."""
        self._is_stopping.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self.surprises.append(f"the producer of {self.queue} still waits for an answer")

    def close(self) -> None:
        self._client.close()

    @property
    def accepted(self) -> list[Expected]:
        with self._lock:
            return list(self._accepted.values())

    @property
    def cancellations(self) -> list[Fault]:
        with self._lock:
            return list(self._cancellations)

    def _run(self) -> None:
        running: list[SubmissionId] = []
        try:
            while not self._is_stopping.is_set():
                running = [one for one in running if not self._has_ended(one)]
                if len(running) < _OUTSTANDING:
                    running.append(self._insert())
                    if self._chance.random() < 0.1:
                        self._cancel_and_retry(running[-1])
                else:
                    self._is_stopping.wait(0.1)
        except Exception as exc:  # noqa: BLE001 the checker reports it
            self.surprises.append(f"producer of {self.queue}: {type(exc).__name__}: {exc}")

    def _insert(self) -> SubmissionId:
        chance = self._chance
        chunk_size, chunks = chance.randint(1, 5), chance.choice((1, 4, 10, 20, 40))
        count = chunk_size * chunks - chance.randrange(chunk_size)
        first, self._next = self._next, self._next + count
        slow_ms = chance.choice((1, 1, 4, 10, 40))
        operations = [
            (first + i, chance.randint(0, slow_ms), self._how(first + i)) for i in range(count)
        ]
        key = f"{self.queue}-{first}"
        metadata = {"customer": chance.randint(1, 4)} if self.queue == FAIR else None
        asked_at = time.monotonic()
        submission_id = self._ask(
            lambda: self._client.insert_submission(
                operations,
                chunk_size=chunk_size,
                idempotency_key=key,
                max_attempts=_MAX_ATTEMPTS,
                backoff=_NO_WAIT,
                strategic_metadata=metadata,
            )
        )
        expected = Expected(
            id=int(submission_id),
            queue=self.queue,
            chunk_size=chunk_size,
            operations=tuple(number for number, _, _ in operations),
            errors=frozenset(number for number, _, how in operations if how == "error"),
            inserted=asked_at,
        )
        with self._lock:
            self._accepted[expected.id] = expected
        return submission_id

    def _how(self, number: int) -> str:
        if self.queue == FAIR and number % 7 == 3:
            return "error"
        # The handler looks at the first of a chunk alone.
        if self.queue == QUICK and number % 23 == 5:
            return "raise"
        return ""

    def _has_ended(self, submission_id: SubmissionId) -> bool:
        return self._ask(lambda: self._client.get_submission(submission_id)).state != "in_progress"

    def _cancel_and_retry(self, submission_id: SubmissionId) -> None:
        """Cancel and retry: reserved chunks are revoked, and ready again after the retry."""
        began = time.monotonic()
        try:
            self._ask(lambda: self._client.cancel_submission(submission_id))
        except SubmissionNotCancellableError as exc:
            # Completed before; or cancelled by a first try, whose answer was lost.
            if exc.ended.state != "cancelled":
                return
        self._is_stopping.wait(self._chance.uniform(0, 0.5))
        is_retried = self._chance.random() < 0.7
        if is_retried:
            self._retry(submission_id)
        fault = Fault(
            kind="cancel-and-retry",
            target=self.queue,
            began=began,
            ended=time.monotonic(),
            queues=frozenset({self.queue}),
            submissions=frozenset({int(submission_id)}),
        )
        with self._lock:
            self._cancellations.append(fault)
            if not is_retried:
                expected = self._accepted[int(submission_id)]
                self._accepted[expected.id] = replace(expected, is_cancelled=True)

    def _retry(self, submission_id: SubmissionId) -> None:
        def retry() -> None:
            # Asked for twice after a lost answer, the second is refused: look instead.
            if self._client.get_submission(submission_id).state == "cancelled":
                self._client.retry_submission(submission_id)

        self._ask(retry)

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """Repeat a request until it is answered; the clients themselves give up after some time."""
        while True:
            try:
                return call()
            except ConnectionTroubleError:
                time.sleep(0.2)


def producers_of(api_url: str, store_url: str, *, seed: int) -> list[Producer]:
    """Create a producer for each queue."""
    return [Producer(queue, api_url=api_url, store_url=store_url, seed=seed) for queue in QUEUES]


def shown(results: Any) -> tuple[Any, ...]:
    """Return results as comparable values, with errors as the names of their types."""
    return tuple(getattr(one, "type", one) for one in results)
