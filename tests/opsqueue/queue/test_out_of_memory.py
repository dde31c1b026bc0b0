"""A server without free memory refuses new work, and the existing work can be finished.

With maxmemory-policy noeviction it refuses a script whose first write would need memory. Only
workers, cancels and clean-up free memory, so their scripts must not begin with such a write.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.chunk import Completed
from opsqueue.model.submission import SubmissionState
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
from tests.opsqueue.steps import FAILURE, NO_WAIT, Clock, insert, listed, take, take_one, tokens_of


@pytest.fixture
def full(own_client: redis.Redis, queue_name: str, clock: Clock) -> Iterator[Queue]:
    """A queue with 4 submissions of 2 chunks, one of them in hand, on a server that is full."""
    queue = Queue(own_client, queue_name, clock=clock)
    for _ in range(4):
        insert(queue, 2, retention_ms=0, backoff=NO_WAIT)
    queue.reserve_chunks("holder", reservation_ms=1_000, strategy=Oldest())
    own_client.config_set("maxmemory", "1mb")
    yield queue
    own_client.config_set("maxmemory", "0")


def test_a_full_server_refuses_an_insert_and_nothing_of_it_stays(full: Queue) -> None:
    """Wholly or not at all."""
    before = full.count_queue()

    with pytest.raises(RedisUnavailableError, match="maxmemory"):
        insert(full, 1)

    assert before == full.count_queue()


def test_a_full_server_lets_workers_go_on(full: Queue) -> None:
    """Heartbeat, reserve and every report, also of what has begun."""
    full.heartbeat("w1")
    first, second, third = tokens_of(take(full, 3))
    assert full.note_begun("w1", [first])
    outcomes = full.complete_chunks([first])
    full.fail_chunk(second, FAILURE)
    full.release_chunks([third])
    full.retire_worker("w1")

    assert isinstance(outcomes[0], Completed)
    assert full.count_queue().stats["chunks_completed"] == 1


def test_a_full_server_lets_a_worker_begin(full: Queue, own_client: redis.Redis) -> None:
    """One that was started again, by whoever hoped that it would help."""
    started = Queue(own_client, full.name)

    (first,) = tokens_of(take(started, 1))
    answers = started.pipeline([commands.complete_chunks([first])])

    assert isinstance(answers[0][0], Completed)


def test_a_full_server_lets_chunks_be_reclaimed(full: Queue, clock: Clock) -> None:
    """From the dead and from the expired."""
    clock.advance(1_000)
    expired = full.reclaim_expired("sweeper")
    take_one(full, worker="dead")
    clock.advance(60_000)
    dead = full.reclaim_dead("sweeper")

    assert expired is not None
    assert dead is not None
    assert (expired.chunks, dead.chunks) == (1, 1)


def test_a_full_server_lets_submissions_be_cancelled_and_forgotten(full: Queue) -> None:
    """That makes the room."""
    id_ = listed(full, SubmissionState.IN_PROGRESS)[0].id

    full.cancel_submission(id_)

    assert full.forget_submissions().submissions == 1


def test_a_full_server_can_be_paused_and_repaired(full: Queue) -> None:
    """What an operator does first."""
    full.pause_queue()
    full.resume_queue()

    assert full.repair(begin=True) is not None
