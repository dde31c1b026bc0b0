"""streaq: two worker processes, uvloop, many tasks at a time.

- `concurrency` 100, so that tasks share round trips, which it pipelines; `prefetch` as many.
- `enqueue_many`, one pipeline. Results by an MGET of its result keys: `Task.result` opens a
  subscription for each, which took most of the time.
- pickle, its default; only warnings logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

from streaq import Worker

REDIS_URL = os.environ["BENCH_REDIS_URL"]
WORKERS = [["streaq", "run", "with_streaq:worker", "--workers", "2"]]

logging.disable(logging.INFO)
worker = Worker(
    redis_url=REDIS_URL,
    concurrency=100,
    prefetch=100,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task
async def increment(number: int) -> int:
    return number + 1


async def enqueue(numbers: Sequence[int]) -> list[Any]:
    async with worker:
        tasks = [increment.enqueue(number) for number in numbers]
        await worker.enqueue_many(tasks)
        return tasks


async def collect(handles: list[Any]) -> list[int]:
    keys = [worker.results_key + task.id for task in handles]
    async with worker:
        while None in (found := await worker.redis.mget(keys)):  # noqa: ASYNC110 it sets none
            await asyncio.sleep(0.01)
        return [(await worker.deserialize(result))["r"] for result in found]
