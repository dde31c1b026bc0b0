"""A queue that is spread."""

from __future__ import annotations

import pytest
import redis

from opsqueue.queue.partitioned import PartitionedQueue
from tests.opsqueue.partitions.steps import PARTITIONS


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> PartitionedQueue:
    queue = PartitionedQueue(client, queue_name)
    queue.set_partitions(PARTITIONS)
    return queue
