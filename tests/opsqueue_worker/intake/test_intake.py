"""The loop that reports and reserves, on a real server, with a pool that only counts places."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import GivenBack
from opsqueue.model.chunk import Token
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.commands import Command
from opsqueue.queue.queue import Queue
from opsqueue_worker.intake.exchanges import Exchanges
from opsqueue_worker.intake.intake import Intake
from opsqueue_worker.intake.intakes import Intakes
from opsqueue_worker.pool.places import Promise
from opsqueue_worker.pool.pool import Health
from opsqueue_worker.pool.waiting import PoolChunk
from tests.opsqueue.steps import Sleeper
from tests.redis_sets import until

WITHIN_S = 3.0
"""Less than the 5 s after which an intake checks the queue by itself."""


class OnePlace:
    """A pool with one place, which is never filled."""

    def __init__(self) -> None:
        self.came: list[PoolChunk] = []
        self.has_come = threading.Event()
        self._looks = 0
        self._is_promised = False
        self._changed = threading.Condition()

    def take_places(self, _label: str, limit: int) -> Promise:
        with self._changed:
            self._looks += 1
            self._changed.notify_all()
            taken = min(limit, 0 if self._is_promised else 1)
            self._is_promised |= taken > 0
            return Promise(taken)

    def wait_for_looks(self, looks: int, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._looks >= looks, timeout)

    def give_places_back(self, _label: str, number: int) -> None:
        if number:
            # Until the others were woken by everything else that they can be woken by.
            self.wait_for_looks(4, 0.3)
            self._is_promised = False

    def submit(self, chunks: Sequence[PoolChunk]) -> None:
        self.came += chunks
        self.has_come.set()

    def begun(self) -> list[Token]:
        return []

    def whose_turn(self) -> str | None:
        return None

    def start(self) -> None: ...
    def withdraw(self, label: str) -> None: ...
    def may_begin(self, tokens: Iterable[Token]) -> None: ...
    def drain(self, label: str) -> None: ...
    def confirm(self, label: str, at: float) -> None: ...
    def revoke(self, tokens: Iterable[Token]) -> None: ...
    def tick(self) -> None: ...
    def retire_children(self) -> None: ...
    def dump_stacks(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...

    def health(self) -> Health:
        return Health(ready=1, wanted=1)

    @property
    def tick_s(self) -> float:
        return 1.0

    @property
    def chunks_running(self) -> int:
        return 0

    @property
    def is_empty(self) -> bool:
        return True


def intake_of(queue: Queue, pool: OnePlace, **options: Any) -> Intake:
    """An intake of the queue that fills the pool."""
    app = Opsqueue()
    app.operation_handler(queue.name)(abs)
    handler = app.handler_of(queue.name)
    return Intake(
        queue,
        handler,
        strategy=handler.strategy,
        worker="w",
        slots=pool,
        exchanges=Exchanges(pool.whose_turn),
        changed=threading.Condition(),
        **options,
    )


class SlowQueue(Queue):
    """A queue that answers when the test allows it."""

    let = threading.Event()

    def pipeline(self, many: Sequence[Command[Any]]) -> list[Any]:
        self.let.wait(10)
        return super().pipeline(many)


class EndlessPool(OnePlace):
    """A pool that has a place for every chunk and finishes none."""

    def take_places(self, _label: str, limit: int) -> Promise:
        if limit == 0:
            self.is_refused.set()
        return Promise(limit)

    def give_places_back(self, _label: str, number: int) -> None: ...

    is_refused = threading.Event()


def test_no_more_is_held_than_a_heartbeat_can_tell(
    real_client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat would treat further reservations as revoked, and they would never be done."""
    monkeypatch.setattr("opsqueue_worker.intake.intake.MAX_HELD", 3)
    pool, queue = EndlessPool(), Queue(real_client, queue_name)
    queue.insert_submission(
        NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=10, chunk_size=1)
    )
    intake = intake_of(queue, pool)

    intake.start()

    assert pool.is_refused.wait(WITHIN_S)
    assert len(intake.held()) == 3
    intake.stop_taking()


def test_an_intake_says_its_workers_timeout_before_any_heartbeat_has(
    real_client: redis.Redis, queue_name: str
) -> None:
    """The next heartbeat may be minutes away after a flush or a stall."""
    pool, queue = OnePlace(), Queue(real_client, queue_name)
    queue.insert_submission(
        NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=1, chunk_size=1)
    )
    intake = intake_of(queue, pool, heartbeat_timeout_ms=300_000)

    intake.start()

    try:
        assert pool.has_come.wait(WITHIN_S)
        later = Queue(real_client, queue_name, clock=lambda: int(time.time() * 1000) + 200_000)
        assert [worker.is_alive for worker in later.list_workers()] == [True]
    finally:
        intake.stop_taking()


def test_a_report_is_taken_by_the_partition_of_its_chunk_alone(
    fake_client: redis.Redis, queue_name: str
) -> None:
    """The first partition has the queue's name, with which the others' names begin."""
    queue = Queue(fake_client, queue_name)
    intakes = Intakes([queue], lambda part: intake_of(part, OnePlace()))
    queue.set_partitions(4)
    intakes.learn(queue_name, [1, 4])
    fourth = next(intake for intake in intakes if intake.label == f"{queue_name}/03")
    report = GivenBack(token=fourth.ticket(Token("1-0")), reason="for the test")

    assert intakes.report([report]) == [(fourth, [report])]
    intakes.stop_taking()


def test_places_that_one_queue_gives_back_wake_another(
    real_client: redis.Redis, queue_name: str
) -> None:
    """The other intake slept since all places were promised, and nothing else would wake it."""
    pool, changed = OnePlace(), threading.Condition()
    exchanges = Exchanges(pool.whose_turn)
    empty = SlowQueue(real_client, f"{queue_name}-empty")
    full = Queue(real_client, f"{queue_name}-full")
    full.insert_submission(
        NewSubmission(prefix=fresh_prefix(full.name), chunks_total=1, chunk_size=1)
    )
    app = Opsqueue()
    intakes = []
    for queue in (empty, full):
        app.operation_handler(queue.name)(abs)
        handler = app.handler_of(queue.name)
        intakes.append(
            Intake(
                queue,
                handler,
                strategy=handler.strategy,
                worker="w",
                slots=pool,
                exchanges=exchanges,
                changed=changed,
            )
        )
    intakes[0].start()
    pool.wait_for_looks(1, 10)
    intakes[1].start()
    pool.wait_for_looks(2, 10)

    empty.let.set()

    try:
        assert pool.has_come.wait(WITHIN_S)
        assert [chunk.queue for chunk in pool.came] == [full.name]
    finally:
        for intake in intakes:
            intake.stop_taking()


def idle_intake(client: redis.Redis, queue_name: str) -> tuple[Queue, OnePlace, Intake]:
    """An intake that has found nothing."""
    pool, queue = OnePlace(), Queue(client, queue_name)
    intake = intake_of(queue, pool)
    intake.start()
    until(lambda: intake.is_idle, "it has found nothing")
    return queue, pool, intake


def test_an_intake_that_no_wake_up_reached_looks_again_anyway(
    real_client: redis.Redis, queue_name: str
) -> None:
    """With its next heartbeat."""
    queue, pool, intake = idle_intake(real_client, queue_name)
    real_client.delete(base_key(queue_name) + "groups")
    queue.insert_submission(
        NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=1, chunk_size=1)
    )
    has_come_by_itself = pool.has_come.is_set()

    intake.look(queue.heartbeat("w"))

    assert pool.has_come.wait(WITHIN_S)
    assert not has_come_by_itself
    intake.stop_taking()


def test_an_intake_without_a_place_passes_its_wake_up_on(
    real_client: redis.Redis, queue_name: str
) -> None:
    """Another worker may have one."""
    queue, pool, intake = idle_intake(real_client, queue_name)
    until(lambda: bool(pool.take_places("another", 1).number), "its place is another queue's")
    with Sleeper(queue, "other", strategy=intake.strategy) as other:
        intake.wake()

        assert other.hears()
    intake.stop_taking()
