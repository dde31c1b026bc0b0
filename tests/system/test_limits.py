"""A hard limit with many processes that reserve at the same time."""

from __future__ import annotations

import multiprocessing
import secrets

import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Strategy

pytestmark = pytest.mark.system
CHUNKS = 1_000
MOST = 5
PROCESSES = 5


def work(url: str, name: str, worker: str, counts: multiprocessing.Queue[tuple[int, int]]) -> None:
    """Reserve and complete two at a time; return their number, and the most seen in progress."""
    client = connect(url)
    queue = Queue(client, name)
    strategy = Strategy.MaxSimultaneous("api", MOST)
    done = most = 0
    while queue.count_queue().submissions[SubmissionState.IN_PROGRESS]:
        reserved = queue.reserve_when_free(
            worker,
            limit=2,
            reservation_ms=60_000,
            strategy=strategy,
            heartbeat_timeout_ms=None,
            wait_s=0.5,
            is_gone=lambda: False,
        )
        most = max(most, queue.count_queue().chunks_in_hand)
        if reserved.chunks:
            done += len(queue.complete_chunks([chunk.token for chunk in reserved.chunks]))
    counts.put((done, most))


def test_a_hard_limit_is_never_exceeded(real_client: redis.Redis, redis_url: str) -> None:
    """Every chunk is done once, and all waiting workers are woken."""
    name = f"limits-{secrets.token_hex(4)}"
    queue = Queue(real_client, name)
    for _ in range(4):
        queue.insert_submission(
            NewSubmission(
                prefix=fresh_prefix(queue.name),
                chunks_total=CHUNKS // 4,
                strategic_metadata={"api": 1},
            )
        )
    context = multiprocessing.get_context("spawn")
    counts: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    processes = [
        context.Process(target=work, args=(redis_url, name, f"w{number}", counts))
        for number in range(PROCESSES)
    ]

    for process in processes:
        process.start()
    told = [counts.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)

    assert sum(done for done, _ in told) == CHUNKS
    assert max(most for _, most in told) <= MOST
