"""Consumers as programs: killed, interrupted, in Node; with Redis, and with only the API."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

from opsqueue.consumer import Chunk, ConsumerClient, Strategy
from opsqueue.exceptions import ApiUnavailableError, InvalidArgumentError, RedisUnavailableError
from opsqueue.http.client import Patience
from opsqueue.producer import Backoff, ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from tests.redis_sets import until
from tests.system.conftest import Process, Start, running

pytestmark = pytest.mark.system

EXAMPLE = Path(__file__).parents[2] / "examples" / "consumer.mjs"
NO_WAIT = Backoff(first_ms=0, max_ms=0)


@pytest.fixture(scope="module")
def store(module_store_url: str) -> str:
    return module_store_url


@pytest.fixture(scope="module")
def api_url(redis_url: str, store: str) -> Iterator[str]:
    with running(
        *("opsqueue_api", "--port", "0", "--heartbeat-timeout", "1"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store,
    ) as api:
        yield api.wait_for_line("ready on").rpartition(" ")[2]


@pytest.fixture
def producer(real_client: redis.Redis, store: str, queue_name: str) -> ProducerClient:
    return ProducerClient.over(RedisBackend(real_client), open_store(store), queue=queue_name)


@pytest.fixture(params=["redis", "http"])
def url(request: pytest.FixtureRequest, redis_url: str) -> str:
    """Redis's, or that of an API."""
    if request.param == "redis":
        return redis_url
    url: str = request.getfixturevalue("api_url")
    return url


def test_a_killed_consumers_chunk_is_done_by_another(
    start: Start, url: str, store: str, queue_name: str, producer: ProducerClient
) -> None:
    """There is no worker: the API or the other consumer reclaims it, which uses an attempt."""
    id_ = producer.insert_submission([41], chunk_size=1, backoff=NO_WAIT)
    dying = start("consume", url, store, queue_name, "hang")
    dying.wait_for_line("got 41")
    seen: list[int] = []

    dying.signal(signal.SIGKILL)
    with ConsumerClient(url, store, queue=queue_name, heartbeat_interval_s=0.3) as consumer:

        def increment(ops: Sequence[int], chunk: Chunk) -> list[int]:
            seen.append(chunk.retries)
            consumer.stop()
            return [op + 1 for op in ops]

        consumer.run_each_chunk(increment)

    assert [42] == list(producer.blocking_stream_completed_submission(id_))
    assert seen == [1]


def test_ctrl_c_ends_a_consumer_that_waits(
    start: Start, url: str, store: str, queue_name: str, real_client: redis.Redis
) -> None:
    """It raises KeyboardInterrupt at once, while the reference returns normally."""
    consumer = start("consume", url, store, queue_name)
    _wait_until_it_waits(real_client, consumer)

    started = time.monotonic()
    consumer.signal(signal.SIGINT)
    consumer.wait()

    assert consumer.lines[-1] == "KeyboardInterrupt"
    assert time.monotonic() - started < 5
    assert Queue(real_client, queue_name).list_workers() == []


def test_ctrl_c_in_a_callback_gives_the_chunk_back(
    start: Start, redis_url: str, store: str, queue_name: str, producer: ProducerClient,
    real_client: redis.Redis,
) -> None:  # fmt: skip
    """The chunk is ready at once, and no attempt is used."""
    producer.insert_submission([1], chunk_size=1)
    consumer = start("consume", redis_url, store, queue_name, "hang")
    consumer.wait_for_line("got 1")

    consumer.signal(signal.SIGINT)
    consumer.wait()

    assert consumer.lines[-1] == "KeyboardInterrupt"
    (chunk,) = Queue(real_client, queue_name).reserve_chunks("another").chunks
    assert chunk.attempt == 1


def test_a_consumer_in_node_needs_the_api_alone(
    start: Start, api_url: str, queue_name: str, producer: ProducerClient, real_client: redis.Redis
) -> None:
    """The example reports results and failures as JSON and shuts down in order."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed (Debian: nodejs)")
    id_ = producer.insert_submission([1, 2, 3], chunk_size=2)
    consumer = start(str(EXAMPLE), api_url, queue_name, program=node)

    results = list(producer.blocking_stream_completed_submission(id_))
    consumer.signal(signal.SIGINT)
    code = consumer.wait()

    assert results == [2, 3, 4]
    assert (code, consumer.output) == (0, "")
    assert Queue(real_client, queue_name).list_workers() == []


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1", ApiUnavailableError),
        ("127.0.0.1:1", ApiUnavailableError),
        ("redis://:hidden@127.0.0.1:1/0", RedisUnavailableError),
    ],
)
def test_an_url_where_nobody_answers_is_an_error_at_the_first_call(
    store: str, url: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference would wait forever; the message has the URL without the password."""
    monkeypatch.setattr(Patience, "pauses_s", lambda _self: iter(()))
    consumer = ConsumerClient(url, store)
    with consumer, pytest.raises(error, match=r"127.0.0.1:1") as raised:
        consumer.run_each_op(print, strategy=Strategy.Random())

    assert "hidden" not in str(raised.value) + repr(consumer)


@pytest.mark.parametrize("url", ["ws://host:3999", "ftp://host", "http://"])
def test_an_url_that_can_not_be_one_is_refused_at_once(store: str, url: str) -> None:
    """The constructor refuses it."""
    with pytest.raises(InvalidArgumentError, match="URL"):
        ConsumerClient(url, store)


def _wait_until_it_waits(client: redis.Redis, consumer: Process) -> None:
    """Until it, or the API for it, has found no chunk and sleeps in Redis."""
    consumer.wait_for_line("waiting")
    until(
        lambda: any(c["cmd"] == "ssubscribe" for c in client.client_list()),
        "somebody waits for a message",
    )
