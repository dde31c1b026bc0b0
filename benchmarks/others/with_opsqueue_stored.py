"""opsqueue with nothing through Redis: all contents through the object store, as large ones go.

A folder, each object synced to disk: a durability that none of the others gives, and what it costs.
All else as in with_opsqueue.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from with_opsqueue import ENVIRONMENT, PORT, STORE_URL, WORKERS

from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient

__all__ = ["ENVIRONMENT", "WORKERS", "batch", "collect", "enqueue"]

producer = ProducerClient(f"http://127.0.0.1:{PORT}", STORE_URL, queue="numbers", inline_bytes=0)


def enqueue(numbers: Sequence[int]) -> SubmissionId:
    return producer.insert_submission(numbers, chunk_size=1)


def collect(submission_id: SubmissionId) -> list[int]:
    return list(producer.blocking_stream_completed_submission(submission_id))


def batch(numbers: Sequence[int], size: int) -> list[int]:
    return list(producer.run_submission(numbers, chunk_size=size))
