"""Inserting: checks before the upload, the upload itself, and deletion after an error."""

from __future__ import annotations

import asyncio
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import count
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import (
    ApiUnavailableError,
    ChunkSizeIsZeroError,
    ChunksStorageError,
    EncodingError,
    IdempotencyKeyReusedError,
    IncorrectUsageError,
    InvalidArgumentError,
    PrefixTakenError,
    StoreUnavailableError,
)
from opsqueue.model.answers import Inserted
from opsqueue.model.new_submission import MAX_METADATA_BYTES, NewSubmission
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.insert import SubmissionInserter
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store.memory import MemoryStore
from tests.opsqueue.steps import Clock, listed, take_one


def test_a_submission_is_recorded_as_it_was_asked_for(
    producer: ProducerClient, queue: Queue
) -> None:
    """Sizes, codec, metadata."""
    id_ = producer.insert_submission(
        range(25),
        chunk_size=10,
        metadata=b"m",
        strategic_metadata={"customer": 7},
        max_attempts=3,
    )

    found = queue.get_submission(id_)

    assert (
        found.chunks_total,
        found.chunk_size,
        found.operations_total,
        found.max_attempts,
    ) == (3, 10, 25, 3)
    assert (
        found.metadata,
        found.strategic_metadata,
        found.codec,
    ) == (b"m", {"customer": 7}, "cbor+zstd")


def test_an_endless_iterable_is_consumed_a_few_chunks_ahead_only(
    api: RedisBackend, queue_name: str
) -> None:
    """Memory is bounded: a chunk is not made before there is room to upload it."""

    class FullStore(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            del key, data
            message = "the disk is full"
            raise StoreUnavailableError(message)

    producer = ProducerClient.over(
        api, FullStore(queue_name), queue=queue_name, inline_bytes=0, at_once=4
    )
    operations = count()

    with pytest.raises(StoreUnavailableError):
        producer.insert_submission(operations, chunk_size=10)

    assert next(operations) <= 10 * (4 + 1)


@pytest.mark.parametrize("chunk_size", [0, -1, "3", 2.5, None])
def test_a_chunk_has_at_least_one_operation(producer: ProducerClient, chunk_size: Any) -> None:
    """Refused before anything is consumed."""
    operations = iter([1])

    with pytest.raises(ChunkSizeIsZeroError):
        producer.insert_submission(operations, chunk_size=chunk_size)

    assert list(operations) == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"metadata": b"x" * (MAX_METADATA_BYTES + 1)},
        {"strategic_metadata": {"": 1}},
        {"idempotency_key": ""},
        {"idempotency_key": "ü"},
        {"retention": "7d"},
    ],
)
def test_wrong_values_are_refused_before_anything_is_consumed(
    producer: ProducerClient, wrong: dict[str, Any]
) -> None:
    """A million operations must not be uploaded for that."""
    operations = iter([1])

    with pytest.raises(InvalidArgumentError):
        producer.insert_submission(operations, chunk_size=1, **wrong)

    assert list(operations) == [1]


@pytest.mark.parametrize("text", ["one operation", b"bytes"])
def test_a_text_is_not_taken_for_its_characters(producer: ProducerClient, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="would be one operation per character"):
        producer.insert_submission(text, chunk_size=1)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_the_iterable_raises_is_raised_and_its_upload_deleted(
    producer: ProducerClient, store: MemoryStore, queue: Queue, error: type[BaseException]
) -> None:
    """Nothing is inserted and nothing stays in the store; the error's cause is the Exception."""

    def operations() -> Iterator[int]:
        yield from range(50)
        raise error

    with pytest.raises((ChunksStorageError, KeyboardInterrupt)) as raised:
        producer.insert_submission(operations(), chunk_size=1)

    assert error in {type(raised.value), type(raised.value.__cause__)}

    assert list(store.list_prefix("")) == []
    assert listed(queue, SubmissionState.IN_PROGRESS) == []


def test_the_first_error_is_raised_when_the_upload_cannot_be_deleted(
    api: RedisBackend, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The remaining objects are logged."""

    class KeepingStore(MemoryStore):
        def delete_prefix(self, prefix: str) -> int:
            message = f"no permission to delete {prefix}"
            raise StoreUnavailableError(message)

    def operations() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    producer = ProducerClient.over(api, KeepingStore(queue_name), queue=queue_name, inline_bytes=0)

    with pytest.raises(ChunksStorageError, match="ZeroDivisionError"):
        producer.insert_submission(operations(), chunk_size=1)

    assert "unused objects stay below" in caplog.text


def test_an_operation_that_cannot_be_encoded_is_named(
    producer: ProducerClient, store: MemoryStore
) -> None:
    """The error names chunk and position, and the upload is deleted."""
    with pytest.raises(EncodingError, match=r"chunk 1: .* operation 1 of the chunk"):
        producer.insert_submission([1, 2, 3, object()], chunk_size=2)

    assert list(store.list_prefix("")) == []


def test_the_same_idempotency_key_gives_the_first_submission(
    producer: ProducerClient, store: MemoryStore, queue: Queue
) -> None:
    """And the second upload is deleted, the first one's stays."""
    first = producer.insert_submission([1, 2], chunk_size=1, idempotency_key="k")

    second = producer.insert_submission([1, 2], chunk_size=1, idempotency_key="k")

    prefix = queue.get_submission(first).prefix
    assert first == second
    assert {f"{prefix}/0-in", f"{prefix}/1-in", f"{prefix}/manifest"} == set(store.list_prefix(""))


def test_a_key_that_comes_with_another_request_is_refused_and_its_upload_deleted(
    producer: ProducerClient, store: MemoryStore
) -> None:
    """An upload is made again after a crash: it is compared by its number of operations alone."""
    first = producer.insert_submission([1, 2], chunk_size=1, idempotency_key="k")
    stored = set(store.list_prefix(""))

    again = producer.insert_submission(iter([2, 1]), chunk_size=1, idempotency_key="k")
    with pytest.raises(IdempotencyKeyReusedError, match=rf"{first}.* operations_total") as raised:
        producer.insert_submission([1, 2, 3], chunk_size=1, idempotency_key="k")

    assert (first, first) == (again, raised.value.submission_id)
    assert stored == set(store.list_prefix(""))


def test_submissions_without_a_key_are_two(producer: ProducerClient) -> None:
    """The client creates a new key for each."""
    ids = {producer.insert_submission([1], chunk_size=1) for _ in range(2)}

    assert len(ids) == 2


class Answers(Queue):
    """A back end that refuses, or inserts and then answers as the test chooses."""

    error: Exception | None = None

    def insert_submission(self, new: NewSubmission, **options: Any) -> Inserted:
        if isinstance(self.error, IncorrectUsageError):
            raise self.error
        super().insert_submission(new, **options)
        if self.error:
            raise self.error
        # As a request repeated after a lost answer finds it: known already.
        return super().insert_submission(new, **options)


@pytest.fixture
def answers(client: redis.Redis, queue_name: str) -> Answers:
    return Answers(client, queue_name)


def test_an_insert_that_finds_itself_keeps_its_upload(
    answers: Answers, store: MemoryStore, client: redis.Redis
) -> None:
    """A known key is no proof that the upload is unused: the prefix is."""
    api = RedisBackend(client, queue_of=lambda _: answers)
    producer = ProducerClient.over(api, store, queue=answers.name, inline_bytes=0)

    producer.insert_submission([1], chunk_size=1)

    assert len(list(store.list_prefix(""))) == 2


@pytest.mark.parametrize(
    ("error", "objects"),
    [(ApiUnavailableError("no answer"), 2), (InvalidArgumentError("no"), 0)],
)
def test_an_upload_is_deleted_after_a_refusal_alone(
    answers: Answers, store: MemoryStore, client: redis.Redis, error: Exception, objects: int
) -> None:
    """After a lost answer a submission may be using it."""
    api = RedisBackend(client, queue_of=lambda _: answers)
    producer = ProducerClient.over(api, store, queue=answers.name, inline_bytes=0)
    answers.error = error

    with pytest.raises(type(error)):
        producer.insert_submission([1], chunk_size=1)

    assert objects == len(list(store.list_prefix("")))


def test_an_api_that_does_not_answer_is_found_out_before_the_upload(
    client: redis.Redis, store: MemoryStore
) -> None:
    """Not after an hour of it."""

    class Down(RedisBackend):
        def version(self) -> str:
            message = "nobody listens"
            raise ApiUnavailableError(message)

    producer = ProducerClient.over(Down(client), store)
    operations = iter([1])

    with pytest.raises(ApiUnavailableError):
        producer.insert_submission(operations, chunk_size=1)

    assert list(operations) == [1]


def test_submissions_in_progress_are_counted(producer: ProducerClient) -> None:
    """Ended submissions are not counted."""
    producer.insert_submission([1], chunk_size=1)
    producer.insert_submission([], chunk_size=1)

    assert producer.count_submissions() == 1


@pytest.mark.parametrize(
    "wrong", [{"queue": "a b"}, {"at_once": 0}, {"codec": "yaml"}, {"codec": "pickle"}]
)
def test_wrong_arguments_are_refused_at_once(
    api: RedisBackend, store: MemoryStore, wrong: dict[str, Any]
) -> None:
    """Not at the first call."""
    with pytest.raises(InvalidArgumentError):
        ProducerClient.over(api, store, **wrong)


def test_a_client_shows_no_secrets(queue_name: str) -> None:
    """Its repr has the URLs without token and password."""
    with ProducerClient(
        "http://user:hidden@127.0.0.1:1",
        f"memory://{queue_name}",
        token="hidden",  # noqa: S106 no secret of anybody
    ) as producer:
        text = repr(producer)

    assert "hidden" not in text
    assert "127.0.0.1:1" in text


@pytest.mark.parametrize("retention", [timedelta(minutes=1), 60, 60.0])
def test_a_retention_is_given_as_timedelta_or_seconds(
    store: MemoryStore,
    fake_client: redis.Redis,
    queue_name: str,
    retention: timedelta | float,
) -> None:
    """And inputs may go before the rest."""
    clock = Clock()
    queue = Queue(fake_client, queue_name, clock=clock)
    api = RedisBackend(fake_client, queue_of=lambda _: queue)
    producer = ProducerClient.over(api, store, queue=queue_name, inline_bytes=0)

    producer.insert_submission(
        [1], chunk_size=1, retention=retention, delete_inputs_at_completion=True
    )
    queue.complete_chunks([take_one(queue).token])

    assert len(queue.delete_inputs()) == 1
    clock.advance(59_999)
    assert queue.forget_submissions().submissions == 0
    clock.advance(1)
    assert queue.forget_submissions().submissions == 1


def test_a_negative_retention_is_refused(producer: ProducerClient) -> None:
    """The refusal comes before anything is consumed."""
    with pytest.raises(InvalidArgumentError, match="seconds, from 0"):
        producer.insert_submission([1], chunk_size=1, retention=-1)


def test_a_client_that_is_given_another_queue_submits_there(
    producer: ProducerClient, queue: Queue, client: redis.Redis
) -> None:
    """It also reads and waits there."""
    producer.queue = f"{queue.name}-other"

    id_ = producer.insert_submission([1], chunk_size=1)

    assert producer.get_submission(id_).queue == producer.queue
    assert Queue(client, producer.queue).get_submission(id_).prefix.startswith(producer.queue)


class TakenMeanwhile(Queue):
    """A store during whose upload another producer inserts under the same prefix."""

    def insert_submission(self, new: NewSubmission, **options: Any) -> Inserted:
        stranger = msgspec.structs.replace(new, chunks_total=5, operations_total=5)
        super().insert_submission(stranger)
        return super().insert_submission(new, **options)


def test_a_strangers_submission_is_no_answer_to_an_insert_with_a_chosen_prefix(
    client: redis.Redis, store: MemoryStore, queue_name: str
) -> None:
    """Unlike a fresh prefix, which nobody else can have."""
    queue = TakenMeanwhile(client, queue_name)
    new = NewSubmission(prefix=fresh_prefix(queue_name), chunks_total=1, inline=[b"[1]"])
    inserter = SubmissionInserter(queue, store, inline_bytes=0)

    with pytest.raises(PrefixTakenError):
        inserter.insert_encoded(new, "key")


class Frame:
    """Iterates over its column names, as data frames do."""

    @property
    def columns(self) -> list[str]:
        return ["a", "b"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class PandasFrame(Frame):
    """A data frame like those of pandas, modin, dask and Spark."""

    def groupby(self, by: str) -> None: ...


class PolarsFrame(Frame):
    """It has no `__dataframe__` since 2.0, and no `groupby`."""

    def collect_schema(self) -> None: ...


class ArrowTable(Frame):
    """A table like those of pyarrow, with the interchange protocol."""

    def __dataframe__(self) -> None: ...


class Query(Frame):
    """A query like those of peewee, whose items are rows."""

    def group_by(self, *columns: str) -> None: ...


@pytest.mark.parametrize(
    ("ops", "meant"),
    [
        ({"a": 1}, r"ops\.items\(\), ops\.values\(\), or \[ops\]"),
        (Counter("abc"), "is a Counter, whose keys"),
        (MappingProxyType({"a": 1}), "whose keys"),
        (ChainMap({"a": 1}), "whose keys"),
        (PandasFrame(), r"columns or their names would be the operations: .*'records'"),
        (PolarsFrame(), r"is a PolarsFrame, whose columns .*to_dicts\(\)"),
        (ArrowTable(), r"is a ArrowTable, whose columns .*to_pylist\(\)"),
        (bytearray(b"abc"), "one operation per character"),
        ("abc", "one operation per character"),
        (3, "ops is 3: give an iterable"),
    ],
)
def test_what_iterates_over_names_is_refused_as_operations(
    producer: ProducerClient, ops: Iterable[Any], meant: str
) -> None:
    """It says what was probably meant; views and iterators over it are fine."""
    with pytest.raises(InvalidArgumentError, match=meant):
        producer.insert_submission(ops, chunk_size=2)

    with pytest.raises(InvalidArgumentError, match=meant):
        asyncio.run(producer.async_insert_submission(ops, chunk_size=2))
    with pytest.raises(InvalidArgumentError, match=meant):
        asyncio.run(producer.async_run_submission(ops, chunk_size=2))

    assert 0 == producer.count_submissions()
    producer.insert_submission({"a": 1}.items(), chunk_size=2)
    asyncio.run(producer.async_insert_submission(Query(), chunk_size=2))
