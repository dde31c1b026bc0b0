"""taskiq with taskiq-redis: two worker processes, uvloop, many tasks at a time.

- `ListQueueBroker`, the faster of its Redis brokers (the one on streams acknowledges; not here).
- `--max-async-tasks` 100 (its default) and `--max-prefetch` 100; no parsing of arguments, which
  pydantic would do for each; logging at ERROR.
- Results in Redis by msgpack-less JSON of orjson; enqueueing and reading 50 at a time by
  `asyncio.gather`: it has no form of enqueueing many at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

REDIS_URL = os.environ["BENCH_REDIS_URL"]
WORKERS = [
    [
        *("taskiq", "worker", "with_taskiq:broker", "--workers", "2", "--log-level", "ERROR"),
        *("--max-async-tasks", "100", "--max-prefetch", "100", "--no-parse"),
    ]
]
_AT_ONCE = 50

backend: Any = RedisAsyncResultBackend(REDIS_URL, serializer=ORJSONSerializer())
broker = ListQueueBroker(REDIS_URL).with_result_backend(backend).with_serializer(ORJSONSerializer())


@broker.task
async def increment(number: int) -> int:
    return number + 1


async def enqueue(numbers: Sequence[int]) -> list[Any]:
    await broker.startup()
    tasks: list[Any] = []
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE]
        tasks += await asyncio.gather(*(increment.kiq(number) for number in part))
    return tasks


async def collect(handles: list[Any]) -> list[int]:
    results: list[int] = []
    for start in range(0, len(handles), _AT_ONCE):
        waits = (task.wait_result(0.01, timeout=300) for task in handles[start : start + _AT_ONCE])
        results += [result.return_value for result in await asyncio.gather(*waits)]
    return results
