"""No wake-up is lost: a freed chunk moves `wake` past the id that an empty reserve returned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import redis

from opsqueue.model.chunk import Token
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    NO_WAIT,
    Clock,
    Raw,
    insert,
    repair_wholly,
    take,
    take_one,
)


@dataclass
class Scene:
    """A queue with one reserved chunk, and all actions that free it or add another one."""

    queue: Queue
    raw: Raw
    clock: Clock
    id: SubmissionId
    token: Token

    def insert(self) -> None:
        insert(self.queue, 1)

    def release(self) -> None:
        self.queue.release_chunks([self.token])

    def release_with_delay(self) -> None:
        self.queue.release_chunks([self.token], delay_ms=1_000)

    def fail_without_backoff(self) -> None:
        self.queue.fail_chunk(self.token, FAILURE)

    def heartbeat(self) -> None:
        self.queue.heartbeat("holder", tokens=[], unknown_ms=0)

    def retire(self) -> None:
        self.queue.retire_worker("holder")

    def reclaim_dead(self) -> None:
        self.clock.advance(60_000)
        self.queue.reclaim_dead("sweeper")

    def reclaim_expired(self) -> None:
        self.clock.advance(600_000)
        self.queue.reclaim_expired("sweeper")

    def retry(self) -> None:
        self.queue.cancel_submission(self.id)
        self.queue.release_chunks([self.token])
        self.queue.retry_submission(self.id)

    def repair(self) -> None:
        self.raw.lose_group()
        self.queue.heartbeat("holder")
        repair_wholly(self.queue)


@pytest.fixture
def scene(queue: Queue, raw: Raw, clock: Clock) -> Scene:
    id_ = insert(queue, 1, backoff=NO_WAIT)
    repair_wholly(queue)
    token = take_one(queue, worker="holder").token
    return Scene(queue, raw, clock, id_, token)


@pytest.mark.parametrize(
    "free",
    [
        Scene.insert,
        Scene.release,
        Scene.release_with_delay,
        Scene.fail_without_backoff,
        Scene.heartbeat,
        Scene.retire,
        Scene.reclaim_dead,
        Scene.reclaim_expired,
        Scene.retry,
        Scene.repair,
    ],
)
def test_a_sleeper_is_woken_by_whatever_frees_a_chunk(
    scene: Scene, free: Callable[[Scene], None]
) -> None:
    """This also holds for an event between the empty reserve and the wait."""
    empty = scene.queue.reserve_chunks("idle")
    assert empty.chunks == ()

    free(scene)

    assert scene.queue.wait_for_wake(empty.wake_id, block_ms=1)


def test_a_sleeper_is_woken_by_a_resume(queue: Queue) -> None:
    """What came while the queue was paused is free then."""
    queue.pause_queue()
    insert(queue, 1)
    empty = queue.reserve_chunks("idle")

    queue.resume_queue()

    assert queue.wait_for_wake(empty.wake_id, block_ms=1)


def test_a_sleeper_learns_of_a_back_off_that_ends_sooner_than_it_sleeps(queue: Queue) -> None:
    """Nothing is free, but it must sleep shorter than it meant to."""
    insert(queue, 2)
    first, second = take(queue, 2)
    queue.release_chunks([first.token], delay_ms=60_000)
    asleep = queue.reserve_chunks("idle")

    queue.fail_chunk(second.token, FAILURE, jitter=1_000)

    assert asleep.next_due_in_ms == 60_000
    assert queue.wait_for_wake(asleep.wake_id, block_ms=1)
    assert queue.reserve_chunks("idle").next_due_in_ms == 1_000


def test_who_sleeps_knows_when_delayed_chunks_come_due(queue: Queue, clock: Clock) -> None:
    """So nobody needs to wake the others when one worker finds them first."""
    insert(queue, 3)
    tokens = [chunk.token for chunk in take(queue, 3)]
    queue.release_chunks(tokens, delay_ms=10)

    asleep = queue.reserve_chunks("idle")

    assert asleep.next_due_in_ms == 10
    clock.advance(10)
    take(queue, 1, worker="awake")
    assert len(queue.reserve_chunks("idle", limit=9).chunks) == 2


def test_without_anything_free_a_sleeper_sleeps_on(scene: Scene) -> None:
    """Neither a completed chunk nor a cancel has anything for it."""
    other = insert(scene.queue, 1)
    take_one(scene.queue, worker="holder")
    empty = scene.queue.reserve_chunks("idle")

    scene.queue.complete_chunks([scene.token])
    scene.queue.cancel_submission(other)

    assert not scene.queue.wait_for_wake(empty.wake_id, block_ms=1)


def test_all_sleepers_are_woken_by_one_wake_up(queue: Queue) -> None:
    """The stream is read and not popped."""
    first = queue.reserve_chunks("idle-1")
    second = queue.reserve_chunks("idle-2")

    insert(queue, 2)

    assert queue.wait_for_wake(first.wake_id, block_ms=1)
    assert queue.wait_for_wake(second.wake_id, block_ms=1)


def test_a_wait_that_has_begun_ends_with_the_wake_up(
    client: redis.Redis, queue: Queue, queue_name: str
) -> None:
    """Not only one that begins after it."""
    empty = queue.reserve_chunks("idle")
    answers: list[bool] = []
    sleeper = threading.Thread(
        target=lambda: answers.append(
            Queue(client, queue_name).wait_for_wake(empty.wake_id, block_ms=10_000)
        )
    )
    sleeper.start()

    insert(queue, 1)
    sleeper.join(timeout=5)

    assert answers == [True]


def test_the_wake_stream_does_not_grow(client: redis.Redis, queue: Queue, raw: Raw) -> None:
    """One entry carries all of the information."""
    for _ in range(5):
        insert(queue, 1)

    assert client.xlen(raw.key("wake")) == 1
