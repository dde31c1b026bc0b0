"""How many partitions the tests have, and who has heard of them."""

from __future__ import annotations

from zlib import crc32

import redis

from opsqueue.queue.queue import Queue

PARTITIONS = 4


def key_for(partition: int, *, of: int) -> str:
    """An idempotency key that goes to a partition."""
    return next(key for n in range(1000) if crc32((key := f"key-{n}").encode()) % of == partition)


def behind_and_ahead(client: redis.Redis, name: str) -> tuple[Queue, Queue]:
    """A program that knows of the first partition alone, and one that has added others."""
    behind, ahead = Queue(client, name), Queue(client, name)
    assert len(behind.parts()) == 1
    ahead.set_partitions(PARTITIONS)
    return behind, ahead
