"""The real app on fakeredis or a real server, and a worker that the test drives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.model.chunk import ChunkFailure
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, open_store, output_key
from opsqueue.strategy import Oldest
from opsqueue_api.app import App, create_app
from opsqueue_api.http.settings import Limits
from tests.opsqueue_api.clients import client_of

Work = Callable[..., int]


@pytest.fixture
def store(queue_name: str) -> ObjectStore:
    return open_store(f"memory://{queue_name}")


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> Queue:
    return Queue(client, queue_name)


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    """Store all contents in the object store; test_inline.py tests the others."""
    return create_app(client, store, limits=Limits(inline_bytes=0))


@pytest.fixture
def http(app: App, queue_name: str) -> Iterator[httpx.Client]:
    """A client of the app; paths are relative to the test's own queue."""
    with client_of(app, f"/v1/queues/{queue_name}") as http:
        yield http


@pytest.fixture
def work(queue: Queue, store: ObjectStore) -> Work:
    """Processes ready chunks with a function of one operation; returns their number."""

    def run(function: Callable[[Any], Any], *, limit: int = 1_000) -> int:
        reserved = queue.reserve_chunks("test-worker", limit=limit, strategy=Oldest())
        for chunk in reserved.chunks:
            codec, prefix = open_codec(chunk.source.codec), chunk.source.prefix
            data = chunk.input
            if data is None:
                data = store.get(input_key(prefix, chunk.chunk_index))
            operations = codec.decode(data)
            results = codec.encode([function(operation) for operation in operations])
            store.create(output_key(prefix, chunk.chunk_index), results)
            queue.complete_chunks([chunk.token])
        return len(reserved.chunks)

    return run


@pytest.fixture
def fail_a_chunk(queue: Queue) -> Callable[[], None]:
    """Fails one free chunk with a ValueError."""

    def run() -> None:
        chunk = queue.reserve_chunks("test-worker", strategy=Oldest()).chunks[0]
        queue.fail_chunk(chunk.token, ChunkFailure(type="ValueError", message="bad row 7"))

    return run
