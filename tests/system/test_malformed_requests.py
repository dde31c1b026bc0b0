"""Malformed or broken-off HTTP requests, sent to a real API process byte by byte."""

from __future__ import annotations

import json
import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest
import redis

from opsqueue.queue.queue import Queue
from opsqueue.store import open_store, output_key
from tests.opsqueue.queue_snapshot import raw_keys
from tests.opsqueue.steps import insert, new_submission, take_one

pytestmark = pytest.mark.system

BODY = b'{"operations":[1],"chunk_size":1}'
JSON = (
    b"POST /v1/queues/QUEUE/submissions HTTP/1.1\r\nHost: HOST\r\n"
    b"Content-Type: application/json\r\n"
)
LINES = (
    b"POST /v1/queues/QUEUE/submissions?chunk_size=1 HTTP/1.1\r\nHost: HOST\r\n"
    b"Content-Type: application/x-ndjson\r\n"
)
GET = b"GET /v1/queues/QUEUE HTTP/1.1\r\nHost: HOST\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

BROKEN = {
    "length-is-no-number": (400, JSON + b"Content-Length: abc\r\n\r\n" + BODY),
    "length-below-0": (400, JSON + b"Content-Length: -1\r\n\r\n" + BODY),
    "length-of-20-digits": (413, JSON + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY),
    "two-lengths": (400, JSON + b"Content-Length: 3\r\nContent-Length: 33\r\n\r\n" + BODY),
    "length-and-chunks": (400, JSON + b"Content-Length: 33\r\n" + CHUNKED + b"0\r\n\r\n"),
    "shorter-than-announced": (400, JSON + b"Content-Length: 100\r\n\r\n" + BODY),
    "chunk-of-no-size": (400, JSON + CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-below-0": (400, JSON + CHUNKED + b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-of-all-memory": (400, JSON + CHUNKED + b"ffffffffffffffff\r\n" + BODY),
    "chunk-cut-off": (400, JSON + CHUNKED + b"21\r\n" + BODY[:9]),
    "chunks-without-end": (400, JSON + CHUNKED + b"21\r\n" + BODY + b"\r\n"),
    "chunk-without-line-end": (400, JSON + CHUNKED + b"21\r\n" + BODY + b"XX0\r\n\r\n"),
    "lines-in-a-chunk-of-no-size": (400, LINES + CHUNKED + b"zz\r\n1\n\r\n0\r\n\r\n"),
    "lines-in-chunks-without-end": (400, LINES + CHUNKED + b"2\r\n1\n\r\n"),
    "lines-shorter-than-announced": (400, LINES + b"Content-Length: 100\r\n\r\n1\n2\n"),
    "other-transfer-encoding": (400, JSON + b"Transfer-Encoding: gzip\r\n\r\n" + BODY),
    "no-request": (400, b"\x00\x01\x02\r\n\r\n"),
    "no-such-version": (400, b"GET / HTTP/9.9\r\n\r\n"),
    "no-such-method": (400, b"FOO /v1/queues/QUEUE HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    "bytes-above-127-in-the-path": (
        400,
        b"GET /v1/queues/\xff HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    "escaped-bytes-in-the-path": (
        400,
        b"GET /v1/queues/%ff%00 HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    "path-upwards": (
        404,
        b"GET /dashboard/../../../etc/passwd HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    "escaped-path-upwards": (
        404,
        b"GET /dashboard/..%2f..%2fapp.py HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    "path-of-10000-bytes": (
        414,
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    "header-of-no-name": (400, GET + b"A b: c\r\n\r\n"),
    "header-with-a-nul-byte": (400, GET + b"X: a\0b\r\n\r\n"),
    "header-of-20000-bytes": (431, GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n"),
    "200-headers": (431, GET + b"".join(b"H%d: x\r\n" % i for i in range(200)) + b"\r\n"),
    "expectation": (417, JSON + b"Expect: miracles\r\nContent-Length: 33\r\n\r\n" + BODY),
    "idempotency-key-in-utf-8": (
        422,
        JSON + "Idempotency-Key: é\r\nContent-Length: 33\r\n\r\n".encode() + BODY,
    ),
    "type-in-utf-8": (
        415,
        JSON.replace(b"application", "é".encode()) + b"Content-Length: 33\r\n\r\n" + BODY,
    ),
}


def keys_at_rest(client: redis.Redis, queue: str) -> dict[bytes, bytes]:
    """Return a queue's keys without the locks of its sweepers, when these have nothing to do.

    The first submission of a queue without a stream begins a repair, which the API continues.
    """
    while Queue(client, queue).repair():
        pass
    keys = raw_keys(client, queue)
    return {key: value for key, value in keys.items() if b":sweeper:" not in key}


def answer_to(url: str, request: bytes) -> tuple[int, str, bytes]:
    """Send bytes and nothing after them; return status, content type and body of the answer."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request.replace(b"HOST", b"localhost"))
        connection.shutdown(socket.SHUT_WR)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.headers.get("Content-Type", ""), response.read()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_answered_as_a_problem_and_changes_nothing(
    module_api_url: str, real_client: redis.Redis, queue_name: str, name: str
) -> None:
    """Also what gunicorn refuses before there is a request; and nobody sees our own code."""
    insert(Queue(real_client, queue_name), 1)
    before = keys_at_rest(real_client, queue_name)
    status, request = BROKEN[name]

    found = answer_to(module_api_url, request.replace(b"QUEUE", queue_name.encode()))

    assert (status, "application/problem+json") == found[:2]
    problem = json.loads(found[2])
    assert (status, True) == (problem["status"], len(problem["detail"]) > 10)
    assert b"Traceback" not in found[2]
    assert before == keys_at_rest(real_client, queue_name)


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\nhalf",
        CHUNKED + b"8\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\n",
    ],
)
def test_half_an_output_is_not_stored(
    module_api_url: str,
    module_store_url: str,
    real_client: redis.Redis,
    queue_name: str,
    body: bytes,
) -> None:
    """The first stored output is kept, and a consumer's connection may break at any byte."""
    queue = Queue(real_client, queue_name)
    queue.insert_submission(new_submission(queue, 1))
    chunk = take_one(queue)
    path = f"/v1/queues/{queue_name}/submissions/{chunk.source.submission_id}/chunks/0/output"
    head = f"PUT {path}?token={chunk.token} HTTP/1.1\r\nHost: localhost\r\n"
    kind = b"Content-Type: application/octet-stream\r\n"

    status, _, _ = answer_to(module_api_url, head.encode() + kind + body)

    assert status == 400
    assert not open_store(module_store_url).exists(output_key(f"{queue_name}/half", 0))
