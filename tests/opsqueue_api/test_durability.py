"""The answer to an insert that is not confirmed yet, and its safe repetition."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import encode_output
from opsqueue.exceptions import SubmissionNotConfirmedError
from opsqueue.http.bodies import ProblemType
from opsqueue.model.chunk import OperationError
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue import durability
from opsqueue.queue.connection import server_client
from opsqueue.queue.durability import Durability
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue_api.app import App, create_app
from opsqueue_api.http.settings import Limits
from tests.servers import ALWAYS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("own"), arguments=ALWAYS) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Of a server whose `fsync` is broken and mended by `appendfsync`."""
    monkeypatch.setattr(durability, "CONFIRM_WITHIN_MS", 300)
    client = server_client(server.url)
    client.config_set("appendfsync", "everysec")
    yield client
    client.close()


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    return create_app(client, store, limits=Limits(inline_bytes=0), durability=Durability.FSYNC)


def in_progress(queue: Queue) -> int:
    return queue.count_queue().submissions[SubmissionState.IN_PROGRESS]


def insert(http: httpx.Client, **headers: str) -> httpx.Response:
    return http.post(
        "/submissions", json={"operations": [1, 2, 3], "chunk_size": 2}, headers=headers
    )


def test_an_insert_that_is_not_confirmed_is_answered_503(http: httpx.Client, queue: Queue) -> None:
    """The problem has the id, the reason for the doubt, and what is safe to do."""
    response = insert(http, **{"idempotency-key": "key"})

    problem = response.json()
    assert (503, ProblemType.NOT_CONFIRMED) == (response.status_code, problem["type"])
    assert "Inserted, but not confirmed yet" == problem["title"]
    assert "with the same idempotency key is safe" in problem["detail"]
    assert "appendfsync everysec" in problem["why"]
    assert "2" == response.headers["retry-after"]
    assert http.get(f"/submissions/{problem['submission_id']}").json()["chunks_total"] == 2
    assert 1 == in_progress(queue)


def test_an_insert_is_confirmed_by_repeating_it(
    http: httpx.Client, queue: Queue, client: redis.Redis, store: ObjectStore
) -> None:
    """The answer is 503 while it is in doubt, then 200 with the first id and its inputs."""
    first, second = (insert(http, **{"idempotency-key": "key"}) for _ in range(2))
    client.config_set("appendfsync", "always")
    third = insert(http, **{"idempotency-key": "key"})

    assert [503, 503, 200] == [r.status_code for r in (first, second, third)]
    assert first.json()["submission_id"] == third.json()["id"]
    assert 1 == in_progress(queue)
    data = store.get(input_key(third.json()["prefix"], 0))
    assert [1, 2] == open_codec(third.json()["codec"]).decode(data)


def test_an_insert_on_a_server_that_keeps_the_promise_is_answered_201(
    http: httpx.Client, client: redis.Redis
) -> None:
    """As without a durability."""
    client.config_set("appendfsync", "always")

    assert 201 == insert(http).status_code


def test_a_producer_is_told_what_the_api_is_told(
    app: App, store: ObjectStore, queue_name: str, queue: Queue, client: redis.Redis
) -> None:
    """After some repetitions; its uploads stay, and the same key finds them later."""
    pauses: list[float] = []
    api = HttpBackend("http://api", transport=httpx.WSGITransport(app), pause=pauses.append)
    producer = ProducerClient.over(api, store, queue=queue_name, inline_bytes=0)

    with pytest.raises(SubmissionNotConfirmedError, match="appendfsync everysec") as caught:
        producer.insert_submission([1, 2], chunk_size=1, idempotency_key="key")
    client.config_set("appendfsync", "always")
    id_ = producer.insert_submission([1, 2], chunk_size=1, idempotency_key="key")

    assert caught.value.submission_id == id_
    assert 7 == len(pauses)
    assert 1 == in_progress(queue)
    assert all(store.exists(input_key(queue.get_submission(id_).prefix, i)) for i in (0, 1))


def test_only_inserts_wait(http: httpx.Client, client: redis.Redis) -> None:
    """A lost cancel or retry is visible in the status and can be repeated."""
    client.config_set("appendfsync", "always")
    id_ = insert(http).json()["id"]
    client.config_set("appendfsync", "everysec")

    assert 200 == http.post(f"/submissions/{id_}/cancel").status_code
    assert 200 == http.post(f"/submissions/{id_}/retry").status_code


def test_a_retry_of_failed_operations_is_an_insert(
    http: httpx.Client, queue: Queue, store: ObjectStore, client: redis.Redis
) -> None:
    """Repeating it finds the first new submission and waits again."""
    client.config_set("appendfsync", "always")
    id_ = insert(http).json()["id"]
    for chunk in queue.reserve_chunks("w", limit=2).chunks:
        failed = OperationError(type="ValueError", message="x", traceback="")
        output = encode_output([failed], open_codec(chunk.source.codec), collects=True)
        store.create(output_key(chunk.source.prefix, chunk.chunk_index), output.data)
        queue.complete_chunks([chunk.token], operations_failed={chunk.token: 1})
    client.config_set("appendfsync", "everysec")

    doubtful = http.post(f"/submissions/{id_}/retry?only=failed")
    client.config_set("appendfsync", "always")
    confirmed = http.post(f"/submissions/{id_}/retry?only=failed")

    assert [503, 201] == [doubtful.status_code, confirmed.status_code]
    assert doubtful.json()["submission_id"] == confirmed.json()["id"]
