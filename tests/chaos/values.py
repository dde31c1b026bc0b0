"""The values of a run of the fault suite: plans, events and findings.

Instants are seconds of CLOCK_MONOTONIC, which all processes of a machine share and which no step of
the clock changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HEARTBEAT_INTERVAL_S: Final = 0.5
HEARTBEAT_TIMEOUT_S: Final = 4.0
TIME_LIMIT_S: Final = 6.0
"""Time limit of every handler; reservations last twice as long and 5 s more."""

QUICK: Final = "quick"
"""Small submissions, all in Redis; some chunks raise at their first attempt."""
STORED: Final = "stored"
"""Inputs and outputs in the object store."""
FAIR: Final = "fair"
"""PreferDistinct and MaxSimultaneous; errors of operations are collected."""
CONSUMED: Final = "consumed"
"""Served by a consumer, not by workers; outputs in the object store."""
QUEUES: Final = (QUICK, STORED, FAIR, CONSUMED)
IN_STORE: Final = frozenset({STORED, CONSUMED})

WORKERS: Final = ("worker-0", "worker-1")
CONSUMER: Final = "consumer"
API: Final = "api"
SERVER: Final = "server"
STORE: Final = "store"


Key = tuple[str, int]
"""Of a submission: ids are unique in their queue alone."""


@dataclass(frozen=True, slots=True)
class Cast:
    """The participants of a run, drawn from its seed."""

    appendfsync: str
    pools: tuple[str, ...]
    """Of each worker."""
    consumer_via: str
    """`http` or `redis`."""
    api_processes: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """A planned fault."""

    at_s: float
    """Since the faults began."""
    kind: str
    target: str
    """A program, or a queue."""
    seconds: float
    """0 means that it is over at once."""
    detail: float
    """Between 0 and 1; chooses the child, the size of a step or the length of a delay."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happened, and the programs that it can concern."""

    kind: str
    target: str
    began: float
    ended: float
    programs: frozenset[str] = frozenset()
    """Programs whose executions it concerns; empty means every program."""
    pids: frozenset[int] = frozenset()
    queues: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    submissions: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Execution:
    """One call of a handler, from its own log."""

    queue: str
    submission: int
    chunk: int
    attempt: int
    first: int
    """Its first operation."""
    count: int
    program: str
    pid: int
    began: float
    ended: float | None = None
    """None if the process died or still hangs."""
    how: str = ""
    """`returned` or `raised`."""

    def __str__(self) -> str:
        return (
            f"chunk {self.queue} {self.submission}/{self.chunk} attempt {self.attempt} "
            f"at {self.began:.2f}"
        )

    @property
    def partition(self) -> int:
        return self.submission % 100

    @property
    def key(self) -> Key:
        return self.queue, self.submission


@dataclass(frozen=True, slots=True)
class Expected:
    """A submission as its producer knows it."""

    id: int
    queue: str
    chunk_size: int
    operations: tuple[int, ...]
    errors: frozenset[int]
    """Operations for which the handler returns an error."""
    inserted: float
    is_cancelled: bool = False

    def __str__(self) -> str:
        return f"submission {self.id} of queue {self.queue}"

    @property
    def key(self) -> Key:
        return self.queue, self.id


@dataclass(frozen=True, slots=True)
class Outcome:
    """A submission as the API shows it after the end; errors are the names of their types."""

    state: str
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    operations_done: int
    operations_failed: int
    results: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class QueueEnd:
    """A queue after the end of a run."""

    stats: Mapping[str, int]
    submissions: frozenset[int]
    chunks_in_hand: int
    chunks_delayed: int
    submissions_ready: int
    submissions_in_progress: int
    counted_in_hand: Mapping[str, int] = field(default_factory=dict)
    """The remaining counts of each index of reserved chunks."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The input of the checker."""

    expected: tuple[Expected, ...]
    outcomes: Mapping[Key, Outcome]
    executions: tuple[Execution, ...]
    faults: tuple[Fault, ...]
    queues: Mapping[str, QueueEnd]
    surprises: tuple[str, ...] = ()
    """Behaviour of programs or clients that no fault excuses: exit codes, exceptions."""


def result_of(operation: int) -> int:
    """Return the results that the handlers compute."""
    return operation * operation + 1
