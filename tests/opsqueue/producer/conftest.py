"""A producer with direct access to Redis, and a worker that the test drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import input_key, output_key
from opsqueue.store.memory import MemoryStore
from opsqueue.strategy import Oldest

Work = Callable[[Callable[[Any], Any]], int]


@pytest.fixture
def store(queue_name: str) -> MemoryStore:
    return MemoryStore(queue_name)


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> Queue:
    return Queue(client, queue_name)


@pytest.fixture
def api(client: redis.Redis) -> RedisBackend:
    return RedisBackend(client)


@pytest.fixture
def producer(api: RedisBackend, store: MemoryStore, queue_name: str) -> ProducerClient:
    """Store all contents in the object store; test_inline.py tests the others."""
    return ProducerClient.over(api, store, queue=queue_name, at_once=4, inline_bytes=0)


@pytest.fixture
def work(queue: Queue, store: MemoryStore) -> Work:
    """Processes every ready chunk with a function of one operation; returns their number."""

    def run(function: Callable[[Any], Any]) -> int:
        reserved = queue.reserve_chunks("test-worker", limit=1_000, strategy=Oldest())
        for chunk in reserved.chunks:
            codec = open_codec(chunk.source.codec, allow_pickle=True)
            prefix = chunk.source.prefix
            data = chunk.input
            if data is None:
                data = store.get(input_key(prefix, chunk.chunk_index))
            operations = codec.decode(data)
            results = codec.encode([function(operation) for operation in operations])
            store.create(output_key(prefix, chunk.chunk_index), results)
            queue.complete_chunks([chunk.token])
        return len(reserved.chunks)

    return run
