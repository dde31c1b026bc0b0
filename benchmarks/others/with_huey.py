"""Huey: two worker processes, results kept in Redis.

- `-k process -w 2`, no periodic tasks, no scheduler's health check beyond the default.
- Blocking pop (its default on Redis), so that idle workers wait for nothing.
- It has no form of enqueueing many at once: `task.map` is a loop, too.
- Results by `ResultGroup.get(blocking=True)`, with a short backoff.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from huey import RedisHuey
from huey.api import ResultGroup

REDIS_URL = os.environ["BENCH_REDIS_URL"]
WORKERS = [["huey_consumer", "with_huey.huey", "-k", "process", "-w", "2", "-n", "-q"]]

huey = RedisHuey("numbers", url=REDIS_URL)


@huey.task()
def increment(number: int) -> int:
    return number + 1


def enqueue(numbers: Sequence[int]) -> ResultGroup:
    return increment.map(numbers)


def collect(handles: ResultGroup) -> list[int]:
    return list(handles.get(blocking=True, timeout=300, backoff=1.0))
