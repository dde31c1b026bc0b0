"""A ConsumerClient over Redis and over the real app, with the same calls and outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
import redis

from opsqueue.consumer import ConsumerClient
from opsqueue.consumer.backends import ConsumerQueue
from opsqueue.consumer.http_api import HttpChunkQueue
from opsqueue.http.client import HttpClient
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.producer import Backoff, ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App

NO_WAIT = Backoff(first_ms=0, max_ms=0)
Insert = Callable[..., SubmissionId]
Run = Callable[..., Submission]


@pytest.fixture
def client(real_client: redis.Redis) -> redis.Redis:
    """Use only a real server; the state machine's own suite covers fakeredis."""
    return real_client


@pytest.fixture(params=["redis", "http"])
def on(request: pytest.FixtureRequest, app: App, queue: Queue) -> Iterator[ConsumerQueue]:
    """The queue of the consumer."""
    if request.param == "redis":
        yield queue
        return
    http = HttpClient("http://api", transport=httpx.WSGITransport(app))
    yield HttpChunkQueue(http, queue.name)
    http.close()


@pytest.fixture
def consumer(on: ConsumerQueue, store: ObjectStore) -> Iterator[ConsumerClient]:
    with ConsumerClient.over(on, store, heartbeat_interval_s=60) as consumer:
        yield consumer


@pytest.fixture
def producer(client: redis.Redis, store: ObjectStore, queue_name: str) -> ProducerClient:
    """Store all contents in the object store; test_inline.py tests the others."""
    return ProducerClient.over(RedisBackend(client), store, queue=queue_name, inline_bytes=0)


@pytest.fixture
def insert(producer: ProducerClient) -> Insert:
    return partial(producer.insert_submission, chunk_size=2, backoff=NO_WAIT)


@pytest.fixture
def run(consumer: ConsumerClient, queue: Queue) -> Run:
    """Runs a method of the consumer until the submission has ended; returns the outcome."""

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
