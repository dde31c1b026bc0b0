"""A small submission from the producer to its results, without the object store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import redis
from msgspec.structs import replace

from opsqueue.exceptions import EncodingError, IdempotencyKeyReusedError, InvalidArgumentError
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Done, execute
from opsqueue.model.chunk import Reservation
from opsqueue.model.new_submission import INLINE_CHUNKS
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store.memory import MemoryStore
from tests.opsqueue.steps import take

app = Opsqueue()


@app.chunk_handler("twice")
def twice(operations: list[int]) -> list[int]:
    return [2 * operation for operation in operations]


@app.chunk_handler("large")
def large(operations: list[int]) -> list[bytes]:
    # By chance: it does not compress.
    return [secrets.token_bytes(70_000) if operation == 1 else b"" for operation in operations]


class NoStore(MemoryStore):
    """A store that fails the test if it is used."""

    def get(self, key: str) -> bytes:
        raise AssertionError(key)

    def create(self, key: str, data: bytes) -> bool:
        raise AssertionError(key, data)

    def exists(self, key: str) -> bool:
        raise AssertionError(key)

    def delete_prefix(self, prefix: str) -> int:
        raise AssertionError(prefix)


@pytest.fixture
def producer(fake_client: redis.Redis, queue_name: str) -> ProducerClient:
    return ProducerClient.over(RedisBackend(fake_client), NoStore(queue_name), queue=queue_name)


@pytest.fixture
def queue(fake_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(fake_client, queue_name)


def work(
    queue: Queue, store: MemoryStore, handler: str = "twice", *, limit: int = 100
) -> list[Reservation]:
    chunks = take(queue, limit)
    for chunk in chunks:
        done = execute(chunk, app.handler_of(handler), store)
        assert isinstance(done, Done)
        outputs = {} if done.output is None else {done.token: done.output}
        queue.complete_chunks([done.token], outputs=outputs)
    return chunks


def test_a_small_submission_does_without_the_store(
    producer: ProducerClient, queue: Queue, queue_name: str
) -> None:
    """This holds from its operations to its results."""
    id_ = producer.insert_submission(range(7), chunk_size=2)
    work(queue, NoStore(queue_name))

    assert list(producer.try_stream_completed_submission(id_)) == [0, 2, 4, 6, 8, 10, 12]


def test_a_large_output_of_a_small_submission_is_stored(
    fake_client: redis.Redis, queue: Queue, queue_name: str
) -> None:
    """Results come in order from both."""
    store = MemoryStore(queue_name)
    producer = ProducerClient.over(RedisBackend(fake_client), store, queue=queue_name)

    id_ = producer.insert_submission([0, 1, 2], chunk_size=1)
    work(queue, store, "large")

    sizes = [len(result) for result in producer.try_stream_completed_submission(id_)]
    assert sizes == [0, 70_000, 0]
    assert [key.rpartition("/")[2] for key in store.list_prefix("")] == ["1-out"]


def test_a_second_attempt_finds_the_large_output_of_the_first(
    fake_client: redis.Redis, queue: Queue, queue_name: str
) -> None:
    """As for any other submission, it does not run again."""
    store = MemoryStore(queue_name)
    producer = ProducerClient.over(RedisBackend(fake_client), store, queue=queue_name)
    producer.insert_submission([1], chunk_size=1)
    (chunk,) = take(queue, 1)
    execute(chunk, app.handler_of("large"), store)

    done = execute(replace(chunk, attempt=2), app.handler_of("large"), store)

    assert isinstance(done, Done)
    assert (done.ran, done.output) == (False, None)


@pytest.mark.parametrize(
    ("inline_bytes", "is_inline"), [(0, False), (200, False), (256 * 1024, True)]
)
def test_what_is_larger_than_the_limit_is_stored(
    fake_client: redis.Redis, queue: Queue, queue_name: str, inline_bytes: int, *, is_inline: bool
) -> None:
    """All of it, also what was kept back before; 0 switches it off."""
    store = MemoryStore(queue_name)
    producer = ProducerClient.over(
        RedisBackend(fake_client), store, queue=queue_name, inline_bytes=inline_bytes
    )

    id_ = producer.insert_submission(range(100), chunk_size=2)
    work(queue, store)

    assert is_inline == queue.get_submission(id_).is_inline
    assert len(list(store.list_prefix(""))) == (0 if is_inline else 101)
    assert list(producer.try_stream_completed_submission(id_)) == [2 * n for n in range(100)]


def test_many_tiny_chunks_are_stored(
    fake_client: redis.Redis, queue: Queue, queue_name: str
) -> None:
    """Otherwise a script would be busy for too long."""
    store = MemoryStore(queue_name)
    producer = ProducerClient.over(RedisBackend(fake_client), store, queue=queue_name)

    few = producer.insert_submission(range(INLINE_CHUNKS), chunk_size=1)
    many = producer.insert_submission(range(INLINE_CHUNKS + 1), chunk_size=1)

    assert [queue.get_submission(id_).is_inline for id_ in (few, many)] == [True, False]


def test_an_error_before_anything_was_uploaded_leaves_the_store_alone(
    producer: ProducerClient,
) -> None:
    """There is nothing to delete."""

    def operations() -> Iterator[object]:
        yield 1
        yield object()

    with pytest.raises(EncodingError, match="chunk 1"):
        producer.insert_submission(operations(), chunk_size=1)


def test_a_known_idempotency_key_leaves_the_store_alone(producer: ProducerClient) -> None:
    """The first submission's id is returned."""
    ids = {
        producer.insert_submission([1], chunk_size=1, idempotency_key="monday") for _ in range(2)
    }

    assert len(ids) == 1


def test_a_known_idempotency_key_with_other_operations_is_refused(
    producer: ProducerClient,
) -> None:
    """Small ones come with the request, and so are compared themselves."""
    first = producer.insert_submission([1], chunk_size=1, idempotency_key="monday")

    with pytest.raises(IdempotencyKeyReusedError) as raised:
        producer.insert_submission([2], chunk_size=1, idempotency_key="monday")

    assert (first, ("operations",)) == (raised.value.submission_id, raised.value.differing)


def test_a_limit_that_cannot_be_kept_is_refused(fake_client: redis.Redis, queue_name: str) -> None:
    """It says what may be given."""
    for wrong in (-1, 256 * 1024 + 1):
        with pytest.raises(InvalidArgumentError, match="262,144"):
            ProducerClient.over(
                RedisBackend(fake_client), NoStore(queue_name), queue=queue_name, inline_bytes=wrong
            )


def test_results_are_read_while_the_submission_runs(
    fake_client: redis.Redis, queue: Queue, queue_name: str
) -> None:
    """Outputs that come after the first look are found too, wherever they are."""
    store = MemoryStore(queue_name)
    producer = ProducerClient.over(RedisBackend(fake_client), store, queue=queue_name)
    id_ = producer.insert_submission([0, 1, 2], chunk_size=1)

    sizes = []
    work(queue, store, "large", limit=1)
    for result in producer.iter_results(id_):
        sizes.append(len(result))
        work(queue, store, "large", limit=1)

    assert sizes == [0, 70_000, 0]
