"""Faults of processes: they are killed, stopped, or asked to end."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.chaos.injector import NOBODY, Injector, consumers_behind_api
from tests.chaos.stage import Stage
from tests.chaos.values import API

_NO_PID: Final = -1
_WRITTEN_WITHIN_S: Final = 3.0
_SIGNALS: Final = {
    "term-worker": signal.SIGTERM,
    "quit-worker": signal.SIGQUIT,
    "hup-worker": signal.SIGHUP,
}


class KillChild(Injector):
    """SIGKILL to a child of a worker, as the kernel's out-of-memory killer sends it."""

    def do(self, stage: Stage) -> None:
        if child := _child_of(stage, self):
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

    def do(self, stage: Stage) -> None:
        child = _child_of(stage, self)
        self.stop([] if child is None else [child])


class KillProgram(Injector):
    """SIGKILL to a program; the kernel or its closed socket ends its children."""

    def do(self, stage: Stage) -> None:
        self.programs = frozenset({self.plan.target})
        program = stage.programs[self.plan.target]
        self.pids = program.kill(start_after_s=self.plan.seconds)


class StopProgram(_Stop):
    """SIGSTOP to a program: to all of it, like a sleeping machine, or to the parent alone."""

    def do(self, stage: Stage) -> None:
        family = stage.programs[self.plan.target].family()
        self.programs = frozenset({self.plan.target if family else NOBODY})
        self.stop(family if self.plan.detail < 0.5 else family[:1])


class AskWorker(Injector):
    """SIGTERM, SIGQUIT or SIGHUP to a worker, which is started again if it ends."""

    def do(self, stage: Stage) -> None:
        self.programs = frozenset({self.plan.target})
        number = _SIGNALS[self.plan.kind]
        self.pids = stage.programs[self.plan.target].ask(number)


class KillApi(Injector):
    """SIGKILL to the API: to its supervising process, or to the one that serves."""

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
    """SIGSTOP to all processes of the API."""

    def do(self, stage: Stage) -> None:
        self.programs = consumers_behind_api(stage)
        self.stop(stage.programs[API].family())


class AskApi(Injector):
    """SIGTERM to the API; it is started again when it has ended."""

    def do(self, stage: Stage) -> None:
        self.programs = consumers_behind_api(stage)
        stage.programs[API].ask(signal.SIGTERM)


class KillServer(Injector):
    """SIGKILL to Redis, which is started again on its data and its port.

    With `appendfsync everysec` it delays writes while an fsync takes long, and still answers. The
    test must not expect more than Redis promises, so it waits until the data is written.
    """

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
    """SIGSTOP to Redis, as if its machine swapped or wrote a large snapshot."""

    def do(self, stage: Stage) -> None:
        stage.is_server_up = False
        self.stop([psutil.Process(stage.server.pid)])

    def undo(self, stage: Stage) -> None:
        super().undo(stage)
        stage.is_server_up = True


def _is_behind(stage: Stage) -> bool:
    info = stage.client.info("persistence")
    return bool(info["aof_pending_bio_fsync"] or info["aof_buffer_length"])


def _child_of(stage: Stage, injector: Injector) -> psutil.Process | None:
    """Choose a child of the target, which is the only process concerned."""
    plan = injector.plan
    children = stage.programs[plan.target].children()
    # None: the worker itself has just been killed.
    child = children[int(plan.detail * len(children))] if children else None
    injector.programs = frozenset({plan.target})
    injector.pids = frozenset({_NO_PID if child is None else child.pid})
    return child
