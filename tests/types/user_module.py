"""A user's module with the types of its expressions; it is never run.

Both type checkers need every `type: ignore` here: each marks a mistake that they must find.
"""

import functools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any, assert_type

import opsqueue.consumer
from opsqueue import Chunk, Opsqueue, Strategy
from opsqueue.consumer import ConsumerClient
from opsqueue.exceptions import OpsqueueError, SubmissionFailedError
from opsqueue.producer import (
    Backoff,
    OperationFailed,
    ProducerClient,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
    SubmissionStatus,
)
from opsqueue.testing import Faults, LocalOpsqueue, local

# Handlers: decorated functions keep their types.

app = Opsqueue()


@app.operation_handler("numbers", concurrency=4, on_error="collect")
def increment(number: int) -> int:
    return number + 1


@app.chunk_handler("rows", strategy=Strategy.PreferDistinct("customer", Strategy.Oldest()))
def double(rows: list[int], chunk: Chunk) -> list[int]:
    assert_type(chunk.submission_id, SubmissionId)
    assert_type(chunk.metadata, bytes | None)
    assert_type(chunk.is_revoked(), bool)
    return [2 * row for row in rows]


@app.operation_handler("pages", time_limit=30.0, soft_time_limit=20.0)
async def fetch(url: str) -> bytes:
    return url.encode()


@app.on_worker_start
def connect() -> None: ...


def call_them(chunk: Chunk) -> None:
    assert_type(increment(1), int)
    assert_type(double([1], chunk), list[int])


app.operation_handler(increment)  # type: ignore[arg-type]
app.operation_handler("numbers", on_error="ignore")  # type: ignore[arg-type]
app.chunk_handler("rows", concurrency=2)  # type: ignore[call-arg]
app.chunk_handler("rows", strategy="Oldest")  # type: ignore[arg-type]
app.operation_handler("numbers")(3)  # type: ignore[type-var]

# Any callable that can work is a handler, with or without `chunk`, and keeps its type.


def scale(number: int, by: int) -> int:
    return number * by


def scale_rows(rows: Sequence[int], *, chunk: Chunk, by: int = 2) -> Sequence[int]:
    return [row * by for row in rows]


async def double_rows(rows: list[int]) -> tuple[int, ...]:
    return tuple(row * 2 for row in rows)


class Doubler:
    def __call__(self, number: int) -> int:
        return number * 2

    async def later(self, number: int, chunk: Chunk) -> int:
        return number * 2 + chunk.retries


assert_type(
    app.operation_handler("numbers")(functools.partial(scale, by=2)), functools.partial[int]
)
assert_type(app.operation_handler("numbers")(Doubler()), Doubler)
app.operation_handler("numbers")(Doubler().later)
app.operation_handler("numbers")(abs)
app.operation_handler("numbers")(int)
app.chunk_handler("rows")(scale_rows)
app.chunk_handler("rows")(double_rows)
app.chunk_handler("rows")(sorted)

# What can't work is not.


def of_number(number: int) -> list[int]:
    return [number]


def of_two(rows: list[int], more: list[int]) -> list[int]:
    return rows + more


def of_list_as_chunk(rows: list[int], chunk: list[int]) -> list[int]:
    return rows + chunk


def to_text(rows: list[int]) -> str:
    return "".join(map(str, rows))


def to_mapping(rows: list[int]) -> dict[int, int]:
    return dict.fromkeys(rows, 1)


async def to_bytes(rows: list[int]) -> bytes:
    return bytes(rows)


def to_generator(rows: list[int]) -> Iterator[int]:
    yield from rows


async def to_asynchronous_generator(rows: list[int]) -> AsyncIterator[int]:
    yield rows[0]


app.operation_handler("numbers")(scale)  # type: ignore[type-var]
app.operation_handler("numbers")(Doubler)  # type: ignore[type-var]
app.chunk_handler("rows")(of_number)  # type: ignore[type-var]
app.chunk_handler("rows")(of_two)  # type: ignore[type-var]
app.chunk_handler("rows")(of_list_as_chunk)  # type: ignore[type-var]
app.chunk_handler("rows")(to_text)  # type: ignore[type-var]
app.chunk_handler("rows")(to_mapping)  # type: ignore[type-var]
app.chunk_handler("rows")(to_bytes)  # type: ignore[type-var]
app.chunk_handler("rows")(to_generator)  # type: ignore[type-var]
app.chunk_handler("rows")(to_asynchronous_generator)  # type: ignore[type-var]

# Hooks, and apps in apps.


@app.on_chunk_failure
def observe_chunk(error: BaseException, chunk: Chunk) -> None:
    assert_type(chunk.first_index, int)


@app.on_operation_error
def observe_operation(error: BaseException, chunk: Chunk, index: int, operation: Any) -> None: ...


app.include(Opsqueue())
app.include("tasks:app")  # type: ignore[arg-type]
app.on_chunk_failure(connect)  # type: ignore[type-var]
app.on_operation_error(observe_chunk)  # type: ignore[type-var]
app.on_worker_start(observe_chunk)  # type: ignore[type-var]

# Strategies

Strategy.Highest("priority", Strategy.Newest())
Strategy.MaxSimultaneous("api", 5)
Strategy.Highest(3)  # type: ignore[arg-type]
Strategy.Slowest()  # type: ignore[attr-defined]


# Producers


def produce(producer: ProducerClient) -> None:
    id_ = producer.insert_submission(
        (number for number in range(10)),
        chunk_size=5,
        strategic_metadata={"customer": 7},
        backoff=Backoff(first_ms=100, max_ms=1_000),
        retention=timedelta(days=1),
    )
    assert_type(id_, SubmissionId)
    assert_type(producer.wait_for_submission(id_, timeout=1.5), Submission)
    assert_type(producer.get_submission(id_).state, SubmissionState)
    assert_type(producer.retry_submission(id_, only="failed"), SubmissionId)
    assert_type(producer.count_submissions(), int)
    for result in producer.iter_results(id_, errors="yield"):
        assert_type(result, Any)
        if isinstance(result, OperationFailed):
            assert_type(result.message, str)
    for content in producer.run_submission_chunks([b"1"]):
        assert_type(content, bytes)
    for submission in producer.list_submissions(SubmissionFilter()):
        assert_type(submission, Submission)
    status = producer.get_submission_status(id_)
    assert_type(status, SubmissionStatus | None)
    if isinstance(status, SubmissionStatus.InProgress):
        assert_type(status.submission, Submission)

    producer.insert_submission([1])  # type: ignore[call-arg]
    producer.insert_submission(3, chunk_size=1)  # type: ignore[arg-type]
    producer.insert_submission([1], chunk_size=1, prio=3)  # type: ignore[call-arg]
    producer.run_submission([1], chunk_size=1, errors="drop")  # type: ignore[arg-type]
    producer.run_submission([1], chunk_size=1, retentoin=3)  # type: ignore[call-arg]
    producer.get_submission("41")  # type: ignore[arg-type]
    producer.retry_submission(id_, only="all")  # type: ignore[call-overload]


async def produce_asynchronously(producer: ProducerClient, operations: AsyncIterator[int]) -> None:
    id_ = await producer.async_insert_submission(operations, chunk_size=5)
    assert_type(id_, SubmissionId)
    assert_type(await producer.async_wait_for_submission(id_), Submission)
    async for result in await producer.async_iter_results(id_):
        assert_type(result, Any)

    producer.insert_submission(operations, chunk_size=5)  # type: ignore[arg-type]


def open_producer() -> None:
    with ProducerClient("http://host:3999", "s3://bucket", queue="numbers") as producer:
        assert_type(producer, ProducerClient)
    ProducerClient("http://host:3999")  # type: ignore[call-arg]
    ProducerClient("http://host:3999", "s3://bucket", queue=3)  # type: ignore[arg-type]


# Consumers


def consume(consumer: ConsumerClient) -> None:
    def callback(operations: Sequence[int], chunk: opsqueue.consumer.Chunk) -> list[int]:
        assert_type(chunk.submission_id, SubmissionId)
        return [operation + 1 for operation in operations]

    consumer.run_each_op(increment)
    consumer.run_each_op(fetch)
    consumer.run_each_chunk(callback, strategy=Strategy.Random())
    for chunk in consumer.reserve_chunks(10):
        assert_type(chunk, opsqueue.consumer.Chunk)
        consumer.complete_chunk(chunk.submission_id, None, chunk.chunk_index, b"")

    consumer.run_each_chunk(increment)  # type: ignore[arg-type]
    consumer.run_each_op(increment, strategy=Strategy.Random)  # type: ignore[arg-type]
    consumer.complete_chunk(SubmissionId("41"), None, 0, "text")  # type: ignore[arg-type]


# Tests, and what can go wrong


def run_locally() -> Iterator[None]:
    with local(app) as queues:
        assert_type(queues, LocalOpsqueue)
        assert_type(list(queues.run_submission("numbers", [1, 2])), list[Any])
        assert_type(queues.producer("numbers"), ProducerClient)
    faults = Faults(seed=7, kill=0.1, expire=0.05, store_errors=0.05)
    with local(app, faults=faults) as queues:
        assert_type(faults.report.injected, Counter[str])
    local(app, faults=7)  # type: ignore[arg-type]
    yield


def handle(exc: SubmissionFailedError) -> None:
    caught: OpsqueueError = exc
    assert_type(str(caught), str)
