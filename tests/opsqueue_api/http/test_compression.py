"""gzip of requests and of answers."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import falcon
import httpx
import pytest
import redis
from falcon import testing

from opsqueue.http.bodies import ProblemType
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.compression import Compression, accepts_gzip, compressed, decompressed
from opsqueue_api.http.settings import Limits

JSON = {"content-type": "application/json"}
LIMIT_BYTES = 2_000


class Source:
    """Parts that are produced one after the other; records that it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        for number in range(3):
            self.made += 1
            yield b"%d\n" % number

    def close(self) -> None:
        self.is_closed = True


class Answers:
    """A resource with an answer of any kind."""

    def __init__(self, kind: str, answer: bytes | list[bytes] | Source) -> None:
        self.kind = kind
        self.answer = answer

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = self.kind
        if isinstance(self.answer, bytes):
            resp.data = self.answer
        else:
            resp.stream = iter(self.answer) if isinstance(self.answer, list) else self.answer


@pytest.fixture
def client(fake_client: redis.Redis) -> redis.Redis:
    """Nothing here depends on the server."""
    return fake_client


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    return create_app(client, store, limits=Limits(body_bytes=LIMIT_BYTES))


def get(kind: str, answer: bytes | list[bytes], accept: str = "gzip") -> testing.Result:
    app: App = falcon.App(middleware=[Compression()])
    app.add_route("/", Answers(kind, answer))
    return testing.TestClient(app).simulate_get("/", headers={"Accept-Encoding": accept})


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json; charset=utf-8"])
def test_json_is_compressed(kind: str) -> None:
    """With its length, and the header that caches need."""
    answer = get(kind, b"[" + b"1," * 1_000 + b"1]")

    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(answer.content) < 100
    assert len(gzip.decompress(answer.content)) == 2_003


@pytest.mark.parametrize(
    ("kind", "answer", "accept"),
    [
        ("application/json", b"1" * 1_023, "gzip"),
        ("application/json", b"1" * 2_000, "br"),
        ("application/x-ndjson", [b"1" * 2_000], "gzip;q=0"),
        ("text/event-stream", [b"data: 1\n\n" * 500], "gzip"),
        ("image/png", b"1" * 2_000, "gzip"),
    ],
)
def test_some_answers_are_left_as_they_are(
    kind: str, answer: bytes | list[bytes], accept: str
) -> None:
    """Small ones, those of other types, event streams, and where the client does not take it."""
    result = get(kind, answer, accept)

    assert "content-encoding" not in result.headers
    assert result.content == (answer if isinstance(answer, bytes) else b"".join(answer))


def test_a_stream_is_compressed_part_by_part() -> None:
    """Each can be read before the next is made."""
    source = Source()
    parts = compressed(source)
    reader = zlib.decompressobj(wbits=31)

    read = [(reader.decompress(next(parts)), source.made) for _ in range(3)]

    assert [(b"0\n", 1), (b"1\n", 2), (b"2\n", 3)] == read
    assert reader.decompress(b"".join(parts)) == b""
    assert reader.eof


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_is_given_up_closes_what_makes_it(read: int) -> None:
    """So that nothing reads ahead for a client that went away, be it before the first part."""
    source = Source()
    app: App = falcon.App(middleware=[Compression()])
    app.add_route("/", Answers("application/x-ndjson", source))
    environ = testing.create_environ("/", headers={"accept-encoding": "gzip"})
    body = app(environ, Mock())
    for _ in range(read):
        next(iter(body))

    body.close()  # type: ignore[attr-defined]  # a WSGI server does

    assert (source.made, source.is_closed) == (read, True)


def test_results_are_compressed(
    http: httpx.Client, work: Callable[[Callable[[Any], Any]], int]
) -> None:
    """httpx accepts and reads it by itself."""
    id_ = http.post("/submissions", json={"operations": [1, 2, 3], "chunk_size": 1}).json()["id"]
    work(lambda number: number + 1)

    response = http.get(f"/submissions/{id_}/results")

    assert response.headers["content-encoding"] == "gzip"
    assert response.text == "2\n3\n4\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("*;q=1, gzip; q=0", False),
        ("gzip;q=x", False),
    ],
)
def test_the_header_is_read_with_its_weights(header: str, expected: bool) -> None:  # noqa: FBT001 a column
    """RFC 9110, 12.5.3."""
    assert accepts_gzip(header) is expected


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "x-gzip"])
def test_a_compressed_body_is_read(http: httpx.Client, encoding: str) -> None:
    """As the same body without compression."""
    body = gzip.compress(json.dumps({"operations": [1, 2, 3], "chunk_size": 2}).encode())

    response = http.post(
        "/submissions", content=body, headers=JSON | {"content-encoding": encoding}
    )

    assert (response.status_code, response.json()["chunks_total"]) == (201, 2)


def test_the_limit_holds_for_what_comes_out_of_a_body(http: httpx.Client) -> None:
    """What is sent is within it."""
    body = gzip.compress(b"0" * 1_000_000)
    assert len(body) < LIMIT_BYTES

    response = http.post("/submissions", content=body, headers=JSON | {"content-encoding": "gzip"})

    assert (response.status_code, response.json()["type"]) == (413, ProblemType.TOO_LARGE)


def test_no_more_than_the_limit_is_ever_decompressed() -> None:
    """One byte above it tells that it is passed."""
    assert len(decompressed(gzip.compress(b"0" * 10_000_000), limit_bytes=1_000)) == 1_001


def test_a_body_as_large_as_the_limit_is_read() -> None:
    """Not one byte less."""
    body = gzip.compress(b"0" * 1_000)

    assert decompressed(body, limit_bytes=1_000) == b"0" * 1_000


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "not valid gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], "it is cut off"),
        (gzip.compress(b"{}", mtime=0) + b"{}", "behind its end"),
    ],
)
def test_a_damaged_body_is_400(http: httpx.Client, body: bytes, says: str) -> None:
    """With what is wrong with it."""
    response = http.post("/submissions", content=body, headers=JSON | {"content-encoding": "gzip"})

    assert (response.status_code, response.json()["type"]) == (400, ProblemType.MALFORMED_GZIP)
    assert says in response.json()["detail"]


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip"])
def test_an_unknown_encoding_is_415(http: httpx.Client, encoding: str) -> None:
    """It says which is known, in the header for that, too."""
    response = http.post(
        "/submissions", content=b"{}", headers=JSON | {"content-encoding": encoding}
    )

    assert (response.status_code, response.json()["type"]) == (415, ProblemType.CONTENT_ENCODING)
    assert response.headers["accept-encoding"] == "gzip"
    assert "gzip" in response.json()["detail"]
