"""A pool without processes: chunks run on the worker's main thread, so that breakpoints work."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Sequence

from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import GivenBack, Report, fetch
from opsqueue.handlers.invoke import Invoker
from opsqueue.model.chunk import Reservation, Token
from opsqueue.store import ObjectStore
from opsqueue_worker.pool import soft_limit
from opsqueue_worker.pool.executor import (
    Task,
    Workbench,
    run_start_hooks,
    run_stop_hooks,
    save,
    timed,
    work_on,
)
from opsqueue_worker.pool.pool import Health, PoolCalls
from opsqueue_worker.pool.status import Status

logger = logging.getLogger("opsqueue.worker")


class SoloPool:
    """Runs one chunk at a time in this process, where no hard time limit can be enforced."""

    def __init__(
        self,
        app: Opsqueue,
        store: ObjectStore,
        *,
        ahead: int,
        calls: PoolCalls,
        worker: str = "",
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        self._app = app
        self._calls = calls
        self._places = 1 + ahead
        self._lock = threading.Lock()
        self._taken = 0
        self._inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._tasks: dict[Token, Task] = {}
        self._invoker = Invoker()
        self._bench = Workbench(
            app=app,
            store=store,
            status=Status.new(1),
            worker=worker,
            limit_bytes=max_chunk_bytes,
            is_stopping=threading.Event(),
            report=self._report,
            save=lambda task, ran: self._report(task, save(task, ran, store)),
        )

    def start(self) -> None:
        """See `Pool`."""
        run_start_hooks(self._app)

    def take_places(self, limit: int) -> int:
        """See `Pool`."""
        with self._lock:
            is_open = not self._bench.is_stopping.is_set()
            taken = max(0, min(limit, self._places - self._taken)) if is_open else 0
            self._taken += taken
            return taken

    def give_places_back(self, number: int) -> None:
        """See `Pool`."""
        with self._lock:
            self._taken -= number

    def submit(self, reservations: Sequence[Reservation]) -> None:
        """See `Pool`."""
        for reservation in reservations:
            task = Task(1, reservation, fetch(reservation, self._bench.store))
            with self._lock:
                is_open = not self._bench.is_stopping.is_set()
                if is_open:
                    self._tasks[reservation.token] = task
                    self._inbox.put(task)
            if not is_open:
                # It was reserved just before the stop, and the inbox is no longer read.
                self._report(task, GivenBack(token=reservation.token, reason="worker stops"))
        self._calls.on_change()

    def revoke(self, tokens: Iterable[Token]) -> None:
        """See `Pool`."""
        for token in tokens:
            if task := self._tasks.get(token):
                task.revoke()

    def tick(self) -> None:
        """Run one chunk, if there is one."""
        try:
            task = self._inbox.get_nowait()
        except queue.Empty:
            return
        work_on(self._bench, task, 0, self._invoker, soft_limit.on_main_thread)

    def _report(self, task: Task, report: Report) -> None:
        self._tasks.pop(task.reservation.token, None)
        self.give_places_back(1)
        self._calls.on_reports([timed(task, report)])

    def retire_children(self) -> None:
        """Log that there are no children."""
        logger.warning("--pool solo has no children to replace: restart it to run new code")

    def dump_stacks(self) -> None:
        """Do nothing: there are no children."""

    def stop(self) -> None:
        """See `Pool`."""
        with self._lock:
            if self._bench.is_stopping.is_set():
                return
            self._bench.is_stopping.set()
        while not self._inbox.empty():
            self.tick()
        run_stop_hooks(self._app)
        self._invoker.close()

    def kill(self) -> None:
        """See `Pool`."""
        self.stop()

    @property
    def chunks_running(self) -> int:
        """See `Pool`."""
        return len(self._bench.status.running())

    def health(self) -> Health:
        """See `Pool`."""
        return Health(ready=1, wanted=1)

    @property
    def is_empty(self) -> bool:
        """See `Pool`."""
        return self._inbox.empty()
