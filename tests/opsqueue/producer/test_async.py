"""The asynchronous client: the same answers, and an event loop that is never blocked."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from opsqueue.exceptions import SubmissionCancelledError, SubmissionNotFoundError
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import ProducerClient, SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.store.memory import MemoryStore

Work = Callable[[Callable[[Any], Any]], int]

NOT_ASKED = {"over", "close", "threads"}


def test_every_method_has_its_asynchronous_form() -> None:
    """A new method can't be forgotten."""
    names = {
        name for name, _ in inspect.getmembers(ProducerClient, callable) if not name.startswith("_")
    }
    sync = {name for name in names if not name.startswith("async_")} - NOT_ASKED

    missing = {
        name
        for name in sync
        if f"async_{name}" not in names and f"async_{name.removeprefix('blocking_')}" not in names
    }
    assert missing == set()


def test_a_batch_runs_without_blocking_the_loop(producer: ProducerClient, work: Work) -> None:
    """Operations come from an asynchronous iterable; the loop turns while it waits."""

    async def operations() -> AsyncIterator[int]:
        for number in range(25):
            await asyncio.sleep(0)
            yield number

    async def main() -> list[int]:
        async def serve() -> None:
            while not await asyncio.to_thread(work, lambda x: x * 2):  # noqa: ASYNC110 Redis's
                await asyncio.sleep(0)

        serving = asyncio.create_task(serve())
        results = await producer.async_run_submission(operations(), chunk_size=10)
        await serving
        return [result async for result in results]

    assert asyncio.run(main()) == [2 * n for n in range(25)]


def test_more_may_wait_than_there_are_threads(producer: ProducerClient, work: Work) -> None:
    """They take turns."""

    async def main() -> set[SubmissionState]:
        ids = [await producer.async_insert_submission([n], chunk_size=1) for n in range(40)]
        waits = [asyncio.create_task(producer.async_wait_for_submission(id_)) for id_ in ids]
        await asyncio.to_thread(work, lambda x: x)
        return {submission.state for submission in await asyncio.gather(*waits)}

    assert asyncio.run(main()) == {SubmissionState.COMPLETED}


def test_a_cancelled_upload_stops_and_leaves_nothing(
    producer: ProducerClient, queue: Queue, store: MemoryStore
) -> None:
    """At the next operation."""
    has_begun, may_go_on, has_stopped = threading.Event(), threading.Event(), threading.Event()

    def operations() -> Iterator[int]:
        try:
            yield 1
            has_begun.set()
            may_go_on.wait(20)
            while True:
                yield 2
        finally:
            has_stopped.set()

    async def main() -> None:
        insert = asyncio.create_task(producer.async_insert_submission(operations(), chunk_size=1))
        await asyncio.to_thread(has_begun.wait, 20)
        insert.cancel()
        with pytest.raises(asyncio.CancelledError):
            await insert
        may_go_on.set()
        assert await asyncio.to_thread(has_stopped.wait, 20)

    asyncio.run(main())
    producer.threads.close()

    assert producer.count_submissions() == 0


def test_exceptions_are_the_same(producer: ProducerClient) -> None:
    """They are raised at the await."""

    async def main() -> None:
        with pytest.raises(SubmissionNotFoundError):
            await producer.async_cancel_submission(SubmissionId(1))
        id_ = await producer.async_insert_submission([1], chunk_size=1)
        await producer.async_cancel_submission(id_)
        with pytest.raises(SubmissionCancelledError):
            await producer.async_stream_completed_submission(id_)
        listed = [s.id async for s in producer.async_list_submissions()]
        assert listed == [id_]

    asyncio.run(main())
