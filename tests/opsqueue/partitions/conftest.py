"""A queue with several partitions."""

from __future__ import annotations

import pytest
import redis

from opsqueue.queue.queue import Queue
from tests.opsqueue.partitions.steps import PARTITIONS


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> Queue:
    queue = Queue(client, queue_name)
    queue.set_partitions(PARTITIONS)
    return queue
