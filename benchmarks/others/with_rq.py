"""RQ, with the settings that its documentation names for throughput.

- Two `SimpleWorker`s: no fork a job, which is what its default worker spends its time on.
- `enqueue_many` in one pipeline; JSON, which is faster here than its default pickle.
- Results, since 1.12 a stream a job, read by its own `Job.return_value`, after one look at all
  states at a time (`Job.fetch_many` is one pipeline).
- Logging at ERROR; `--dequeue-strategy default`, one queue.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from increment import increment
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

REDIS_URL = os.environ["BENCH_REDIS_URL"]
WORKERS = [
    [
        *("rq", "worker", "numbers", "--worker-class", "rq.SimpleWorker", "--url", REDIS_URL),
        *("--serializer", "rq.serializers.JSONSerializer", "--logging_level", "ERROR", "--quiet"),
    ]
] * 2

redis = Redis.from_url(REDIS_URL)
queue = Queue("numbers", connection=redis, serializer=JSONSerializer)


def enqueue(numbers: Sequence[int]) -> list[Job]:
    return queue.enqueue_many(
        [Queue.prepare_data(increment, (number,), description="") for number in numbers]
    )


def collect(handles: list[Job]) -> list[int]:
    while queue.count:
        time.sleep(0.01)
    results = []
    for job in handles:
        result = job.latest_result(timeout=60)
        results.append(result.return_value)
    return results
