"""Faults of processes: killed, stopped, asked to end. A small class each, named like its kind."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Final

import psutil

from tests.chaos.injector import NOBODY, Injector, consumers_behind_api
from tests.chaos.stage import Stage
from tests.chaos.values import API, Plan

_NO_PID: Final = -1
_WRITTEN_WITHIN_S: Final = 3.0


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
        self.programs = frozenset({self.plan.target if family else NOBODY})
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
        self.programs = consumers_behind_api(stage)
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
        self.programs = consumers_behind_api(stage)
        self.stop(stage.programs[API].family())


class TermApi(Injector):
    """SIGTERM to the API; it is started again when it has ended."""

    name = "term-api"

    def do(self, stage: Stage) -> None:
        self.programs = consumers_behind_api(stage)
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


def _is_behind(stage: Stage) -> bool:
    info = stage.client.info("persistence")
    return bool(info["aof_pending_bio_fsync"] or info["aof_buffer_length"])


def _child_of(stage: Stage, plan: Plan) -> psutil.Process | None:
    children = stage.programs[plan.target].children()
    return children[int(plan.detail * len(children))] if children else None
