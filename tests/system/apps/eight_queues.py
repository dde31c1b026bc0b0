"""A handler for each of eight queues, of which a cluster's masters have some each."""

from __future__ import annotations

import os
import time

from opsqueue import Opsqueue

QUEUES = [f"{os.environ['TEST_QUEUE']}-{number}" for number in range(8)]
app = Opsqueue()


def add_one(number: int) -> int:
    time.sleep(0.01)  # a queue is not through before a test has noticed that it began
    return number + 1


for queue in QUEUES:
    app.operation_handler(queue)(add_one)
