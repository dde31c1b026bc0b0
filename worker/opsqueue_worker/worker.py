"""The worker: connects its parts, waits for signals, shuts down in order."""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from types import FrameType, TracebackType
from typing import Final

import opsqueue
from opsqueue import config
from opsqueue.exceptions import IncorrectUsageError, OpsqueueError
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Report
from opsqueue.model.checks import counted
from opsqueue.model.chunk import Token, encodable
from opsqueue.model.process import worker_info
from opsqueue.queue import connection
from opsqueue.queue.acl import SCRIPTS_OF_WORKERS
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import load_script
from opsqueue.queue.store_identity import identify_store
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import ObjectStore, open_store
from opsqueue.tracing.export import export_spans
from opsqueue_worker.intake.exchanges import THREADS, Exchanges
from opsqueue_worker.intake.heartbeat import Heartbeat
from opsqueue_worker.intake.intake import Intake
from opsqueue_worker.intake.intakes import Intakes
from opsqueue_worker.metrics import WorkerMetrics
from opsqueue_worker.orphans import Orphans
from opsqueue_worker.output import Output
from opsqueue_worker.pool.child_pool import ChildPool
from opsqueue_worker.pool.messages import Hello
from opsqueue_worker.pool.pool import Pool, PoolCalls
from opsqueue_worker.pool.solo import SoloPool
from opsqueue_worker.reload import SourceWatch
from opsqueue_worker.settings import WorkerSettings

logger = logging.getLogger("opsqueue.worker")

_TICK_S: Final = 0.2
_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
)
_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_LAST_REPORTS_S: Final = 1.0
"""Time for reports after a second signal to stop: enough where Redis answers."""
_STARTED_END_WITHIN_S: Final = 5.0
"""Time for killed children to be gone, if the worker ends during its start."""
_PROBLEM_CHARS: Final = 500
"""Limit of what each heartbeat says about children that don't start."""
_CONNECTIONS: Final = THREADS + 8
"""The most to one server: for exchanges, heartbeats, watches, the sweeper, and the start."""
_QUEUES_SHOWN: Final = 20
"""The most queues that the banner and lists of workers name."""
_LOOK: Final = 0
"""Stands in place of a signal and means that something changed."""


class Worker:
    """One worker process and its children.

    Args:
        settings: the worker's options.
        app: has the handlers.
        say: prints a line of the banner.
        output: where children print; None means where this process does.

    Raises:
        IncorrectUsageError: a queue has no handler, or several processes can't share the store.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        app: Opsqueue,
        *,
        say: Callable[[str], None],
        output: Output | None = None,
    ) -> None:
        self._settings = settings
        self._say = say
        self._output = output
        self._started_at_ms = time.time_ns() // 1_000_000
        names = settings.queues or tuple(app.handlers)
        self._handlers = {name: app.handler_of(name) for name in names}
        self._store = open_store(settings.store_url)
        self._client = connection.connect(
            settings.redis_url, max_connections=_CONNECTIONS, timeout_s=settings.redis_timeout_s
        )
        self._changed = threading.Condition()
        self._events: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stops: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._is_signing_off = threading.Event()
        self._metrics = None if settings.metrics_port is None else WorkerMetrics()
        self._hello: Hello | None = None
        self._pool = self._make_pool(app, self._store)
        self._exchanges = Exchanges(self._pool.slots.whose_turn)
        self._intakes = Intakes(
            [Queue(self._client, name) for name in self._handlers], self._make_intake
        )
        self._sweeper = Sweeper(
            self._intakes.parts,
            client=self._client,
            sweeper=settings.name,
            store=self._store,
        )
        self._heartbeat = Heartbeat(
            self._intakes,
            worker=settings.name,
            info=self._info,
            interval_s=settings.heartbeat_interval_s,
            timeout_s=settings.heartbeat_timeout_s,
            redis_timeout_s=settings.redis_timeout_s,
            slots=self._pool.slots,
            sweep_soon=self._sweeper.sweep_soon,
        )
        if self._metrics is not None:
            self._metrics.show_pool(settings.concurrency, lambda: self._pool.chunks_running)
            self._metrics.show_children(self._pool.health)
            if output is not None:
                output.count_drops(self._metrics.saw_dropped_lines)
            for name in self._handlers:
                self._metrics.show_queue(name, partial(self._intakes.held_of, name))
        self._sources = SourceWatch() if settings.is_reloading else None
        self._metrics_url = ""
        self._defect = False

    def _make_intake(self, part: Queue) -> Intake:
        settings, handler = self._settings, self._handlers[part.name]
        return Intake(
            part,
            handler,
            strategy=settings.strategy or handler.strategy,
            worker=settings.name,
            slots=self._pool.slots,
            exchanges=self._exchanges,
            changed=self._changed,
            heartbeat_timeout_ms=int(settings.heartbeat_timeout_s * 1000),
            on_round_trip=self._metrics.round_trips_of(part.name) if self._metrics else None,
        )

    def _make_pool(self, app: Opsqueue, store: ObjectStore) -> Pool:
        settings = self._settings
        calls = PoolCalls(
            on_reports=self._report,
            on_change=self._announce,
            on_begin=self._begin,
            time_limit_of=lambda name: self._handlers[name].time_limit,
            on_child_end=self._metrics.saw_child_end if self._metrics else lambda _reason: None,
            on_reload_failed=self._metrics.saw_failed_reload if self._metrics else lambda: None,
        )
        if settings.pool == "solo":
            return SoloPool(
                app,
                store,
                prefetch=settings.prefetch or 0,
                heartbeat_timeout_s=settings.heartbeat_timeout_s,
                calls=calls,
                worker=settings.name,
                max_chunk_bytes=settings.max_chunk_bytes,
            )
        if settings.store_url.startswith("memory:"):
            message = (
                f"store {settings.store_url!r} exists in one process only, and this pool has "
                "several: use file:///path, s3://bucket/prefix or gs://bucket/prefix"
            )
            raise IncorrectUsageError(message)
        # Threads and tasks run in a child, too, but in a single one. So no handler can block the
        # heartbeat, time limits can be enforced, and the worker survives a crash.
        children, slots = settings.concurrency, 1
        if settings.pool in ("thread", "async"):
            children, slots = 1, settings.concurrency
        self._hello = Hello(
            app=settings.app,
            store_url=settings.store_url,
            pool=settings.pool,
            slots=slots,
            worker=settings.name,
            log_level=settings.log_level,
            log_format=settings.log_format,
            max_chunk_bytes=settings.max_chunk_bytes,
            must_serve=tuple(self._handlers),
        )
        return ChildPool(
            self._hello,
            size=children,
            prefetch=settings.prefetch,
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            calls=calls,
            max_chunks=settings.max_chunks_per_child,
            max_memory_bytes=settings.max_memory_per_child_bytes,
            output=self._output,
        )

    def check(self) -> None:
        """Check Redis and the store before anything is reserved, and start serving metrics.

        Raises:
            ConnectionTroubleError: one of them can't be used; the message says which and what
                helps.
        """
        # Not when each is first needed: a worker goes on while it can open no more files.
        for name in SCRIPTS_OF_WORKERS:
            load_script(name)
        for warning in connection.check(self._client, url=self._settings.redis_url):
            logger.warning("%s", warning)
        identify_store(self._client, self._store)
        if self._hello is not None:
            self._hello.store_id = self._store.store_id  # no child has been started yet
        self._store.check()
        if self._metrics is not None:
            # The metrics' port must be available, too.
            port = self._settings.metrics_port or 0
            self._metrics_url = self._metrics.serve(self._settings.metrics_host, port)

    def run(self) -> int:
        """Work until SIGTERM or Ctrl-C, or in a burst until the queues are empty.

        Returns:
            The exit code.

        Raises:
            NotStartedError: the pool can't run chunks.
        """
        self._print_banner()
        # Until the children are ready a signal simply ends this process (see `cli`): it holds no
        # chunks yet.
        try:
            self._pool.start()
        except BaseException:  # also a signal that ends it
            self._end_started()
            raise
        # In the solo pool the app's start hooks run in this process. This comes after them.
        export_spans("opsqueue-worker")
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        # The default would end this process. SIG_IGN would be inherited by programs that a handler
        # starts.
        signal.signal(signal.SIGUSR2, lambda *_: None)
        # It runs in C, before our handler, so it shows where a main thread hangs that no longer
        # runs Python code.
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
        threading.excepthook = self._on_defect
        is_solo = self._settings.pool == "solo"
        if is_solo:
            threading.Thread(
                target=self._stop_without_main_thread, name="stop", daemon=True
            ).start()
        self._heartbeat.start()
        self._intakes.start()
        self._sweeper.start()
        if (parts := len(self._intakes.parts())) > 1:
            queues = counted(len(self._handlers), "queue")
            self._say(f"serving {queues}, {counted(parts, 'partition')} in all")
        self._say("ready")
        orphans = Orphans() if os.getpid() == 1 and not is_solo else None
        while not (self._defect or self._is_told_to_stop() or self._is_drained()):
            self._pool.tick()
            if orphans is not None:
                orphans.reap()
            self._reload_if_changed()
        self._shut_down()
        return 1 if self._defect else 0

    def _end_started(self) -> None:
        """End the children that were started, and the programs of their start hooks."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        deadline = time.monotonic() + _STARTED_END_WITHIN_S
        self._pool.kill()
        while not self._pool.is_empty and time.monotonic() < deadline:
            self._pool.tick()
            time.sleep(0.01)

    def _is_told_to_stop(self) -> bool:
        match self._next_event():
            case signal.SIGHUP:
                self._pool.retire_children()
            case signal.SIGUSR1:
                self._pool.dump_stacks()
            case number if number in _STOPS:
                if number == signal.SIGQUIT:
                    self._events.put(number)  # counts as a second signal: release everything now
                return True
        return False

    def _is_drained(self) -> bool:
        return self._settings.is_burst and self._intakes.is_drained

    def _reload_if_changed(self) -> None:
        if self._sources is not None and (changed := self._sources.changed()):
            self._say(f"{changed} changed: starting a child, to replace the others")
            self._pool.retire_children()
            # The worker chooses its queues at its start.
            self._say("a new queue's handler is served only after a restart")

    def _shut_down(self) -> None:
        """Shut down in order.

        Reserve nothing more, finish the running chunks, release the others, send the reports, then
        remove this worker from its queues.
        """
        logger.info("stopping: finishing the running chunks; signal again to release them at once")
        deadline = time.monotonic() + self._settings.shutdown_timeout_s
        # Stop reserving before stopping the heartbeat: a chunk must stay reserved until it is
        # reported.
        self._intakes.stop_taking()
        self._sweeper.stop()
        self._pool.stop()
        while not self._pool.is_empty and time.monotonic() < deadline:
            if self._next_event() in _STOPS:
                break
            self._pool.tick()
        self._pool.kill()
        while not self._pool.is_empty:
            self._pool.tick()
            time.sleep(0.01)
        self._sign_off(max(5.0, deadline - time.monotonic()))

    def _sign_off(self, within_s: float) -> None:
        """Send the reports, then remove this worker from its queues."""
        self._is_signing_off.set()
        self._wait_until_reported(within_s)
        self._heartbeat.stop()
        for intake in self._intakes:
            intake.sum_up(is_last=True)
            try:
                intake.queue.retire_worker(self._settings.name)
            except OpsqueueError as exc:
                logger.warning(
                    "could not remove this worker from queue %s: %s", intake.queue.label, exc
                )
        self._say(f"stopped after {sum(i.chunks_done for i in self._intakes):,} chunks")

    def _stop_without_main_thread(self) -> None:
        """End a worker of the solo pool whose main thread is held by a handler or a stop hook.

        Runs in a thread of its own, from the start on.
        """
        self._stops.get()
        with suppress(queue.Empty):  # a second signal ends the waiting
            self._stops.get(timeout=self._settings.shutdown_timeout_s)
        if not self._is_signing_off.is_set():
            logger.warning("a handler or hook has not ended: its chunk is released")
            self._intakes.stop_taking()
            self._sweeper.stop()
            self._pool.kill()
            self._sign_off(_LAST_REPORTS_S)
            os._exit(0)

    def _wait_until_reported(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while any(intake.is_holding for intake in self._intakes):
                if self._is_told_again():
                    deadline = min(deadline, time.monotonic() + _LAST_REPORTS_S)
                left = deadline - time.monotonic()
                if left <= 0:
                    logger.warning(
                        "some reports could not be sent: other workers will take over their chunks"
                    )
                    return
                self._changed.wait(min(left, _TICK_S))

    def _is_told_again(self) -> bool:
        while not self._events.empty():
            if self._events.get() in _STOPS:
                return True
        return False

    # Events and callbacks of the parts

    def _next_event(self) -> int:
        try:
            event = self._events.get(timeout=self._pool.tick_s)
            while event == _LOOK and not self._events.empty():
                event = self._events.get_nowait()  # this thread alone takes them
        except queue.Empty:
            return _LOOK
        return event

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # SimpleQueue.put may be called in a signal handler; a lock or a log line might deadlock.
        self._events.put(number)
        if number in _STOPS:
            self._stops.put(number)
        if number == signal.SIGQUIT:
            self._stops.put(number)  # as in `_is_told_to_stop`

    def _on_defect(self, args: threading.ExceptHookArgs) -> None:
        """End this process if one of the worker's own threads raised.

        A worker without one of them would hold chunks and do nothing.
        """
        if not _is_ours(args.exc_traceback):
            # The app is imported in this process, too, and its libraries may have threads.
            threading.__excepthook__(args)
            return
        exception = args.exc_value or args.exc_type()
        logger.critical("a defect in %s", args.thread, exc_info=exception)
        self._defect = True
        self._events.put(_LOOK)

    def _report(self, reports: Sequence[Report]) -> None:
        for intake, mine in self._intakes.report(reports):
            if self._metrics is not None:
                for report in mine:
                    self._metrics.saw_chunk(intake.queue.name, report)
        self._exchanges.places_are_free()  # those of these chunks

    def _begin(self, tickets: Sequence[Token]) -> None:
        self._intakes.begin(tickets)

    def _announce(self) -> None:
        self._exchanges.places_are_free()
        self._events.put(_LOOK)

    # Descriptions of this worker

    def _info(self, codecs: Sequence[str]) -> bytes:
        settings, health = self._settings, self._pool.health()
        return worker_info(
            version=opsqueue.__version__,
            pool=settings.pool,
            concurrency=settings.concurrency,
            # Each of its queues stores this.
            queues=list(islice(self._handlers, _QUEUES_SHOWN)),
            queue_count=len(self._handlers),
            codecs=codecs,
            started_at_ms=self._started_at_ms,
            app=settings.app,
            children_ready=health.ready,
            children_wanted=health.wanted,
            problem=encodable(health.problem)[:_PROBLEM_CHARS],
        )

    def _print_banner(self) -> None:
        settings = self._settings
        prefetch = "auto" if settings.prefetch is None else settings.prefetch
        self._say(f"opsqueue-worker {opsqueue.__version__}  {settings.name}")
        self._say(f"  redis   {connection.masked(settings.redis_url)}")
        self._say(f"  store   {self._store.url}")
        self._say(
            f"  pool    {settings.pool}, {settings.concurrency} at a time, prefetch {prefetch}"
        )
        if (cores := config.usable_cores()) < (os.cpu_count() or 1):
            self._say(
                f"  cores   {cores} of {os.cpu_count()}, by CPU affinity or the container's limit"
            )
        if self._metrics_url:
            self._say(f"  metrics {self._metrics_url}")
        for name, handler in islice(self._handlers.items(), _QUEUES_SHOWN):
            self._say(f"  queue   {name} -> {handler.name} (by {handler.kind})")
        if (more := len(self._handlers) - _QUEUES_SHOWN) > 0:
            self._say(f"          and {more:,} more queues")


def _is_ours(trace: TracebackType | None) -> bool:
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith("opsqueue_worker.") or name == "opsqueue.queue.sweeper":
            return True
        trace = trace.tb_next
    return False
