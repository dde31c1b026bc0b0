"""A child's processing of chunks from input to report, without a process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Fetched, GivenBack, Report
from opsqueue.model.chunk import Reservation
from opsqueue.store.memory import MemoryStore
from opsqueue_worker.pool.executor import (
    Executor,
    LoopExecutor,
    MainThreadExecutor,
    Task,
    ThreadsExecutor,
    Workbench,
    run_stop_hooks,
)
from opsqueue_worker.pool.status import Status
from tests.opsqueue_worker.intake.test_reporter import CHUNK


def task_of(reservation: Reservation) -> Task:
    fetched: Future[Fetched | Report] = Future()
    fetched.set_result(Fetched(reservation, b""))
    return Task(1, reservation, fetched)


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_a_chunk_without_a_handler_goes_back(kind: str) -> None:
    """A child that was reloaded without it stays alive, and another worker may take the chunk."""
    reports: list[Report] = []
    inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def report_and_stop(_: Task, report: Report) -> None:
        reports.append(report)
        inbox.put(None)  # not before: what waits then goes back for that reason

    bench = Workbench(
        app=Opsqueue(),
        store=MemoryStore("none"),
        status=Status.new(2),
        is_stopping=threading.Event(),
        report=report_and_stop,
        give_back=lambda _: pytest.fail("it has begun"),
        save=lambda *_: pytest.fail("nothing to save"),
        retire=pytest.fail,
    )
    make: dict[str, Callable[[], Executor]] = {
        "process": lambda: MainThreadExecutor(bench),
        "thread": lambda: ThreadsExecutor(bench, 2),
        "async": lambda: LoopExecutor(bench, 2),
    }
    executor = make[kind]()
    inbox.put(task_of(CHUNK))

    executor.run(inbox)

    (report,) = reports
    assert isinstance(report, GivenBack)
    assert (report.token, report.delay_ms) == (CHUNK.token, 2_000)
    assert "no handler for queue 'q'" in report.reason


def test_the_loop_has_a_thread_for_each_slot() -> None:
    """A plain handler's time limit runs while it waits for a thread."""
    barrier = threading.Barrier(60, timeout=20)
    app = Opsqueue()
    app.operation_handler("q")(lambda _: barrier.wait())
    done = threading.Semaphore(0)
    bench = Workbench(
        app=app,
        store=MemoryStore("none"),
        status=Status.new(60),
        is_stopping=threading.Event(),
        report=lambda *_: None,
        give_back=lambda _: pytest.fail("it has begun"),
        save=lambda *_: done.release(),
        retire=pytest.fail,
    )
    inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    for _ in range(60):
        task = task_of(CHUNK)
        task.input = Future()
        task.input.set_result(Fetched(CHUNK, b"\x91\x01"))
        inbox.put(task)
    thread = threading.Thread(target=LoopExecutor(bench, 60).run, args=(inbox,))
    thread.start()

    saved = [done.acquire(timeout=25) for _ in range(60)]

    inbox.put(None)
    thread.join(20)
    assert all(saved)
    assert not thread.is_alive()


def test_a_stop_hook_that_raises_does_not_keep_others_from_running() -> None:
    """The worker still reports its chunks."""
    app = Opsqueue()
    ran = []
    app.on_worker_stop(lambda: 1 / 0)
    app.on_worker_stop(lambda: ran.append("second"))

    run_stop_hooks(app)

    assert ran == ["second"]
