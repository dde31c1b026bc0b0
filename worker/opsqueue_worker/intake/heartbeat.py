"""The heartbeat: reports to Redis that this worker is alive and which chunks it holds.

Redis answers with the reservations that were revoked, and whether there is something to reserve or
to sweep: so an idle worker need not ask for that. Heartbeats run in threads of the parent process.
No handler ever runs there, so none can block them. Each server of a cluster has its own thread:
when one hangs, its thread waits until the connection times out, while the others must still receive
heartbeats.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from opsqueue.exceptions import OpsqueueError
from opsqueue.model.answers import Alive
from opsqueue.model.checks import counted
from opsqueue.queue import commands
from opsqueue.queue.queue import LOOK_EVERY_MS, Queue, run_together
from opsqueue.queue.sweeper import lost_reservations
from opsqueue_worker.intake.intake import Intake
from opsqueue_worker.pool.pool import Slots
from opsqueue_worker.pool.waiting import boot_time

logger = logging.getLogger("opsqueue.worker")

_AT_ONCE: Final = 50
"""Partitions in one round trip."""
_ROUNDS: Final = 10
"""Rounds in each interval: heartbeats share round trips, and don't all come at once."""
_FOR_EACH_WORKER_S: Final = 0.002
"""The interval is at least so long for each worker of a partition: all of them together then send
500 heartbeats a second, however many they are."""
_OF_TIMEOUT: Final = 0.45
"""The part of the worker's timeout that the interval never exceeds for this: one may be lost."""


def interval_of_many_s(workers: int, timeout_s: float) -> float:
    """Return the shortest interval of each of so many workers of a partition."""
    return min(_FOR_EACH_WORKER_S * workers, _OF_TIMEOUT * timeout_s)


class Intakes(Protocol):
    """The intakes that heartbeats are sent for."""

    def __iter__(self) -> Iterator[Intake]:
        """Yield each."""

    def learn(self, name: str, numbers: Sequence[int]) -> None:
        """Note a queue's numbers of partitions."""


class Heartbeat:
    """The heartbeats of one worker on all its queues.

    Args:
        intakes: the intakes of the queues.
        worker: the worker's name.
        info: returns the JSON that lists of workers show, given the codecs that a handler reads.
        interval_s: seconds between two heartbeats; fewer if the worker is idle, and more if a
            partition has very many workers.
        timeout_s: the worker counts as dead after so many seconds of silence.
        redis_timeout_s: Redis never answers a command later than this.
        slots: are told which chunks were revoked, and that the others are still this worker's.
        sweep_soon: called with a partition whose upkeep is overdue.
    """

    def __init__(
        self,
        intakes: Intakes,
        *,
        worker: str,
        info: Callable[[Sequence[str]], bytes],
        interval_s: float,
        timeout_s: float,
        redis_timeout_s: float,
        slots: Slots,
        sweep_soon: Callable[[Queue], None],
    ) -> None:
        self._intakes = intakes
        self._worker = worker
        self._info = info
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        # A reserve that was not answered within the socket's timeout never will be answered.
        self._unknown_ms = int(2_000 * redis_timeout_s)
        self._slots = slots
        self._sweep_soon = sweep_soon
        self._due_at: dict[str, float] = {}
        self._beating: set[str] = set()
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        self._start_missing()

    def stop(self) -> None:
        """Stop all threads before their next heartbeat."""
        self._is_stopping.set()

    def _start_missing(self) -> None:
        """Start a thread for each server that has none: a partition may be new, or have moved."""
        with self._lock:
            for server in {intake.server for intake in self._intakes} - self._beating:
                self._beating.add(server)
                name = f"heartbeat-{server}"
                threading.Thread(
                    target=self._beat_for_ever, args=(server,), name=name, daemon=True
                ).start()

    def _beat_for_ever(self, server: str) -> None:
        look_at = 0.0
        while not self._is_stopping.is_set():
            mine = [intake for intake in self._intakes if intake.server == server]
            now = time.monotonic()
            if now >= look_at:
                look_at = now + self._interval_s
                for intake in mine:
                    intake.server = intake.queue.server()
            self.beat([i for i in mine if self._due_at.get(i.label, 0.0) <= now])
            self._start_missing()
            self._is_stopping.wait(self._usual_s / _ROUNDS)

    @property
    def _usual_s(self) -> float:
        return min(self._interval_s, LOOK_EVERY_MS / 1000)

    def beat(self, intakes: Iterable[Intake]) -> None:
        """Send the heartbeats of partitions on one server, and handle the answers."""
        few: list[Intake] = []
        for intake in intakes:
            if intake.count_held() > commands.HEARTBEAT_PAGE:
                self._note(intake, boot_time(), self._beat_alone(intake))
            else:
                few.append(intake)
        for start in range(0, len(few), _AT_ONCE):
            part = few[start : start + _AT_ONCE]
            asked_at = boot_time()
            answers = run_together([(i.queue, self._command_of(i)) for i in part])
            for intake, answer in zip(part, answers, strict=True):
                if isinstance(answer, OpsqueueError):
                    self._note(intake, asked_at, answer)
                    continue
                alive, stopped_at = answer
                # It stops before the end if it finds many chunks that the worker does not know.
                self._note(intake, asked_at, self._beat_alone(intake) if stopped_at else alive)

    def _beat_alone(self, intake: Intake) -> Alive | OpsqueueError:
        try:
            return intake.queue.heartbeat(self._worker, **self._options_of(intake))
        except OpsqueueError as exc:
            return exc

    def _command_of(self, intake: Intake) -> commands.Command[tuple[Alive, str]]:
        options = self._options_of(intake)
        return commands.heartbeat(self._worker, partition=intake.queue.partition, **options)

    def _options_of(self, intake: Intake) -> dict[str, Any]:
        return {
            "tokens": intake.held(),
            "begun": intake.begun(),
            "info": self._info(intake.codecs),
            "unknown_ms": self._unknown_ms,
            "timeout_ms": int(self._timeout_s * 1000),
            "sleeps_in": intake.strategy if intake.is_idle else None,
        }

    def _note(self, intake: Intake, asked_at: float, answer: Alive | OpsqueueError) -> None:
        """Handle the answer to a heartbeat that was sent at an instant of `boot_time`."""
        intake.sum_up()
        interval_s = self._usual_s if intake.is_idle else self._interval_s
        if isinstance(answer, OpsqueueError):
            logger.warning("heartbeat of queue %s: %s", intake.label, answer)
        else:
            interval_s = max(interval_s, interval_of_many_s(answer.workers, self._timeout_s))
            self._handle(intake, asked_at, answer)
        is_first = intake.label not in self._due_at
        share = random.uniform(0.1 if is_first else 0.9, 1.0)  # noqa: S311 jitter
        self._due_at[intake.label] = time.monotonic() + interval_s * share

    def _handle(self, intake: Intake, asked_at: float, alive: Alive) -> None:
        if alive.released:
            logger.warning(
                "queue %s: %s had been reserved for worker %s without its knowledge and were "
                "released",
                intake.label,
                counted(alive.released, "chunk"),
                self._worker,
            )
        if alive.lost:
            logger.warning("queue %s: %s", intake.label, lost_reservations(alive.lost))
        if alive.revoked:
            self._slots.revoke([intake.ticket(token) for token in alive.revoked])
        intake.note_heartbeat()
        self._slots.confirm(intake.label, asked_at)
        intake.look(alive)
        if alive.partitions:
            self._intakes.learn(intake.queue.name, alive.partitions)
        if alive.is_due:
            self._sweep_soon(intake.queue)
