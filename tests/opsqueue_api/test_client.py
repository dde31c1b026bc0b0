"""The producer's client through the real app: each side reads what the other writes."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import httpx
import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import (
    InvalidArgumentError,
    SubmissionCancelledError,
    SubmissionFailedError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.model.new_submission import Backoff, NewSubmission
from opsqueue.model.status import (
    SubmissionCancelled,
    SubmissionCompleted,
    SubmissionFailed,
    SubmissionStatus,
)
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App

Work = Callable[[Callable[[Any], Any]], int]
UNKNOWN = SubmissionId(1)


@pytest.fixture
def api(app: App) -> HttpBackend:
    return HttpBackend("http://api", transport=httpx.WSGITransport(app))


@pytest.fixture
def producer(api: HttpBackend, store: ObjectStore, queue_name: str) -> ProducerClient:
    return ProducerClient.over(api, store, queue=queue_name)


def test_results_come_in_order_over_http(producer: ProducerClient, work: Work) -> None:
    """Insert, wait, stream."""
    id_ = producer.insert_submission(range(101), chunk_size=10)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(producer.blocking_stream_completed_submission, id_)
        work(lambda x: x + 1)

        results = list(waiting.result(timeout=20))

    assert list(range(1, 102)) == results


def test_a_submission_reads_the_same_over_http_and_from_redis(
    producer: ProducerClient, queue: Queue
) -> None:
    """Every field of it."""
    id_ = producer.insert_submission(
        [1, 2, 3],
        chunk_size=2,
        metadata=b"\x00\xff",
        strategic_metadata={"customer": 2**62},
        max_attempts=3,
        backoff=Backoff(first_ms=0, max_ms=0),
    )

    assert queue.get_submission(id_) == producer.get_submission(id_)


def test_counts_read_the_same_over_http_and_from_redis(
    producer: ProducerClient, api: HttpBackend, queue: Queue
) -> None:
    """The client's number is that of the submissions in progress."""
    producer.insert_submission([1], chunk_size=1)

    assert queue.count_queue() == api.queue(queue.name).count_queue()
    assert producer.count_submissions() == 1


def test_a_failure_is_raised_over_http(
    producer: ProducerClient, fail_a_chunk: Callable[[], None]
) -> None:
    """With type and message."""
    id_ = producer.insert_submission([1], chunk_size=1, max_attempts=1)
    fail_a_chunk()

    with pytest.raises(SubmissionFailedError, match="ValueError: bad row 7"):
        producer.blocking_stream_completed_submission(id_)


def test_a_cancel_is_raised_over_http(producer: ProducerClient) -> None:
    """Waiting clients get it, and clients that cancel again."""
    id_ = producer.insert_submission([1], chunk_size=1)
    producer.cancel_submission(id_)

    with pytest.raises(SubmissionCancelledError):
        producer.blocking_stream_completed_submission(id_)
    with pytest.raises(SubmissionNotCancellableError) as raised:
        producer.cancel_submission(id_)

    assert SubmissionState.CANCELLED is raised.value.ended.state


def read_blocking(producer: ProducerClient, id_: SubmissionId) -> None:
    producer.blocking_stream_completed_submission(id_)


def read_if_there(producer: ProducerClient, id_: SubmissionId) -> None:
    producer.try_stream_completed_submission(id_)


def read_as_they_come(producer: ProducerClient, id_: SubmissionId) -> None:
    list(producer.iter_results(id_))


def read_async(producer: ProducerClient, id_: SubmissionId) -> None:
    async def read() -> None:
        await producer.async_stream_completed_submission(id_)

    asyncio.run(read())


READERS = [read_blocking, read_if_there, read_as_they_come, read_async]


@pytest.fixture(params=["redis", "http"])
def either_producer(
    request: pytest.FixtureRequest,
    api: HttpBackend,
    client: redis.Redis,
    store: ObjectStore,
    queue_name: str,
) -> ProducerClient:
    over = api if request.param == "http" else RedisBackend(client)
    return ProducerClient.over(over, store, queue=queue_name)


@pytest.mark.parametrize("read", READERS)
def test_a_failure_has_the_failed_submission(
    either_producer: ProducerClient,
    fail_a_chunk: Callable[[], None],
    read: Callable[[ProducerClient, SubmissionId], None],
) -> None:
    """As the class of its state, with that class's attributes; also after pickling."""
    id_ = either_producer.insert_submission([1], chunk_size=1, max_attempts=1)
    fail_a_chunk()
    status = either_producer.get_submission_status(id_)

    with pytest.raises(SubmissionFailedError) as raised:
        read(either_producer, id_)

    assert isinstance(status, SubmissionStatus.Failed)
    pickled = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 our own bytes
    for error in (raised.value, pickled, copy(raised.value)):
        assert type(error.submission) is SubmissionFailed
        assert error.submission == status.submission
        assert error.submission.failed_at == error.chunk.failed_at
        assert error.submission.failed_chunk_id == 0
        assert error.failure == "ValueError: bad row 7"


def test_a_failure_of_too_many_operations_has_the_failed_submission(
    either_producer: ProducerClient, queue: Queue
) -> None:
    """It is a failed one like the others, though no chunk failed."""
    id_ = either_producer.insert_submission([1, 2], chunk_size=2, max_failed_operations=0)
    chunk = queue.reserve_chunks("w").chunks[0]
    queue.complete_chunks([chunk.token], operations_failed={chunk.token: 1})

    with pytest.raises(SubmissionFailedError) as raised:
        either_producer.blocking_stream_completed_submission(id_)

    assert isinstance(raised.value.submission, SubmissionFailed)
    assert raised.value.submission.failed_at >= raised.value.submission.created_at


@pytest.mark.parametrize("read", READERS)
def test_a_cancellation_has_the_cancelled_submission(
    either_producer: ProducerClient, read: Callable[[ProducerClient, SubmissionId], None]
) -> None:
    """With when that was; also in the refusal to cancel it once more."""
    id_ = either_producer.insert_submission([1], chunk_size=1)
    either_producer.cancel_submission(id_)

    with pytest.raises(SubmissionCancelledError) as raised:
        read(either_producer, id_)
    with pytest.raises(SubmissionNotCancellableError) as refused:
        either_producer.cancel_submission(id_)

    error = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 our own bytes
    assert isinstance(error.submission, SubmissionCancelled)
    assert error.submission.cancelled_at == raised.value.submission.cancelled_at
    assert refused.value.ended == raised.value.submission


def test_a_refused_retry_has_the_submission_as_it_is(either_producer: ProducerClient) -> None:
    """A submission in progress has no class of its own."""
    completed = either_producer.insert_submission([], chunk_size=1)
    running = either_producer.insert_submission([1], chunk_size=1)

    with pytest.raises(SubmissionNotRetryableError) as of_completed:
        either_producer.retry_submission(completed)
    with pytest.raises(SubmissionNotRetryableError) as of_running:
        either_producer.retry_submission(running)

    assert isinstance(of_completed.value.submission, SubmissionCompleted)
    assert of_completed.value.submission.completed_at is not None
    assert type(of_running.value.submission) is Submission


def test_an_unknown_submission_is_raised_over_http(producer: ProducerClient) -> None:
    """With its id."""
    with pytest.raises(SubmissionNotFoundError) as raised:
        producer.wait_for_submission(UNKNOWN)

    assert raised.value.submission_id == UNKNOWN


def test_a_taken_prefix_is_raised_over_http(api: HttpBackend, queue_name: str) -> None:
    """With another idempotency key."""
    new = NewSubmission(prefix=fresh_prefix(queue_name), chunks_total=1)
    api.queue(queue_name).insert_submission(new, idempotency_key="k1")

    with pytest.raises(InvalidArgumentError, match="belongs to submission"):
        api.queue(queue_name).insert_submission(new, idempotency_key="k2")


def test_an_idempotency_key_works_over_http(producer: ProducerClient, store: ObjectStore) -> None:
    """One submission, one upload."""
    ids = {producer.insert_submission([1], chunk_size=1, idempotency_key="k") for _ in range(2)}

    assert (len(ids), len(list(store.list_prefix("")))) == (1, 2)


def test_the_version_is_told_over_http(producer: ProducerClient) -> None:
    """It is the API's own version."""
    assert producer.server_version().count(".") >= 1


def test_whatever_is_asked_over_http_is_answered_as_by_redis(
    producer: ProducerClient, api: HttpBackend, queue: Queue
) -> None:
    """Lists, look-ups, counts and workers have the same values either way."""
    straight = RedisBackend(queue._client)
    ids = [
        producer.insert_submission([n], chunk_size=1, strategic_metadata={"customer": n % 2})
        for n in range(5)
    ]
    producer.cancel_submission(ids[0])
    queue.heartbeat("w1", info=b'{"host": "a"}')
    prefix = queue.get_submission(ids[2]).prefix
    wanted = SubmissionFilter(
        strategic_metadata={"customer": 0}, created_from=queue.get_submission(ids[0]).created_at
    )

    for asked in (
        lambda a: a.queue(queue.name).list_submissions(wanted, limit=2),
        lambda a: a.queue(queue.name).list_submissions(wanted, order="oldest", after=ids[0]),
        lambda a: a.queue(queue.name).lookup_submissions(
            {"customer": 0}, states=SubmissionState, limit=9
        ),
        lambda a: a.queue(queue.name).lookup_prefix(prefix),
        lambda a: a.queues()[queue.name].submissions,
        lambda a: [w.name for w in a.queue(queue.name).list_workers()],
    ):
        assert asked(api) == asked(straight)
    listed = list(producer.list_submissions(SubmissionFilter(strategic_metadata={"customer": 0})))
    assert ids[::-2] == [s.id for s in listed]
    assert producer.lookup_submission_ids_by_strategic_metadata({"customer": 1}) == ids[1::2]
    assert producer.lookup_submission_id_by_prefix(prefix) == ids[2]


def test_a_priority_is_changed_and_a_cancelled_submission_retried(
    producer: ProducerClient, queue: Queue, work: Work
) -> None:
    """While it runs; what can't be is refused with the same exceptions as by Redis."""
    id_ = producer.insert_submission([1], chunk_size=1, strategic_metadata={"priority": 1})

    producer.update_strategic_metadata(id_, {"priority": 5})
    with pytest.raises(SubmissionNotRetryableError, match="is in progress"):
        producer.retry_submission(id_)
    producer.cancel_submission(id_)
    with pytest.raises(SubmissionNotCancellableError):
        producer.update_strategic_metadata(id_, {"priority": 6})
    producer.retry_submission(id_)
    work(lambda x: x)

    found = queue.get_submission(id_)
    assert (found.state, found.strategic_metadata) == (SubmissionState.COMPLETED, {"priority": 5})


def test_a_look_up_that_finds_too_many_names_its_limit(producer: ProducerClient) -> None:
    """As an attribute too."""
    for _ in range(2):
        producer.insert_submission([1], chunk_size=1, strategic_metadata={"customer": 1})

    with pytest.raises(TooManyMatchingSubmissionsError) as raised:
        producer.lookup_submission_ids_by_strategic_metadata({"customer": 1}, limit=1)

    assert raised.value.max_submissions == 1


def test_a_queue_is_paused_over_http(api: HttpBackend, queue: Queue) -> None:
    """And goes on after a resume."""
    api.queue(queue.name).pause_queue()
    assert api.queue(queue.name).count_queue().is_paused

    api.queue(queue.name).resume_queue()
    assert not api.queue(queue.name).count_queue().is_paused


KEYS = ["a:1", "a+b&c=d", "größe", "%41", '"', "\n\0", "e\u0301", "7", "__proto__"]


@pytest.mark.parametrize("key", ["😀" * 255, *KEYS])
def test_any_key_goes_over_http(producer: ProducerClient, key: str) -> None:
    """In bodies and in queries."""
    id_ = producer.insert_submission([1], chunk_size=1, strategic_metadata={key: 1, "customer": 3})
    producer.insert_submission([1], chunk_size=1, strategic_metadata={"customer": 3})

    producer.update_strategic_metadata(id_, {key: -5, "customer": None})

    (found,) = producer.list_submissions(SubmissionFilter(strategic_metadata={key: -5}))
    assert (id_, {key: -5}) == (found.id, found.strategic_metadata)
    assert [id_] == producer.lookup_submission_ids_by_strategic_metadata({key: -5})


@pytest.mark.parametrize("key", ["", "\ud800", "x" * 256])
def test_what_is_no_key_is_refused_before_it_is_sent(producer: ProducerClient, key: str) -> None:
    """By an error of ours, whatever the encoding of a request would have said."""
    for call in (
        lambda: producer.insert_submission([1], chunk_size=1, strategic_metadata={key: 1}),
        lambda: producer.update_strategic_metadata(UNKNOWN, {key: None}),
        lambda: producer.lookup_submission_ids_by_strategic_metadata({key: 1}),
    ):
        with pytest.raises(InvalidArgumentError, match="strategic metadata key"):
            call()


def test_a_look_up_that_no_url_can_hold_is_refused(producer: ProducerClient) -> None:
    """By an error of ours."""
    pairs = {f"{n}" + "😀" * 250: 1 for n in range(64)}

    with pytest.raises(InvalidArgumentError, match="its query is too long"):
        producer.lookup_submission_ids_by_strategic_metadata(pairs)


def test_the_largest_metadata_goes_over_http(producer: ProducerClient, queue: Queue) -> None:
    """And comes back."""
    metadata = bytes(range(256)) * 2048
    id_ = producer.insert_submission([1], chunk_size=1, metadata=metadata)

    assert metadata == queue.get_submission(id_).metadata
    assert metadata == producer.get_submission(id_).metadata
