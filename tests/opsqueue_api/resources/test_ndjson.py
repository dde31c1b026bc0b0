"""POST .../submissions with NDJSON: a line per operation, within the limits of a JSON body."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.model.submission import SubmissionFilter
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, open_store
from opsqueue.store.memory import MemoryStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.settings import Limits
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


BAD_LINES = {
    "object-without-end": (b"{", 2),
    "word": (b"nope", 1),
    "two-values": (b"1 2", 3),
    "no-utf-8": (b'"\xff"', 2),
    "deep": (b"[" * 5_000, 129),
    "infinite": (b'{"price": 1e400}', 11),
    "constant": (b"[1, NaN]", 5),
    "lone-surrogate": (b'"\\ud800"', 1),
    "later-mark": (b"\xef\xbb\xbf1", 1),
    "nul": (b"1\x00", 2),
    "form-feed": (b"\x0c", 1),
}


@pytest.mark.parametrize(("bad", "column"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_inserted(
    http: httpx.Client, queue: Queue, store: ObjectStore, bad: bytes, column: int
) -> None:
    """Also what came before it."""
    text = b"\n".join([*(b"%d" % number for number in range(41)), bad, b"5"])

    response = post(http, text)

    problem = response.json()
    assert (400, 42, column) == (response.status_code, problem["line"], problem["column"])
    assert f"line 42, column {column:,}" in problem["detail"]
    assert_nothing_is_there(queue, store)


def test_a_line_that_no_codec_carries_is_refused_and_nothing_is_inserted(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """By the limit of depth that all codecs have, or of integers; the chunk is named."""
    for line, says in ((b"[" * 200 + b"]" * 200, "128 levels"), (b"9" * 30, "64 bits")):
        response = post(http, b"1\n2\n3\n" + line)

        assert response.status_code == 422
        assert "chunk 1" in response.json()["detail"]
        assert says in response.json()["detail"]
        assert_nothing_is_there(queue, store)


def test_a_mark_blank_lines_and_other_ends_of_lines_are_no_operations(
    http: httpx.Client, store: ObjectStore
) -> None:
    """As on the command line."""
    body = post(http, b'\xef\xbb\xbf\r\n1\r\n\n \t\r\n"\xe2\x80\xa8"\n3').json()

    assert [[1, "\u2028"], [3]] == contents_of(store, body)


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


def post_stream(
    app: App, queue: str, stream: io.RawIOBase | io.BytesIO, length: int
) -> tuple[str, Any]:
    """Call the app by WSGI, since httpx's transport reads a body before it passes it on."""
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
    start_response = Mock()
    answer: Any = app(environ, start_response)
    return start_response.call_args.args[0], json.loads(b"".join(answer))


def test_a_body_that_breaks_off_inserts_nothing(app: App, queue: Queue, store: ObjectStore) -> None:
    """A line may look whole and not be; so the announced length counts."""
    status, problem = post_stream(app, queue.name, io.BytesIO(b"1\n2\n123"), 9)

    assert status == "400 Bad Request"
    assert "breaks off after 7 bytes" in problem["detail"]
    assert_nothing_is_there(queue, store)


class CountingStore(MemoryStore):
    """Counts what is created."""

    created = 0

    def create(self, key: str, data: bytes) -> bool:
        self.created += 1
        return super().create(key, data)


LIMITS = Limits(body_bytes=300, operations=40, body_chunks=20, inline_bytes=0)
TOO_LARGE = {
    "a-line": ('"' + "x" * 300 + '"', "max-body-bytes"),
    "the-body": (('"' + "x" * 90 + '"\n') * 4, "max-body-bytes"),
    "operations": ("1\n" * 41, "max-operations"),
    "chunks": ("1\n" * 21, "max-body-chunks"),
}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize(("text", "limit"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_body_of_lines_has_the_limits_of_a_json_body(
    client: redis.Redis, queue: Queue, text: str, limit: str, encoding: str
) -> None:
    """Nothing is stored before they are known to hold; the error says how more gets in."""
    store = CountingStore(queue.name)
    app = create_app(client, store, limits=LIMITS)
    size = 3 if limit == "max-operations" else 1
    data = gzip.compress(text.encode()) if encoding == "gzip" else text.encode()

    with client_of(app, f"/v1/queues/{queue.name}") as http:
        answer = post(http, data, f"chunk_size={size}", **{"content-encoding": encoding})

    problem = answer.json()
    assert (413, "urn:opsqueue:problem:too-large") == (answer.status_code, problem["type"])
    assert limit in problem["detail"]
    assert "several submissions" in problem["detail"]
    assert "ProducerClient" in problem["detail"]
    assert store.created == 0
    assert_nothing_is_there(queue, store)


def test_as_many_lines_as_the_limits_allow_are_taken(client: redis.Redis, queue: Queue) -> None:
    """Blank ones and a byte order mark do not count."""
    app = create_app(client, open_store(f"memory://{queue.name}"), limits=LIMITS)

    with client_of(app, f"/v1/queues/{queue.name}") as http:
        answer = post(http, b"\xef\xbb\xbf\n" + b"1\n\n" * 40, "chunk_size=2")

    assert (201, 40, 20) == (
        answer.status_code,
        answer.json()["operations_total"],
        answer.json()["chunks_total"],
    )


def test_a_bomb_of_lines_stores_nothing(client: redis.Redis, queue: Queue) -> None:
    """A kilobyte of gzip that would be 600,000 objects."""
    bomb = gzip.compress(b"1\n" * 600_000)
    store = CountingStore(queue.name)

    with client_of(create_app(client, store), f"/v1/queues/{queue.name}") as http:
        answer = post(http, bomb, "chunk_size=1", **{"content-encoding": "gzip"})

    assert len(bomb) < 2_000
    assert answer.status_code == 413
    assert "max-body-chunks" in answer.json()["detail"]
    assert store.created == 0


def test_lines_are_decoded_a_chunk_at_a_time(fake_client: redis.Redis, queue_name: str) -> None:
    """What becomes of them takes far more memory than the body, whose size is limited."""
    app = create_app(fake_client, open_store(f"memory://{queue_name}"))
    body = b"[[],[],[],[],[],[],[],[]]\n" * 40_000  # 25 MB as lists
    tracemalloc.start()

    status, answer = post_stream(app, queue_name, io.BytesIO(body), len(body))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (status, answer["operations_total"]) == ("201 Created", 40_000)
    assert peak < 5_000_000


@pytest.mark.parametrize("kind", ["application/ndjson", "application/jsonl; charset=utf-8"])
def test_lines_are_known_by_any_of_their_types(http: httpx.Client, kind: str) -> None:
    """None of these is registered, and all are in use."""
    answer = http.post(
        "/submissions?chunk_size=1", content=b"1\n2\n", headers={"content-type": kind}
    )

    assert (201, 2) == (answer.status_code, answer.json()["chunks_total"])


def test_the_limit_of_a_line_can_be_set(client: redis.Redis, store: ObjectStore) -> None:
    """And the refusal names it."""
    app = create_app(client, store, limits=Limits(line_bytes=10))
    with client_of(app, "/v1/queues/lines") as http:
        headers = {"content-type": "application/x-ndjson"}

        taken = http.post("/submissions?chunk_size=1", content=b"1234567890\n", headers=headers)
        refused = http.post("/submissions?chunk_size=1", content=b"12345678901\n", headers=headers)

    assert 201 == taken.status_code
    assert (400, True) == (refused.status_code, "max-line-bytes" in refused.json()["detail"])
