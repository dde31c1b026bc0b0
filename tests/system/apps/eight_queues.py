"""A handler for each of eight queues, of which a cluster's masters have some each."""

from __future__ import annotations

import os

from opsqueue import Opsqueue

QUEUES = [f"{os.environ['TEST_QUEUE']}-{number}" for number in range(8)]
app = Opsqueue()


def add_one(number: int) -> int:
    return number + 1


for queue in QUEUES:
    app.operation_handler(queue)(add_one)
