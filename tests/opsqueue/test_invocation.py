"""How handlers are called: plain and async, one operation at a time or several at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opsqueue.app import Chunk, Handler, Opsqueue
from opsqueue.exceptions import HandlerError
from opsqueue.execution import never_void
from opsqueue.invocation import Invoker
from opsqueue.submission import SubmissionId

CHUNK = Chunk(
    submission_id=SubmissionId(1),
    chunk_index=0,
    attempt=1,
    max_attempts=10,
    chunks_total=1,
    queue="q",
    metadata=None,
    strategic_metadata={},
    is_void=never_void,
)


@pytest.fixture
def invoker() -> Iterator[Invoker]:
    invoker = Invoker()
    yield invoker
    invoker.close()


def handler_of(function: Callable[..., Any], **options: Any) -> Handler:
    app = Opsqueue()
    app.operation_handler("q", **options)(function)
    return app.handler_of("q")


def test_several_plain_operations_run_at_once(invoker: Invoker):
    """Four meet at a barrier that lets nobody through before."""
    barrier = threading.Barrier(4, timeout=20)

    def meet(operation: int) -> int:
        barrier.wait()
        return operation

    results = invoker.call(handler_of(meet, concurrency=4), [1, 2, 3, 4], CHUNK)

    assert results == [1, 2, 3, 4]


def test_no_more_async_operations_run_than_allowed(invoker: Invoker):
    """Never more than three of ten, and three at some time."""
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
def test_the_first_error_comes_out_as_it_is(invoker: Invoker, concurrency: int):
    """Not wrapped in a group."""

    async def fail(operation: int) -> int:
        if operation == 2:
            message = "no luck"
            raise KeyError(message)
        return operation

    with pytest.raises(KeyError, match="no luck"):
        invoker.call(handler_of(fail, concurrency=concurrency), [1, 2, 3], CHUNK)


def test_an_event_loop_is_kept_between_chunks(invoker: Invoker):
    """Clients that belong to a loop can be kept, too."""
    loops = []

    async def note(_: int) -> None:
        loops.append(asyncio.get_running_loop())

    handler = handler_of(note)
    invoker.call(handler, [1], CHUNK)
    invoker.call(handler, [1], CHUNK)

    assert loops[0] is loops[1]


def test_a_plain_handler_does_not_block_the_loop(invoker: Invoker):
    """In the async pool it runs in a thread."""
    threads = []

    def note(_: int) -> None:
        threads.append(threading.current_thread())

    asyncio.run(invoker.call_async(handler_of(note), [1], CHUNK))

    assert threads != [threading.current_thread()]


@pytest.mark.parametrize("concurrency", [0, -1, 10**6])
def test_a_concurrency_that_cannot_be_meant_is_refused(concurrency: int):
    """Zero would wait for ever."""
    with pytest.raises(HandlerError, match="concurrency="):
        handler_of(abs, concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_exit_in_an_async_handler_is_a_failure_like_any_other(
    invoker: Invoker, concurrency: int
):
    """It would end the loop, and with it every other chunk of an async worker."""

    async def leave(_: int) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="the handler raised SystemExit: 3"):
        invoker.call(handler_of(leave, concurrency=concurrency), [1, 2], CHUNK)


def test_stop_iteration_out_of_a_thread_is_not_waited_for_for_ever(invoker: Invoker):
    """A plain handler's `next()` of something empty, in the async pool."""

    def take_first(_: int) -> int:
        return next(iter([]))

    async def call() -> None:
        await asyncio.wait_for(invoker.call_async(handler_of(take_first), [1], CHUNK), 10)

    with pytest.raises(RuntimeError, match="the handler raised StopIteration"):
        asyncio.run(call())
