"""Waiting for results, and the exceptions that replace them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import redis

from opsqueue.contents.codec import CustomCodec
from opsqueue.exceptions import (
    InvalidArgumentError,
    ObjectNotFoundError,
    SubmissionCancelledError,
    SubmissionFailedError,
    SubmissionNotCancellableError,
    SubmissionNotCompletedYetError,
    SubmissionNotFoundError,
)
from opsqueue.model.answers import Inserted
from opsqueue.model.chunk import ChunkFailure
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient, SubmissionStatus
from opsqueue.producer.aio import Batched
from opsqueue.producer.follow import chunks_as_they_come, chunks_in_order
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import input_key, output_key
from opsqueue.store.memory import MemoryStore
from opsqueue.strategy import Oldest

UNKNOWN = SubmissionId(1)
Work = Callable[[Callable[[Any], Any]], int]


def fail_a_chunk(queue: Queue) -> None:
    chunk = queue.reserve_chunks("test-worker", strategy=Oldest()).chunks[0]
    queue.fail_chunk(chunk.token, ChunkFailure(type="ValueError", message="bad row 7"))


def test_results_come_in_order(producer: ProducerClient, work: Work) -> None:
    """Over many chunks, the last with fewer operations."""
    id_ = producer.insert_submission(range(1_001), chunk_size=10)
    work(lambda x: x * x)

    results = producer.blocking_stream_completed_submission(id_)

    assert [x * x for x in range(1_001)] == list(results)


def test_run_submission_waits_for_the_results(
    client: redis.Redis, store: MemoryStore, queue_name: str, work: Work
) -> None:
    """It blocks at the call, until somebody has done the work."""
    handed_in = Event()

    class Tells(Queue):
        def insert_submission(self, new: NewSubmission, **options: Any) -> Inserted:
            inserted = super().insert_submission(new, **options)
            handed_in.set()
            return inserted

    api = RedisBackend(client, queue_of=lambda name: Tells(client, name))
    producer = ProducerClient.over(api, store, queue=queue_name)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(producer.run_submission, range(5), chunk_size=2)
        assert handed_in.wait(10)
        work(lambda x: x + 1)

        results = running.result(timeout=10)

    assert list(results) == [1, 2, 3, 4, 5]


def test_no_operations_give_no_results(producer: ProducerClient) -> None:
    """It completes without a worker."""
    assert list(producer.run_submission([], chunk_size=10)) == []


def test_results_are_read_ahead_within_bounds(
    api: RedisBackend, producer: ProducerClient, work: Work, queue_name: str
) -> None:
    """A million results don't fit into memory."""
    gets: list[str] = []

    class CountingStore(MemoryStore):
        def get(self, key: str) -> bytes:
            gets.append(key)
            return super().get(key)

    reader = ProducerClient.over(api, CountingStore(queue_name), queue=queue_name, at_once=4)
    id_ = producer.insert_submission(range(100), chunk_size=1)
    work(lambda x: x)

    first = next(reader.blocking_stream_completed_submission(id_))

    assert first == 0
    assert len(gets) <= 4 + 1


def test_results_of_a_submission_in_progress_are_not_there_yet(producer: ProducerClient) -> None:
    """The message says how far it came."""
    id_ = producer.insert_submission([1, 2], chunk_size=1)

    with pytest.raises(SubmissionNotCompletedYetError, match="0 of 2 chunks are done"):
        producer.try_stream_completed_submission(id_)


def test_results_of_a_completed_submission_need_no_waiting(
    producer: ProducerClient, work: Work
) -> None:
    """`try_stream` gives them."""
    id_ = producer.insert_submission([1, 2], chunk_size=1)
    work(lambda x: -x)

    assert list(producer.try_stream_completed_submission(id_)) == [-1, -2]


METHODS = ["blocking_stream_completed_submission", "try_stream_completed_submission"]


@pytest.mark.parametrize("method", METHODS)
def test_a_failed_submission_has_its_failure_instead_of_results(
    producer: ProducerClient, queue: Queue, method: str
) -> None:
    """Raised at the call, with the submission."""
    id_ = producer.insert_submission([1], chunk_size=1, max_attempts=1)
    fail_a_chunk(queue)

    with pytest.raises(SubmissionFailedError, match="ValueError: bad row 7") as raised:
        getattr(producer, method)(id_)

    assert id_ == raised.value.submission.id


@pytest.mark.parametrize("method", METHODS)
def test_a_cancelled_submission_has_no_results(producer: ProducerClient, method: str) -> None:
    """Waiting for it does not hang."""
    id_ = producer.insert_submission([1], chunk_size=1)
    producer.cancel_submission(id_)

    with pytest.raises(SubmissionCancelledError):
        getattr(producer, method)(id_)


@pytest.mark.parametrize("method", [*METHODS, "wait_for_submission", "cancel_submission"])
def test_an_unknown_submission_is_not_found(producer: ProducerClient, method: str) -> None:
    """Waiting for one does not hang."""
    with pytest.raises(SubmissionNotFoundError):
        getattr(producer, method)(UNKNOWN)


def test_the_status_of_an_unknown_submission_is_none(producer: ProducerClient) -> None:
    """As in the reference's client."""
    assert None is producer.get_submission_status(UNKNOWN)


def test_the_status_can_be_asked_for_by_a_plain_int(producer: ProducerClient) -> None:
    """An id that was kept as a number."""
    id_ = producer.insert_submission([1], chunk_size=1)

    status = producer.get_submission_status(int(id_))  # type: ignore[arg-type]  # as users may

    assert isinstance(status, SubmissionStatus.InProgress)
    assert id_ == status.submission.id


def test_an_ended_submission_cannot_be_cancelled(producer: ProducerClient) -> None:
    """The exception has the submission."""
    id_ = producer.insert_submission([], chunk_size=1)

    with pytest.raises(SubmissionNotCancellableError) as raised:
        producer.cancel_submission(id_)

    assert SubmissionState.COMPLETED is raised.value.ended.state


def test_waiting_has_a_timeout(producer: ProducerClient) -> None:
    """TimeoutError says how far it came."""
    id_ = producer.insert_submission([1, 2], chunk_size=1)

    with pytest.raises(TimeoutError, match="0 of 2 chunks"):
        producer.wait_for_submission(id_, timeout=0.05)


def test_a_timeout_of_zero_only_looks(producer: ProducerClient) -> None:
    """An ended submission is returned with any timeout."""
    id_ = producer.insert_submission([], chunk_size=1)

    assert id_ == producer.wait_for_submission(id_, timeout=0).id


def test_pickled_results_need_to_be_allowed(
    api: RedisBackend, store: MemoryStore, queue_name: str, work: Work
) -> None:
    """Unpickling runs code of whoever can write to the store."""
    options: dict[str, Any] = {"queue": queue_name}
    trusting = ProducerClient.over(api, store, codec="pickle", allow_pickle=True, **options)
    careful = ProducerClient.over(api, store, **options)
    id_ = trusting.insert_submission([1j], chunk_size=1)
    work(lambda x: x * x)

    with pytest.raises(InvalidArgumentError, match="allow_pickle"):
        careful.try_stream_completed_submission(id_)

    assert list(trusting.try_stream_completed_submission(id_)) == [-1 + 0j]


def test_a_custom_codec_is_used_both_ways(
    api: RedisBackend, store: MemoryStore, queue_name: str, queue: Queue
) -> None:
    """Its name is recorded with the submission."""
    codec = CustomCodec("reversed", lambda ops: repr(ops).encode()[::-1], lambda _data: ["read"])
    producer = ProducerClient.over(api, store, queue=queue_name, codec=codec, inline_bytes=0)
    id_ = producer.insert_submission([12], chunk_size=1)
    chunk = queue.reserve_chunks("w").chunks[0]
    store.create(output_key(chunk.source.prefix, 0), b"any")
    queue.complete_chunks([chunk.token])

    results = list(producer.try_stream_completed_submission(id_))

    assert store.get(input_key(chunk.source.prefix, 0)) == b"]21["
    assert results == ["read"]


def test_deleted_results_are_missed_when_they_are_read(
    producer: ProducerClient, work: Work, store: MemoryStore, queue: Queue
) -> None:
    """ObjectNotFoundError at their place in the stream."""
    id_ = producer.insert_submission([1, 2], chunk_size=1)
    work(lambda x: x)
    store._objects.pop(output_key(queue.get_submission(id_).prefix, 1))

    results = producer.try_stream_completed_submission(id_)

    assert next(results) == 1
    with pytest.raises(ObjectNotFoundError, match="is kept for 86,400 seconds from then on"):
        next(results)


def test_waiting_without_a_worker_is_told(
    producer: ProducerClient,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log warns once, since a typo in the queue's name is likely."""
    monkeypatch.setattr("opsqueue.producer.wait._FIRST_POLL_S", 0.01)
    monkeypatch.setattr("opsqueue.producer.wait.LONG_POLL_S", 0.02)
    id_ = producer.insert_submission([1], chunk_size=1)

    with pytest.raises(TimeoutError):
        producer.wait_for_submission(id_, timeout=0.1)
    (told,) = caplog.messages
    queue.heartbeat("a-worker")
    with pytest.raises(TimeoutError):
        producer.wait_for_submission(id_, timeout=0.1)

    assert f"submission {id_} waits: no worker serves queue {queue.name!r}" in told
    assert caplog.messages == [told]


def test_iterators_over_the_same_results_share_their_place() -> None:
    """What one has taken no other gives, and nothing is left out in between."""
    results = Batched(batch for batch in ([1, 2, 3], [], [4, 5, 6], [7]))

    first = [next(results)]
    for result in results:
        first.append(result)
        if result == 2:
            break
    pairs = list(zip(results, results, strict=False))

    assert [1, 2] == first
    assert [(3, 4), (5, 6)] == pairs


@pytest.mark.parametrize("follow", [chunks_in_order, chunks_as_they_come])
def test_reading_results_without_a_worker_warns(
    producer: ProducerClient,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    follow: Callable[..., Iterator[Sequence[int]]],
) -> None:
    """Once, after the first wait, since a typo in the queue's name is likely."""
    monkeypatch.setattr("opsqueue.producer.follow.TURN_S", 0.01)
    id_ = producer.insert_submission([1], chunk_size=1)
    turns = follow(queue, id_, start=0)

    assert [[], [], []] == [list(next(turns)) for _ in range(3)]

    (message,) = caplog.messages
    assert f"submission {id_} waits: no worker serves queue {queue.name!r}" in message
