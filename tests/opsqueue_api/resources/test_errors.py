"""Operations that failed, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import encode_output
from opsqueue.model.chunk import OperationError
from opsqueue.producer import OperationFailed, ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from opsqueue.strategy import Oldest
from opsqueue_api.app import App, create_app
from opsqueue_api.http.settings import Limits
from tests.opsqueue_api.clients import client_of

NAMES = ("operations_succeeded", "operations_failed", "operations_dropped", "max_failed_operations")


@pytest.fixture
def work(queue: Queue, store: ObjectStore) -> Callable[..., None]:
    """Does free chunks; operations that are negative fail."""

    def run(limit: int = 1_000) -> None:
        for chunk in queue.reserve_chunks("w", limit=limit, strategy=Oldest()).chunks:
            codec, prefix = open_codec(chunk.source.codec), chunk.source.prefix
            operations: list[Any] = codec.decode(store.get(input_key(prefix, chunk.chunk_index)))
            outcomes = [
                OperationError(type="ValueError", message=f"{n}", traceback="line 1\n")
                if isinstance(n, int) and n < 0
                else n
                for n in operations
            ]
            output = encode_output(outcomes, codec, collects=True)
            store.create(output_key(prefix, chunk.chunk_index), output.data)
            queue.complete_chunks(
                [chunk.token], operations_failed={chunk.token: output.operations_failed}
            )

    return run


def insert(http: httpx.Client, operations: list[Any], **more: object) -> str:
    body = {"operations": operations, "chunk_size": 2, **more}
    return str(http.post("/submissions", json=body).raise_for_status().json()["id"])


def lines_of(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.raise_for_status().text.splitlines()]


def error(index: int, number: int) -> dict[str, Any]:
    return {
        "index": index,
        "chunk_index": index // 2,
        "type": "ValueError",
        "message": str(number),
        "traceback": "line 1\n",
    }


def test_errors_come_in_order_a_line_each(http: httpx.Client, work: Callable[..., None]) -> None:
    """Of finished chunks, also while others are not."""
    id_ = insert(http, [1, -2, 3, 4, -5, -6, -7])
    before = http.get(f"/submissions/{id_}/errors")

    work(3)

    response = http.get(f"/submissions/{id_}/errors")
    assert lines_of(before) == []
    assert response.headers["content-type"] == "application/x-ndjson"
    assert lines_of(response) == [error(1, -2), error(4, -5), error(5, -6)]


def test_results_with_errors_are_refused_unless_it_is_said_how_they_shall_be_seen(
    http: httpx.Client, work: Callable[..., None]
) -> None:
    """A line is the result alone: one with an error could be taken for a result."""
    id_ = insert(http, [1, -2, {"error": {}}])
    work()

    refused = http.get(f"/submissions/{id_}/results")

    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (
        409,
        "urn:opsqueue:problem:operations-failed",
    )
    assert "1 of 3 operations" in problem["detail"]
    assert problem["submission"]["operations_failed"] == 1
    path = f"/submissions/{id_}/results?errors="
    assert lines_of(http.get(path + "skip")) == [1, {"error": {}}]
    assert lines_of(http.get(path + "yield")) == [
        {"result": 1},
        {"error": error(1, -2)},
        {"result": {"error": {}}},
    ]
    assert http.get(path + "ignore").status_code == 422


def test_the_status_accounts_for_every_operation(
    http: httpx.Client, work: Callable[..., None]
) -> None:
    """Past the limit it fails; the share is answered as the count that it is."""
    id_ = insert(http, [-1, 2, -3, 4, 5, 6, 7, 8, 9, 10], max_failed_operations=0.19)
    work(3)

    status = http.get(f"/submissions/{id_}").json()

    assert status["state"] == "failed"
    assert [status[name] for name in NAMES] == [2, 2, 6, 1]
    assert status["failure"]["type"] == "TooManyFailedOperations"


@pytest.mark.parametrize("limit", [-1, 1.5, -0.1, "many", True])
def test_a_limit_that_cannot_be_meant_is_refused(http: httpx.Client, limit: object) -> None:
    """A share has a point and is at most 1.0."""
    body = {"operations": [1], "chunk_size": 1, "max_failed_operations": limit}

    assert http.post("/submissions", json=body).status_code in (400, 422)


def test_chunks_with_errors_are_listed_page_by_page(
    http: httpx.Client, work: Callable[..., None]
) -> None:
    """For clients that read the store themselves."""
    id_ = insert(http, [1, 2, -3, 4, 5, 6, -7])
    work()

    assert http.get(f"/submissions/{id_}/errors/chunks").json() == {"chunks": [1, 3], "next": None}
    assert http.get(f"/submissions/{id_}/errors/chunks?from=2").json()["chunks"] == [3]
    assert http.get(f"/submissions/{id_}/errors/chunks?from=-1").status_code == 422


@pytest.mark.parametrize("path", ["errors", "errors/chunks"])
def test_a_submission_that_never_was_is_not_found(http: httpx.Client, path: str) -> None:
    """404."""
    assert http.get(f"/submissions/1/{path}").status_code == 404


def test_errors_that_were_deleted_are_gone(
    http: httpx.Client, work: Callable[..., None], store: ObjectStore
) -> None:
    """410, before the answer begins."""
    id_ = insert(http, [-1])
    work()
    store.delete_prefix(http.get(f"/submissions/{id_}").json()["prefix"])

    assert http.get(f"/submissions/{id_}/errors").status_code == 410


def test_a_producer_over_http_sees_them(
    app: App, store: ObjectStore, queue_name: str, work: Callable[..., None]
) -> None:
    """Errors, and a retry of the failed alone."""
    api = HttpBackend("http://api", transport=httpx.WSGITransport(app))
    producer = ProducerClient.over(api, store, queue=queue_name)
    id_ = producer.insert_submission([1, -2, -3], chunk_size=1, max_failed_operations=1.0)
    work()

    again = producer.retry_submission(id_, only="failed")
    work()

    status = producer.get_submission(again)
    assert status is not None
    assert (status.operations_total, status.operations_failed) == (2, 2)
    assert [error.message for error in producer.iter_errors(id_)] == ["-2", "-3"]
    outcomes = list(producer.try_stream_completed_submission(id_, errors="yield"))
    assert outcomes[0] == 1
    assert isinstance(outcomes[2], OperationFailed)
    api.close()


def test_failed_operations_alone_are_submitted_again(
    http: httpx.Client, work: Callable[..., None], queue: Queue
) -> None:
    """They become a new submission; wrong requests are refused with a reason."""
    id_ = http.post("/submissions", json={"operations": [1, -2, -3], "chunk_size": 2}).json()["id"]
    early = http.post(f"/submissions/{id_}/retry?only=failed")
    work()

    first, again = (http.post(f"/submissions/{id_}/retry?only=failed") for _ in range(2))
    whole = http.post("/submissions", json={"operations": [1], "chunk_size": 1}).json()["id"]
    work()
    nothing = http.post(f"/submissions/{whole}/retry?only=failed")

    assert (409, 201, 201, 409) == (
        early.status_code,
        first.status_code,
        again.status_code,
        nothing.status_code,
    )
    assert first.json()["id"] == again.json()["id"] != id_
    assert first.json()["operations_total"] == 2
    assert "no failed operation" in nothing.json()["detail"]


def test_a_traceback_longer_than_any_that_is_written_is_refused(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """Thousands of errors may refer to one, each line of the answer having all of it."""
    insert(http, [1, 2])
    (chunk,) = queue.reserve_chunks("w", strategy=Oldest()).chunks
    error = OperationError(type="E", message="", traceback="x" * 100_000)
    output = encode_output([error, error], open_codec(chunk.source.codec), collects=True)
    report = {"token": chunk.token, "output": base64.b64encode(output.data).decode()}

    answer = http.post("/chunks/complete", json={"chunks": [report]})

    assert answer.status_code == 422
    assert "a traceback in an output has 100,000 characters" in answer.json()["detail"]


def test_errors_are_sent_some_at_a_time(http: httpx.Client, work: Callable[..., None]) -> None:
    """Memory is for a part of a chunk's, not for all."""
    id_ = insert(http, list(range(-20_000, 0)), chunk_size=20_000)
    work()

    plain = {"Accept-Encoding": "identity"}
    with http.stream("GET", f"/submissions/{id_}/errors", headers=plain) as answer:
        parts = list(answer.iter_raw())

    assert 20_000 == b"".join(parts).count(b"\n")
    assert len(parts) > 1


@pytest.mark.parametrize("operations", [1, 2_000_000])
def test_a_retry_of_what_failed_decodes_no_more_than_other_requests(
    client: redis.Redis, queue: Queue, store: ObjectStore, queue_name: str, operations: int
) -> None:
    """A list of small dicts, as many as told or more: each byte of it takes 80 of memory."""
    prefix = f"{queue_name}/{'0' * 32}"
    store.create(
        input_key(prefix, 0), b"\xdd" + (2_000_000).to_bytes(4, "big") + b"\x80" * 2_000_000
    )
    app = create_app(client, store, limits=Limits(chunk_bytes=4_000_000))
    with client_of(app, f"/v1/queues/{queue_name}") as http:
        body = {"prefix": prefix, "chunks_total": 1, "codec": "msgpack", "chunk_size": operations}
        id_ = http.post("/submissions", json={**body, "operations_total": operations}).json()["id"]
        (chunk,) = queue.reserve_chunks("w", strategy=Oldest()).chunks
        error = OperationError(type="E", message="", traceback="")
        outcomes = [error, *[0] * (operations - 1)]
        output = encode_output(outcomes, open_codec("msgpack"), collects=True)
        store.create(output_key(prefix, 0), output.data)
        queue.complete_chunks([chunk.token], operations_failed={chunk.token: 1})

        answer = http.post(f"/submissions/{id_}/retry?only=failed")

        assert answer.status_code in (413, 422)
        wanted = "2,000,000" if operations == 1 else "max-chunk-bytes"
        assert wanted in answer.json()["detail"]
