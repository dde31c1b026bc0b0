"""ConsumerClient, over Redis and over the real app: the same calls, the same outcomes."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cbor2
import httpx
import pytest
import redis

from opsqueue.chunk import Completed
from opsqueue.chunk_api import ChunkApi, QueueChunkApi
from opsqueue.consumer import Chunk, ChunkIndex, ConsumerClient, Strategy
from opsqueue.exceptions import (
    ChunkNotFoundError,
    EncodingError,
    IncorrectUsageError,
    InvalidArgumentError,
)
from opsqueue.http_chunk_api import HttpChunkApi
from opsqueue.producer import Backoff, ProducerClient
from opsqueue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from opsqueue.submission import Submission, SubmissionId, SubmissionState
from opsqueue.submission_api import QueueApi
from opsqueue_api.app import App

NO_WAIT = Backoff(first_ms=0, max_ms=0)
OLDEST = Strategy.Oldest()
Insert = Callable[..., SubmissionId]


@pytest.fixture
def client(real_client: redis.Redis) -> redis.Redis:
    """A real server alone: fakeredis has the state machine's own suite."""
    return real_client


@pytest.fixture(params=["redis", "http"])
def api(request: pytest.FixtureRequest, app: App, queue: Queue) -> Iterator[ChunkApi]:
    if request.param == "redis":
        yield QueueChunkApi(queue, "consumer")
        return
    http = HttpChunkApi("http://api", queue.name, "consumer", transport=httpx.WSGITransport(app))
    yield http
    http.close()


@pytest.fixture
def consumer(api: ChunkApi, store: ObjectStore, queue: Queue) -> Iterator[ConsumerClient]:
    with ConsumerClient.over(api, store, queue=queue.name, heartbeat_interval_s=60) as consumer:
        yield consumer


@pytest.fixture
def producer(client: redis.Redis, store: ObjectStore, queue_name: str) -> ProducerClient:
    """All goes to the store; test_inline.py has what does not."""
    return ProducerClient.over(QueueApi(client), store, queue=queue_name, inline_bytes=0)


@pytest.fixture
def insert(producer: ProducerClient) -> Insert:
    return partial(producer.insert_submission, chunk_size=2, backoff=NO_WAIT)


@pytest.fixture
def run(consumer: ConsumerClient, queue: Queue) -> Callable[..., Submission]:
    """Runs a method of the consumer until the submission has ended; gives what became of it."""

    def run_until_ended(
        method: Callable[..., None],
        callback: Callable[..., Any],
        submission_id: SubmissionId,
        **options: Any,
    ) -> Submission:
        settle = consumer._hand.settle

        def settle_and_look(*arguments: Any, **more: Any) -> None:
            settle(*arguments, **more)
            if queue.get_submission(submission_id).state is not SubmissionState.IN_PROGRESS:
                consumer.stop()

        consumer._hand.settle = settle_and_look  # type: ignore[method-assign]
        method(callback, **options)
        return queue.get_submission(submission_id)

    return run_until_ended


def test_each_operation_has_its_result(
    consumer: ConsumerClient, producer: ProducerClient, insert: Insert, run
) -> None:
    """In the order of the input; the codec is the one that is recorded."""
    id_ = insert(range(7))

    run(consumer.run_each_op, lambda number: number + 1, id_)

    assert list(range(1, 8)) == list(producer.try_stream_completed_submission(id_))


def test_a_chunk_callback_is_told_of_its_chunk(
    consumer: ConsumerClient, producer: ProducerClient, run
) -> None:
    """With the attributes of the reference's class."""
    seen: list[Chunk] = []
    id_ = producer.insert_submission(
        ["a", "b"], chunk_size=2, metadata=b"\x00m", strategic_metadata={"customer": 3}
    )

    def callback(ops: Any, chunk: Chunk) -> list[str]:
        seen.append(chunk)
        return [op.upper() for op in ops]

    ended = run(consumer.run_each_chunk, callback, id_, strategy=Strategy.Newest())

    (chunk,) = seen
    assert (id_, ChunkIndex(0), 0, ended.prefix, b"\x00m", {}) == (
        chunk.submission_id,
        chunk.chunk_index,
        chunk.retries,
        chunk.submission_prefix,
        chunk.submission_metadata,
        chunk.submission_otel_trace_carrier,
    )
    assert chunk.submission_strategic_metadata == {"customer": 3}
    assert not chunk.is_void()
    assert ["A", "B"] == list(producer.try_stream_completed_submission(id_))


def test_a_raw_callback_has_bytes_on_both_sides(
    consumer: ConsumerClient, store: ObjectStore, insert: Insert, run
) -> None:
    """As they lie in the store."""
    id_ = insert([1])

    ended = run(consumer.run_each_chunk_raw, lambda chunk: b"<" + chunk.input_content, id_)

    given = store.get(input_key(ended.prefix, 0))
    assert b"<" + given == store.get(output_key(ended.prefix, 0))


@pytest.mark.parametrize("form", [cbor2, pickle, json])
def test_a_serialization_format_takes_the_codecs_place(
    consumer: ConsumerClient, store: ObjectStore, insert: Insert, run, form: Any
) -> None:
    """Any object with dumps and loads; a tuple is a chunk, too."""
    id_ = insert([1, 2])
    prefix = consumer.reserve_chunks()[0].submission_prefix
    consumer.release_chunk(id_, 0)
    written = form.dumps((1, 2))
    store.delete_prefix(prefix)
    store.create(input_key(prefix, 0), written if isinstance(written, bytes) else written.encode())

    run(consumer.run_each_op, lambda number: -number, id_, serialization_format=form)

    assert [-1, -2] == form.loads(store.get(output_key(prefix, 0)))


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (lambda ops, _chunk: ops[1:], "returned 1 results for 2 operations"),
        (lambda _ops, _chunk: None, "returned NoneType"),
        (lambda _ops, _chunk: "ab", "returned str"),
        (lambda _ops, _chunk: [object(), 1], "can't carry operation 0"),
    ],
)
def test_a_wrong_result_fails_the_attempt(
    consumer: ConsumerClient, insert: Insert, run, callback: Any, says: str
) -> None:
    """Where the reference would have stored it."""
    id_ = insert([1, 2], max_attempts=1)

    failure = run(consumer.run_each_chunk, callback, id_).failure

    assert failure is not None
    assert failure.type == "EncodingError"
    assert says in failure.message


def test_an_exception_fails_the_attempt_and_the_loop_goes_on(
    consumer: ConsumerClient, producer: ProducerClient, insert: Insert, run
) -> None:
    """The failure has type, message and the callback's own lines."""
    seen: list[int] = []

    def callback(ops: Any, chunk: Chunk) -> Any:
        seen.append(chunk.retries)
        if chunk.retries == 0:
            message = "no luck"
            raise ValueError(message)
        return ops

    ended = run(consumer.run_each_chunk, callback, insert([1, 2]))

    assert seen == [0, 1]
    assert ended.state is SubmissionState.COMPLETED
    assert ended.last_failure is not None
    assert ended.last_failure.text.endswith("ValueError: no luck")
    assert "test_consumer.py" in ended.last_failure.traceback
    assert "opsqueue/callback.py" not in ended.last_failure.traceback


def test_ctrl_c_in_a_callback_is_raised_and_gives_the_chunk_back(
    consumer: ConsumerClient, queue: Queue, insert: Insert
) -> None:
    """Without using an attempt."""
    id_ = insert([1])

    def callback(_op: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consumer.run_each_op(callback)

    assert queue.get_submission(id_).chunks_in_hand == 0
    assert queue.reserve_chunks("another").chunks[0].attempt == 1


def test_the_end_of_the_program_in_a_callback_is_raised_and_fails_the_attempt(
    consumer: ConsumerClient, queue: Queue, insert: Insert
) -> None:
    """A chunk that ends its consumers must end itself."""
    insert([1])

    with pytest.raises(SystemExit):
        consumer.run_each_op(lambda _op: sys.exit(3))

    assert queue.reserve_chunks("another").chunks[0].attempt == 2


def test_single_steps_take_the_newest_by_default(
    consumer: ConsumerClient, insert: Insert, producer: ProducerClient
) -> None:
    """The reference's own default is a class, and can't be used."""
    older, newer = insert([1]), insert([2])

    (chunk,) = consumer.reserve_chunks()
    consumer.complete_chunk(
        chunk.submission_id, chunk.submission_prefix, chunk.chunk_index, chunk.input_content
    )

    assert newer == chunk.submission_id
    assert [2] == list(producer.try_stream_completed_submission(newer))
    assert older == consumer.reserve_chunks()[0].submission_id


def test_several_chunks_at_once_come_as_the_strategy_says(
    consumer: ConsumerClient, producer: ProducerClient
) -> None:
    """At most `max`, with their contents."""
    for value in (1, 2, 1):
        producer.insert_submission(range(4), chunk_size=1, strategic_metadata={"customer": value})

    only = consumer.reserve_chunks(3, Strategy.SelectOnly("customer", 2))
    fair = consumer.reserve_chunks(2, Strategy.MaxSimultaneous("customer", 2, OLDEST))

    assert [{"customer": 2}] * 3 == [chunk.submission_strategic_metadata for chunk in only]
    assert [{"customer": 1}] * 2 == [chunk.submission_strategic_metadata for chunk in fair]
    assert [0, 1] == [chunk.chunk_index.id for chunk in fair]
    assert all(chunk.input_content for chunk in fair)


def test_a_failure_is_told_as_a_text(
    consumer: ConsumerClient, queue: Queue, insert: Insert
) -> None:
    """As the reference's call has it; the submission shows just that."""
    id_ = insert([1], max_attempts=1)
    (chunk,) = consumer.reserve_chunks()

    consumer.fail_chunk(chunk.submission_id, chunk.submission_prefix, chunk.chunk_index, "so what")

    failure = queue.get_submission(id_).failure
    assert failure is not None
    assert failure.text == "so what"


def test_a_released_chunk_keeps_its_attempt(consumer: ConsumerClient, insert: Insert) -> None:
    """And can be had again at once."""
    id_ = insert([1])
    consumer.reserve_chunks()

    consumer.release_chunk(id_, 0)

    assert consumer.reserve_chunks()[0].retries == 0


def test_a_second_report_changes_nothing(
    consumer: ConsumerClient, queue: Queue, insert: Insert, caplog: pytest.LogCaptureFixture
) -> None:
    """Complete then fail, which the reference lets pass."""
    id_ = insert([1])
    (chunk,) = consumer.reserve_chunks()
    consumer.complete_chunk(id_, None, 0, chunk.input_content)

    consumer.fail_chunk(id_, None, ChunkIndex(0), "too late")

    assert queue.get_submission(id_).state is SubmissionState.COMPLETED
    assert "was reported before" in caplog.text


def test_a_chunk_that_was_never_held_is_an_error(consumer: ConsumerClient) -> None:
    """Its token is with the client that reserved it."""
    with pytest.raises(ChunkNotFoundError, match="not in this consumer's hands") as raised:
        consumer.complete_chunk(SubmissionId(41), None, 7, b"")

    assert (41, 7) == (raised.value.submission_id, raised.value.chunk_index)


def test_a_lost_chunk_is_left_to_whoever_has_it(
    consumer: ConsumerClient,
    queue: Queue,
    store: ObjectStore,
    insert: Insert,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A late output replaces nothing, a late report counts nothing."""
    id_ = insert([1])
    (chunk,) = consumer.reserve_chunks()
    queue.release_chunks(consumer._hand.tokens())
    (other,) = queue.reserve_chunks("another").chunks
    store.create(output_key(chunk.submission_prefix, 0), b"first")
    outcome = queue.complete_chunks([other.token])

    consumer.complete_chunk(id_, chunk.submission_prefix, 0, b"second")

    assert isinstance(outcome[0], Completed)
    assert store.get(output_key(chunk.submission_prefix, 0)) == b"first"
    assert queue.get_submission(id_).chunks_done == 1
    assert "lost chunk" in caplog.text


def test_a_cancelled_submissions_chunk_is_void(
    consumer: ConsumerClient, queue: Queue, insert: Insert
) -> None:
    """Since the next heartbeat."""
    (chunk,) = [insert([1])] and consumer.reserve_chunks()
    queue.cancel_submission(chunk.submission_id)

    consumer._hand.beat()

    assert chunk.is_void()


def test_an_output_that_is_there_completes_the_chunk(
    consumer: ConsumerClient, queue: Queue, store: ObjectStore, insert: Insert, run
) -> None:
    """An attempt that stored it and died has done the work."""
    id_ = insert([1])
    (chunk,) = consumer.reserve_chunks()
    store.create(output_key(chunk.submission_prefix, 0), chunk.input_content)
    consumer.fail_chunk(id_, None, 0, "died")

    run(consumer.run_each_op, lambda _op: pytest.fail("it ran again"), id_)

    assert queue.get_submission(id_).state is SubmissionState.COMPLETED


def test_a_chunk_without_input_fails_at_once(
    consumer: ConsumerClient, queue: Queue, store: ObjectStore, insert: Insert
) -> None:
    """And the caller gets those that have one."""
    lacking, whole = insert([1], max_attempts=1), insert([2])
    store.delete_prefix(queue.get_submission(lacking).prefix)

    chunks = consumer.reserve_chunks(2, OLDEST)

    failure = queue.get_submission(lacking).failure
    assert [whole] == [chunk.submission_id for chunk in chunks]
    assert failure is not None
    assert failure.type == "InputMissing"


def test_closing_gives_back_what_is_held(
    consumer: ConsumerClient, queue: Queue, insert: Insert
) -> None:
    """At once, without using an attempt; the worker is known no more."""
    insert([1])
    consumer.reserve_chunks()
    assert [worker.name for worker in queue.list_workers()] == ["consumer"]

    consumer.close()

    assert queue.list_workers() == []
    assert queue.reserve_chunks("another").chunks[0].attempt == 1


@pytest.mark.parametrize("max_", [0, -1])
def test_no_chunks_can_not_be_asked_for(consumer: ConsumerClient, max_: int) -> None:
    """IncorrectUsageError, as in the reference."""
    with pytest.raises(IncorrectUsageError, match="give 1 or more"):
        consumer.reserve_chunks(max_)


def test_what_is_no_strategy_and_what_is_no_format_is_refused(consumer: ConsumerClient) -> None:
    """Before anything is reserved."""
    with pytest.raises(InvalidArgumentError, match="give an instance"):
        consumer.reserve_chunks(1, Strategy.Newest)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="no dumps and loads"):
        consumer.run_each_op(print, serialization_format=math_like)


def test_an_output_that_is_no_bytes_is_refused(consumer: ConsumerClient, insert: Insert) -> None:
    """At the call; the chunk is still in hand."""
    id_ = insert([1])
    consumer.reserve_chunks()

    with pytest.raises(EncodingError, match="give bytes"):
        consumer.complete_chunk(id_, None, 0, "text")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="is not that of submission"):
        consumer.complete_chunk(id_, "elsewhere", 0, b"")
    consumer.release_chunk(id_, 0)


class math_like:  # noqa: N801 a module in real life
    """Has neither dumps nor loads."""
