"""arq: many jobs at a time in each of two processes.

- `max_jobs` 100 and `poll_delay` 0.01 s: else its worker takes ten jobs, then sleeps half a second.
- Enqueueing and results by `asyncio.gather`, 50 at a time, each on a connection of its own: it has
  no form of enqueueing many at once.
- `log_results` off; results are kept as by default, and polled by `Job.result`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

REDIS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])
WORKERS = [["arq", "with_arq.WorkerSettings", "--custom-log-dict", "with_arq.NO_LOGS"]] * 2
NO_LOGS = {"version": 1}
_AT_ONCE = 50


async def increment(_context: dict[str, Any], number: int) -> int:
    return number + 1


class WorkerSettings:
    functions = (increment,)
    redis_settings = REDIS
    max_jobs = 100
    poll_delay = 0.01
    log_results = False


async def enqueue(numbers: Sequence[int]) -> list[Any]:
    pool = await create_pool(REDIS)
    jobs: list[Any] = []
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE]
        jobs += await asyncio.gather(*(pool.enqueue_job("increment", n) for n in part))
    return jobs


async def collect(handles: list[Any]) -> list[int]:
    results: list[int] = []
    for start in range(0, len(handles), _AT_ONCE):
        part = handles[start : start + _AT_ONCE]
        results += await asyncio.gather(*(job.result(poll_delay=0.01, timeout=300) for job in part))
    return results
