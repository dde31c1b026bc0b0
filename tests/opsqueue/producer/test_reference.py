"""The names, classes and attributes that programs for the reference's Python client use."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from typing import Any

import cbor2
import pytest

import opsqueue.common
import opsqueue.exceptions
import opsqueue.producer
from opsqueue.common import decode_chunk, encode_chunk, json_as_bytes
from opsqueue.exceptions import (
    ChunkSizeIsZeroError,
    EncodingError,
    IncorrectUsageError,
    OpsqueueInternalError,
    SubmissionFailedError,
    SubmissionNotCancellableError,
    TryFromIntError,
)
from opsqueue.model.chunk import ChunkFailure
from opsqueue.producer import (
    ProducerClient,
    SubmissionId,
    SubmissionNotCancellable,
    SubmissionStatus,
)
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store.memory import MemoryStore
from opsqueue.strategy import Oldest

Work = Callable[[Callable[[Any], Any]], int]

PRODUCER_NAMES = """ProducerClient SubmissionId SubmissionStatus SubmissionCompleted
    SubmissionFailedError SubmissionFailed SubmissionNotCancellable SubmissionNotCancellableError
    SubmissionNotFoundError TooManyMatchingSubmissionsError ChunkFailed ChunkSizeIsZeroError"""
METHODS = """server_version run_submission async_run_submission insert_submission
    blocking_stream_completed_submission try_stream_completed_submission run_submission_chunks
    async_run_submission_chunks insert_submission_chunks
    blocking_stream_completed_submission_chunks async_stream_completed_submission_chunks
    try_stream_completed_submission_chunks count_submissions cancel_submission
    get_submission_status lookup_submission_id_by_prefix
    lookup_submission_ids_by_strategic_metadata is_completed"""
EXCEPTIONS = """SubmissionFailedError SubmissionNotCancellableError IncorrectUsageError
    TryFromIntError ChunkNotFoundError SubmissionNotFoundError ChunkCountIsZeroError
    NewObjectStoreClientError SubmissionNotCompletedYetError TooManyMatchingSubmissionsError
    OpsqueueInternalError UnexpectedOpsqueueConsumerServerResponseError ChunkRetrievalError
    ChunksStorageError ChunkStorageError InternalConsumerClientError InternalProducerClientError"""


@pytest.mark.parametrize("name", PRODUCER_NAMES.split())
def test_the_module_has_the_name(name: str) -> None:
    """For `from opsqueue.producer import …`."""
    assert hasattr(opsqueue.producer, name)


@pytest.mark.parametrize("name", METHODS.split())
def test_the_client_has_the_method(name: str) -> None:
    """Each row of the reference's table is a method."""
    assert callable(getattr(ProducerClient, name))


@pytest.mark.parametrize("name", EXCEPTIONS.split())
def test_the_exception_is_there(name: str) -> None:
    """An except clause can name it."""
    assert issubclass(getattr(opsqueue.exceptions, name), Exception)


def test_usage_errors_are_type_errors() -> None:
    """This is as in the reference."""
    assert issubclass(IncorrectUsageError, TypeError)
    assert not issubclass(OpsqueueInternalError, TypeError)


def test_a_status_is_matched_by_its_class(producer: ProducerClient, work: Work) -> None:
    """With the attributes that each has."""
    id_ = producer.insert_submission([1, 2], chunk_size=1, metadata=b"m")
    running = producer.get_submission_status(id_)
    assert isinstance(running, SubmissionStatus.InProgress)
    assert (running.submission.chunks_total, running.submission.chunks_done) == (2, 0)

    work(lambda x: x)
    done = producer.get_submission_status(id_)

    assert isinstance(done, SubmissionStatus.Completed)
    assert isinstance(done, SubmissionStatus)
    assert not isinstance(done, SubmissionStatus.InProgress)
    assert done.submission.completed_at.tzinfo is UTC
    assert (done.submission.metadata, done.submission.strategic_metadata) == (b"m", {})


def test_a_failed_submission_tells_chunk_and_failure(
    producer: ProducerClient, queue: Queue
) -> None:
    """In the status, and in the exception."""
    id_ = producer.insert_submission([1, 2], chunk_size=1, max_attempts=1)
    chunk = queue.reserve_chunks("w", strategy=Oldest()).chunks[0]
    queue.fail_chunk(chunk.token, ChunkFailure(type="ValueError", message="bad row"))

    status = producer.get_submission_status(id_)
    with pytest.raises(SubmissionFailedError) as raised:
        producer.blocking_stream_completed_submission(id_)

    assert isinstance(status, SubmissionStatus.Failed)
    assert (status.submission.failed_chunk_id, status.submission.chunks_done) == (0, 0)
    assert status.submission.failed_at >= status.submission.created_at
    assert (status.chunk.chunk_index.id, status.chunk.failure) == (0, "ValueError: bad row")
    assert (raised.value.failure, raised.value.chunk) == ("ValueError: bad row", status.chunk)
    assert raised.value.submission.id == id_
    assert raised.value.submission == status.submission


def test_a_submission_that_ended_is_not_cancellable(producer: ProducerClient) -> None:
    """The exception says by a class why."""
    id_ = producer.insert_submission([1], chunk_size=1)
    producer.cancel_submission(id_)
    status = producer.get_submission_status(id_)

    with pytest.raises(SubmissionNotCancellableError) as raised:
        producer.cancel_submission(id_)

    assert isinstance(status, SubmissionStatus.Cancelled)
    why = raised.value.submission
    assert isinstance(why, SubmissionNotCancellable.Cancelled)
    assert why.submission.cancelled_at == status.submission.cancelled_at
    assert raised.value.chunk is None


@pytest.mark.parametrize("wrong", [2**63, -1, "abc"])
def test_what_cannot_be_an_id_is_refused(wrong: Any) -> None:
    """By one exception, whatever is wrong."""
    with pytest.raises(TryFromIntError, match="is not a submission id"):
        SubmissionId(wrong)


@pytest.mark.parametrize(
    ("serialization_format", "codec"),
    [(cbor2, "cbor"), (json_as_bytes, "json"), (pickle, "pickle")],
)
def test_a_known_format_is_recorded_by_its_name(
    producer: ProducerClient, work: Work, serialization_format: Any, codec: str
) -> None:
    """So that workers and readers need not be told."""
    id_ = producer.insert_submission(
        [[1, "a"]], chunk_size=1, serialization_format=serialization_format
    )
    work(lambda x: x)

    results = producer.blocking_stream_completed_submission(
        id_, serialization_format=serialization_format
    )

    assert producer.get_submission(id_).codec == codec
    assert list(results) == [[1, "a"]]


def test_the_default_format_keeps_what_cbor_keeps(producer: ProducerClient, work: Work) -> None:
    """Integers of any size, decimals, sets."""
    values = [2**80, Decimal("1.10"), {1, 2}, b"\x00"]
    id_ = producer.insert_submission(values, chunk_size=9)
    work(lambda x: x)

    assert values == list(producer.blocking_stream_completed_submission(id_))
    assert opsqueue.common.DEFAULT_SERIALIZATION_FORMAT is cbor2


def test_raw_chunks_are_stored_and_given_as_they_are(producer: ProducerClient, work: Work) -> None:
    """Also bytes that look like something else; encoded operations are read by the default."""
    chunks = [encode_chunk([1, 2]), b"\x00OQE", b""]
    id_ = producer.insert_submission_chunks(iter(chunks), strategic_metadata={"customer": 1})
    work(lambda chunk: chunk)

    assert list(producer.blocking_stream_completed_submission_chunks(id_)) == chunks
    assert list(producer.try_stream_completed_submission_chunks(id_)) == chunks
    ops = producer.insert_submission_chunks([encode_chunk([1, 2]), encode_chunk([3])])
    work(lambda chunk: chunk)
    assert list(producer.blocking_stream_completed_submission(ops)) == [1, 2, 3]


@pytest.mark.parametrize("inline_bytes", [0, 1000])
def test_the_chunk_size_of_raw_chunks_counts_their_operations(
    api: RedisBackend, store: MemoryStore, queue: Queue, work: Work, inline_bytes: int
) -> None:
    """In the backlog and in progress; the last chunk counts as full."""
    producer = ProducerClient.over(api, store, queue=queue.name, inline_bytes=inline_bytes)
    chunks = [encode_chunk([1, 2, 3]), encode_chunk([4, 5, 6]), encode_chunk([7])]

    id_ = producer.insert_submission_chunks(chunks, chunk_size=3)

    submission = producer.get_submission(id_)
    assert (3, 9, 3) == (
        submission.chunks_total,
        submission.operations_total,
        submission.chunk_size,
    )
    assert queue.count_queue().stats["backlog_operations"] == 9
    work(lambda chunk: chunk)
    assert producer.get_submission(id_).operations_done == 9
    assert chunks == list(producer.try_stream_completed_submission_chunks(id_))
    assert list(enumerate(range(1, 8))) == list(producer.partial_results(id_))


def test_the_chunk_size_of_raw_chunks_is_checked(producer: ProducerClient) -> None:
    """Zero is refused, as it is for operations."""
    with pytest.raises(ChunkSizeIsZeroError):
        producer.insert_submission_chunks([b""], chunk_size=0)


def test_a_raw_chunk_that_is_no_bytes_is_refused(producer: ProducerClient) -> None:
    """The error is raised before anything is submitted."""
    with pytest.raises(EncodingError, match="raw chunk is one bytes object"):
        producer.insert_submission_chunks(["text"])  # type: ignore[list-item]  # what is tested

    assert producer.count_submissions() == 0


def test_a_format_of_ones_own_goes_both_ways(producer: ProducerClient, work: Work) -> None:
    """The reader needs the same format."""

    class Text:
        def dumps(self, obj: Any, /) -> bytes:
            return json.dumps(obj).encode("utf-16")

        def loads(self, data: bytes, /) -> Any:
            return json.loads(data.decode("utf-16"))

    id_ = producer.insert_submission([1, 2], chunk_size=2, serialization_format=Text())

    assert (
        producer.get_submission(id_).codec
        == "custom:test_a_format_of_ones_own_goes_both_ways.<locals>.Text"
    )


def test_a_chunk_is_a_sequence() -> None:
    """Other values are refused."""
    assert decode_chunk(encode_chunk((1, 2))) == [1, 2]
    assert decode_chunk(encode_chunk([1], json_as_bytes), json_as_bytes) == [1]
    with pytest.raises(EncodingError, match="a chunk is a sequence"):
        decode_chunk(cbor2.dumps("text"))


@pytest.mark.parametrize("name", EXCEPTIONS.split()[10:])
def test_what_is_not_the_callers_mistake_has_one_base(name: str) -> None:
    """A loop that catches it and goes on survives an outage of anything."""
    errors = opsqueue.exceptions
    assert issubclass(getattr(errors, name), errors.OpsqueueInternalError)


def test_a_missing_or_unreadable_object_is_a_chunk_retrieval_error() -> None:
    """By the reference's name, whether it is gone or its store is."""
    errors = opsqueue.exceptions
    for raised in (errors.ObjectNotFoundError("k", "s"), errors.StoreUnavailableError("s is gone")):
        assert isinstance(raised, errors.ChunkRetrievalError)
        assert isinstance(raised, errors.OpsqueueInternalError)
    assert not issubclass(errors.EncodingError, errors.OpsqueueInternalError)


def test_exceptions_are_made_as_there() -> None:
    """Programs' tests make them, too."""
    errors = opsqueue.exceptions

    assert 7 == errors.SubmissionNotFoundError(7).submission_id
    assert 5 == errors.TooManyMatchingSubmissionsError(5).max_submissions
    assert "chunk_size is 0" in str(errors.ChunkSizeIsZeroError())
    assert ("no", 7) == errors.SubmissionNotCompletedYetError("no", 7).args
