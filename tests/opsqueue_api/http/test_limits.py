"""Each limit has an error that names it and says what helps."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest
import redis

from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.settings import Limits


@pytest.fixture
def client(fake_client: redis.Redis) -> redis.Redis:
    """No limit depends on the server."""
    return fake_client


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    limits = Limits(body_bytes=500, operations=20, body_chunks=5, chunks=50, metadata_bytes=10)
    return create_app(client, store, limits=limits)


def assert_too_large(response: httpx.Response, *says: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["type"]) == (413, "urn:opsqueue:problem:too-large")
    assert all(text in problem["detail"] for text in says), problem["detail"]


def test_a_body_is_limited_by_its_announced_length(http: httpx.Client) -> None:
    """Content-Length above the limit is refused before the body is read."""
    response = http.post("/submissions", json={"operations": ["x" * 600], "chunk_size": 1})

    assert_too_large(response, "500 bytes", "ProducerClient")


def test_a_body_without_a_length_is_limited_while_it_is_read(http: httpx.Client) -> None:
    """A chunked body announces nothing."""

    def parts() -> Iterator[bytes]:
        yield b'{"chunk_size": 1, "operations": ["'
        yield b"x" * 600
        yield b'"]}'

    response = http.post(
        "/submissions", content=parts(), headers={"content-type": "application/json"}
    )

    assert_too_large(response, "500 bytes")


def test_a_small_body_without_a_length_is_read(http: httpx.Client) -> None:
    """A chunked body is as good as one with a length."""
    content = iter([b'{"chunk_size": 1, ', b'"operations": [1]}'])

    response = http.post(
        "/submissions", content=content, headers={"content-type": "application/json"}
    )

    assert response.status_code == 201


def test_operations_are_limited(http: httpx.Client) -> None:
    """21 operations of 20."""
    response = http.post("/submissions", json={"operations": [0] * 21, "chunk_size": 10})

    assert_too_large(response, "21 operations", "20", "ProducerClient")


def test_chunks_cut_from_a_body_are_limited(http: httpx.Client) -> None:
    """Six chunks of five."""
    response = http.post("/submissions", json={"operations": [0] * 6, "chunk_size": 1})

    assert_too_large(response, "6 chunks", "5", "chunk_size")


def test_uploaded_chunks_are_limited(http: httpx.Client) -> None:
    """51 chunks of 50."""
    response = http.post("/submissions", json={"prefix": "p", "chunks_total": 51, "chunk_size": 10})

    assert_too_large(response, "51 chunks", "50", "chunk_size")


def test_metadata_is_limited(http: httpx.Client) -> None:
    """Eleven bytes of ten, counted before base64."""
    metadata = base64.b64encode(b"x" * 11).decode()

    response = http.post(
        "/submissions", json={"operations": [], "chunk_size": 1, "metadata": metadata}
    )

    assert_too_large(response, "11 bytes", "10")
