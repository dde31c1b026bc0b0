"""What every fault injector is: done, taken back, and able to say whom it can concern.

What a fault can excuse is not theirs to say, but the checker's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from tests.chaos.stage import Stage
from tests.chaos.values import API, CONSUMER, Fault, Plan

NOBODY: Final = "nobody"
"""In place of programs, of which none at all would mean each."""


@dataclass
class Injector:
    """One fault on its way: planned, begun, ended."""

    plan: Plan
    began: float = 0.0
    programs: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    queues: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()

    @property
    def what(self) -> str:
        """What the kind does: `cut` of `redis-cut`."""
        return self.plan.kind.partition("-")[2]

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


def consumers_behind_api(stage: Stage) -> frozenset[str]:
    return frozenset({CONSUMER if stage.cast.consumer_via == "http" else NOBODY})


def behind(stage: Stage, program: str) -> frozenset[str]:
    """Give whose chunks a program's connection to Redis carries."""
    if program == API:
        return consumers_behind_api(stage)
    if program == CONSUMER and stage.cast.consumer_via == "http":
        return frozenset({NOBODY})
    return frozenset({program})
