"""Celery, as fast as its documentation says how to make it for many short tasks.

- Two workers with the pool `solo`: here faster than one with two prefork children, since no task
  crosses a pipe. Without gossip, mingle, heartbeat and events, which only watch others.
- `worker_prefetch_multiplier` 128: its guide's advice for tasks of milliseconds (its page
  "Optimizing").
- Acknowledged before they run, the default and the faster way; no rate limits; logging at ERROR.
- JSON, its default. One Redis connection is kept for all that is sent (`app.producer_or_acquire`).
- Results by `ResultSet.join_native`, its guide's way for the Redis back end.

Its own form of chunks is `task.chunks(arguments, size)`: `batch` uses it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.result import ResultSet

REDIS_URL = os.environ["BENCH_REDIS_URL"]
_WORKER = [
    *("celery", "-A", "with_celery", "worker", "--pool", "solo", "--loglevel", "ERROR"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]
WORKERS = [[*_WORKER, "-n", "one@%h"], [*_WORKER, "-n", "two@%h"]]

app = Celery("with_celery", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def increment(number: int) -> int:
    return number + 1


def enqueue(numbers: Sequence[int]) -> list[Any]:
    with app.producer_or_acquire() as producer:
        return [increment.apply_async((number,), producer=producer) for number in numbers]


def collect(handles: list[Any]) -> list[int]:
    return list(ResultSet(handles, app=app).join_native(timeout=300))


def batch(numbers: Sequence[int], size: int) -> list[int]:
    results = increment.chunks(((number,) for number in numbers), size).apply_async()
    return [value for chunk in results.join_native(timeout=300) for value in chunk]
