"""Dramatiq, with the fewest parts that keep results.

- Two processes with one thread each: with more, threads of a process only wait for each other.
- Middleware: the results alone. Its defaults (retries, time limits, callbacks, ...) cost some 10 %.
- `dramatiq_queue_prefetch` 64: its guide's setting for short messages.
- JSON, its default. It has no form of enqueueing many at once: `group.run` is a loop, too.
- Results by `Message.get_result(block=True)`, which waits in Redis and does not poll.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

REDIS_URL = os.environ["BENCH_REDIS_URL"]
WORKERS = [["dramatiq", "with_dramatiq", "--processes", "2", "--threads", "1", "--skip-logging"]]
ENVIRONMENT = {"dramatiq_queue_prefetch": "64"}

broker = RedisBroker(url=REDIS_URL, middleware=[Results(backend=RedisBackend(url=REDIS_URL))])
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def increment(number: int) -> int:
    return number + 1


def enqueue(numbers: Sequence[int]) -> list[Any]:
    return [increment.send(number) for number in numbers]


def collect(handles: list[Any]) -> list[int]:
    return [message.get_result(block=True, timeout=60_000) for message in handles]
