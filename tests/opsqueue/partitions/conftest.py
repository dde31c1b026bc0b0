"""A queue with several partitions."""

from __future__ import annotations

import pytest
import redis

from opsqueue.queue.queue import Queue
from tests.opsqueue.partitions.steps import PARTITIONS, choose_tags


@pytest.fixture(params=["numbers", "chosen"])
def queue(client: redis.Redis, queue_name: str, request: pytest.FixtureRequest) -> Queue:
    """With the tags of a single server, and with chosen ones, as on a cluster."""
    queue = Queue(client, queue_name)
    if request.param == "chosen":
        choose_tags(queue, {number: f"{number:02}.{number}" for number in range(1, PARTITIONS)})
    queue.set_partitions(PARTITIONS)
    return queue
