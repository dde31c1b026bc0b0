"""`opsqueue.testing`: tests of users' handlers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import HandlerError, SubmissionFailedError
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.submission import SubmissionState
from opsqueue.testing import LocalOpsqueue, local, opsqueue_local

__all__ = ["opsqueue_local"]


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
