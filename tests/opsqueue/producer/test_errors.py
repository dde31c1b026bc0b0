"""Operations that failed, as producers see them."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import (
    InvalidArgumentError,
    OperationFailedError,
    SubmissionFailedError,
    SubmissionNotCompletedYetError,
)
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import OperationFailed, ProducerClient
from opsqueue.store.memory import MemoryStore
from opsqueue.testing import LocalOpsqueue

FAILED = [i for i in range(50) if i % 7 == 3]


@pytest.fixture
def app() -> Opsqueue:
    app = Opsqueue()

    @app.operation_handler("q", on_error="collect", allow_pickle=True)
    def refuse_some(number: int, chunk: Chunk) -> Any:
        if number % 7 == 3 and chunk.metadata != b"mended":
            message = f"{number} is refused"
            raise ValueError(message)
        return object() if number == 1_000 else number * 10

    return app


@pytest.fixture
def local(app: Opsqueue, client: redis.Redis, queue_name: str) -> LocalOpsqueue:
    """On a real server, too: the queue there is the test's own."""
    app.handlers[queue_name] = app.handlers["q"]
    return LocalOpsqueue(app, client, MemoryStore(queue_name))


@pytest.fixture
def producer(local: LocalOpsqueue, queue_name: str) -> ProducerClient:
    return local.producer(queue_name)


def run(producer: ProducerClient, **options: Any) -> SubmissionId:
    id_ = producer.insert_submission(range(50), chunk_size=4, **options)
    producer.wait_for_submission(id_)
    return id_


def test_by_default_the_first_that_failed_is_raised_in_its_place(producer: ProducerClient) -> None:
    """Earlier results are returned, and no gap is taken for a result."""
    results = producer.run_submission(range(50), chunk_size=4)

    assert [next(results) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(OperationFailedError, match="operation 3 of submission") as caught:
        next(results)
    assert (caught.value.failed.index, caught.value.failed.type) == (3, "ValueError")
    assert "in refuse_some" in str(caught.value)


def test_they_can_stand_in_the_place_of_their_results(producer: ProducerClient) -> None:
    """Results and errors are as many as operations."""
    outcomes = list(producer.run_submission(range(50), chunk_size=4, errors="yield"))

    assert len(outcomes) == 50
    failed = {i: o for i, o in enumerate(outcomes) if isinstance(o, OperationFailed)}
    assert list(failed) == FAILED
    assert [(o.index, o.chunk_index) for o in failed.values()] == [(i, i // 4) for i in FAILED]
    assert [o for o in outcomes if isinstance(o, int)] == [
        i * 10 for i in range(50) if i not in FAILED
    ]


def test_they_can_be_left_out(producer: ProducerClient) -> None:
    """This also works without waiting."""
    id_ = run(producer)

    results = producer.try_stream_completed_submission(id_, errors="skip")

    assert [i * 10 for i in range(50) if i not in FAILED] == list(results)


def test_a_word_that_says_none_of_these_is_refused(producer: ProducerClient) -> None:
    """Before anything is waited for."""
    with pytest.raises(InvalidArgumentError, match="raise, yield, skip"):
        producer.blocking_stream_completed_submission(
            SubmissionId(1),
            errors="ignore",  # type: ignore[arg-type]
        )


def test_errors_are_read_in_order(producer: ProducerClient) -> None:
    """They have type, message and traceback."""
    id_ = run(producer)

    errors = list(producer.iter_errors(id_))

    assert [error.index for error in errors] == FAILED
    assert errors[0].message == "3 is refused"
    assert errors[0].text.endswith("ValueError: 3 is refused")


def test_errors_of_a_submission_in_progress_are_those_of_its_finished_chunks(
    producer: ProducerClient, local: LocalOpsqueue, queue_name: str
) -> None:
    """One need not wait for an hour to see what goes wrong."""
    id_ = producer.insert_submission(range(50), chunk_size=4)
    before = list(producer.iter_errors(id_))

    local.work(queue_name, limit=3)

    status = producer.get_submission(id_)
    assert status is not None
    assert status.state is SubmissionState.IN_PROGRESS
    assert before == []
    assert [error.index for error in producer.iter_errors(id_)] == [3, 10]


def test_results_errors_and_dropped_operations_are_all(producer: ProducerClient) -> None:
    """Past its limit the submission fails; the errors so far can be read."""
    id_ = run(producer, max_failed_operations=2)

    status = producer.get_submission(id_)

    assert status is not None
    assert status.state is SubmissionState.FAILED
    assert (
        status.operations_succeeded,
        status.operations_failed,
        status.operations_dropped,
    ) == (17, 3, 30)
    assert [error.index for error in producer.iter_errors(id_)] == FAILED[:3]
    with pytest.raises(SubmissionFailedError, match="3 operations failed, of 50 in all"):
        producer.try_stream_completed_submission(id_)


def test_without_the_limit_it_goes_on(producer: ProducerClient) -> None:
    """A retry in place removes the limit."""
    id_ = run(producer, max_failed_operations=0.01)

    producer.retry_submission(id_)

    results = list(producer.blocking_stream_completed_submission(id_, errors="yield"))
    assert [o.index for o in results if isinstance(o, OperationFailed)] == FAILED


@pytest.mark.parametrize("codec", ["msgpack+zstd", "pickle"])
def test_the_failed_operations_alone_can_be_retried(
    local: LocalOpsqueue, queue_name: str, codec: str
) -> None:
    """In a submission of their own, in order, like the old one."""
    producer = ProducerClient.over(
        local.api, local.store, queue=queue_name, codec=codec, allow_pickle=True
    )
    id_ = run(producer, strategic_metadata={"customer": 7}, max_attempts=3, metadata=b"x")

    again = producer.retry_submission(id_, only="failed")

    status = producer.wait_for_submission(again)
    assert again != id_
    assert status.operations_total == len(FAILED)
    assert (status.chunk_size, status.codec, status.metadata) == (4, codec, b"x")
    assert (status.max_attempts, status.strategic_metadata) == (3, {"customer": 7})
    messages = [f"{number} is refused" for number in FAILED]
    assert [error.message for error in producer.iter_errors(again)] == messages


def test_a_retry_that_is_repeated_makes_no_second_submission(
    local: LocalOpsqueue, queue_name: str
) -> None:
    """Unless a key of its own is given; what was uploaded for nothing is deleted."""
    producer = ProducerClient.over(local.api, local.store, queue=queue_name, inline_bytes=0)
    id_ = run(producer)

    first = producer.retry_submission(id_, only="failed")
    again = producer.retry_submission(id_, only="failed")
    other = producer.retry_submission(id_, only="failed", idempotency_key="another")

    assert first == again
    assert first != other
    prefixes = {key.rpartition("/")[0] for key in local.store.list_prefix("")}
    assert len(prefixes) == 3


def test_only_an_ended_submission_with_failed_operations_can_be_retried_so(
    producer: ProducerClient,
) -> None:
    """The messages say which of the two is missing."""
    in_progress = producer.insert_submission(range(50), chunk_size=4)
    with pytest.raises(SubmissionNotCompletedYetError, match="is in progress"):
        producer.retry_submission(in_progress, only="failed")
    without = producer.insert_submission([1], chunk_size=4)
    producer.wait_for_submission(without)

    with pytest.raises(InvalidArgumentError, match="has no operation that failed"):
        producer.retry_submission(without, only="failed")
    with pytest.raises(InvalidArgumentError, match="give 'failed'"):
        producer.retry_submission(without, only="all")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgumentError, match="need only='failed'"):
        producer.retry_submission(without, idempotency_key="k")  # type: ignore[call-overload]


def test_a_result_that_cannot_be_encoded_is_an_error(producer: ProducerClient) -> None:
    """Its neighbours are results."""
    first, second = producer.run_submission([1_000, 1], chunk_size=2, errors="yield")

    assert isinstance(first, OperationFailed)
    assert first.type == "EncodingError"
    assert second == 10
