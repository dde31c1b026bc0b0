"""POST .../submissions with NDJSON: operations of any number, as they come."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from typing import Any

import httpx
import pytest
import redis

from opsqueue.codec import open_codec
from opsqueue.queue import Queue
from opsqueue.store import ObjectStore, input_key, open_store
from opsqueue.submission import SubmissionFilter
from opsqueue_api.app import App, create_app
from opsqueue_api.settings import Limits
from tests.opsqueue_api.clients import client_of

HEADERS = {"content-type": "application/x-ndjson"}


def post(http: httpx.Client, content: Any, query: str = "chunk_size=2", **headers: str) -> Any:
    return http.post(f"/submissions?{query}", content=content, headers=HEADERS | headers)


def assert_nothing_is_there(queue: Queue, store: ObjectStore) -> None:
    assert queue.list_submissions(SubmissionFilter()).submissions == ()
    assert list(store.list_prefix(queue.name)) == []


def contents_of(store: ObjectStore, body: dict[str, Any]) -> list[Any]:
    codec = open_codec(body["codec"])
    chunks = range(body["chunks_total"])
    return [codec.decode(store.get(input_key(body["prefix"], index))) for index in chunks]


@pytest.mark.parametrize("end", ["\n", "", "\r\n", "\n\n \n"])
def test_each_line_is_an_operation(http: httpx.Client, store: ObjectStore, end: str) -> None:
    """Whatever its last line ends with."""
    response = post(http, '1\n"two"\n{"three": [3.5, null]}' + end)

    body = response.json()
    assert (response.status_code, body["operations_total"], body["chunks_total"]) == (201, 3, 2)
    assert response.headers["location"].endswith(body["id"])
    assert [[1, "two"], [{"three": [3.5, None]}]] == contents_of(store, body)


def test_the_query_says_what_a_json_body_has_as_fields(http: httpx.Client, queue: Queue) -> None:
    """Of any submission."""
    query = "chunk_size=3&max_attempts=4&meta=customer:7&meta=day:-2&max_failed_operations=0.5"

    body = post(http, "1\n2\n3\n4\n", query).json()

    assert (3, 4, {"customer": 7, "day": -2}, 2) == (
        body["chunk_size"],
        body["max_attempts"],
        body["strategic_metadata"],
        body["max_failed_operations"],
    )


def test_a_body_without_lines_is_a_submission_without_operations(http: httpx.Client) -> None:
    """Which completes at once."""
    assert post(http, "").json()["state"] == "completed"


def test_a_body_may_come_in_parts_and_packed(http: httpx.Client, store: ObjectStore) -> None:
    """Parts end anywhere; gzip is unpacked as it comes."""
    text = b"".join(b"%d\n" % number for number in range(50_000))

    parts = post(http, (text[at : at + 7_001] for at in range(0, len(text), 7_001)), "chunk_size=9")
    packed = post(http, gzip.compress(text), "chunk_size=9", **{"content-encoding": "gzip"})

    for response in (parts, packed):
        operations = [x for chunk in contents_of(store, response.json()) for x in chunk]
        assert operations == list(range(50_000))


def test_the_same_key_is_the_same_submission(http: httpx.Client, store: ObjectStore) -> None:
    """What the second one stored is deleted."""
    key = {"idempotency-key": "a"}

    first, second = post(http, "1\n2\n3", **key), post(http, "1\n2\n3", **key)

    assert [201, 200] == [first.status_code, second.status_code]
    assert first.json()["id"] == second.json()["id"]
    assert len(list(store.list_prefix(first.json()["prefix"].split("/")[0]))) == 3


@pytest.mark.parametrize("bad", ["{", "nope", "1 2", '"\udcff"', "[" * 5_000])
def test_a_bad_line_is_named_and_nothing_is_inserted(
    http: httpx.Client, queue: Queue, store: ObjectStore, bad: str
) -> None:
    """Also what came before it."""
    text = "\n".join([*map(str, range(41)), bad, "5"]).encode(errors="surrogateescape")

    response = post(http, text)

    assert (response.status_code, response.json()["line"]) == (400, 42)
    assert "line 42" in response.json()["detail"]
    assert_nothing_is_there(queue, store)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "chunk_size"),
        ("chunk_size=x", "chunk_size"),
        ("chunk_size=0", "0"),
        ("chunk_size=1&max_attempts=0", "max_attempts"),
        ("chunk_size=1&meta=7", "meta"),
        ("chunk_size=1&retention_ms=9999999999999", "retention_ms"),
        ("chunk_size=1&backoff_first_ms=9&backoff_max_ms=1", "back-off"),
        ("chunk_size=1&max_failed_operations=-1", "max_failed_operations"),
    ],
)
def test_what_can_not_be_meant_is_refused(http: httpx.Client, query: str, says: str) -> None:
    """Before anything is read."""
    response = post(http, "1\n", query)

    assert response.status_code == 422
    assert says in response.json()["detail"]


def post_stream(app: App, queue: str, stream: io.RawIOBase, length: int) -> tuple[str, Any]:
    """By WSGI itself: httpx's transport reads a body before it passes it on."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": f"/v1/queues/{queue}/submissions",
        "QUERY_STRING": "chunk_size=100",
        "SERVER_NAME": "api",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": stream,
        "wsgi.errors": io.StringIO(),
        "CONTENT_TYPE": "application/x-ndjson",
        "CONTENT_LENGTH": str(length),
    }
    statuses: list[str] = []
    answer: Any = app(environ, lambda status, *_: statuses.append(status))
    return statuses[0], json.loads(b"".join(answer))


def test_a_body_that_breaks_off_inserts_nothing(app: App, queue: Queue, store: ObjectStore) -> None:
    """A line may look whole and not be; so the announced length counts."""
    status, problem = post_stream(app, queue.name, io.BytesIO(b"1\n2\n123"), 9)

    assert status == "400 Bad Request"
    assert "breaks off after 7 bytes" in problem["detail"]
    assert_nothing_is_there(queue, store)


def test_lines_and_chunks_are_limited_and_the_body_is_not(
    client: redis.Redis, store: ObjectStore, queue: Queue
) -> None:
    """Each with an error that says what helps."""
    app = create_app(client, store, limits=Limits(body_bytes=300, line_bytes=100, chunks=20))
    with client_of(app, f"/v1/queues/{queue.name}") as http:
        line = post(http, "1\n" + '"' + "x" * 100 + '"')
        chunk = post(http, ('"' + "x" * 90 + '"\n') * 4, "chunk_size=4")
        body = post(http, ('"' + "x" * 90 + '"\n') * 60, "chunk_size=3")
        chunks = post(http, "1\n" * 41)

    assert [413, 413, 201, 413] == [one.status_code for one in (line, chunk, body, chunks)]
    assert "line 2" in line.json()["detail"]
    assert "lower chunk_size" in chunk.json()["detail"]
    assert "more than 20 chunks" in chunks.json()["detail"]


class Lines(io.RawIOBase):
    """So many lines of 10,000 bytes, made as they are read."""

    def __init__(self, count: int) -> None:
        self.left = count * 10_000

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left)
        start = -self.left % 10_000
        self.left -= size
        line = b'"' + b"x" * 9_997 + b'"\n'
        return (line * (size // 10_000 + 2))[start : start + size]


def test_memory_does_not_grow_with_the_body(
    fake_client: redis.Redis, store_url: str, queue_name: str
) -> None:
    """40 MB go through some MB."""
    app = create_app(fake_client, open_store(store_url))
    tracemalloc.start()

    status, body = post_stream(app, queue_name, Lines(4_000), 40_000_000)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (status, body["operations_total"]) == ("201 Created", 4_000)
    assert peak < 25_000_000
