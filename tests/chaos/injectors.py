"""The fault injectors: a small class each, named like the kind of fault that it does.

`begin` does it and says whom it can concern, `end` takes it back. What a fault can excuse is not
theirs to say, but the checker's.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Final

import psutil
import redis

from opsqueue.keys import base_key
from opsqueue.partitioned import PartitionedQueue
from tests.chaos.stage import Stage
from tests.chaos.values import API, CONSUMER, IN_STORE, Fault, Plan

_NOBODY: Final = "nobody"
"""In place of programs, of which none at all would mean each."""
_NO_PID: Final = -1
_MOST_PARTITIONS: Final = 4
_WRITTEN_WITHIN_S: Final = 3.0


@dataclass
class Injector:
    """One fault on its way: planned, begun, ended."""

    plan: Plan
    began: float = 0.0
    programs: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    queues: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    name: ClassVar[str] = ""

    def begin(self, stage: Stage) -> None:
        """Do it."""
        self.began = time.monotonic()
        self.do(stage)

    def end(self, stage: Stage) -> Fault:
        """Take it back; give what it was."""
        self.undo(stage)
        return self.fault(time.monotonic())

    def fault(self, ended: float) -> Fault:
        """Give what it was, had it ended then."""
        return Fault(
            kind=self.plan.kind,
            target=self.plan.target,
            began=self.began,
            ended=ended,
            programs=self.programs,
            pids=self.pids,
            queues=self.queues,
            partitions=self.partitions,
        )

    def do(self, stage: Stage) -> None:
        raise NotImplementedError

    def undo(self, _stage: Stage) -> None:
        """Most are over by themselves."""


class KillChild(Injector):
    """SIGKILL to a child of a worker, as the kernel's out-of-memory killer sends it."""

    name = "kill-child"

    def do(self, stage: Stage) -> None:
        self.programs = frozenset({self.plan.target})
        child = _child_of(stage, self.plan)
        # None: the worker itself has just been killed.
        self.pids = frozenset({_NO_PID if child is None else child.pid})
        if child is not None:
            stage.programs[self.plan.target].kill_child(child)


@dataclass
class _Stop(Injector):
    _stopped: list[psutil.Process] = field(default_factory=list)

    def stop(self, processes: list[psutil.Process]) -> None:
        self._stopped = processes
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def undo(self, _stage: Stage) -> None:
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


class StopChild(_Stop):
    """SIGSTOP to a child of a worker: its handlers hang."""

    name = "stop-child"

    def do(self, stage: Stage) -> None:
        self.programs = frozenset({self.plan.target})
        child = _child_of(stage, self.plan)
        self.pids = frozenset({_NO_PID if child is None else child.pid})
        self.stop([] if child is None else [child])


class KillWorker(Injector):
    """SIGKILL to a worker; its children are the kernel's or its socket's to end."""

    name = "kill-worker"

    def do(self, stage: Stage) -> None:
        self.programs = frozenset({self.plan.target})
        program = stage.programs[self.plan.target]
        self.pids = program.kill(start_after_s=self.plan.seconds)


class StopWorker(_Stop):
    """SIGSTOP to a worker: now all of it, as of a machine that sleeps, now the parent alone."""

    name = "stop-worker"

    def do(self, stage: Stage) -> None:
        family = stage.programs[self.plan.target].family()
        self.programs = frozenset({self.plan.target if family else _NOBODY})
        self.stop(family if self.plan.detail < 0.5 else family[:1])


class _Ask(Injector):
    number: ClassVar[signal.Signals]

    def do(self, stage: Stage) -> None:
        program = stage.programs[self.plan.target]
        self.programs = frozenset({self.plan.target})
        self.pids = program.ask(self.number)


class TermWorker(_Ask):
    """SIGTERM to a worker, as at each deployment; it is started again when it has ended."""

    name, number = "term-worker", signal.SIGTERM


class QuitWorker(_Ask):
    """SIGQUIT to a worker, which gives back at once."""

    name, number = "quit-worker", signal.SIGQUIT


class HupWorker(_Ask):
    """SIGHUP to a worker, which replaces its children."""

    name, number = "hup-worker", signal.SIGHUP


class KillConsumer(KillWorker):
    name = "kill-consumer"


class StopConsumer(StopWorker):
    name = "stop-consumer"


class KillApi(Injector):
    """SIGKILL to the API: now its supervising process, now the one that serves."""

    name = "kill-api"

    def do(self, stage: Stage) -> None:
        self.programs = _consumers_behind_api(stage)
        program = stage.programs[API]
        children = program.children()
        if self.plan.detail < 0.5 or not children:
            program.kill(start_after_s=self.plan.seconds)
        else:
            with suppress(psutil.NoSuchProcess):
                children[0].kill()


class StopApi(_Stop):
    """SIGSTOP to all of the API."""

    name = "stop-api"

    def do(self, stage: Stage) -> None:
        self.programs = _consumers_behind_api(stage)
        self.stop(stage.programs[API].family())


class TermApi(Injector):
    """SIGTERM to the API; it is started again when it has ended."""

    name = "term-api"

    def do(self, stage: Stage) -> None:
        self.programs = _consumers_behind_api(stage)
        stage.programs[API].ask(signal.SIGTERM)


class KillServer(Injector):
    """SIGKILL to Redis, which is started again on its data and its port.

    With `appendfsync everysec` it puts writes off while an fsync takes long, and answers all the
    same: what it does not promise is not asked for, so we wait until it has written.
    """

    name = "kill-server"

    def do(self, stage: Stage) -> None:
        deadline = time.monotonic() + _WRITTEN_WITHIN_S
        while _is_behind(stage) and time.monotonic() < deadline:
            time.sleep(0.001)
        stage.is_server_up = False
        stage.server.kill()

    def undo(self, stage: Stage) -> None:
        stage.server.start()
        stage.is_server_up = True


class StopServer(_Stop):
    """SIGSTOP to Redis: as when its machine swaps, or writes a snapshot of much data."""

    name = "stop-server"

    def do(self, stage: Stage) -> None:
        stage.is_server_up = False
        self.stop([psutil.Process(stage.server.pid)])

    def undo(self, stage: Stage) -> None:
        super().undo(stage)
        stage.is_server_up = True


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
        self.programs = _behind(stage, self.plan.target)
        stage.redis_proxies[self.plan.target].cut()


class _RedisTrouble(Injector):
    way: ClassVar[str] = ""

    def do(self, stage: Stage) -> None:
        self.programs = _behind(stage, self.plan.target)
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


def _subclasses(base: type[Injector]) -> list[type[Injector]]:
    return [one for child in base.__subclasses__() for one in (child, *_subclasses(child))]


INJECTORS: Final = {one.name: one for one in _subclasses(Injector) if one.name}


def _is_behind(stage: Stage) -> bool:
    info = stage.client.info("persistence")
    return bool(info["aof_pending_bio_fsync"] or info["aof_buffer_length"])


def _child_of(stage: Stage, plan: Plan) -> psutil.Process | None:
    children = stage.programs[plan.target].children()
    return children[int(plan.detail * len(children))] if children else None


def _consumers_behind_api(stage: Stage) -> frozenset[str]:
    return frozenset({CONSUMER if stage.cast.consumer_via == "http" else _NOBODY})


def _behind(stage: Stage, program: str) -> frozenset[str]:
    """Give whose chunks a program's connection to Redis carries."""
    if program == API:
        return _consumers_behind_api(stage)
    if program == CONSUMER and stage.cast.consumer_via == "http":
        return frozenset({_NOBODY})
    return frozenset({program})
