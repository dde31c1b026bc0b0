"""All kinds of faults and their injectors, and the injectors outside of the processes.

Those are faults of Redis's data, connections, the store and the clock; `process_faults` has the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import redis

from opsqueue.model.names import base_key
from opsqueue.queue.queue import Queue
from tests.chaos.injector import NOBODY, Injector, behind
from tests.chaos.process_faults import (
    AskApi,
    AskWorker,
    KillApi,
    KillChild,
    KillProgram,
    KillServer,
    StopApi,
    StopChild,
    StopProgram,
    StopServer,
)
from tests.chaos.proxy import WELL
from tests.chaos.stage import Stage
from tests.chaos.values import IN_STORE

_MOST_PARTITIONS: Final = 4
_STORE_PAUSE_S: Final = 5.0
_DELAY_AT_MOST_S: Final = 0.3
"""Delay of each piece of data, in each direction."""


class _Command(Injector):
    """A command to Redis, on the scripts or on the queue that is the target."""

    def do(self, stage: Stage) -> None:
        # A command to a stopped server would take effect when it goes on, at another instant.
        if stage.is_server_up:
            self.command(stage)
        else:
            self.programs = frozenset({NOBODY})

    def command(self, stage: Stage) -> None:
        raise NotImplementedError

    def queue(self, stage: Stage) -> Queue:
        self.queues = frozenset({self.plan.target})
        return Queue(stage.client, self.plan.target)


class FlushScripts(_Command):
    """SCRIPT FLUSH."""

    def command(self, stage: Stage) -> None:
        stage.client.script_flush()


class PauseQueue(_Command):
    """A queue is paused and resumed."""

    def command(self, stage: Stage) -> None:
        self.queue(stage).pause_queue()

    def undo(self, stage: Stage) -> None:
        # Resumed at the end by the stage, where the server is away now.
        if stage.is_server_up:
            self.queue(stage).resume_queue()


class SpreadQueue(_Command):
    """A queue gets another partition, up to four."""

    def command(self, stage: Stage) -> None:
        queue = self.queue(stage)
        queue.set_partitions(min(_MOST_PARTITIONS, len(queue.parts()) + 1))


class DeleteStream(_Command):
    """DEL of the stream of reservations in one of a queue's partitions."""

    def command(self, stage: Stage) -> None:
        partition = int(self.plan.detail * len(self.queue(stage).parts()))
        self.partitions = frozenset({partition})
        self.delete(stage.client, f"{base_key(self.plan.target, partition)}reservations")

    def delete(self, client: redis.Redis, reservations: str) -> None:
        client.delete(reservations)


class DeleteGroup(DeleteStream):
    """XGROUP DESTROY of that stream's consumer group."""

    def delete(self, client: redis.Redis, reservations: str) -> None:
        # Of a queue that was not used yet there is no stream.
        with suppress(redis.ResponseError):
            client.xgroup_destroy(reservations, "workers")


class StoreTrouble(Injector):
    """The object store's proxy does what the kind says after the hyphen."""

    def do(self, stage: Stage) -> None:
        self.queues = IN_STORE
        stage.store_proxy.set(self.what, _STORE_PAUSE_S)

    def undo(self, stage: Stage) -> None:
        stage.store_proxy.set(WELL)


class RedisCut(Injector):
    """A program's connections to Redis are closed."""

    def do(self, stage: Stage) -> None:
        self.programs = behind(stage, self.plan.target)
        stage.redis_proxies[self.plan.target].cut()


class RedisTrouble(Injector):
    """The proxy between a program and Redis does what the kind says after the hyphen."""

    def do(self, stage: Stage) -> None:
        self.programs = behind(stage, self.plan.target)
        stage.redis_proxies[self.plan.target].set(self.what, _DELAY_AT_MOST_S * self.plan.detail)

    def undo(self, stage: Stage) -> None:
        stage.redis_proxies[self.plan.target].set(WELL)


class StepClock(Injector):
    """The wall clock of a program's machine steps by up to a day, forth or back, and returns."""

    def do(self, stage: Stage) -> None:
        sign = 1 if self.plan.detail < 0.5 else -1
        seconds = sign * 86_400 ** (2 * self.plan.detail % 1)
        stage.clock_file(self.plan.target).write_text(str(seconds))

    def undo(self, stage: Stage) -> None:
        stage.clock_file(self.plan.target).write_text("0")


INJECTORS: Final[Mapping[str, type[Injector]]] = {
    "kill-child": KillChild,
    "stop-child": StopChild,
    "kill-worker": KillProgram,
    "stop-worker": StopProgram,
    "term-worker": AskWorker,  # as at each deployment
    "quit-worker": AskWorker,  # it gives back at once
    "hup-worker": AskWorker,  # it replaces its children
    "kill-consumer": KillProgram,
    "stop-consumer": StopProgram,
    "kill-api": KillApi,
    "stop-api": StopApi,
    "term-api": AskApi,
    "kill-server": KillServer,
    "stop-server": StopServer,
    "flush-scripts": FlushScripts,
    "pause-queue": PauseQueue,
    "spread-queue": SpreadQueue,
    "delete-stream": DeleteStream,
    "delete-group": DeleteGroup,
    "store-errors": StoreTrouble,  # it answers requests with 500 and 503
    "store-cut": StoreTrouble,  # it closes connections instead of answering
    "store-lost-answers": StoreTrouble,  # it does what it is asked for, and does not say so
    "store-pause": StoreTrouble,  # it takes 5 s a request
    "redis-cut": RedisCut,  # new connections work
    "redis-partition": RedisTrouble,  # none can be made
    "redis-stall": RedisTrouble,  # bytes are held back, and come then
    "redis-delay": RedisTrouble,  # each piece is late
    "redis-swallow": RedisTrouble,  # silent for ever, as after a failover; new ones work
    "step-clock": StepClock,
}
