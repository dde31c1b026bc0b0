"""Small submissions over HTTP."""

from __future__ import annotations

import base64
from typing import Any, cast

import httpx
import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.producer import ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.settings import Limits
from tests.opsqueue.steps import take


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    return create_app(client, store)


def complete_inline(queue: Queue) -> None:
    """Double each operation."""
    for chunk in take(queue, 100):
        assert chunk.input is not None
        codec = open_codec(chunk.source.codec)
        data = codec.encode([2 * number for number in cast("list[int]", codec.decode(chunk.input))])
        queue.complete_chunks([chunk.token], outputs={chunk.token: data})


def test_small_bodies_go_through_redis_alone(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """Results, too."""
    body = {"operations": [1, 2, 3], "chunk_size": 2}
    inserted: dict[str, Any] = http.post("/submissions", json=body).json()

    complete_inline(queue)
    results = http.get(f"/submissions/{inserted['id']}/results")

    assert inserted["is_inline"]
    assert results.text == "2\n4\n6\n"
    assert list(store.list_prefix("")) == []


def test_the_producer_sends_and_reads_small_contents_over_http(
    app: App, queue: Queue, queue_name: str, store: ObjectStore
) -> None:
    """Bytes are kept as they are."""
    api = HttpBackend("http://api", transport=httpx.WSGITransport(app))
    producer = ProducerClient.over(api, store, queue=queue_name)

    id_ = producer.insert_submission([b"\x00\xff", b""], chunk_size=1)
    complete_inline(queue)

    assert list(producer.try_stream_completed_submission(id_)) == [b"\x00\xff" * 2, b""]
    assert list(store.list_prefix("")) == []
    api.close()


def test_an_api_that_keeps_nothing_inline_stores_what_clients_send(
    client: redis.Redis, queue: Queue, queue_name: str, store: ObjectStore
) -> None:
    """Once, also when the insert is repeated; another one's upload is deleted."""
    app = create_app(client, store, limits=Limits(inline_bytes=0))
    api = HttpBackend("http://api", transport=httpx.WSGITransport(app))
    producer = ProducerClient.over(api, store, queue=queue_name)

    ids = {producer.insert_submission([1], chunk_size=1, idempotency_key="a") for _ in range(2)}
    (chunk,) = take(queue, 10)

    assert len(ids) == 1
    assert not chunk.source.is_inline
    prefix = chunk.source.prefix
    assert {f"{prefix}/0-in", f"{prefix}/manifest"} == set(store.list_prefix(""))
    api.close()


@pytest.mark.parametrize(
    ("inline", "says"),
    [
        (["!"], "base64"),
        ([1], "inline"),
        (["eA==", "eA=="], "give all"),
        ([base64.b64encode(bytes(200_000)).decode()] * 2, "give all"),
    ],
)
def test_inline_chunks_that_cannot_be_meant_are_refused(
    http: httpx.Client, inline: list[Any], says: str
) -> None:
    """Naming what is wrong."""
    body = {"chunk_size": 1, "prefix": "a/b", "chunks_total": 1, "inline": inline}
    answer = http.post("/submissions", json=body)

    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_inline_chunks_go_with_a_prefix(http: httpx.Client) -> None:
    """Large outputs are stored below it."""
    answer = http.post("/submissions", json={"chunk_size": 1, "operations": [], "inline": []})

    assert answer.status_code == 422
    assert "is only for a body with prefix" in answer.json()["detail"]


def test_inline_contents_of_an_unknown_submission_are_not_found(http: httpx.Client) -> None:
    """As its status is."""
    assert http.get(f"/submissions/{'1' * 19}/inline-outputs").status_code == 404


def test_the_output_of_one_chunk_can_be_asked_for(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """By who follows a submission while it runs."""
    body = {"operations": [1, 2], "chunk_size": 1}
    id_ = http.post("/submissions", json=body).json()["id"]
    first, _ = take(queue, 2)
    queue.complete_chunks([first.token], outputs={first.token: b"x"})

    answers = [http.get(f"/submissions/{id_}/inline-outputs?index={n}").json() for n in range(2)]

    assert answers == [{"chunks": {"0": "eA=="}}, {"chunks": {}}]


def test_consumers_over_http_get_small_contents_and_store_their_outputs(
    http: httpx.Client, store: ObjectStore
) -> None:
    """Bytes with the reservation and by the input's own address, or operations as JSON."""
    body = {"operations": [1, 2], "chunk_size": 1}
    status = http.post("/submissions", json=body).json()
    asked = {"worker": "w1", "max": 1}
    plain = http.post("/chunks/reserve", json=asked).json()["chunks"][0]
    told = http.post("/chunks/reserve", json={**asked, "include_operations": True})
    as_json = told.json()["chunks"][0]
    address = f"/submissions/{status['id']}/chunks/{plain['chunk_index']}/input"

    fetched = http.get(address).content
    for chunk in (plain, as_json):
        done = {"chunks": [{"token": chunk["token"], "results": ["done"]}]}
        assert http.post("/chunks/complete", json=done).is_success

    assert base64.b64decode(plain["input"]) == fetched
    assert as_json["operations"] == [as_json["chunk_index"] + 1]
    assert http.get(f"/submissions/{status['id']}/results").text == '"done"\n"done"\n'
    assert len(list(store.list_prefix(""))) == 2


@pytest.mark.parametrize("report", [{}, {"output": "AAAA"}, {"results": [1, 2]}])
def test_a_small_chunk_is_not_completed_without_an_output_either(
    http: httpx.Client, report: dict[str, Any]
) -> None:
    """A consumer over HTTP stores it, or sends it along."""
    id_ = http.post("/submissions", json={"operations": [1], "chunk_size": 1}).json()["id"]
    asked = {"worker": "w1", "max": 1}
    (chunk,) = http.post("/chunks/reserve", json=asked).json()["chunks"]

    refused = http.post("/chunks/complete", json={"chunks": [{"token": chunk["token"], **report}]})
    done = {"chunks": [{"token": chunk["token"], "results": [2]}]}
    completed = http.post("/chunks/complete", json=done)

    assert (422, 200) == (refused.status_code, completed.status_code)
    assert http.get(f"/submissions/{id_}/results").text == "2\n"
