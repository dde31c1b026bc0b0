"""Reserving and reporting chunk by chunk, in the caller's own loop."""

from __future__ import annotations

from collections.abc import Callable

import cbor2
import pytest

from opsqueue.consumer import ChunkIndex, ConsumerClient, Strategy
from opsqueue.contents.codec import PRODUCER_CODEC, open_codec
from opsqueue.exceptions import (
    ChunkNotFoundError,
    EncodingError,
    IncorrectUsageError,
    InvalidArgumentError,
)
from opsqueue.model.chunk import Completed
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from tests.opsqueue_api.consumer.conftest import Run

OLDEST = Strategy.Oldest()
Insert = Callable[..., SubmissionId]


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
    with pytest.raises(ChunkNotFoundError, match="is not reserved by this consumer") as raised:
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
    first, second = open_codec(PRODUCER_CODEC).encode(["first"]), cbor2.dumps(["second"])
    store.create(output_key(chunk.submission_prefix, 0), first)
    outcome = queue.complete_chunks([other.token])

    consumer.complete_chunk(id_, chunk.submission_prefix, 0, second)

    assert isinstance(outcome[0], Completed)
    assert store.get(output_key(chunk.submission_prefix, 0)) == first
    assert queue.get_submission(id_).chunks_done == 1
    assert "lost chunk" in caplog.text


def test_a_cancelled_submissions_chunk_is_revoked(
    consumer: ConsumerClient, queue: Queue, insert: Insert
) -> None:
    """It is revoked from the next heartbeat on."""
    insert([1])
    (chunk,) = consumer.reserve_chunks()
    queue.cancel_submission(chunk.submission_id)

    consumer._hand.beat()

    assert chunk.is_revoked()


def test_an_output_that_is_there_completes_the_chunk(
    consumer: ConsumerClient, queue: Queue, store: ObjectStore, insert: Insert, run: Run
) -> None:
    """An attempt that stored it and died has done the work."""
    id_ = insert([1])
    (chunk,) = consumer.reserve_chunks()
    output = open_codec(PRODUCER_CODEC).encode([1])
    store.create(output_key(chunk.submission_prefix, 0), output)
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
    """The chunks are released at once without using an attempt, and the worker is forgotten."""
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
        consumer.run_each_op(print, serialization_format=math_like)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_an_output_that_lacks_results_is_refused(
    consumer: ConsumerClient, store: ObjectStore, queue: Queue, insert: Insert, results: list[int]
) -> None:
    """It is refused at the call, before it is stored, and the chunk stays reserved."""
    id_ = insert([1, 2])
    (chunk,) = consumer.reserve_chunks()

    with pytest.raises(EncodingError, match=f"{len(results)} results for 2 operations"):
        consumer.complete_chunk(id_, None, 0, cbor2.dumps(results))

    assert not store.exists(output_key(chunk.submission_prefix, 0))
    consumer.complete_chunk(id_, None, 0, chunk.input_content)
    assert queue.get_submission(id_).state is SubmissionState.COMPLETED


@pytest.mark.parametrize(
    ("codec", "output"),
    [
        ("json", b'["' + b"x" * 200_000 + b'"]'),
        ("msgpack", b"\x92\xc6" + (300_000).to_bytes(4, "big") + b"x" * 200_000),
        ("cbor", b"\x9f\x7a" + (200_000).to_bytes(4, "big") + b"x" * 200_000 + b"\xff"),
    ],
)
def test_all_of_a_large_output_that_is_at_hand_is_looked_at(
    consumer: ConsumerClient,
    store: ObjectStore,
    queue: Queue,
    queue_name: str,
    codec: str,
    output: bytes,
) -> None:
    """Too few results, or one that is cut short: nobody could read them."""
    new = NewSubmission(
        prefix=f"{queue_name}/{'0' * 32}",
        chunks_total=1,
        operations_total=2,
        chunk_size=2,
        codec=codec,
    )
    store.create(input_key(new.prefix, 0), b"any")
    id_ = queue.insert_submission(new).id
    consumer.reserve_chunks()

    with pytest.raises(EncodingError, match="can't be used"):
        consumer.complete_chunk(id_, None, 0, output)

    assert queue.get_submission(id_).chunks_done == 0
    consumer.release_chunk(id_, 0)


def test_an_unreadable_output_of_an_earlier_attempt_fails_the_next_one(
    consumer: ConsumerClient, store: ObjectStore, queue: Queue, insert: Insert
) -> None:
    """It stays, as every first output does: to report it as done would lose the results."""
    id_ = insert([1], max_attempts=2)
    (chunk,) = consumer.reserve_chunks()
    store.create(output_key(chunk.submission_prefix, 0), b"garbage")
    consumer.fail_chunk(id_, None, 0, "died")
    insert([2])

    consumer.reserve_chunks(1, OLDEST)

    failure = queue.get_submission(id_).failure
    assert failure is not None
    assert f"{chunk.submission_prefix}/0-out" in failure.message
    assert "deleted" in failure.message


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


def test_one_side_may_name_the_plain_codec_alone(
    producer: ProducerClient, consumer: ConsumerClient
) -> None:
    """Programs for the reference name cbor2, or take bytes to be its; ours are compressed."""
    id_ = producer.insert_submission([{"n": 1}, "x" * 1_000], chunk_size=2)
    (chunk,) = consumer.reserve_chunks(strategy=OLDEST)

    operations = cbor2.loads(chunk.input_content)
    consumer.complete_chunk(id_, None, chunk.chunk_index, cbor2.dumps(operations[::-1]))

    (output,) = producer.blocking_stream_completed_submission_chunks(id_)
    results = producer.blocking_stream_completed_submission(id_, serialization_format=cbor2)
    assert ["x" * 1_000, {"n": 1}] == cbor2.loads(output) == list(results)
