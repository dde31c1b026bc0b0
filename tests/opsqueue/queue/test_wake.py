"""Wake-ups: whatever frees a chunk wakes one sleeper of each group, and no one for nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from opsqueue.model.chunk import Token
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue, wake_channel
from opsqueue.strategy import Strategy
from tests.opsqueue.steps import (
    FAILURE,
    NO_WAIT,
    Clock,
    Ear,
    Raw,
    Sleeper,
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
    with Sleeper(scene.queue) as sleeper:
        assert sleeper.found.chunks == ()

        free(scene)

        assert sleeper.hears()


def test_a_sleeper_is_woken_by_a_resume(queue: Queue) -> None:
    """What came while the queue was paused is free then."""
    queue.pause_queue()
    insert(queue, 1)
    with Sleeper(queue) as sleeper:
        queue.resume_queue()

        assert sleeper.hears()


def test_a_sleeper_learns_of_a_back_off_that_ends_sooner_than_it_sleeps(queue: Queue) -> None:
    """Nothing is free, but it must sleep shorter than it meant to."""
    insert(queue, 2)
    first, second = take(queue, 2)
    queue.release_chunks([first.token], delay_ms=60_000)
    with Sleeper(queue) as sleeper:
        queue.fail_chunk(second.token, FAILURE, jitter=1_000)

        assert sleeper.found.next_due_in_ms == 60_000
        assert sleeper.hears()
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
    with Sleeper(scene.queue) as sleeper:
        scene.queue.complete_chunks([scene.token])
        scene.queue.cancel_submission(other)

        assert sleeper.hears_nothing()


def sleepers(stack: ExitStack, queue: Queue, number: int, **options: Any) -> list[Sleeper]:
    """Workers that fall asleep in this order."""
    return [stack.enter_context(Sleeper(queue, f"w{n}", **options)) for n in range(number)]


def test_one_chunk_wakes_one_sleeper_and_not_all(queue: Queue, clock: Clock) -> None:
    """The one that fell asleep last: it is most probably alive."""
    with ExitStack() as stack:
        first, second = sleepers(stack, queue, 2)
        clock.advance(1)
        third = stack.enter_context(Sleeper(queue, "w3"))

        insert(queue, 1)

        assert third.hears()
        assert first.hears_nothing()
        assert second.hears_nothing()


def test_who_finds_chunks_and_leaves_some_wakes_two_more(queue: Queue) -> None:
    with ExitStack() as stack:
        others = sleepers(stack, queue, 3)
        insert(queue, 9)
        woken = next(one for one in others if not one.hears_nothing())

        others.remove(woken)
        assert [True, True] == [one.hears_nothing() for one in others]
        queue.reserve_chunks("w9", limit=2, strategy=Strategy.Oldest(), sleeps=True)

        assert [True, True] == [one.hears() for one in others]


@pytest.mark.parametrize("limit", [1, 2])
def test_who_takes_the_last_chunk_wakes_nobody(queue: Queue, limit: int) -> None:
    insert(queue, 1)
    queue.pause_queue()
    with ExitStack() as stack:
        others = sleepers(stack, queue, 2)
        queue.resume_queue()
        asleep = [one for one in others if one.hears_nothing()]

        queue.reserve_chunks("w9", limit=limit, strategy=Strategy.Oldest(), sleeps=True)

        assert [True] == [one.hears_nothing() for one in asleep]


def test_one_of_each_strategy_is_woken(queue: Queue) -> None:
    """A chunk that one strategy forbids may be allowed by another one."""
    with (
        Sleeper(queue, "w1", strategy=Strategy.Oldest()) as one,
        Sleeper(queue, "w2", strategy=Strategy.SelectOnly("customer", 1)) as two,
    ):
        insert(queue, 1)

        assert one.hears()
        assert two.hears()


def test_a_sleeper_that_is_gone_is_passed_over(queue: Queue, clock: Clock) -> None:
    """Nobody receives its message, which is known at once."""
    with Sleeper(queue, "w1") as there:
        clock.advance(1)
        queue.reserve_chunks("gone", strategy=Strategy.Oldest(), sleeps=True)
        queue.reserve_chunks("gone-too", strategy=Strategy.Oldest(), sleeps=True)

        insert(queue, 1)

        assert there.hears()


def test_who_asks_with_another_strategy_does_not_take_the_wake_ups_of_the_first(
    queue: Queue,
) -> None:
    """Consumers may do so; a message for the first one finds nobody, and the next is woken."""
    with Sleeper(queue, "w1") as there:
        queue.reserve_chunks("w2", strategy=Strategy.Oldest(), sleeps=True)
        with Sleeper(queue, "w2", strategy=Strategy.Newest()):
            insert(queue, 1)

            assert there.hears()


def test_a_worker_that_has_no_place_wakes_the_next(queue: Queue) -> None:
    strategy = Strategy.Oldest()
    with Sleeper(queue, "w1", strategy=strategy) as sleeper:
        assert queue.wake_next(strategy)

        assert sleeper.hears()
    assert not queue.wake_next(strategy)


def test_who_finds_fewer_than_it_can_take_is_woken_for_more(queue: Queue) -> None:
    """It has places left."""
    insert(queue, 1)
    with Sleeper(queue, limit=2) as sleeper:
        assert len(sleeper.found.chunks) == 1

        insert(queue, 1)

        assert sleeper.hears()


def test_who_works_is_not_woken(queue: Queue) -> None:
    """It has found something by itself, such as a chunk that was due."""
    with Sleeper(queue, "w1") as one:
        queue.pause_queue()
        insert(queue, 2)
        queue.resume_queue()
        assert one.hears()
        with Sleeper(queue, "w2", limit=1) as two:
            assert two.found.chunks

            insert(queue, 1)

            assert two.hears_nothing()


def test_an_idle_worker_whose_message_was_lost_is_woken_again(queue: Queue) -> None:
    """Its heartbeat makes it a sleeper again, as long as nothing is free."""
    strategy = Strategy.Oldest()
    queue.reserve_chunks("w1", strategy=strategy, sleeps=True)
    insert(queue, 1)  # nobody hears it
    (chunk,) = take(queue, worker="other")
    with Ear(queue, wake_channel("w1", strategy)) as ear:
        assert not queue.heartbeat("w1", sleeps_in=strategy).is_free

        queue.release_chunks([chunk.token])

        assert ear.hears()
    assert queue.heartbeat("w1", sleeps_in=strategy).is_free


def test_three_of_a_group_come_back_for_a_delayed_chunk(queue: Queue, clock: Clock) -> None:
    """Otherwise a thousand would ask at that instant."""
    insert(queue, 1)
    queue.release_chunks([take_one(queue).token], delay_ms=1_000)

    found = [queue.reserve_chunks(f"w{n}", sleeps=True) for n in range(5)]
    again = queue.reserve_chunks("w0", sleeps=True)

    assert [True, True, True, False, False] == [one.has_alarm for one in found]
    assert again.has_alarm
    assert {1_000} == {one.next_due_in_ms for one in found}
    clock.advance(1_000)
    assert queue.reserve_chunks("w4", sleeps=True).chunks


def test_a_sooner_chunk_has_alarms_of_its_own(queue: Queue) -> None:
    insert(queue, 2)
    first, second = take(queue, 2)
    queue.release_chunks([first.token], delay_ms=60_000)
    for n in range(3):
        assert queue.reserve_chunks(f"w{n}", sleeps=True).has_alarm

    queue.release_chunks([second.token], delay_ms=1_000)

    assert queue.reserve_chunks("w3", sleeps=True).has_alarm


def test_workers_that_are_gone_leave_no_sleepers(
    client: redis.Redis, queue: Queue, clock: Clock, raw: Raw
) -> None:
    insert(queue, 1)
    queue.release_chunks([take_one(queue, worker="w0").token], delay_ms=600_000)
    for worker in ("retires", "dies"):
        queue.reserve_chunks(worker, sleeps=True)

    queue.retire_worker("retires")
    clock.advance(60_000)
    queue.reclaim_dead("sweeper")

    assert not list(client.scan_iter(raw.key("sleepers:*").replace("{", "[{]")))
    assert not list(client.scan_iter(raw.key("alarms:*").replace("{", "[{]")))


def test_old_workers_are_woken_by_the_stream(client: redis.Redis, queue: Queue, raw: Raw) -> None:
    """Version 0.1 sleeps until it has an entry. It does not grow."""
    for _ in range(5):
        insert(queue, 1)

    assert client.xlen(raw.key("wake")) == 1
