"""Faults of what is around the processes: Redis's data, connections, the store, the clock.

A small class each, named like its kind; INJECTORS has these and those of processes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar, Final

import redis

from opsqueue.keys import base_key
from opsqueue.partitioned import PartitionedQueue
from tests.chaos import process_faults
from tests.chaos.injector import Injector, behind
from tests.chaos.stage import Stage
from tests.chaos.values import IN_STORE

_MOST_PARTITIONS: Final = 4


class FlushScripts(Injector):
    """SCRIPT FLUSH."""

    name = "flush-scripts"

    def do(self, stage: Stage) -> None:
        # A command to a stopped server would take effect when it goes on, at another instant.
        if stage.is_server_up:
            stage.client.script_flush()


class PauseQueue(Injector):
    """A queue is paused, and resumed."""

    name = "pause-queue"

    def do(self, stage: Stage) -> None:
        self.queues = frozenset({self.plan.target})
        if stage.is_server_up:
            PartitionedQueue(stage.client, self.plan.target).pause_queue()

    def undo(self, stage: Stage) -> None:
        # Resumed at the end by the stage, where the server is away now.
        if stage.is_server_up:
            PartitionedQueue(stage.client, self.plan.target).resume_queue()


class SpreadQueue(Injector):
    """A queue gets another partition, as far as four."""

    name = "spread-queue"

    def do(self, stage: Stage) -> None:
        if stage.is_server_up:
            queue = PartitionedQueue(stage.client, self.plan.target)
            queue.set_partitions(min(_MOST_PARTITIONS, len(queue.parts()) + 1))


class _Delete(Injector):
    def reservations(self, stage: Stage) -> str:
        """Give the key of the stream in one of the queue's partitions."""
        parts = PartitionedQueue(stage.client, self.plan.target).parts()
        partition = int(self.plan.detail * len(parts))
        self.partitions = frozenset({partition})
        return f"{base_key(self.plan.target, partition)}reservations"


class DeleteStream(_Delete):
    """DEL of a queue's stream of reservations."""

    name = "delete-stream"

    def do(self, stage: Stage) -> None:
        self.queues = frozenset({self.plan.target})
        # A command to a stopped server would take effect when it goes on, at another instant.
        if stage.is_server_up:
            stage.client.delete(self.reservations(stage))


class DeleteGroup(_Delete):
    """XGROUP DESTROY of a queue's consumer group."""

    name = "delete-group"

    def do(self, stage: Stage) -> None:
        self.queues = frozenset({self.plan.target})
        if stage.is_server_up:
            # Of a queue that was not used yet there is no stream.
            with suppress(redis.ResponseError):
                stage.client.xgroup_destroy(self.reservations(stage), "workers")


class _StoreTrouble(Injector):
    way: ClassVar[str] = ""

    def do(self, stage: Stage) -> None:
        self.queues = IN_STORE
        stage.store_proxy.set(self.way, 5.0)

    def undo(self, stage: Stage) -> None:
        stage.store_proxy.set("well")


class StoreErrors(_StoreTrouble):
    """The object store answers requests with 500 and 503."""

    name, way = "store-errors", "errors"


class StoreCut(_StoreTrouble):
    """The object store closes connections instead of answering."""

    name, way = "store-cut", "cut"


class StoreLostAnswers(_StoreTrouble):
    """The object store does what it is asked for, and its answers are lost."""

    name, way = "store-lost-answers", "lost-answers"


class StorePause(_StoreTrouble):
    """The object store takes 5 s a request."""

    name, way = "store-pause", "pause"


class RedisCut(Injector):
    """A program's connections to Redis are closed; new ones work."""

    name = "redis-cut"

    def do(self, stage: Stage) -> None:
        self.programs = behind(stage, self.plan.target)
        stage.redis_proxies[self.plan.target].cut()


class _RedisTrouble(Injector):
    way: ClassVar[str] = ""

    def do(self, stage: Stage) -> None:
        self.programs = behind(stage, self.plan.target)
        # Of use for a delay alone: up to 0.3 s a piece and direction.
        stage.redis_proxies[self.plan.target].set(self.way, 0.3 * self.plan.detail)

    def undo(self, stage: Stage) -> None:
        stage.redis_proxies[self.plan.target].set("well")


class RedisPartition(_RedisTrouble):
    """A program can't connect to Redis."""

    name, way = "redis-partition", "partition"


class RedisStall(_RedisTrouble):
    """A program's bytes to and from Redis are held back, and come then."""

    name, way = "redis-stall", "stall"


class RedisDelay(_RedisTrouble):
    """Each piece of a program's traffic with Redis is late."""

    name, way = "redis-delay", "delay"


class RedisSwallow(_RedisTrouble):
    """A program's connections to Redis fall silent for ever, as after a failover; new ones work."""

    name, way = "redis-swallow", "swallow"


class StepClock(Injector):
    """The wall clock of a program's machine steps by up to a day, forth or back, and returns."""

    name = "step-clock"

    def do(self, stage: Stage) -> None:
        sign = 1 if self.plan.detail < 0.5 else -1
        seconds = sign * 86_400 ** (2 * self.plan.detail % 1)
        stage.clock_file(self.plan.target).write_text(str(seconds))

    def undo(self, stage: Stage) -> None:
        stage.clock_file(self.plan.target).write_text("0")


def _kinds_in(module: dict[str, object]) -> dict[str, type[Injector]]:
    classes = [one for one in module.values() if isinstance(one, type)]
    return {one.name: one for one in classes if issubclass(one, Injector) and one.name}


INJECTORS: Final = _kinds_in(vars(process_faults)) | _kinds_in(globals())
