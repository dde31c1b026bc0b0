"""The base of fault injectors: they begin and end a fault and know whom it can concern.

The checker, not an injector, decides what a fault can excuse.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from tests.chaos.stage import Stage
from tests.chaos.values import API, CONSUMER, Fault, Plan

NOBODY: Final = "nobody"
"""Stands in place of programs, since an empty set would mean every program."""


@dataclass
class Injector:
    """A fault that is planned, begun or ended."""

    plan: Plan
    began: float = 0.0
    programs: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    queues: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()

    @property
    def what(self) -> str:
        """The effect of the kind: `cut` of `redis-cut`."""
        return self.plan.kind.partition("-")[2]

    def begin(self, stage: Stage) -> None:
        """Begin the fault."""
        self.began = time.monotonic()
        self.do(stage)

    def end(self, stage: Stage) -> Fault:
        """End the fault; return it as it happened."""
        self.undo(stage)
        return self.fault(time.monotonic())

    def fault(self, ended: float) -> Fault:
        """Return the fault as it would have happened if it had ended then."""
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
        """End the fault's effect; most faults end by themselves."""


def consumers_behind_api(stage: Stage) -> frozenset[str]:
    return frozenset({CONSUMER if stage.cast.consumer_via == "http" else NOBODY})


def behind(stage: Stage, program: str) -> frozenset[str]:
    """Return the programs whose chunks a program's connection to Redis carries."""
    if program == API:
        return consumers_behind_api(stage)
    if program == CONSUMER and stage.cast.consumer_via == "http":
        return frozenset({NOBODY})
    return frozenset({program})
