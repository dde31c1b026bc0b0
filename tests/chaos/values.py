"""What a run of the fault suite consists of, as values: plans, what happened, what was found.

Instants are seconds of CLOCK_MONOTONIC, which all processes of a machine share and no step of the
clock moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HEARTBEAT_INTERVAL_S: Final = 0.5
HEARTBEAT_TIMEOUT_S: Final = 4.0
TIME_LIMIT_S: Final = 6.0
"""Of every handler; reservations last twice as long and 5 s."""

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
    """Who takes part in a run: drawn from its seed."""

    appendfsync: str
    pools: tuple[str, ...]
    """Of each worker."""
    consumer_via: str
    """`http` or `redis`."""
    api_processes: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """A fault that is to happen."""

    at_s: float
    """Since the faults began."""
    kind: str
    target: str
    """A program, or a queue."""
    seconds: float
    """0: it is over at once."""
    detail: float
    """Between 0 and 1: which child, how large a step, how long a delay."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happened, and whom it can concern."""

    kind: str
    target: str
    began: float
    ended: float
    programs: frozenset[str] = frozenset()
    """Executions in these; of every program, if empty."""
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
    """None: the process died, or hangs still."""
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
    """Operations that the handler gives an error for."""
    inserted: float
    is_cancelled: bool = False

    def __str__(self) -> str:
        return f"submission {self.id} of queue {self.queue}"

    @property
    def key(self) -> Key:
        return self.queue, self.id


@dataclass(frozen=True, slots=True)
class Outcome:
    """A submission as the API shows it after the end; an error stands as its type's name."""

    state: str
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    operations_done: int
    operations_failed: int
    results: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class QueueEnd:
    """A queue when all is over."""

    stats: Mapping[str, int]
    submissions: frozenset[int]
    chunks_in_hand: int
    chunks_delayed: int
    submissions_ready: int
    submissions_in_progress: int
    counted_in_hand: Mapping[str, int] = field(default_factory=dict)
    """Of each index of chunks in hand, what it still counts."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the checker looks at."""

    expected: tuple[Expected, ...]
    outcomes: Mapping[Key, Outcome]
    executions: tuple[Execution, ...]
    faults: tuple[Fault, ...]
    queues: Mapping[str, QueueEnd]
    surprises: tuple[str, ...] = ()
    """What a program or a client did that no fault excuses: exit codes, exceptions."""


def result_of(operation: int) -> int:
    """Give what the handlers compute."""
    return operation * operation + 1
