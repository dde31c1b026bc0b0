"""Results as they arrive: in order or not, from a chunk on, until the submission ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from opsqueue.contents.codec import open_codec
from opsqueue.exceptions import (
    InvalidArgumentError,
    SubmissionCancelledError,
    SubmissionNotFoundError,
)
from opsqueue.model.chunk import Reservation
from opsqueue.producer import ProducerClient, SubmissionId
from opsqueue.producer.redis_api import RedisBackend
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
    """Each chunk comes once, with its index."""
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
    """So is a submission that does not exist."""
    id_ = producer.insert_submission(range(3), chunk_size=1)

    with pytest.raises(InvalidArgumentError, match="has chunks 0 to 2"):
        list(producer.iter_results(id_, start=4))
    with pytest.raises(SubmissionNotFoundError):
        list(producer.iter_results(SubmissionId(1)))


def test_an_empty_submission_has_no_results(producer: ProducerClient) -> None:
    """The iterator ends at once."""
    id_ = producer.insert_submission([], chunk_size=1)

    assert list(producer.iter_results(id_)) == []
    assert list(producer.iter_results(id_, ordered=False)) == []


def test_they_come_asynchronously_too(
    producer: ProducerClient, queue: Queue, finish: Callable[[Reservation], None]
) -> None:
    """The first result comes before the last chunk is done."""
    id_ = producer.insert_submission(range(2), chunk_size=1)
    chunks = take_all(queue)
    finish(chunks[0])

    async def main() -> list[Any]:
        results = await producer.async_iter_results(id_)
        found = [await anext(results)]
        finish(chunks[1])
        return found + [result async for result in results]

    assert asyncio.run(main()) == [0, 1]


@pytest.mark.parametrize("inline_bytes", [0, 100_000])
def test_partial_results_are_pairs_of_index_and_result(
    api: RedisBackend, store: MemoryStore, queue: Queue, work: Work, inline_bytes: int
) -> None:
    """Of the chunks that are done, in order, in each state; nothing is waited for."""
    producer = ProducerClient.over(api, store, queue=queue.name, inline_bytes=inline_bytes)
    id_ = producer.insert_submission(range(10, 17), chunk_size=2)
    before = list(producer.partial_results(id_))
    chunks = {chunk.chunk_index: chunk for chunk in take_all(queue)}
    for index in (3, 1):
        encoded = producer._codec.encode([-10 - i for i in range(2 * index, min(7, 2 * index + 2))])
        store.create(output_key(chunks[index].source.prefix, index), encoded)
        queue.complete_chunks([chunks[index].token])

    running = list(producer.partial_results(id_))
    producer.cancel_submission(id_)

    assert [] == before
    assert [(2, -12), (3, -13), (6, -16)] == running == list(producer.partial_results(id_))
    assert [(6, -16)] == list(producer.partial_results(id_, start=2))
    with pytest.raises(InvalidArgumentError, match="start is 5"):
        list(producer.partial_results(id_, start=5))
    queue.release_chunks([chunks[0].token, chunks[2].token])
    producer.retry_submission(id_)
    work(lambda x: -x)
    completed = asyncio.run(collect_async(producer, id_))
    assert [(i, -10 - i) for i in range(7)] == completed


async def collect_async(producer: ProducerClient, id_: SubmissionId) -> list[tuple[int, Any]]:
    return [pair async for pair in await producer.async_partial_results(id_)]


def test_partial_results_of_raw_chunks_have_the_index_of_their_chunk(
    producer: ProducerClient, queue: Queue, store: MemoryStore
) -> None:
    """How many operations are in one is its producer's affair."""
    encoded = open_codec("cbor").encode(["a", "b"])
    id_ = producer.insert_submission_chunks([b"1", b"2"])
    for chunk in take_all(queue):
        store.create(output_key(chunk.source.prefix, chunk.chunk_index), encoded)
        queue.complete_chunks([chunk.token])

    found = list(producer.partial_results(id_, serialization_format=cbor2))

    assert [(0, "a"), (0, "b"), (1, "a"), (1, "b")] == found
