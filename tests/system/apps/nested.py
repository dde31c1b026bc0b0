"""A handler that submits to another queue of the same worker, and waits for the results."""

from __future__ import annotations

import os

from opsqueue import Opsqueue
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.store import open_store

app = Opsqueue()
QUEUE = os.environ["TEST_QUEUE"]


@app.operation_handler(QUEUE)
def add_up(numbers: list[int]) -> int:
    """Return the sum of the squares, which another submission calculates."""
    api = RedisBackend(connect(os.environ["OPSQUEUE_REDIS_URL"]))
    store = open_store(os.environ["OPSQUEUE_STORE_URL"])
    with ProducerClient.over(api, store, queue=f"{QUEUE}-squares") as producer:
        return sum(producer.run_submission(numbers, chunk_size=1))


@app.operation_handler(f"{QUEUE}-squares")
def square(number: int) -> int:
    return number * number
