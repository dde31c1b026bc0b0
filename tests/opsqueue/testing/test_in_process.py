"""`opsqueue.testing`: tests of users' handlers."""

from __future__ import annotations

import asyncio
import queue
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import (
    HandlerError,
    OperationFailedError,
    SoftTimeLimitExceeded,
    SubmissionFailedError,
)
from opsqueue.handlers.observe import KilledError
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.submission import SubmissionState
from opsqueue.testing import LocalOpsqueue, local, opsqueue_local

__all__ = ["opsqueue_local"]
ONCE: dict[str, Any] = {"chunk_size": 2, "max_attempts": 1}


@pytest.fixture
def opsqueue_app() -> Opsqueue:
    app = Opsqueue()

    @app.operation_handler("numbers")
    def increment(number: int) -> int:
        return number + 1

    @app.operation_handler("moody")
    def third_time(number: int, chunk: Chunk) -> int:
        if chunk.attempt < 3:
            message = f"not yet, attempt {chunk.attempt}"
            raise RuntimeError(message)
        return number

    @app.chunk_handler("broken")
    def broken(operations: list[int]) -> list[int]:
        return operations[1:]

    return app


def test_results_come_in_order(opsqueue_app: Opsqueue) -> None:
    """Through real scripts, codecs and the executor."""
    with local(opsqueue_app) as opsqueue:
        results = list(opsqueue.run_submission("numbers", range(10), chunk_size=3))

    assert results == list(range(1, 11))


def test_hooks_run_as_in_a_worker(opsqueue_app: Opsqueue) -> None:
    """Before the first chunk and after the last."""
    seen: list[str] = []
    opsqueue_app.on_worker_start(lambda: seen.append("start"))
    opsqueue_app.on_worker_stop(lambda: seen.append("stop"))

    with local(opsqueue_app) as opsqueue:
        list(opsqueue.run_submission("numbers", [1]))
        seen.append("ran")

    assert ["start", "ran", "stop"] == seen


def test_the_fixture_runs_the_users_app(opsqueue_local: LocalOpsqueue) -> None:
    """The user defines `opsqueue_app` and asks for `opsqueue_local`."""
    results = list(opsqueue_local.run_submission("numbers", [1]))

    assert results == [2]


def test_back_offs_pass_without_waiting(opsqueue_local: LocalOpsqueue) -> None:
    """A chunk that succeeds at its third attempt would wait for 3 s otherwise."""
    producer = opsqueue_local.producer("moody")
    submission_id = producer.insert_submission([7], chunk_size=1)

    results = list(producer.blocking_stream_completed_submission(submission_id))

    assert results == [7]
    status = producer.get_submission(submission_id)
    assert status is not None
    assert status.last_failure is not None
    assert status.last_failure.message == "not yet, attempt 2"


def test_a_failing_handler_shows_its_failure(opsqueue_local: LocalOpsqueue) -> None:
    """As a producer in production would see it."""
    with pytest.raises(SubmissionFailedError, match="returned 1 results for 2 operations"):
        opsqueue_local.run_submission("broken", [1, 2], chunk_size=2, max_attempts=2)


def test_a_typo_in_a_queues_name_names_the_queues(opsqueue_local: LocalOpsqueue) -> None:
    """Instead of waiting for a worker that will never come."""
    with pytest.raises(HandlerError, match="no handler for queue 'number'; this app has: broken"):
        opsqueue_local.run_submission("number", [1])


def test_work_can_be_done_step_by_step(opsqueue_local: LocalOpsqueue) -> None:
    """To test what a half-done submission looks like."""
    producer = opsqueue_local.producer("numbers")
    submission_id = producer.insert_submission(range(4), chunk_size=1)

    ran = opsqueue_local.work("numbers", limit=3)

    status = producer.get_submission(submission_id)
    assert ran == 3
    assert status is not None
    assert (status.state, status.chunks_done) == (SubmissionState.IN_PROGRESS, 3)


def test_two_of_them_share_nothing(opsqueue_app: Opsqueue) -> None:
    """Each has a server and a store of its own."""
    with local(opsqueue_app) as first, local(opsqueue_app) as second:
        first.producer("numbers").insert_submission([1], chunk_size=1)

        counts = second.queue("numbers").count_queue()

    assert counts.submissions[SubmissionState.IN_PROGRESS] == 0


def test_ctrl_c_in_a_handler_ends_the_test() -> None:
    """It does not count as a failure of the chunk, which would be retried."""
    app = Opsqueue()

    @app.operation_handler("slow")
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with local(app) as opsqueue, pytest.raises(KeyboardInterrupt):
        opsqueue.run_submission("slow", [1])


def test_an_exception_that_hides_its_class_fails_its_chunk() -> None:
    """Behave as a worker does, although the exception is one that ends a program."""
    app = Opsqueue()

    class HidingError(BaseException):
        @property  # type: ignore[misc]  # as proxies do
        def __class__(self) -> type:
            raise SystemExit

    @app.operation_handler("q")
    def fail_hiding(_: int) -> None:
        raise HidingError

    with local(app) as opsqueue, pytest.raises(SubmissionFailedError, match="HidingError"):
        opsqueue.run_submission("q", [1], **ONCE)


@pytest.mark.parametrize("kind", ["operation_handler", "chunk_handler"])
def test_ctrl_c_in_an_async_handler_ends_the_test(kind: str) -> None:
    """It cancels the handler, which is not taken for a cancellation of the handler's own."""
    app = Opsqueue()

    decorate: Callable[..., Callable[[Any], Any]] = getattr(app, kind)

    @decorate("slow", on_error="collect")
    async def interrupt(_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    with local(app) as opsqueue, pytest.raises(KeyboardInterrupt):
        opsqueue.run_submission("slow", [1])


def test_an_operation_that_is_cancelled_is_seen_as_in_a_worker() -> None:
    """Collected, or the end of the submission; never None."""
    app = Opsqueue()

    @app.operation_handler("failing")
    @app.operation_handler("collecting", on_error="collect")
    async def cancelled(number: int) -> int:
        if number == 2:
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task
        return number

    with local(app) as opsqueue:
        options = {"chunk_size": 3, "max_attempts": 1}
        collected = list(
            opsqueue.run_submission("collecting", [1, 2, 3], errors="yield", **options)
        )
        with pytest.raises(SubmissionFailedError, match="CancelledError"):
            opsqueue.run_submission("failing", [1, 2, 3], **options)

    assert [1, "asyncio.exceptions.CancelledError", 3] == [
        result.type if isinstance(result, OperationFailed) else result for result in collected
    ]


def in_this_thread(test: Callable[[], None]) -> None:
    test()


def in_a_loop(test: Callable[[], None]) -> None:
    """As an `async def` test or a notebook."""

    async def run() -> None:
        test()

    asyncio.run(run())


def in_another_thread(test: Callable[[], None]) -> None:
    async def run() -> None:
        await asyncio.to_thread(test)

    asyncio.run(run())


EVERYWHERE = pytest.mark.parametrize("place", [in_this_thread, in_a_loop, in_another_thread])
Place = Callable[[Callable[[], None]], None]


async def add_one(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1


async def add_one_to_each(numbers: list[int]) -> list[int]:
    return [await add_one(number) for number in numbers]


def run_add_one(number: int) -> int:
    return asyncio.run(add_one(number))


def begin_adding(number: int) -> Any:
    return add_one(number)


@EVERYWHERE
def test_handlers_of_every_kind_run_wherever_the_test_does(place: Place) -> None:
    """Also where a loop runs, in which a handler's own can't; so do hooks."""
    app = Opsqueue()
    app.operation_handler("async", concurrency=2)(add_one)
    app.operation_handler("plain")(run_add_one)
    app.operation_handler("hidden")(begin_adding)
    app.chunk_handler("chunks")(add_one_to_each)
    started: list[int] = []
    app.on_worker_start(lambda: started.append(asyncio.run(add_one(0))))
    app.on_worker_stop(lambda: started.append(asyncio.run(add_one(1))))

    def test() -> None:
        with local(app) as opsqueue:
            for queue in app.handlers:
                assert [2, 3, 4] == list(opsqueue.run_submission(queue, [1, 2, 3], chunk_size=2))

    place(test)
    assert [1, 2] == started


def test_asynchronous_methods_do_not_block_the_tests_loop() -> None:
    """A handler can talk to a server on it."""
    app = Opsqueue()
    asks: list[Callable[[], object]] = []
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()

    @app.operation_handler("q")
    def ask_the_loop(number: int) -> int:
        asks[0]()
        return number + answers.get(timeout=20)

    async def test() -> list[Any]:
        loop = asyncio.get_running_loop()
        asks.append(lambda: loop.call_soon_threadsafe(answers.put, 1))
        with local(app) as opsqueue:
            results = await opsqueue.producer("q").async_run_submission([1], chunk_size=1)
            return [result async for result in results]

    assert [2] == asyncio.run(test())


@EVERYWHERE
@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_may_submit_and_wait(place: Place, *, is_async: bool) -> None:
    """The chunks that it waits for are run in the meantime."""
    app = Opsqueue()
    app.operation_handler("inner")(add_one)
    waiting: dict[str, LocalOpsqueue] = {}

    def ask(number: int) -> int:
        return sum(waiting["opsqueue"].run_submission("inner", [number, number], chunk_size=1))

    async def ask_later(number: int) -> int:
        return ask(number)

    app.operation_handler("outer")(ask_later if is_async else ask)

    def test() -> None:
        with local(app) as opsqueue:
            waiting["opsqueue"] = opsqueue
            assert [4, 6] == list(opsqueue.run_submission("outer", [1, 2], chunk_size=2))

    place(test)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


async def sleep_later(seconds: float) -> None:
    await asyncio.sleep(seconds)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def catch_everything(seconds: float) -> None:
    with suppress(Exception):
        spin(seconds)


@pytest.mark.parametrize(
    ("place", "function"),
    [
        (in_this_thread, sleep),
        (in_this_thread, sleep_later),
        (in_this_thread, catch_everything),
        (in_a_loop, sleep),
        (in_a_loop, sleep_later),
        (in_a_loop, catch_everything),
        (in_another_thread, sleep),
        (in_another_thread, catch_everything),
    ],
)
def test_time_limits_are_kept(place: Place, function: Callable[[float], Any]) -> None:
    """The failure is that of a worker whose child is killed: no hook is called."""
    app = Opsqueue()
    observed: list[object] = []
    app.operation_handler("q", time_limit=0.2)(function)
    app.on_chunk_failure(lambda *failure: observed.append(failure))

    def test() -> None:
        with local(app) as opsqueue:
            with pytest.raises(
                SubmissionFailedError, match=r"TimeLimitExceeded: .* is 0\.2 s"
            ) as exc:
                opsqueue.run_submission("q", [60.0], **ONCE)
            assert exc.value.__cause__ is None
            assert [None] == list(opsqueue.run_submission("q", [0.0]))

    place(test)
    assert [] == observed


@pytest.mark.parametrize(
    ("place", "function"),
    [
        (in_this_thread, sleep),
        (in_this_thread, sleep_later),
        (in_a_loop, spin),
        (in_a_loop, sleep_later),
        (in_another_thread, spin),
    ],
)
def test_soft_time_limits_are_kept(place: Place, function: Callable[[float], Any]) -> None:
    """The exception is the cause of what the producer gets."""
    app = Opsqueue()
    app.operation_handler("q", soft_time_limit=0.1)(function)

    def test() -> None:
        with local(app) as opsqueue:
            with pytest.raises(SubmissionFailedError, match=r"soft_time_limit of 0\.1 s") as caught:
                opsqueue.run_submission("q", [2.0], **ONCE)
            assert isinstance(caught.value.__cause__, SoftTimeLimitExceeded)

    place(test)


@pytest.mark.parametrize("function", [sleep, sleep_later])
def test_a_time_limit_ends_the_handler_that_has_it(function: Callable[[float], Any]) -> None:
    """And not the attempt of the one that it waits for, which runs inside it."""
    app = Opsqueue()
    attempts: list[int] = []
    seconds = iter([0.0, 60.0, 0.0])
    waiting: list[LocalOpsqueue] = []

    @app.operation_handler("inner")
    def inner(_: int, chunk: Chunk) -> Any:
        attempts.append(chunk.attempt)
        return function(next(seconds))

    @app.operation_handler("outer", time_limit=1)
    def outer(number: int) -> int:
        return len(list(waiting[0].run_submission("inner", [number])))

    with local(app) as opsqueue:
        waiting.append(opsqueue)
        list(opsqueue.run_submission("inner", [0]))  # the first one takes longer
        with pytest.raises(SubmissionFailedError, match="TimeLimitExceeded"):
            opsqueue.run_submission("outer", [1], **ONCE)
        opsqueue.work("inner")

    assert [1, 1, 1] == attempts


def test_a_time_limit_ends_operations_in_threads() -> None:
    """At once: nothing of the attempt runs beside the next one for long."""
    app = Opsqueue()
    ended: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    @app.operation_handler("q", concurrency=2, time_limit=0.5)
    def note_end(seconds: float) -> None:
        try:
            spin(seconds)
        except BaseException as exc:
            ended.put(exc)
            raise

    with (
        pytest.raises(SubmissionFailedError, match="TimeLimitExceeded"),
        local(app) as opsqueue,
    ):
        opsqueue.run_submission("q", [30.0, 30.0], **ONCE)

    assert [KilledError] * 2 == [type(ended.get(timeout=20)) for _ in range(2)]


def test_the_timer_of_a_tests_runner_goes_on() -> None:
    """Such as that of pytest-timeout, which would not end a test that hangs later."""
    app = Opsqueue()
    app.operation_handler("q", time_limit=5, soft_time_limit=4)(add_one)
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    timer = signal.setitimer(signal.ITIMER_REAL, 1_000)

    try:
        with local(app) as opsqueue:
            list(opsqueue.run_submission("q", [1]))
        left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)

    assert 900 < left_s <= 1_000


class OwnError(Exception):
    """An exception of the handler's."""


def fail(number: int) -> int:
    if number == 2:
        raise OwnError(number)
    return number


async def fail_later(number: int) -> int:
    await asyncio.sleep(0)
    return fail(number)


@EVERYWHERE
@pytest.mark.parametrize("function", [fail, fail_later])
def test_the_handlers_own_exception_is_the_cause(
    place: Place, function: Callable[[int], Any]
) -> None:
    """With its traceback, so that a debugger stops there."""
    app = Opsqueue()
    app.operation_handler("failing")(function)
    app.operation_handler("collecting", on_error="collect")(function)

    def test() -> None:
        with local(app) as opsqueue:
            with pytest.raises(SubmissionFailedError) as failed:
                opsqueue.run_submission("failing", [0, 1, 2], **ONCE)
            with pytest.raises(OperationFailedError) as not_collected:
                list(opsqueue.run_submission("collecting", [0, 1, 2], chunk_size=2))
        for caught in (failed.value, not_collected.value):
            cause = caught.__cause__
            assert isinstance(cause, OwnError)
            assert cause.args == (2,)
            assert traceback.extract_tb(cause.__traceback__)[-1].name == "fail"

    place(test)


def test_the_cause_is_that_of_the_last_attempt() -> None:
    """An asynchronous method raises the same."""
    app = Opsqueue()

    @app.operation_handler("q")
    def fail_differently(_: int, chunk: Chunk) -> None:
        raise OwnError(chunk.attempt)

    async def test() -> None:
        with local(app) as opsqueue, pytest.raises(SubmissionFailedError) as caught:
            await opsqueue.producer("q").async_run_submission([1], chunk_size=1, max_attempts=3)
        assert isinstance(caught.value.__cause__, OwnError)
        assert caught.value.__cause__.args == (3,)

    asyncio.run(test())


def test_every_stop_hook_runs_though_the_test_fails() -> None:
    """Also if another one raises; what the test raised is not replaced."""
    app = Opsqueue()
    seen: list[str] = []

    @app.on_worker_stop
    def fail_to_stop() -> None:
        seen.append("first")
        raise OwnError

    app.on_worker_stop(lambda: seen.append("second"))

    with pytest.raises(OwnError), local(app):
        seen.append("test")
    assert ["test", "first", "second"] == seen

    with pytest.raises(OwnError) as caught, local(app):
        pytest.fail("the test's own")
    assert isinstance(caught.value.__context__, pytest.fail.Exception)


def test_a_loop_is_kept_from_chunk_to_chunk() -> None:
    """As in a worker, so that a client can be kept, too."""
    app = Opsqueue()
    loops: list[asyncio.AbstractEventLoop] = []

    @app.operation_handler("q")
    async def note(_: int) -> None:
        loops.append(asyncio.get_running_loop())

    with local(app) as opsqueue:
        list(opsqueue.run_submission("q", [1, 2], chunk_size=1))

    assert loops[0] is loops[1]
    assert loops[0].is_closed()


def test_a_local_test_costs_less_than_100_ms(opsqueue_app: Opsqueue) -> None:
    """Of CPU time, so that thousands of tests can have their own server and store."""

    def cost_s() -> float:
        began = time.process_time()
        with local(opsqueue_app) as opsqueue:
            list(opsqueue.run_submission("numbers", [1, 2, 3], chunk_size=2))
        return time.process_time() - began

    assert min(cost_s() for _ in range(5)) < 0.1
