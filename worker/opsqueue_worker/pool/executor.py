"""Executors run a child's chunks: one at a time, in threads, or as tasks of an event loop.

Each takes tasks from the inbox until it gets None, then returns. A chunk's path is `work_on` in
all of them; they differ in how they wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final, Protocol

from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.exceptions import HandlerError
from opsqueue.handlers import execute as execution
from opsqueue.handlers.app import Handler, Opsqueue
from opsqueue.handlers.attempt import close_runner, watch_loop
from opsqueue.handlers.execute import Done, Fetched, GivenBack, Ran, Report, Times
from opsqueue.handlers.invoke import Invoker
from opsqueue.model.chunk import Reservation
from opsqueue.model.process import EndsForkedChildren
from opsqueue.store import ObjectStore
from opsqueue.tracing.logs import keep_logging
from opsqueue_worker.logs import chunk_in_log
from opsqueue_worker.pool.defect import ends_process
from opsqueue_worker.pool.pool import NotStartedError
from opsqueue_worker.pool.status import Status
from opsqueue_worker.pool.waiting import boot_time

logger = logging.getLogger("opsqueue.worker")

UNSERVED_DELAY_MS: Final = 2_000
"""Delay of a chunk that this child has no handler for, so that another worker may take it."""


@dataclass(slots=True)
class Task:
    """A received chunk, whose input is being fetched or is present."""

    sequence: int
    reservation: Reservation
    input: Future[Fetched | Report] | Fetched | Report
    good_until: float = math.inf
    """See `WorkChunk`."""
    input_wait_s: float | None = None
    store_s: float | None = None
    _is_revoked: bool = False

    def revoke(self) -> None:
        """Note that the chunk's reservation was revoked; may be called from any thread."""
        self._is_revoked = True

    def is_revoked(self) -> bool:
        """Return whether the chunk's reservation was revoked."""
        return self._is_revoked

    def is_current(self) -> bool:
        """Return whether it may begin now.

        A worker that was suspended for longer than its heartbeat timeout must ask first, since
        another one may have the chunk.
        """
        return boot_time() < self.good_until


Inbox = queue.SimpleQueue[Task | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The parts of a child that every executor needs."""

    app: Opsqueue
    store: ObjectStore
    status: Status
    is_stopping: threading.Event
    """Tasks that have not begun are returned once it is set."""
    report: Callable[[Task, Report], None]
    give_back: Callable[[Task], None]
    """Return a task that has not begun to the parent."""
    save: Callable[[Task, Ran], None]
    """Store an output and report; may return before that is done."""
    retire: Callable[[str], None]
    """Called with the reason if this process should run no further chunks."""
    worker: str = ""
    """The worker's name, for spans."""
    limit_bytes: int = MAX_CHUNK_BYTES
    """Limit of an input before compression."""


class Executor(Protocol):
    """Anything that runs tasks until it gets None."""

    def run(self, inbox: Inbox) -> None:
        """Run all tasks before the None; return when they are reported or being saved."""

    def close(self) -> None:
        """Close event loops and end threads, without waiting long for what does not end."""


class MainThreadExecutor:
    """Runs one chunk at a time, on the main thread."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._invoker = Invoker()

    def run(self, inbox: Inbox) -> None:
        """See `Executor`."""
        status = self._bench.status
        while (task := inbox.get()) is not None:
            status.take(0, task.sequence)
            work_on(self._bench, task, 0, self._invoker)
            status.free(0)

    def close(self) -> None:
        """See `Executor`."""
        self._invoker.close()


class ThreadsExecutor:
    """Runs several chunks at a time, each in a thread: for plain handlers that mostly wait."""

    def __init__(self, bench: Workbench, threads: int) -> None:
        self._bench = bench
        self._invokers = [Invoker() for _ in range(threads)]

    def run(self, inbox: Inbox) -> None:
        """See `Executor`."""
        threads = [
            threading.Thread(
                target=ends_process(self._run_slot), args=(inbox, slot), name=f"slot-{slot}"
            )
            for slot in range(len(self._invokers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """See `Executor`."""
        for invoker in self._invokers:
            invoker.close()

    def _run_slot(self, inbox: Inbox, slot: int) -> None:
        status = self._bench.status
        while (task := inbox.get()) is not None:
            status.take(slot, task.sequence)
            work_on(self._bench, task, slot, self._invokers[slot])
            status.free(slot)
        inbox.put(None)  # for the next thread


class _LoopInbox:
    """The inbox for the slots of a loop: while it is empty, a thread waits for them.

    What no slot waits for stays in the inbox, so that it can be returned.
    """

    def __init__(self, inbox: Inbox, loop: asyncio.AbstractEventLoop) -> None:
        self._inbox = inbox
        self._loop = loop
        self._slots_waiting = threading.Semaphore(0)
        self._arrived: asyncio.Queue[Task | None] = asyncio.Queue()
        threading.Thread(target=ends_process(self._pass_on), name="pass-on", daemon=True).start()

    def _pass_on(self) -> None:
        while self._slots_waiting.acquire():
            task = self._inbox.get()
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, task)

    async def get(self) -> Task | None:
        """Return the next task; None if no more will come."""
        try:
            task = self._inbox.get_nowait()
        except queue.Empty:
            self._slots_waiting.release()
            task = await self._arrived.get()
        if task is None:
            self._inbox.put(None)  # for the next slot
        return task


class LoopExecutor:
    """Runs many chunks at a time as tasks of one event loop: for `async def` handlers."""

    def __init__(self, bench: Workbench, tasks: int) -> None:
        self._bench = bench
        self._tasks = tasks
        self._runner = asyncio.Runner()

    def run(self, inbox: Inbox) -> None:
        """See `Executor`."""
        # A handler's fork that leaves the loop must not run what other chunks have on it.
        with EndsForkedChildren():
            self._runner.run(self._run(inbox))

    def close(self) -> None:
        """See `Executor`."""
        close_runner(self._runner)

    async def _run(self, inbox: Inbox) -> None:
        # Plain handlers run in threads beside the loop. There are as many threads as slots because
        # a chunk's time limit runs while it waits for a thread.
        loop = asyncio.get_running_loop()
        watch_loop(loop, threads=self._tasks)
        tasks = _LoopInbox(inbox, loop)
        async with asyncio.TaskGroup() as group:
            for slot in range(self._tasks):
                group.create_task(self._run_slot(tasks, slot))

    async def _run_slot(self, tasks: _LoopInbox, slot: int) -> None:
        invoker, status = Invoker(), self._bench.status
        while (task := await tasks.get()) is not None:
            status.take(slot, task.sequence)
            await self._work_on(task, slot, invoker)
            status.free(slot)

    async def _work_on(self, task: Task, slot: int, invoker: Invoker) -> None:
        """Do the same as `work_on` below, waiting on the loop."""
        bench = self._bench
        if bench.is_stopping.is_set():
            bench.give_back(task)
            return
        fetched = task.input
        if isinstance(fetched, Future):
            began = time.monotonic()
            fetched = await asyncio.wrap_future(fetched)
            task.input_wait_s = time.monotonic() - began
        if not isinstance(fetched, Fetched):
            bench.report(task, fetched)
            return
        handler = _handler_of(bench, task)
        if handler is None:
            return
        bench.status.begin(slot, task.sequence)
        with chunk_in_log(task.reservation):
            ran = await execution.run_async(
                fetched,
                handler,
                is_revoked=task.is_revoked,
                is_current=task.is_current,
                invoke=invoker.call_async,
                worker=bench.worker,
                limit_bytes=bench.limit_bytes,
            )
        _finish(bench, task, slot, invoker, ran)


def work_on(bench: Workbench, task: Task, slot: int, invoker: Invoker) -> None:
    """Process a chunk from its input to its report: the whole path except for fetching."""
    if bench.is_stopping.is_set():
        bench.give_back(task)
        return
    fetched = task.input
    if isinstance(fetched, Future):
        began = time.monotonic()
        fetched = fetched.result()
        task.input_wait_s = time.monotonic() - began
    if not isinstance(fetched, Fetched):
        bench.report(task, fetched)
        return
    handler = _handler_of(bench, task)
    if handler is None:
        return
    bench.status.begin(slot, task.sequence)
    with chunk_in_log(task.reservation):
        ran = execution.run(
            fetched,
            handler,
            is_revoked=task.is_revoked,
            is_current=task.is_current,
            invoke=invoker.call,
            worker=bench.worker,
            limit_bytes=bench.limit_bytes,
        )
    _finish(bench, task, slot, invoker, ran)


def _finish(bench: Workbench, task: Task, slot: int, invoker: Invoker, ran: Ran | Report) -> None:
    bench.status.end(slot)
    if invoker.left_over:
        # Before the report, so that no further chunk is begun here.
        bench.retire(f"after chunk {task.reservation}, {invoker.left_over}")
        invoker.left_over = ""
    match ran:
        case GivenBack(is_late=True):
            bench.give_back(task)
        case Ran():
            bench.save(task, ran)
        case _:
            bench.report(task, ran)


def save(task: Task, ran: Ran, store: ObjectStore) -> Report:
    """Store a chunk's output and record the time it took."""
    if ran.is_small:
        return execution.save(ran, store, is_revoked=task.is_revoked)
    began = time.monotonic()
    report = execution.save(ran, store, is_revoked=task.is_revoked)
    if isinstance(report, Done):
        task.store_s = time.monotonic() - began
    return report


def timed(task: Task, report: Report) -> Report:
    """Return the report with the durations of the chunk's stages."""
    if task.input_wait_s is None and task.store_s is None:
        return report  # nothing to add; tiny chunks should not pay for a copy
    return replace(report, times=Times(task.input_wait_s, task.store_s))


def run_start_hooks(app: Opsqueue) -> None:
    """Run all start hooks; may be called on the main thread only.

    Raises:
        NotStartedError: one of them raised or tried to exit.
    """
    for hook in app.start_hooks:
        try:
            with EndsForkedChildren():
                hook()
        except (Exception, SystemExit) as exc:
            logger.exception("the start hook %r raised", hook)
            message = f"the start hook {hook!r} raised {type(exc).__name__}; see the log"
            raise NotStartedError(message) from exc
        finally:
            # It may configure logging, as an app's module may.
            keep_logging()


def run_stop_hooks(app: Opsqueue) -> None:
    """Run all stop hooks, even if one raises: the remaining chunks must still be reported."""
    for hook in app.stop_hooks:
        try:
            with EndsForkedChildren():
                hook()
        except BaseException:  # also SystemExit
            logger.exception("the stop hook %r raised", hook)


def _handler_of(bench: Workbench, task: Task) -> Handler | None:
    try:
        return bench.app.handler_of(task.reservation.source.queue)
    except HandlerError as exc:
        # The app was reloaded without the handler while the parent still serves the queue.
        token = task.reservation.token
        bench.report(task, GivenBack(token=token, reason=str(exc), delay_ms=UNSERVED_DELAY_MS))
        return None
