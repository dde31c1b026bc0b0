"""The number of partitions in the tests, and programs that know or don't know of them."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import redis

from opsqueue.queue import commands
from opsqueue.queue.queue import Queue

PARTITIONS = 4


def choose_tags(queue: Queue, tags: Mapping[int, str]) -> None:
    """Choose tags of new partitions, which `set_partitions` does only on a cluster."""
    queue.run(commands.set_partitions(max(tags) + 1, step="choose", tags=tags))


def key_for(partition: int, *, of: int) -> str:
    """Return an idempotency key that belongs to a partition."""
    return next(key for n in range(1000) if crc32((key := f"key-{n}").encode()) % of == partition)


def behind_and_ahead(client: redis.Redis, name: str) -> tuple[Queue, Queue]:
    """Return a program that knows only the first partition, and one that has added others."""
    behind, ahead = Queue(client, name), Queue(client, name)
    assert len(behind.parts()) == 1
    ahead.set_partitions(PARTITIONS)
    return behind, ahead
