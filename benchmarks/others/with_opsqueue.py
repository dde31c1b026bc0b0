"""opsqueue, as the README has it: the API, two worker processes, a folder as store.

- Two workers with a child each, as on two machines; all else as by default, logging at WARNING. One
  worker with two children is slower where chunks are tiny: its parent has the work of both.
- The client as by default: one submission of all operations, through HTTP. Up to 256 KiB in up to
  10,000 chunks travel through Redis, as everything does in the other queues; what is larger lies in
  the folder, each object synced to disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from opsqueue import Opsqueue
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient

STORE_URL = f"file://{Path(os.environ['BENCH_FOLDER']).resolve()}/store"
PORT = os.environ["BENCH_PORT"]
_WORKER = ["opsqueue-worker", "with_opsqueue:app", "--concurrency", "1", "--log-level", "WARNING"]
WORKERS = [
    *(_WORKER, _WORKER),
    ["opsqueue-api", "--port", PORT, "--log-level", "warning"],
]
ENVIRONMENT = {"OPSQUEUE_REDIS_URL": os.environ["BENCH_REDIS_URL"], "OPSQUEUE_STORE_URL": STORE_URL}

app = Opsqueue()


@app.operation_handler("numbers")
def increment(number: int) -> int:
    return number + 1


producer = ProducerClient(f"http://127.0.0.1:{PORT}", STORE_URL, queue="numbers")


def enqueue(numbers: Sequence[int]) -> SubmissionId:
    return producer.insert_submission(numbers, chunk_size=1)


def collect(submission_id: SubmissionId) -> list[int]:
    return list(producer.blocking_stream_completed_submission(submission_id))


def batch(numbers: Sequence[int], size: int) -> list[int]:
    return list(producer.run_submission(numbers, chunk_size=size))
