"""How handlers are called: plain and async, one operation at a time or several at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from opsqueue.exceptions import HandlerError, SoftTimeLimitExceeded
from opsqueue.handlers.app import Chunk, Handler, Opsqueue
from opsqueue.handlers.execute import never_revoked
from opsqueue.handlers.invoke import Invoker
from opsqueue.model.chunk import OperationError
from opsqueue.model.submission import ChunkIndex, SubmissionId

CHUNK = Chunk(
    submission_id=SubmissionId(1),
    chunk_index=ChunkIndex(0),
    attempt=1,
    max_attempts=10,
    chunks_total=1,
    queue="q",
    metadata=None,
    strategic_metadata={},
    is_revoked=never_revoked,
)


def handler_of(function: Callable[..., Any], **options: Any) -> Handler:
    app = Opsqueue()
    app.operation_handler("q", **options)(function)
    return app.handler_of("q")


def test_several_plain_operations_run_at_once(invoker: Invoker) -> None:
    """Four of them meet at a barrier."""
    barrier = threading.Barrier(4, timeout=20)

    def meet(operation: int) -> int:
        barrier.wait()
        return operation

    results = invoker.call(handler_of(meet, concurrency=4), [1, 2, 3, 4], CHUNK)

    assert results == [1, 2, 3, 4]


def test_an_async_handler_has_the_context_of_its_own_chunk(invoker: Invoker) -> None:
    """The loop is kept from chunk to chunk; the log's fields and the trace are not."""
    of_chunk: ContextVar[int] = ContextVar("of_chunk")

    async def handle(_: int) -> int:
        return of_chunk.get()

    handler = handler_of(handle)

    seen: list[object] = []
    for chunk in (1, 2):
        of_chunk.set(chunk)
        seen += invoker.call(handler, [0], CHUNK)

    assert [1, 2] == seen


def test_no_more_async_operations_run_than_allowed(invoker: Invoker) -> None:
    """Never more than three of ten operations run at the same time, and sometimes three do."""
    running, most = 0, 0

    async def note(operation: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return operation * 2

    results = invoker.call(handler_of(note, concurrency=3), list(range(10)), CHUNK)

    assert results == [n * 2 for n in range(10)]
    assert most == 3


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_first_error_comes_out_as_it_is(invoker: Invoker, concurrency: int) -> None:
    """It is not wrapped in an exception group."""

    async def fail(operation: int) -> int:
        if operation == 2:
            message = "no luck"
            raise KeyError(message)
        return operation

    with pytest.raises(KeyError, match="no luck"):
        invoker.call(handler_of(fail, concurrency=concurrency), [1, 2, 3], CHUNK)


def test_an_event_loop_is_kept_between_chunks(invoker: Invoker) -> None:
    """Clients that belong to a loop can be kept, too."""
    loops = []

    async def note(_: int) -> None:
        loops.append(asyncio.get_running_loop())

    handler = handler_of(note)
    invoker.call(handler, [1], CHUNK)
    invoker.call(handler, [1], CHUNK)

    assert loops[0] is loops[1]


def test_a_plain_handler_does_not_block_the_loop(invoker: Invoker) -> None:
    """In the async pool it runs in a thread."""
    threads = []

    def note(_: int) -> None:
        threads.append(threading.current_thread())

    asyncio.run(invoker.call_async(handler_of(note), [1], CHUNK))

    assert threads != [threading.current_thread()]


@pytest.mark.parametrize("concurrency", [0, -1, 10**6])
def test_a_concurrency_that_cannot_be_meant_is_refused(concurrency: int) -> None:
    """Zero would wait forever."""
    with pytest.raises(HandlerError, match="concurrency="):
        handler_of(abs, concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_exit_in_an_async_handler_is_a_failure_like_any_other(
    invoker: Invoker, concurrency: int
) -> None:
    """It would end the loop, and with it every other chunk of an async worker."""

    async def leave(_: int) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="the handler raised SystemExit: 3"):
        invoker.call(handler_of(leave, concurrency=concurrency), [1, 2], CHUNK)


def test_stop_iteration_out_of_a_thread_is_not_waited_for_for_ever(invoker: Invoker) -> None:
    """A plain handler's `next()` of something empty, in the async pool."""

    def take_first(_: int) -> int:
        return next(iter([]))

    async def call() -> None:
        await asyncio.wait_for(invoker.call_async(handler_of(take_first), [1], CHUNK), 10)

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        asyncio.run(call())


def odd(operation: int) -> int:
    if operation % 2 == 0:
        message = f"{operation} is even"
        raise ValueError(message)
    return operation


async def odd_later(operation: int) -> int:
    await asyncio.sleep(0)
    return odd(operation)


@pytest.mark.parametrize("function", [odd, odd_later])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_operation_that_raises_becomes_an_error_and_the_others_go_on(
    invoker: Invoker, function: Callable[..., Any], concurrency: int
) -> None:
    """In each way that a handler can run; the traceback begins at the handler."""
    handler = handler_of(function, concurrency=concurrency, on_error="collect")

    results = invoker.call(handler, [1, 2, 3, 4, 5], CHUNK)

    errors = [result for result in results if isinstance(result, OperationError)]
    assert [1, errors[0], 3, errors[1], 5] == results
    assert [(e.type, e.message) for e in errors] == [
        ("ValueError", "2 is even"),
        ("ValueError", "4 is even"),
    ]
    lines = errors[0].traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert __file__ in lines[1]
    assert lines[1].endswith(f"in {function.__name__}")


def test_the_traceback_of_a_wrapped_handler_has_no_frames_of_ours(invoker: Invoker) -> None:
    """Its own code is not where the call begins."""

    class Odd:
        __qualname__ = "Odd"

        def __call__(self, operation: int) -> int:
            return odd(operation)

    (error,) = invoker.call(handler_of(Odd(), on_error="collect"), [2], CHUNK)

    assert isinstance(error, OperationError)
    assert "_operation_call" not in error.traceback
    assert error.traceback.splitlines()[1].endswith("in __call__")
    assert error.traceback.splitlines()[-1].strip() == "raise ValueError(message)"


def test_a_long_message_and_a_long_traceback_are_bounded(invoker: Invoker) -> None:
    """A chunk may have thousands of them."""

    def fail(_: int) -> None:
        try:
            dict[str, int]()["y" * 10**6]
        except KeyError as exc:
            raise ValueError("x" * 10**6) from exc

    (error,) = invoker.call(handler_of(fail, on_error="collect"), [1], CHUNK)

    assert isinstance(error, OperationError)
    assert len(error.message) < 5_000
    assert len(error.traceback) < 5_000


def raise_limit() -> None:
    message = "soft"
    raise SoftTimeLimitExceeded(message)


def raise_from_limit() -> None:
    try:
        raise_limit()
    except SoftTimeLimitExceeded:
        message = "turned into another"
        raise ValueError(message) from None


def raise_memory() -> None:
    raise MemoryError


def raise_exit() -> None:
    raise SystemExit(3)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    "fail", [raise_limit, raise_from_limit, raise_memory, raise_exit, raise_interrupt]
)
def test_what_befalls_the_whole_chunk_is_not_collected(
    invoker: Invoker, fail: Callable[[], None], concurrency: int, *, is_async: bool
) -> None:
    """Limits, lack of memory and exits fail the chunk, even if turned into another error."""

    def plain(_: int) -> None:
        fail()

    async def later(_: int) -> None:
        fail()

    handler = handler_of(later if is_async else plain, concurrency=concurrency, on_error="collect")

    with pytest.raises(BaseException) as caught:  # noqa: PT011 which one is not the point
        invoker.call(handler, [1, 2], CHUNK)
    assert not isinstance(caught.value, AssertionError)


def test_an_operation_of_a_revoked_chunk_that_raises_ends_the_chunk(invoker: Invoker) -> None:
    """The rest of the chunk is no longer needed."""
    calls = []

    def fail(operation: int) -> None:
        calls.append(operation)
        raise ValueError(operation)

    revoked = replace(CHUNK, is_revoked=lambda: True)

    with pytest.raises(ValueError, match="1"):
        invoker.call(handler_of(fail, on_error="collect"), [1, 2, 3], revoked)
    assert calls == [1]


def test_a_cancellation_that_is_turned_into_an_error_is_not_collected(invoker: Invoker) -> None:
    """A time limit cancels the task; the other operations must not run on beyond it."""
    started = []

    async def stubborn(operation: int) -> None:
        started.append(operation)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError(operation) from None

    async def call() -> None:
        async with asyncio.timeout(0):
            await invoker.call_async(handler_of(stubborn, on_error="collect"), [1, 2, 3], CHUNK)

    with pytest.raises((ValueError, TimeoutError)):
        asyncio.run(call())
    assert len(started) <= 1


def test_a_timeout_of_an_operation_s_own_is_its_error(invoker: Invoker) -> None:
    """It has a cancellation as its cause, of a part of the operation."""

    async def too_slow(_: int) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    first, second = invoker.call(handler_of(too_slow, on_error="collect"), [1, 2], CHUNK)

    assert isinstance(first, OperationError)
    assert isinstance(second, OperationError)
    assert first.type == "TimeoutError"


def test_a_chunk_handler_may_return_exceptions_in_place_of_results(invoker: Invoker) -> None:
    """As asyncio.gather gives them."""
    app = Opsqueue()

    @app.chunk_handler("q", on_error="collect")
    async def all_at_once(operations: list[int]) -> list[Any]:
        return await asyncio.gather(*map(odd_later, operations), return_exceptions=True)

    first, second = invoker.call(app.handler_of("q"), [1, 2], CHUNK)

    assert first == 1
    assert isinstance(second, OperationError)
    assert second.message == "2 is even"
    assert "in odd" in second.traceback


def test_an_on_error_that_is_none_is_refused() -> None:
    """A typo would fail whole chunks."""
    with pytest.raises(HandlerError, match="give 'fail' or 'collect'"):
        handler_of(odd, on_error="ignore")


async def await_cancelled_task() -> None:
    """Raise CancelledError though nobody cancelled who waits."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


async def await_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def raise_cancelled() -> None:
    raise asyncio.CancelledError


async def cancel_own_task() -> None:
    current_task().cancel()
    await asyncio.sleep(0)


async def cancel_own_task_and_return() -> None:
    current_task().cancel()


async def await_in_own_group() -> None:
    async with asyncio.TaskGroup():
        await await_cancelled_future()


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


CANCELLATIONS = [
    await_cancelled_task,
    await_cancelled_future,
    raise_cancelled,
    cancel_own_task,
    cancel_own_task_and_return,
    await_in_own_group,
]


def run_in_own_loop() -> None:
    """As plain handlers do that call `async def` libraries."""
    asyncio.run(await_cancelled_task())


def wait_for_cancelled_future() -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.cancel()
    future.result()


def call_through(
    invoker: Invoker, handler: Handler, operations: list[object], *, is_on_loop: bool
) -> list[object]:
    """Call as the pools `process`, `thread` and `solo` do, or as `async` does."""
    if is_on_loop:
        return list(asyncio.run(invoker.call_async(handler, operations, CHUNK)))
    return list(invoker.call(handler, operations, CHUNK))


@pytest.mark.parametrize("is_on_loop", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("fail", CANCELLATIONS)
def test_a_cancellation_that_nobody_of_ours_asked_for_fails_the_chunk(
    invoker: Invoker, fail: Callable[[], Any], concurrency: int, *, is_on_loop: bool
) -> None:
    """A task group takes it for the end of a task that it cancelled itself, and goes on."""
    called = []

    async def handle(operation: int) -> int:
        called.append(operation)
        if operation == 2:
            await fail()
        await asyncio.sleep(0)
        return operation

    handler = handler_of(handle, concurrency=concurrency)
    operations: list[object] = list(range(100))

    with pytest.raises(asyncio.CancelledError):
        call_through(invoker, handler, operations, is_on_loop=is_on_loop)
    assert len(called) < 100


@pytest.mark.parametrize("is_on_loop", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("fail", CANCELLATIONS)
def test_a_cancellation_that_nobody_of_ours_asked_for_is_collected(
    invoker: Invoker, fail: Callable[[], Any], concurrency: int, *, is_on_loop: bool
) -> None:
    """As the error of that operation and of no other; those behind it are called."""

    async def handle(operation: int) -> int:
        if operation % 2 == 0:
            await fail()
        async with asyncio.timeout(20):
            await asyncio.sleep(0)
        return operation

    handler = handler_of(handle, concurrency=concurrency, on_error="collect")

    results = call_through(invoker, handler, [1, 2, 3, 4, 5], is_on_loop=is_on_loop)

    first, second = (result for result in results if isinstance(result, OperationError))
    assert [1, first, 3, second, 5] == results
    assert first.type == second.type == "asyncio.exceptions.CancelledError"


@pytest.mark.parametrize("is_on_loop", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("fail", [run_in_own_loop, wait_for_cancelled_future])
def test_a_cancellation_in_a_plain_handler_is_its_operations_error(
    invoker: Invoker, fail: Callable[[], None], concurrency: int, *, is_on_loop: bool
) -> None:
    """Of a loop or of a future of its own: nobody can cancel plain code."""

    def handle(operation: int) -> int:
        if operation == 2:
            fail()
        return operation

    failing = handler_of(handle, concurrency=concurrency)
    collecting = handler_of(handle, concurrency=concurrency, on_error="collect")

    results = call_through(invoker, collecting, [1, 2, 3], is_on_loop=is_on_loop)

    assert isinstance(results[1], OperationError)
    assert results[1].type.endswith("CancelledError")
    assert results == [1, results[1], 3]
    with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
        call_through(invoker, failing, [1, 2, 3], is_on_loop=is_on_loop)


def test_a_cancellation_is_collected_in_a_task_whose_earlier_group_failed(invoker: Invoker) -> None:
    """Until Python 3.13 the task counts as cancelled from then on."""

    async def fail(_: int) -> None:
        await asyncio.sleep(0)
        raise KeyError

    async def call() -> list[object]:
        with suppress(KeyError):
            await invoker.call_async(handler_of(fail), [1], CHUNK)
        handler = handler_of(handler_function_of(await_cancelled_task), on_error="collect")
        return list(await invoker.call_async(handler, [1, 2], CHUNK))

    results = asyncio.run(call())

    assert [OperationError, OperationError] == [type(result) for result in results]


def handler_function_of(fail: Callable[[], Any]) -> Callable[..., Any]:
    async def handle(_: int) -> None:
        await fail()

    return handle


def test_an_operation_that_survives_its_own_cancellation_has_its_result(invoker: Invoker) -> None:
    """It caught it, so it has ended well; the next one is not cancelled."""

    async def survive(operation: int) -> int:
        with suppress(asyncio.CancelledError):
            await cancel_own_task()
        return operation

    results = invoker.call(handler_of(survive), [1, 2, 3], CHUNK)

    assert results == [1, 2, 3]


def test_an_operation_that_cancels_its_task_and_raises_has_its_own_error(invoker: Invoker) -> None:
    """The next one is not cancelled."""

    async def fail(operation: int) -> int:
        if operation == 1:
            current_task().cancel()
            raise KeyError
        await asyncio.sleep(0)
        return operation

    error, second = invoker.call(handler_of(fail, on_error="collect"), [1, 2], CHUNK)

    assert isinstance(error, OperationError)
    assert error.type == "KeyError"
    assert second == 2


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("on_error", ["fail", "collect"])
def test_operations_do_not_begin_in_a_chunk_that_is_cancelled(
    invoker: Invoker, concurrency: int, on_error: str
) -> None:
    """A time limit is meant for all of them, also where one swallows it."""
    started = []

    async def stubborn(operation: int) -> int:
        started.append(operation)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return operation

    handler = handler_of(stubborn, concurrency=concurrency, on_error=on_error)

    async def call() -> None:
        async with asyncio.timeout(0.05):
            await invoker.call_async(handler, list(range(9)), CHUNK)

    with pytest.raises(TimeoutError):
        asyncio.run(call())
    assert list(range(concurrency)) == started


@pytest.mark.parametrize("fail", CANCELLATIONS)
def test_a_chunk_handler_that_is_cancelled_fails_its_chunk(
    invoker: Invoker, fail: Callable[[], Any]
) -> None:
    """And cancels nothing of what runs the next one."""
    app = Opsqueue()

    @app.chunk_handler("q", on_error="collect")
    async def handle(operations: list[int]) -> list[int]:
        if operations == [2]:
            await fail()
        await asyncio.sleep(0)
        return operations

    async def call_two() -> object:
        with pytest.raises(asyncio.CancelledError):
            await invoker.call_async(app.handler_of("q"), [2], CHUNK)
        return await invoker.call_async(app.handler_of("q"), [3], CHUNK)

    assert asyncio.run(call_two()) == [3]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_a_chunk_handler_raises_ends_no_loop(invoker: Invoker, error: BaseException) -> None:
    """The other chunks of an async worker run on it."""
    app = Opsqueue()

    @app.chunk_handler("q")
    async def handle(_: list[int]) -> list[int]:
        raise error

    async def call() -> BaseException | None:
        try:
            await invoker.call_async(app.handler_of("q"), [1], CHUNK)
        except BaseException as exc:  # noqa: BLE001 whichever it is
            await asyncio.sleep(0)
            return exc
        return None

    assert asyncio.run(call()) is error


class OwnError(BaseException):
    """Neither an Exception nor one of Python's own."""


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    "error",
    [
        GeneratorExit(),
        OwnError(),
        ExceptionGroup("", [ValueError(), MemoryError()]),
        ExceptionGroup("", [ExceptionGroup("", [SoftTimeLimitExceeded()])]),
        BaseExceptionGroup("", [ValueError(), SystemExit()]),
        BaseExceptionGroup("", [asyncio.CancelledError(), OwnError()]),
    ],
)
def test_what_ends_a_program_or_a_chunk_is_not_collected(
    invoker: Invoker, error: BaseException, concurrency: int, *, is_async: bool
) -> None:
    """Neither alone nor in a group with what would be."""

    def plain(_: int) -> None:
        raise error

    async def later(_: int) -> None:
        raise error

    handler = handler_of(later if is_async else plain, concurrency=concurrency, on_error="collect")

    with pytest.raises(type(error)):
        invoker.call(handler, [1, 2], CHUNK)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    "error",
    [
        StopIteration(),
        StopAsyncIteration(),
        ExceptionGroup("", [ValueError()]),
        BaseExceptionGroup("", [ValueError(), asyncio.CancelledError()]),
    ],
)
def test_what_is_an_operations_own_error_is_collected(
    invoker: Invoker, error: BaseException, concurrency: int, *, is_async: bool
) -> None:
    """Also where it means something to those who iterate, or is a group of such errors."""

    def plain(operation: int) -> int:
        if operation == 1:
            raise error
        return operation

    async def later(operation: int) -> int:
        return plain(operation)

    handler = handler_of(later if is_async else plain, concurrency=concurrency, on_error="collect")

    first, second = invoker.call(handler, [1, 2], CHUNK)

    assert isinstance(first, OperationError)
    assert second == 2


def test_a_cancellation_among_the_results_of_a_chunk_handler_is_its_operations_error(
    invoker: Invoker,
) -> None:
    """As asyncio.gather gives it."""
    app = Opsqueue()

    @app.chunk_handler("q", on_error="collect")
    async def all_at_once(operations: list[int]) -> list[Any]:
        first = asyncio.sleep(0, operations[0])
        return list(await asyncio.gather(first, await_cancelled_task(), return_exceptions=True))

    first, second = invoker.call(app.handler_of("q"), [1, 2], CHUNK)

    assert first == 1
    assert isinstance(second, OperationError)
    assert second.type == "asyncio.exceptions.CancelledError"


def test_an_exit_among_the_results_of_a_chunk_handler_fails_the_chunk(invoker: Invoker) -> None:
    """It is no error of one operation."""
    app = Opsqueue()
    app.chunk_handler("q", on_error="collect")(lambda _: [SystemExit(3)])

    with pytest.raises(SystemExit):
        invoker.call(app.handler_of("q"), [1], CHUNK)


def test_an_error_of_an_async_operation_keeps_its_cause(invoker: Invoker) -> None:
    """It is often the one that says what is wrong."""

    async def fail(_: int) -> None:
        message = "the effect"
        raise ValueError(message) from KeyError("the cause")

    with pytest.raises(ValueError, match="the effect") as caught:
        invoker.call(handler_of(fail), [1], CHUNK)

    assert isinstance(caught.value.__cause__, KeyError)
