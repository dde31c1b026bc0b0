"""The schedule of a run: a pure function of its seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.values import (
    API,
    CONSUMER,
    QUEUES,
    SERVER,
    STORE,
    WORKERS,
    Cast,
    Plan,
)

PROGRAMS: Final = (*WORKERS, CONSUMER, API)
"""Programs with their own connection to Redis and their own clock."""
_GAP_S: Final = 1.4
"""Average time between two faults."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its possible targets and durations."""

    name: str
    targets: tuple[str, ...]
    at_least_s: float = 0.0
    at_most_s: float = 0.0

    def draw(self, chance: random.Random, at_s: float) -> Plan:
        """Plan a fault of this kind."""
        return Plan(
            at_s=round(at_s, 2),
            kind=self.name,
            target=chance.choice(self.targets),
            seconds=round(chance.uniform(self.at_least_s, self.at_most_s), 2),
            detail=round(chance.random(), 3),
        )


_ALL: Final = (
    Kind("kill-child", WORKERS),
    Kind("stop-child", WORKERS, 0.5, 8.0),
    # The seconds of a kill are those until the next start.
    Kind("kill-worker", WORKERS, 0.0, 2.0),
    Kind("stop-worker", WORKERS, 0.5, 8.0),
    # The seconds of a request to end are those that nothing else befalls the process.
    Kind("term-worker", WORKERS, 2.0, 4.0),
    Kind("quit-worker", WORKERS, 2.0, 4.0),
    Kind("hup-worker", WORKERS),
    Kind("kill-consumer", (CONSUMER,), 0.0, 2.0),
    Kind("stop-consumer", (CONSUMER,), 0.5, 7.0),
    Kind("kill-api", (API,), 0.0, 2.0),
    Kind("stop-api", (API,), 0.5, 6.0),
    Kind("term-api", (API,), 2.0, 4.0),
    Kind("kill-server", (SERVER,), 0.0, 3.0),
    Kind("stop-server", (SERVER,), 0.5, 6.0),
    Kind("flush-scripts", (SERVER,)),
    Kind("pause-queue", QUEUES, 0.5, 4.0),
    Kind("spread-queue", QUEUES),
    Kind("delete-stream", QUEUES),
    Kind("delete-group", QUEUES),
    Kind("store-errors", (STORE,), 1.0, 6.0),
    Kind("store-cut", (STORE,), 1.0, 6.0),
    Kind("store-lost-answers", (STORE,), 0.5, 3.0),
    Kind("store-pause", (STORE,), 1.0, 4.0),
    Kind("redis-cut", PROGRAMS),
    Kind("redis-partition", PROGRAMS, 0.5, 7.0),
    Kind("redis-stall", PROGRAMS, 0.5, 6.0),
    Kind("redis-delay", PROGRAMS, 1.0, 5.0),
    Kind("redis-swallow", PROGRAMS, 0.1, 1.0),
    Kind("step-clock", PROGRAMS, 1.0, 6.0),
)
KINDS: Final = frozenset(kind.name for kind in _ALL)


def cast_of(seed: int) -> Cast:
    """Return the participants."""
    chance = random.Random(f"cast {seed}")
    return Cast(
        appendfsync=chance.choice(("always", "everysec")),
        pools=("process", chance.choice(("process", "thread", "async"))),
        consumer_via=chance.choice(("http", "redis")),
        api_processes=chance.choice((1, 2)),
    )


def schedule(
    seed: int, *, seconds: float, without: frozenset[str] = frozenset()
) -> tuple[Plan, ...]:
    """Plan the faults of a run, ordered by time.

    Kinds are drawn like cards of a shuffled deck, so that none is missing for long. A fault is left
    out if its target already has one of the same sort.
    """
    chance = random.Random(f"schedule {seed}")
    deck: list[Kind] = []
    plans: list[Plan] = []
    busy: dict[tuple[str, str], float] = {}
    at_s = chance.uniform(0.2, 1.0)
    while at_s < seconds:
        if not deck:
            deck = [kind for kind in _ALL if kind.name not in without]
            chance.shuffle(deck)
        plan = deck.pop().draw(chance, at_s)
        resource = (_sort_of(plan.kind), plan.target)
        if busy.get(resource, 0.0) > at_s:
            continue
        busy[resource] = at_s + plan.seconds
        plans.append(plan)
        at_s += chance.expovariate(1 / _GAP_S)
    return tuple(plans)


def length_s(plans: Sequence[Plan]) -> float:
    """Return the time until the last fault is over."""
    return max((plan.at_s + plan.seconds for plan in plans), default=0.0)


def _sort_of(kind: str) -> str:
    """Return the resource that a fault needs exclusively: a process, a connection, a clock."""
    first = kind.partition("-")[0]
    return "process" if first in ("kill", "stop", "term", "quit", "hup") else first
