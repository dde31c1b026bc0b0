"""The worker: wires the parts, waits for signals, ends in order."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import msgspec

import opsqueue
from opsqueue import connection
from opsqueue.app import Opsqueue
from opsqueue.exceptions import IncorrectUsageError, OpsqueueError
from opsqueue.execution import Report
from opsqueue.queue import Queue
from opsqueue.store import open_store
from opsqueue_worker.heartbeat import Heartbeat
from opsqueue_worker.intake import Intake
from opsqueue_worker.messages import Hello
from opsqueue_worker.pool import ProcessPool
from opsqueue_worker.settings import WorkerSettings
from opsqueue_worker.sweeper import Sweeper

logger = logging.getLogger("opsqueue.worker")

_TICK_S: Final = 0.2
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """One worker process and its children.

    Args:
        settings: how to run.
        app: its handlers.
        say: prints a line of the banner.

    Raises:
        IncorrectUsageError: a queue without a handler, or a store that processes can't share.
    """

    def __init__(
        self, settings: WorkerSettings, app: Opsqueue, *, say: Callable[[str], None]
    ) -> None:
        if settings.store_url.startswith("memory:"):
            message = (
                f"store {settings.store_url!r} lives in one process, workers run several: use "
                "file:///path, s3://bucket/prefix or gs://bucket/prefix"
            )
            raise IncorrectUsageError(message)
        self._settings = settings
        self._say = say
        names = settings.queues or tuple(app.handlers)
        handlers = {name: app.handler_of(name) for name in names}
        self._store = open_store(settings.store_url)
        # A connection for each queue's two threads, and for heartbeat, sweeper and start.
        self._client = connection.connect(settings.redis_url, max_connections=2 * len(names) + 8)
        self._changed = threading.Condition()
        self._pool = ProcessPool(
            Hello(settings.app, settings.store_url, settings.log_level),
            size=settings.concurrency,
            prefetch=settings.prefetch,
            on_report=self._report,
            on_change=self._announce,
        )
        self._intakes = [
            Intake(
                Queue(self._client, name),
                handler,
                worker=settings.name,
                pool=self._pool,
                changed=self._changed,
            )
            for name, handler in handlers.items()
        ]
        self._handlers = handlers
        queues = [intake.queue for intake in self._intakes]
        self._heartbeat = Heartbeat(
            self._intakes,
            worker=settings.name,
            info=msgspec.json.encode(
                {
                    "version": opsqueue.__version__,
                    "concurrency": settings.concurrency,
                    "queues": list(names),
                    "started_at": int(time.time() * 1000),
                }
            ),
            interval_s=settings.heartbeat_interval_s,
            on_void=self._pool.void,
        )
        self._sweeper = Sweeper(
            queues,
            worker=settings.name,
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            store=self._store,
        )
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def check(self) -> None:
        """See that Redis and the store are there and fit, before anything is reserved.

        Raises:
            ConnectionTroubleError: one of them is not; says which, and what helps.
        """
        for warning in connection.check(self._client, url=self._settings.redis_url):
            logger.warning("%s", warning)
        self._store.check()

    def run(self) -> int:
        """Work until SIGTERM or Ctrl-C; give the exit code."""
        for number in _STOPPING:
            signal.signal(number, self._on_signal)
        self._print_banner()
        if not self._pool.start():
            self._pool.kill()
            self._say("a child ended while it started: its error stands above")
            return 1
        self._heartbeat.start()
        for intake in self._intakes:
            intake.start()
        self._sweeper.start()
        self._say("ready")
        while self._next_signal() is None:
            self._pool.tick(self._time_limit_s_of)
        return self._shut_down()

    def _shut_down(self) -> int:
        """Take nothing more, finish what runs, give the rest back, report, sign off."""
        logger.info("stopping: finishing the chunks in hand; once more to stop at once")
        deadline = time.monotonic() + self._settings.shutdown_timeout_s
        # Stop taking before stopping the heartbeat: a chunk in hand must stay ours until reported.
        for intake in self._intakes:
            intake.stop_taking()
        self._sweeper.stop()
        self._pool.stop()
        while not self._pool.is_empty and time.monotonic() < deadline:
            if self._next_signal() is not None:
                break
            self._pool.tick(self._time_limit_s_of)
        self._pool.kill()
        while not self._pool.is_empty:
            self._pool.tick(self._time_limit_s_of)
            time.sleep(0.01)
        self._wait_until_reported(max(5.0, deadline - time.monotonic()))
        self._heartbeat.stop()
        for intake in self._intakes:
            try:
                while not intake.queue.retire_worker(self._settings.name):
                    pass
            except OpsqueueError as exc:
                logger.warning("could not sign off from queue %s: %s", intake.queue.name, exc)
        self._say(f"stopped after {sum(i.chunks_done for i in self._intakes):,} chunks")
        return 0

    def _wait_until_reported(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while any(intake.is_holding for intake in self._intakes):
                left = deadline - time.monotonic()
                if left <= 0 or not self._signals.empty():
                    logger.warning("some reports could not be delivered: others take over")
                    return
                self._changed.wait(min(left, _TICK_S))

    def _next_signal(self) -> int | None:
        try:
            return self._signals.get(timeout=_TICK_S)
        except queue.Empty:
            return None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # SimpleQueue.put may be called in a handler; a lock or a log line might deadlock.
        self._signals.put(number)

    def _report(self, report: Report) -> None:
        for intake in self._intakes:
            if intake.report(report):
                return

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _time_limit_s_of(self, queue_name: str) -> float:
        return self._handlers[queue_name].time_limit_s

    def _print_banner(self) -> None:
        settings = self._settings
        self._say(f"opsqueue-worker {opsqueue.__version__}  {settings.name}")
        self._say(f"  redis   {connection.masked(settings.redis_url)}")
        self._say(f"  store   {self._store.url}")
        self._say(f"  pool    {settings.concurrency} processes, prefetch {settings.prefetch}")
        for name, handler in self._handlers.items():
            self._say(f"  queue   {name} -> {handler.name} (by {handler.kind})")
