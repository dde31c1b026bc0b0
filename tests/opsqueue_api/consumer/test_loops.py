"""`run_each_op` and its sisters: a callback for each operation, chunk or chunk's bytes."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cbor2
import pytest

from opsqueue.consumer import Chunk, ChunkIndex, ConsumerClient, Strategy
from opsqueue.contents.chunks import fresh_prefix
from opsqueue.contents.codec import PRODUCER_CODEC, open_codec
from opsqueue.exceptions import IncorrectUsageError, InvalidArgumentError
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from tests.opsqueue_api.consumer.conftest import Run

Insert = Callable[..., SubmissionId]


class LenientJson:
    """Writes the text of what it can't carry."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value, default=str).encode()

    loads = staticmethod(json.loads)


def test_each_operation_has_its_result(
    consumer: ConsumerClient, producer: ProducerClient, insert: Insert, run: Run
) -> None:
    """In the order of the input; the codec is the one that is recorded."""
    id_ = insert(range(7))

    run(consumer.run_each_op, lambda number: number + 1, id_)

    assert list(range(1, 8)) == list(producer.try_stream_completed_submission(id_))


def test_a_chunk_callback_is_told_of_its_chunk(
    consumer: ConsumerClient, producer: ProducerClient, run: Run
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
    assert not chunk.is_revoked()
    assert ["A", "B"] == list(producer.try_stream_completed_submission(id_))


def test_a_raw_callback_has_bytes_on_both_sides(
    consumer: ConsumerClient, store: ObjectStore, insert: Insert, run: Run
) -> None:
    """As they lie in the store, but not compressed."""
    id_ = insert([1])
    output = cbor2.dumps(["one"])
    given = []

    def callback(chunk: Chunk) -> bytes:
        given.append(chunk.input_content)
        return output

    ended = run(consumer.run_each_chunk_raw, callback, id_)

    codec = open_codec(PRODUCER_CODEC)
    assert [cbor2.dumps([1])] == given
    assert [1] == codec.decode(store.get(input_key(ended.prefix, 0)))
    assert ["one"] == codec.decode(store.get(output_key(ended.prefix, 0)))


@pytest.mark.parametrize(
    "output",
    [b"", b"text", open_codec(PRODUCER_CODEC).encode([1]), cbor2.dumps([1, 2])],
    ids=["empty", "text", "compressed-twice", "too-many"],
)
def test_a_raw_output_that_nobody_could_read_fails_the_attempt(
    consumer: ConsumerClient, store: ObjectStore, insert: Insert, run: Run, output: bytes
) -> None:
    """It is not stored: the first output stays, and with it no attempt could succeed."""
    id_ = insert([1], max_attempts=1)

    ended = run(consumer.run_each_chunk_raw, lambda _chunk: output, id_)

    assert ended.failure is not None
    assert "can't be used" in ended.failure.message
    assert not store.exists(output_key(ended.prefix, 0))


@pytest.mark.parametrize("form", [cbor2, pickle, json])
def test_a_serialization_format_takes_the_codecs_place(
    consumer: ConsumerClient, store: ObjectStore, insert: Insert, run: Run, form: Any
) -> None:
    """Any object with dumps and loads; a tuple is a chunk, too."""
    id_ = insert([1, 2], serialization_format=form)
    prefix = consumer.reserve_chunks()[0].submission_prefix
    consumer.release_chunk(id_, 0)
    written = form.dumps((1, 2))
    store.delete_prefix(prefix)
    store.create(input_key(prefix, 0), written if isinstance(written, bytes) else written.encode())

    run(consumer.run_each_op, lambda number: -number, id_, serialization_format=form)

    assert [-1, -2] == form.loads(store.get(output_key(prefix, 0)))


@pytest.mark.parametrize("name", ["raw", "raw+zstd"])
def test_raw_chunks_are_read_with_the_default_format(
    consumer: ConsumerClient,
    producer: ProducerClient,
    store: ObjectStore,
    queue: Queue,
    run: Run,
    name: str,
) -> None:
    """Programs that submit bytes by themselves, compressed or not, need not name a format."""
    prefix = fresh_prefix(queue.name)
    store.create(input_key(prefix, 0), open_codec(name).encode([cbor2.dumps([1, 2])]))
    new = NewSubmission(prefix=prefix, chunks_total=1, chunk_size=2, operations_total=2, codec=name)
    id_ = queue.insert_submission(new).id

    run(consumer.run_each_op, lambda number: -number, id_)

    assert [-1, -2] == list(producer.try_stream_completed_submission(id_))


@pytest.mark.parametrize("form", [cbor2, pickle, json])
def test_a_serialization_format_that_is_not_the_submissions_fails_the_attempt(
    consumer: ConsumerClient, store: ObjectStore, insert: Insert, run: Run, form: Any
) -> None:
    """Whoever reads the results goes by the codec that is recorded, and would find none."""
    id_ = insert([1], max_attempts=1)
    prefix = consumer.reserve_chunks()[0].submission_prefix
    consumer.release_chunk(id_, 0)
    written = form.dumps([1])
    store.delete_prefix(prefix)
    store.create(input_key(prefix, 0), written if isinstance(written, bytes) else written.encode())

    ended = run(consumer.run_each_op, lambda number: number, id_, serialization_format=form)

    assert ended.failure is not None
    assert "another codec" in ended.failure.message
    assert not store.exists(output_key(prefix, 0))


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (lambda ops, _chunk: ops[1:], "returned 1 results for 2 operations"),
        (lambda _ops, _chunk: None, "returned NoneType"),
        (lambda _ops, _chunk: "ab", "returned str"),
        (lambda _ops, _chunk: [object(), 1], "can't encode the result of operation 0"),
    ],
)
def test_a_wrong_result_fails_the_attempt(
    consumer: ConsumerClient, insert: Insert, run: Run, callback: Any, says: str
) -> None:
    """Where the reference would have stored it."""
    id_ = insert([1, 2], max_attempts=1)

    failure = run(consumer.run_each_chunk, callback, id_).failure

    assert failure is not None
    assert failure.type == "EncodingError"
    assert says in failure.message


def test_an_exception_fails_the_attempt_and_the_loop_goes_on(
    consumer: ConsumerClient, producer: ProducerClient, insert: Insert, run: Run
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
    assert __file__ in ended.last_failure.traceback
    assert "opsqueue/handlers/" not in ended.last_failure.traceback


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


def test_a_cancellation_in_a_callback_fails_the_attempt_and_no_more(
    consumer: ConsumerClient, queue: Queue, insert: Insert, run: Run
) -> None:
    """It is that of a loop which the callback runs: nobody cancelled the consumer."""
    id_ = insert([1, 2], max_attempts=1)

    async def await_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    run(consumer.run_each_op, lambda _op: asyncio.run(await_cancelled()), id_)

    submission = queue.get_submission(id_)
    assert submission.failure is not None
    assert submission.failure.type == "asyncio.exceptions.CancelledError"


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("form", [None, pickle, LenientJson])
def test_a_callback_that_returns_unawaited_coroutines_fails_the_attempt(
    consumer: ConsumerClient, queue: Queue, insert: Insert, run: Run, form: Any
) -> None:
    """No format writes them in place of results."""
    id_ = insert([1, 2], max_attempts=1, serialization_format=form)

    async def later(op: Any) -> Any:
        return op

    run(
        consumer.run_each_chunk,
        lambda ops, _chunk: [later(op) for op in ops],
        id_,
        serialization_format=form,
    )

    submission = queue.get_submission(id_)
    assert submission.failure is not None
    assert "operation 0 of the chunk is a coroutine" in submission.failure.message


async def add_one(op: int) -> int:
    await asyncio.sleep(0)
    return op + 1


def begin_adding(op: int) -> Any:
    return add_one(op)


async def add_one_to_each(ops: Any, chunk: Chunk) -> list[int]:
    assert not chunk.is_revoked()
    return [await add_one(op) for op in ops]


async def add_one_to_content(chunk: Chunk) -> bytes:
    return cbor2.dumps([await add_one(op) for op in cbor2.loads(chunk.input_content)])


class AddsOne:
    async def __call__(self, op: int) -> int:
        return await add_one(op)


@pytest.mark.parametrize(
    ("method", "callback"),
    [
        ("run_each_op", add_one),
        ("run_each_op", begin_adding),
        ("run_each_op", partial(add_one)),
        ("run_each_op", AddsOne()),
        ("run_each_chunk", add_one_to_each),
        ("run_each_chunk", partial(add_one_to_each)),
        ("run_each_chunk_raw", add_one_to_content),
    ],
)
def test_an_async_callback_is_awaited(
    consumer: ConsumerClient,
    producer: ProducerClient,
    insert: Insert,
    run: Run,
    method: str,
    callback: Any,
) -> None:
    """However it hides that it is one."""
    id_ = insert([1, 2, 3])

    run(getattr(consumer, method), callback, id_)

    assert [2, 3, 4] == list(producer.try_stream_completed_submission(id_))


def test_an_async_callback_in_a_running_loop_is_refused(consumer: ConsumerClient) -> None:
    """The call needs a loop of its own; before a chunk has used its attempts on it."""

    async def start() -> None:
        consumer.run_each_op(add_one)

    with pytest.raises(IncorrectUsageError, match=r"add_one is an `async def`.*to_thread"):
        asyncio.run(start())


def test_a_callback_that_is_a_generator_is_refused(consumer: ConsumerClient) -> None:
    """Calling it would run nothing."""

    def callback(op: int) -> Iterator[int]:
        yield op

    with pytest.raises(InvalidArgumentError, match=r"callback has a `yield`"):
        consumer.run_each_op(callback)


def test_what_cannot_be_called_is_refused_at_once(consumer: ConsumerClient) -> None:
    """Before a chunk has used its attempts on it."""
    for start in (consumer.run_each_op, consumer.run_each_chunk, consumer.run_each_chunk_raw):
        with pytest.raises(InvalidArgumentError, match="the callback is 5"):
            start(5)  # type: ignore[arg-type]  # on purpose
