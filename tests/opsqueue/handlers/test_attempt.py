"""The end of an attempt: nothing that it started goes on beside the next one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from opsqueue.exceptions import SoftTimeLimitExceeded
from opsqueue.handlers import attempt as attempts
from opsqueue.handlers.app import Handler, Opsqueue
from opsqueue.handlers.invoke import Invoker
from tests.opsqueue.handlers.test_invoke import CHUNK

Value = TypeVar("Value")
Run = Callable[[Callable[[], Value]], Value]


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both kinds of loops that apps use; uvloop is installed as its users do it."""
    if request.param == "asyncio":
        yield
        return
    uvloop = pytest.importorskip("uvloop")
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(before)


def on_main_thread(call: Callable[[], Value]) -> Value:
    """Call it where the pools `process` and `solo` do."""
    return call()


def on_another_thread(call: Callable[[], Value]) -> Value:
    """Call it where the pool `thread` does."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result(30)


def handler_of(function: Callable[..., Any], kind: str = "chunk", **options: Any) -> Handler:
    app = Opsqueue()
    getattr(app, f"{kind}_handler")("q", **options)(function)
    return app.handler_of("q")


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("run", [on_main_thread, on_another_thread])
@pytest.mark.parametrize("kind", ["chunk", "operation"])
def test_a_soft_limit_reaches_a_coroutine_and_nothing_of_it_runs_afterwards(
    invoker: Invoker, run: Run[Any], kind: str
) -> None:
    """It can tidy up; the next chunk on the loop finds no other task there."""
    seen: list[str] = []

    async def hang(_: object) -> None:
        try:
            await asyncio.gather(asyncio.Event().wait(), asyncio.Event().wait())
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            seen.append("tidied up")
            raise

    async def count_tasks(operations: list[object]) -> list[object]:
        return [len(asyncio.all_tasks()) for _ in operations]

    limited = handler_of(hang, kind, soft_time_limit=0.1)

    def call() -> object:
        with pytest.raises(SoftTimeLimitExceeded, match=r"soft_time_limit of 0\.1 s"):
            invoker.call(limited, [1], CHUNK)
        return invoker.call(handler_of(count_tasks), [1], CHUNK)

    assert run(call) == [2]  # the run of the chunk, and its handler
    assert seen == ["tidied up"]
    assert invoker.left_over == ""


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("is_in_task", [False, True])
def test_a_soft_limit_reaches_a_coroutine_that_blocks_its_loop(
    invoker: Invoker, *, is_in_task: bool
) -> None:
    """On the main thread, also in a task of the handler's own."""
    seen: list[object] = []

    async def block() -> None:
        try:
            threading.Event().wait(20)
        except SoftTimeLimitExceeded as exc:
            seen.append(exc)
            raise

    async def handle(operations: list[object]) -> list[object]:
        await (asyncio.create_task(block()) if is_in_task else block())
        return operations

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        invoker.call(handler_of(handle, soft_time_limit=0.1), [1], CHUNK)

    assert seen == [caught.value]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("catches", [False, True])
def test_a_soft_limit_ends_each_task_that_blocks_the_loop(
    invoker: Invoker, *, catches: bool
) -> None:
    """Those behind the one that it interrupts do not block it for their whole time."""
    begun: list[int] = []

    async def block(number: int) -> None:
        begun.append(number)
        threading.Event().wait(5)

    async def handle(operations: list[object]) -> list[object]:
        try:
            await asyncio.gather(block(1), block(2), block(3))
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            if not catches:
                raise
        return operations

    limited = handler_of(handle, soft_time_limit=0.1)

    if catches:
        assert invoker.call(limited, [1], CHUNK) == [1]
    else:
        with pytest.raises(SoftTimeLimitExceeded):
            invoker.call(limited, [1], CHUNK)
    assert begun == [1]
    assert invoker.left_over == ""


@pytest.mark.parametrize("run", [on_main_thread, on_another_thread])
def test_no_operation_begins_behind_the_soft_limit(invoker: Invoker, run: Run[Any]) -> None:
    """Though a handler has caught the exception for an earlier one."""
    begun: list[int] = []

    def catch(operation: int) -> None:
        begun.append(operation)
        end = time.monotonic() + 20
        with suppress(SoftTimeLimitExceeded):
            while time.monotonic() < end:
                pass

    limited = handler_of(catch, "operation", soft_time_limit=0.1, on_error="collect")

    def call() -> None:
        with pytest.raises(SoftTimeLimitExceeded, match=r"soft_time_limit of 0\.1 s"):
            invoker.call(limited, [1, 2], CHUNK)

    run(call)
    assert begun == [1]


@pytest.mark.parametrize("kind", ["chunk", "operation"])
def test_a_soft_limit_counts_once_for_a_function_that_returns_a_coroutine(
    monkeypatch: pytest.MonkeyPatch, invoker: Invoker, kind: str
) -> None:
    """The time in the function is a part of it."""
    passed_s = 0.0
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + passed_s)

    def begin(_: object) -> Any:
        nonlocal passed_s
        passed_s = 99.9
        return asyncio.sleep(20)

    with pytest.raises(SoftTimeLimitExceeded, match=r"soft_time_limit of 100 s"):
        invoker.call(handler_of(begin, kind, soft_time_limit=100), [1], CHUNK)


@pytest.mark.usefixtures("loops")
def test_a_coroutine_that_ends_well_at_its_soft_limit_has_its_result(invoker: Invoker) -> None:
    """A plain handler that catches the exception and returns has one, too."""

    async def handle(operations: list[object]) -> list[object]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return operations

    limited = handler_of(handle, soft_time_limit=0.05)

    assert invoker.call(limited, [1], CHUNK) == [1]
    assert asyncio.run(invoker.call_async(limited, [1], CHUNK)) == [1]


@pytest.mark.usefixtures("loops")
def test_siblings_of_what_failed_are_cancelled_and_awaited(invoker: Invoker) -> None:
    """asyncio.gather leaves them running when one of them raises."""
    seen: list[str] = []

    async def fail() -> None:
        raise KeyError

    async def go_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("ended")

    async def handle(_: list[object]) -> None:
        await asyncio.gather(go_on(), go_on(), fail())

    with pytest.raises(KeyError):
        invoker.call(handler_of(handle), [1], CHUNK)

    assert seen == ["ended"] * 2
    assert invoker.left_over == ""


def test_a_task_in_the_background_of_a_failed_attempt_ends_with_its_process(
    invoker: Invoker,
) -> None:
    """It may be part of a client that is kept, so later chunks get a new process with it."""
    tasks: list[asyncio.Task[Any]] = []

    async def handle(_: list[object]) -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        raise KeyError

    with pytest.raises(KeyError):
        invoker.call(handler_of(handle), [1], CHUNK)

    assert tasks[0].cancelled()
    assert "left tasks that nothing awaited" in invoker.left_over


def test_a_task_in_the_background_of_a_success_goes_on(invoker: Invoker) -> None:
    """Clients keep such tasks, and handlers leave them on purpose."""
    tasks: list[asyncio.Task[Any]] = []

    async def start(operations: list[object]) -> list[object]:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.sleep(0)
        return operations

    async def fail(_: list[object]) -> None:
        raise KeyError

    invoker.call(handler_of(start), [1], CHUNK)
    with pytest.raises(KeyError):
        invoker.call(handler_of(fail), [1], CHUNK)

    assert not tasks[0].done()
    assert invoker.left_over == ""


def test_chunks_on_one_loop_end_only_what_is_their_own() -> None:
    """In the pool `async`, many attempts share the loop."""
    ended: list[str] = []

    async def wait(name: str, event: asyncio.Event) -> None:
        try:
            await event.wait()
        finally:
            ended.append(name)

    async def both() -> object:
        attempts.watch_loop(asyncio.get_running_loop())
        has_failed, begun = asyncio.Event(), asyncio.Event()

        async def fail(_: list[object]) -> None:
            begun.set()
            await asyncio.gather(wait("failed", asyncio.Event()), asyncio.sleep(0), failing())

        async def failing() -> None:
            await begun.wait()
            raise KeyError

        async def succeed(operations: list[object]) -> list[object]:
            await asyncio.gather(wait("succeeded", has_failed), begun.wait())
            return operations

        going = asyncio.create_task(Invoker().call_async(handler_of(succeed), [1], CHUNK))
        with pytest.raises(KeyError):
            await Invoker().call_async(handler_of(fail), [1], CHUNK)
        assert ended == ["failed"]
        has_failed.set()
        return await going

    assert asyncio.run(both()) == [1]


def test_a_task_that_refuses_to_end_makes_the_process_unfit(
    invoker: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempt is reported all the same."""
    monkeypatch.setattr(attempts, "ENDS_WITHIN_S", 0.1)
    is_over = asyncio.Event()

    async def refuse() -> None:
        while not is_over.is_set():
            with suppress(asyncio.CancelledError):
                await is_over.wait()

    async def handle(_: list[object]) -> None:
        asyncio.create_task(refuse())  # noqa: RUF006 as handlers do
        await asyncio.sleep(0)
        raise KeyError

    with pytest.raises(KeyError):
        invoker.call(handler_of(handle), [1], CHUNK)

    assert "1 tasks of it did not end within 0.1 s" in invoker.left_over
    is_over.set()


@pytest.mark.parametrize("is_in_thread", [False, True])
def test_threads_that_hang_make_the_process_unfit_and_spoil_no_later_chunk(
    invoker: Invoker, monkeypatch: pytest.MonkeyPatch, *, is_in_thread: bool
) -> None:
    """Also threads beside a loop, which an `async def` handler has asked for."""
    monkeypatch.setattr(attempts, "ENDS_WITHIN_S", 0.1)
    goes_on = threading.Event()

    def hang(operation: int) -> int:
        if operation < 0:
            goes_on.wait(60)
        return operation * 10

    async def hang_beside(operation: int) -> int:
        return await asyncio.to_thread(hang, operation)

    handler = handler_of(
        hang_beside if is_in_thread else hang, "operation", soft_time_limit=0.2, concurrency=2
    )
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            invoker.call(handler, [-1, -2, -3], CHUNK)

        assert "2 threads of it did not end within 0.1 s" in invoker.left_over
        assert invoker.call(handler, [1, 2], CHUNK) == [10, 20]
    finally:
        goes_on.set()


def test_calls_that_outlive_their_chunks_do_not_hold_all_threads(invoker: Invoker) -> None:
    """A handler that stops waiting for a thread succeeds, and the thread goes on."""
    goes_on = threading.Event()

    async def give_up(operation: int) -> str:
        if operation < 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(goes_on.wait, 60), 0.01)
            return "gave up"
        return await asyncio.to_thread(str, operation)

    handler = handler_of(give_up, "operation", concurrency=40)
    try:
        assert invoker.call(handler, [-1], CHUNK) == ["gave up"]
        assert invoker.left_over == ""
        assert invoker.call(handler, [-1] * 40, CHUNK) == ["gave up"] * 40
        assert "more than half of its threads" in invoker.left_over
        assert invoker.call(handler, [1], CHUNK) == ["1"]
    finally:
        goes_on.set()


@pytest.mark.parametrize("run", [on_main_thread, on_another_thread])
def test_a_soft_limit_reaches_operations_in_threads(invoker: Invoker, run: Run[Any]) -> None:
    """Each that runs can tidy up, those that wait are not begun, and the process stays."""
    seen: list[int] = []
    end = time.monotonic() + 30

    def compute(operation: int) -> None:
        try:
            while time.monotonic() < end:
                sum(range(1_000))  # Python 3.13 does not catch what is raised in an empty loop
        except SoftTimeLimitExceeded:
            seen.append(operation)
            raise

    handler = handler_of(compute, "operation", soft_time_limit=0.1, concurrency=2)

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        run(lambda: invoker.call(handler, [1, 2, 3, 4], CHUNK))

    assert sorted(seen) == [1, 2]
    assert invoker.left_over == ""
    frames = caught.value.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_name != "compute":
        frames = frames.tb_next
    assert frames is not None


def test_a_failure_in_a_thread_is_reported_when_its_neighbours_have_ended(invoker: Invoker) -> None:
    """No operation of the attempt goes on after it, and none begins."""
    begun, ended = threading.Barrier(2, timeout=20), []

    def handle(operation: int) -> None:
        if operation == 1:
            begun.wait()
            raise KeyError
        if operation == 2:
            begun.wait()
            threading.Event().wait(0.1)
        ended.append(operation)

    with pytest.raises(KeyError):
        invoker.call(handler_of(handle, "operation", concurrency=2), [1, 2, 3, 4], CHUNK)

    assert ended == [2]
    assert invoker.left_over == ""


class EmptyError(Exception):
    """Counts as false, as the list of errors of a validator may."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_error_that_counts_as_false_is_an_error(
    invoker: Invoker, concurrency: int, *, is_async: bool
) -> None:
    """The future of a thread would take it for no error, and the result for None."""

    def fail(_: int) -> None:
        raise EmptyError

    async def fail_later(_: int) -> None:
        raise EmptyError

    handler = handler_of(fail_later if is_async else fail, "operation", concurrency=concurrency)

    with pytest.raises(EmptyError):
        invoker.call(handler, [1, 2], CHUNK)
    with pytest.raises(EmptyError):
        asyncio.run(invoker.call_async(handler, [1, 2], CHUNK))
