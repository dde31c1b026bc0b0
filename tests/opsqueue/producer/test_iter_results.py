"""Results as they come: in order or not, from a chunk on, until the submission ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from opsqueue.exceptions import (
    InvalidArgumentError,
    SubmissionCancelledError,
    SubmissionNotFoundError,
)
from opsqueue.model.chunk import Reservation
from opsqueue.producer import ProducerClient, SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.store import input_key, output_key
from opsqueue.store.memory import MemoryStore
from opsqueue.strategy import Oldest

Work = Callable[[Callable[[Any], Any]], int]


@pytest.fixture
def finish(queue: Queue, store: MemoryStore) -> Callable[[Reservation], None]:
    """Complete a chunk with its operations as results."""

    def run(chunk: Reservation) -> None:
        prefix = chunk.source.prefix
        store.create(
            output_key(prefix, chunk.chunk_index), store.get(input_key(prefix, chunk.chunk_index))
        )
        queue.complete_chunks([chunk.token])

    return run


def take_all(queue: Queue) -> list[Reservation]:
    return list(queue.reserve_chunks("w", limit=100, strategy=Oldest()).chunks)


def test_results_come_while_it_runs_in_order(
    producer: ProducerClient, queue: Queue, finish: Callable[[Reservation], None]
) -> None:
    """A chunk that is done waits for those before it."""
    id_ = producer.insert_submission(range(6), chunk_size=2)
    chunks = take_all(queue)
    finish(chunks[0])
    finish(chunks[2])
    results = producer.iter_results(id_)

    first = [next(results), next(results)]
    finish(chunks[1])

    assert (first, list(results)) == ([0, 1], [2, 3, 4, 5])


def test_results_come_unordered_as_they_are_done(
    producer: ProducerClient, queue: Queue, finish: Callable[[Reservation], None]
) -> None:
    """Each chunk once, with its index."""
    id_ = producer.insert_submission(range(6), chunk_size=2)
    chunks = take_all(queue)
    finish(chunks[2])
    found = producer.iter_chunk_results(id_, ordered=False)

    first = next(found)
    finish(chunks[1])
    second = next(found)
    finish(chunks[0])

    assert (first.index, first.results, second.index) == (2, [4, 5], 1)
    assert [(c.index, c.results) for c in found] == [(0, [0, 1])]


@pytest.mark.parametrize("ordered", [True, False])
def test_reading_goes_on_from_a_chunk(producer: ProducerClient, work: Work, ordered: bool) -> None:  # noqa: FBT001
    """Where an earlier reader stopped; behind the last chunk there is nothing."""
    id_ = producer.insert_submission(range(50), chunk_size=2)
    work(lambda x: x)

    assert list(producer.iter_results(id_, ordered=ordered, start=20)) == list(range(40, 50))
    assert list(producer.iter_results(id_, ordered=ordered, start=25)) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_what_is_done_is_given_before_a_cancel_is_raised(
    producer: ProducerClient,
    queue: Queue,
    finish: Callable[[Reservation], None],
    ordered: bool,  # noqa: FBT001
) -> None:
    """Nothing that was done is lost."""
    id_ = producer.insert_submission(range(3), chunk_size=1)
    finish(take_all(queue)[0])
    producer.cancel_submission(id_)
    results = producer.iter_results(id_, ordered=ordered)

    assert next(results) == 0
    with pytest.raises(SubmissionCancelledError):
        next(results)


def test_a_chunk_that_is_not_there_is_refused(producer: ProducerClient) -> None:
    """And a submission that is not."""
    id_ = producer.insert_submission(range(3), chunk_size=1)

    with pytest.raises(InvalidArgumentError, match="has chunks 0 to 2"):
        list(producer.iter_results(id_, start=4))
    with pytest.raises(SubmissionNotFoundError):
        list(producer.iter_results(SubmissionId(1)))


def test_an_empty_submission_has_no_results(producer: ProducerClient) -> None:
    """At once."""
    id_ = producer.insert_submission([], chunk_size=1)

    assert list(producer.iter_results(id_)) == []
    assert list(producer.iter_results(id_, ordered=False)) == []


def test_they_come_asynchronously_too(
    producer: ProducerClient, queue: Queue, finish: Callable[[Reservation], None]
) -> None:
    """The first before the last is done."""
    id_ = producer.insert_submission(range(2), chunk_size=1)
    chunks = take_all(queue)
    finish(chunks[0])

    async def main() -> list[Any]:
        results = await producer.async_iter_results(id_)
        found = [await anext(results)]
        finish(chunks[1])
        return found + [result async for result in results]

    assert asyncio.run(main()) == [0, 1]
