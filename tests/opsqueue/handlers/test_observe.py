"""Hooks that observe failures: what they are told, and that they can't fail a chunk."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import HandlerError, SubmissionFailedError
from opsqueue.handlers import attempt as attempts
from opsqueue.handlers.app import OnError
from opsqueue.handlers.attempt import watch_loop
from opsqueue.handlers.execute import Fetched, Ran, run_async
from opsqueue.handlers.invoke import Invoker
from opsqueue.model.chunk import OperationFailed, Reservation, Source, Token
from opsqueue.model.submission import SubmissionId
from opsqueue.testing import local

SOURCE = Source(
    submission_id=SubmissionId(1),
    queue="q",
    prefix="",
    codec="json",
    chunks_total=1,
    chunk_size=1,
    operations_total=1,
    max_attempts=1,
)
FETCHED = Fetched(
    Reservation(token=Token("1-0:0"), source=SOURCE, chunk_index=0, attempt=1, expires_at_ms=0),
    b"[2]",
)


def odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(number)
    return number


async def odd_later(number: int) -> int:
    await asyncio.sleep(0)
    return odd(number)


def begin_odd(number: int) -> Any:
    return odd_later(number)


def test_a_failed_attempt_is_observed_each_time_with_its_exception() -> None:
    """And its chunk, which tells whether there will be another attempt."""
    app = Opsqueue()
    seen: list[tuple[BaseException, Chunk]] = []
    app.operation_handler("q")(odd)
    app.on_chunk_failure(lambda error, chunk: seen.append((error, chunk)))

    with local(app) as opsqueue, pytest.raises(SubmissionFailedError):
        opsqueue.run_submission("q", [1, 3, 5, 6], chunk_size=2, max_attempts=2)

    assert [(1, 2), (2, 2)] == [(chunk.attempt, chunk.max_attempts) for _, chunk in seen]
    error, chunk = seen[0]
    assert (ValueError, (6,)) == (type(error), error.args)
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is odd.__code__
    assert ("q", 1, 2) == (chunk.queue, chunk.chunk_index, chunk.first_index)


@pytest.mark.parametrize("function", [odd, odd_later, begin_odd])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_operations_error_is_observed_with_its_index_and_operation(
    function: Callable[..., Any], concurrency: int
) -> None:
    """The index is that of the error in the results, however the handler is called."""
    app = Opsqueue()
    seen: list[tuple[str, int, Any]] = []
    app.operation_handler("q", on_error="collect", concurrency=concurrency)(function)

    @app.on_operation_error
    def observe(error: BaseException, chunk: Chunk, index: int, operation: Any) -> None:
        assert chunk.first_index <= index
        seen.append((str(error), index, operation))

    with local(app) as opsqueue:
        results = list(opsqueue.run_submission("q", range(5), chunk_size=3, errors="yield"))

    assert [("0", 0, 0), ("2", 2, 2), ("4", 4, 4)] == sorted(seen)
    assert [0, 2, 4] == [result.index for result in results if isinstance(result, OperationFailed)]


@pytest.mark.parametrize("is_on_loop", [False, True])
def test_every_error_in_the_results_is_observed(*, is_on_loop: bool) -> None:
    """Those that a chunk handler returns, and results that can't be encoded."""
    app = Opsqueue()
    seen: list[tuple[str, int, Any]] = []

    def returning(numbers: list[int]) -> list[Any]:
        return [ValueError(number) if number == 1 else number for number in numbers]

    async def returning_later(numbers: list[int]) -> list[Any]:
        return returning(numbers)

    def make(number: int) -> Any:
        return object() if number == 1 else number

    async def make_later(number: int) -> Any:
        return make(number)

    app.chunk_handler("returned", on_error="collect")(returning_later if is_on_loop else returning)
    app.operation_handler("made", on_error="collect")(make_later if is_on_loop else make)
    app.on_operation_error(lambda error, _, *place: seen.append((type(error).__name__, *place)))

    with local(app) as opsqueue:
        for queue in ("returned", "made"):
            list(opsqueue.run_submission(queue, [0, 1, 2], chunk_size=3, errors="skip"))

    assert [("ValueError", 1, 1), ("EncodingError", 1, 1)] == seen


def test_a_failure_around_the_handler_is_observed() -> None:
    """Results that can't be used, and input that can't be read: their chunk has no content."""
    app = Opsqueue()
    seen: list[str] = []
    app.chunk_handler("q")(lambda numbers: numbers[1:])
    app.on_chunk_failure(lambda error, chunk: seen.append(f"{type(error).__name__} {chunk.queue}"))

    with local(app) as opsqueue:
        forms: tuple[dict[str, Any], ...] = ({}, {"serialization_format": pickle})
        for options in forms:
            with pytest.raises(SubmissionFailedError):
                opsqueue.run_submission("q", [1, 2], chunk_size=2, max_attempts=1, **options)

    assert ["EncodingError q", "InvalidArgumentError q"] == seen


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


async def never() -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), GeneratorExit(), UnprintableError(), MemoryError()]
)
@pytest.mark.parametrize("function", [odd, odd_later])
def test_a_hook_that_raises_is_logged_and_changes_nothing(
    function: Callable[..., Any], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the chunk's failure nor its results; the next hook is called, too."""
    app = Opsqueue()
    seen: list[object] = []

    def fail(*_: object) -> None:
        raise error

    app.operation_handler("failing")(function)
    app.operation_handler("collecting", on_error="collect")(function)
    app.on_chunk_failure(fail)
    app.on_chunk_failure(lambda failure, _: seen.append(str(failure)))
    app.on_operation_error(fail)
    app.on_operation_error(lambda *_: seen.append("operation"))

    with local(app) as opsqueue:
        with pytest.raises(SubmissionFailedError, match="ValueError: 2"):
            opsqueue.run_submission("failing", [2], max_attempts=1)
        (failed,) = opsqueue.run_submission("collecting", [2], errors="yield")

    assert ["2", "operation"] == seen
    assert isinstance(failed, OperationFailed)
    assert "ValueError" == failed.type
    assert 2 == caplog.text.count(".fail raised ")


@pytest.mark.parametrize(
    "function", [never, lambda error: error, lambda: None, lambda *, error: error]
)
@pytest.mark.parametrize("decorator", ["on_chunk_failure", "on_operation_error"])
def test_a_hook_that_cannot_be_called_is_refused(function: Any, decorator: str) -> None:
    """When it is registered, not with the first failure."""
    with pytest.raises(HandlerError, match=f"the {decorator} hook .*(async|is called with)"):
        getattr(Opsqueue(), decorator)(function)


def test_a_hook_that_hides_a_coroutine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing awaits it, so it would seem to have been told."""
    app = Opsqueue()
    app.operation_handler("q")(odd)
    app.on_chunk_failure(lambda *_: never())

    with local(app) as opsqueue, pytest.raises(SubmissionFailedError, match="ValueError: 2"):
        opsqueue.run_submission("q", [2], max_attempts=1)

    assert "returned a coroutine, which nothing awaits" in caplog.text


def test_a_start_hook_that_hides_a_coroutine_ends_the_start() -> None:
    """The worker would begin without what the hook should have made."""
    app = Opsqueue()
    app.on_worker_start(lambda: never())  # noqa: PLW0108 that it hides it is the point
    app.operation_handler("q")(odd)

    with pytest.raises(HandlerError, match=r"start hook .* returned a coroutine"), local(app):
        pass


def test_a_hook_that_waits_does_not_hold_up_the_loop() -> None:
    """In an async worker other chunks run on it."""
    app = Opsqueue()
    loop_went_on = threading.Event()
    seen: list[bool] = []
    has_begun: Callable[[], object] = list

    @app.on_chunk_failure
    def wait(_error: BaseException, _chunk: Chunk) -> None:
        has_begun()
        seen.append(loop_went_on.wait(20))

    app.operation_handler("q")(odd_later)

    async def run_beside_another() -> object:
        nonlocal has_begun
        began = asyncio.Event()
        has_begun = partial(asyncio.get_running_loop().call_soon_threadsafe, began.set)
        handler, invoke = app.handler_of("q"), Invoker().call_async
        running = asyncio.create_task(run_async(FETCHED, handler, invoke=invoke))
        await began.wait()
        loop_went_on.set()
        return await running

    assert not isinstance(asyncio.run(run_beside_another()), Ran)
    assert [True] == seen


@pytest.mark.parametrize("on_error", ["fail", "collect"])
def test_a_hook_does_not_wait_for_the_threads_of_handlers(
    monkeypatch: pytest.MonkeyPatch, on_error: OnError
) -> None:
    """A call that its handler has given up still occupies the only one."""
    monkeypatch.setattr(attempts, "ENDS_WITHIN_S", 0.05)
    app = Opsqueue()
    seen: list[bool] = []
    has_observed = threading.Event()

    def block() -> None:
        seen.append(has_observed.wait(20))

    @app.operation_handler("q", on_error=on_error)
    async def give_up(_: int) -> None:
        await asyncio.wait_for(asyncio.to_thread(block), 0.01)

    app.on_chunk_failure(lambda *_: has_observed.set())
    app.on_operation_error(lambda *_: has_observed.set())

    async def run() -> object:
        watch_loop(asyncio.get_running_loop(), threads=1)
        return await run_async(FETCHED, app.handler_of("q"), invoke=Invoker().call_async)

    assert isinstance(asyncio.run(run()), Ran) == (on_error == "collect")
    assert [True] == seen


def test_ctrl_c_in_a_hook_ends_the_test() -> None:
    """It is not the hook's own error."""
    app = Opsqueue()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    app.operation_handler("q")(odd)
    app.on_chunk_failure(interrupt)

    with local(app) as opsqueue, pytest.raises(KeyboardInterrupt):
        opsqueue.run_submission("q", [2])


def test_the_log_names_the_hook(caplog: pytest.LogCaptureFixture) -> None:
    """With where it failed."""
    app = Opsqueue()

    class Tracker:
        def capture(self, error: BaseException, chunk: Chunk) -> None:
            raise OSError(5, f"can't send {error} of {chunk.queue}")

    app.operation_handler("q")(odd)
    app.on_chunk_failure(Tracker().capture)

    with local(app) as opsqueue, pytest.raises(SubmissionFailedError):
        opsqueue.run_submission("q", [2], max_attempts=1)

    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "Tracker.capture raised OSError: [Errno 5] can't send 2 of q" in record.getMessage()
    assert "in capture" in record.getMessage()
