"""The heartbeat timeout of a consumer: its own, or otherwise the API's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from opsqueue.consumer.backends import ConsumerQueue
from opsqueue.consumer.http_api import HttpChunkQueue
from opsqueue.http.client import HttpClient
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue.strategy import Oldest
from opsqueue_api.app import App, create_app

SLACK_MS = 20_000
"""That a test may take, as the app goes by the server's clock."""
API_MS = 300_000
OWN_MS = 900_000
Step = Callable[[httpx.Client], Any]


@pytest.fixture
def client(real_client: redis.Redis) -> redis.Redis:
    """Use only a real server; the state machine's own suite covers fakeredis."""
    return real_client


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    """Of an API that was started with a timeout of its own."""
    return create_app(client, store, heartbeat_timeout_s=API_MS / 1000)


def is_dead_after(queue: Queue, client: redis.Redis, ms: int) -> bool:
    """Sweep with a clock that is ahead."""
    later = Queue(client, queue.name, clock=lambda: int(time.time() * 1000) + ms)
    swept = later.reclaim_dead("another")
    assert swept is not None
    return swept.chunks == 1


def check_dies_after(queue: Queue, client: redis.Redis, ms: int) -> None:
    assert not is_dead_after(queue, client, ms - SLACK_MS)
    assert is_dead_after(queue, client, ms)


def insert_one(http: httpx.Client) -> None:
    http.post("/submissions", json={"operations": [1], "chunk_size": 1})


def reserve(**more: int) -> Step:
    return lambda http: http.post("/chunks/reserve", json={"worker": "w1", **more})


def beat(**more: int) -> Step:
    return lambda http: http.post("/workers/w1/heartbeat", json=more)


@pytest.mark.parametrize(
    ("steps", "timeout_ms"),
    [
        pytest.param([reserve()], API_MS, id="reserve"),
        pytest.param([reserve(heartbeat_timeout_ms=OWN_MS)], OWN_MS, id="own in reserve"),
        pytest.param([beat(), reserve()], API_MS, id="beat"),
        pytest.param([beat(timeout_ms=OWN_MS), reserve()], OWN_MS, id="own in beat"),
        pytest.param([reserve(), beat(timeout_ms=OWN_MS)], OWN_MS, id="own in a later beat"),
    ],
)
def test_a_consumer_over_http_is_dead_by_its_own_word_else_by_the_apis(
    http: httpx.Client, queue: Queue, client: redis.Redis, steps: list[Step], timeout_ms: int
) -> None:
    """From its first reserve on; and a reserve does not take back what a heartbeat said."""
    insert_one(http)

    codes = [step(http).status_code for step in steps]

    assert set(codes) == {200}
    check_dies_after(queue, client, timeout_ms)


@pytest.fixture(params=["redis", "http"])
def on(request: pytest.FixtureRequest, app: App, queue: Queue) -> ConsumerQueue:
    """The queue of a ConsumerClient."""
    if request.param == "redis":
        return queue
    client = HttpClient("http://api", transport=httpx.WSGITransport(app))
    return HttpChunkQueue(client, queue.name)


@pytest.mark.parametrize("has_beaten", [False, True])
def test_a_consumer_client_says_its_own_timeout(
    on: ConsumerQueue, http: httpx.Client, queue: Queue, client: redis.Redis, *, has_beaten: bool
) -> None:
    """In its reserves as in its heartbeats."""
    insert_one(http)
    (chunk,) = on.reserve_when_free(
        "w1",
        limit=1,
        reservation_ms=60_000,
        strategy=Oldest(),
        heartbeat_timeout_ms=OWN_MS,
        wait_s=0,
        is_gone=lambda: False,
    ).chunks
    if has_beaten:
        on.heartbeat("w1", tokens=[chunk.token], info=b"{}", timeout_ms=OWN_MS)

    check_dies_after(queue, client, OWN_MS)


@pytest.mark.parametrize("timeout_ms", [0, 99, 86_400_001])
def test_a_timeout_is_at_least_a_tenth_of_a_second_and_at_most_a_day(
    http: httpx.Client, timeout_ms: int
) -> None:
    """Anything else is a mistake in the unit."""
    answers = [reserve(heartbeat_timeout_ms=timeout_ms)(http), beat(timeout_ms=timeout_ms)(http)]

    assert [422, 422] == [answer.status_code for answer in answers]
