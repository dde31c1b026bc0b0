"""Executors run a child's chunks: one at a time, in threads, or as tasks of an event loop.

Each takes tasks from the inbox until it gets None, then returns. A chunk's path is `work_on` in
all of them; they differ in how they wait.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.exceptions import HandlerError
from opsqueue.handlers import execute as execution
from opsqueue.handlers.app import Handler, Opsqueue
from opsqueue.handlers.execute import Done, Fetched, GivenBack, Ran, Report, Times
from opsqueue.handlers.invoke import Invoker, in_thread
from opsqueue.model.chunk import Reservation
from opsqueue.store import ObjectStore
from opsqueue.tracing.logs import keep_logging
from opsqueue_worker.logs import chunk_in_log
from opsqueue_worker.pool import soft_limit
from opsqueue_worker.pool.defect import ends_process
from opsqueue_worker.pool.pool import NotStartedError
from opsqueue_worker.pool.status import Status

logger = logging.getLogger("opsqueue.worker")

UNSERVED_DELAY_MS: Final = 2_000
"""Delay of a chunk that this child has no handler for, so that another worker may take it."""


@dataclass(slots=True)
class Task:
    """A received chunk, whose input is being fetched or is present."""

    sequence: int
    reservation: Reservation
    input: Future[Fetched | Report] | Fetched | Report
    input_wait_s: float | None = None
    store_s: float | None = None
    _is_revoked: bool = False

    def revoke(self) -> None:
        """Note that the chunk's reservation was revoked; may be called from any thread."""
        self._is_revoked = True

    def is_revoked(self) -> bool:
        """Return whether the chunk's reservation was revoked."""
        return self._is_revoked


Inbox = queue.SimpleQueue[Task | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The parts of a child that every executor needs."""

    app: Opsqueue
    store: ObjectStore
    status: Status
    is_stopping: threading.Event
    """Tasks that have not begun are released once it is set."""
    report: Callable[[Task, Report], None]
    save: Callable[[Task, Ran], None]
    """Store an output and report; may return before that is done."""
    worker: str = ""
    """The worker's name, for spans."""
    limit_bytes: int = MAX_CHUNK_BYTES
    """Limit of an input before compression."""


class Executor(Protocol):
    """Anything that runs tasks until it gets None."""

    def run(self, inbox: Inbox) -> None:
        """Run all tasks before the None; return when they are reported."""


class MainThreadExecutor:
    """Runs one chunk at a time, on the main thread."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._invoker = Invoker()

    def run(self, inbox: Inbox) -> None:
        """See `Executor`."""
        while (task := inbox.get()) is not None:
            work_on(self._bench, task, 0, self._invoker, soft_limit.on_main_thread)
        self._invoker.close()


class ThreadsExecutor:
    """Runs several chunks at a time, each in a thread: for plain handlers that mostly wait."""

    def __init__(self, bench: Workbench, threads: int) -> None:
        self._bench = bench
        self._threads = threads

    def run(self, inbox: Inbox) -> None:
        """See `Executor`."""
        threads = [
            threading.Thread(
                target=ends_process(self._run_slot), args=(inbox, slot), name=f"slot-{slot}"
            )
            for slot in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run_slot(self, inbox: Inbox, slot: int) -> None:
        invoker = Invoker()
        while (task := inbox.get()) is not None:
            work_on(self._bench, task, slot, invoker, soft_limit.on_this_thread)
        inbox.put(None)  # for the next thread
        invoker.close()


class LoopExecutor:
    """Runs many chunks at a time as tasks of one event loop: for `async def` handlers."""

    def __init__(self, bench: Workbench, tasks: int) -> None:
        self._bench = bench
        self._tasks = tasks

    def run(self, inbox: Inbox) -> None:
        """See `Executor`."""
        asyncio.run(self._run(inbox))

    async def _run(self, inbox: Inbox) -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Task | None] = asyncio.Queue()

        def pass_on() -> None:
            while (task := inbox.get()) is not None:
                loop.call_soon_threadsafe(arrived.put_nowait, task)
            loop.call_soon_threadsafe(end)

        def end() -> None:
            while not arrived.empty():
                if (task := arrived.get_nowait()) is not None:
                    self._bench.report(task, not_begun(task))
            arrived.put_nowait(None)

        # Plain handlers run in threads beside the loop. There are as many threads as slots because
        # a chunk's time limit runs while it waits for a thread.
        loop.set_default_executor(ThreadPoolExecutor(self._tasks, thread_name_prefix="slot"))
        threading.Thread(target=ends_process(pass_on), name="pass-on", daemon=True).start()
        async with asyncio.TaskGroup() as group:
            for slot in range(self._tasks):
                group.create_task(self._run_slot(arrived, slot))

    async def _run_slot(self, arrived: asyncio.Queue[Task | None], slot: int) -> None:
        invoker = Invoker()
        while (task := await arrived.get()) is not None:
            await self._work_on(task, slot, invoker)
        arrived.put_nowait(None)  # for the next task
        invoker.close()

    async def _work_on(self, task: Task, slot: int, invoker: Invoker) -> None:
        """Do the same as `work_on` below, waiting on the loop."""
        bench = self._bench
        if bench.is_stopping.is_set():
            bench.report(task, not_begun(task))
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

            def call(*arguments: object) -> object:
                with soft_limit.on_this_thread(handler.soft_time_limit):
                    return invoker.call(*arguments)  # type: ignore[arg-type]

            async def invoke(*arguments: object) -> object:
                if not handler.is_async:
                    # The limit is enforced in its thread: a timeout here would leave it running.
                    return await in_thread(call, *arguments)
                async with soft_limit.on_the_loop(handler.soft_time_limit):
                    return await invoker.call_async(*arguments)  # type: ignore[arg-type]

            ran = await execution.run_async(
                fetched,
                handler,
                is_revoked=task.is_revoked,
                invoke=invoke,  # type: ignore[arg-type]
                worker=bench.worker,
                limit_bytes=bench.limit_bytes,
            )
        bench.status.end(slot)
        if not isinstance(ran, Ran):
            bench.report(task, ran)
            return
        bench.save(task, ran)


def work_on(
    bench: Workbench,
    task: Task,
    slot: int,
    invoker: Invoker,
    limited: Callable[[float | None], AbstractContextManager[None]],
) -> None:
    """Process a chunk from its input to its report: the whole path except for fetching."""
    if bench.is_stopping.is_set():
        bench.report(task, not_begun(task))
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

        def invoke(*arguments: object) -> object:
            with limited(handler.soft_time_limit):
                return invoker.call(*arguments)  # type: ignore[arg-type]

        ran = execution.run(
            fetched,
            handler,
            is_revoked=task.is_revoked,
            invoke=invoke,  # type: ignore[arg-type]
            worker=bench.worker,
            limit_bytes=bench.limit_bytes,
        )
    bench.status.end(slot)
    if not isinstance(ran, Ran):
        bench.report(task, ran)
        return
    bench.save(task, ran)


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
    return replace(report, times=Times(task.input_wait_s, task.store_s))


def run_start_hooks(app: Opsqueue) -> None:
    """Run all start hooks; may be called on the main thread only.

    Raises:
        NotStartedError: one of them raised or tried to exit.
    """
    for hook in app.start_hooks:
        try:
            hook()
        except (Exception, SystemExit) as exc:
            logger.exception("the start hook %r raised", hook)
            name = getattr(hook, "__qualname__", repr(hook))
            message = f"the start hook {name} raised {type(exc).__name__}; see the log"
            raise NotStartedError(message) from exc
        finally:
            # It may configure logging, as an app's module may.
            keep_logging()


def run_stop_hooks(app: Opsqueue) -> None:
    """Run all stop hooks, even if one raises: the remaining chunks must still be reported."""
    for hook in app.stop_hooks:
        try:
            hook()
        except Exception:
            logger.exception("the stop hook %r raised", hook)


def _handler_of(bench: Workbench, task: Task) -> Handler | None:
    try:
        return bench.app.handler_of(task.reservation.source.queue)
    except HandlerError as exc:
        # The app was reloaded without the handler while the parent still serves the queue.
        token = task.reservation.token
        bench.report(task, GivenBack(token=token, reason=str(exc), delay_ms=UNSERVED_DELAY_MS))
        return None


def not_begun(task: Task) -> GivenBack:
    """Return the report of a chunk that is released without using an attempt."""
    return GivenBack(token=task.reservation.token, reason="worker stops")
