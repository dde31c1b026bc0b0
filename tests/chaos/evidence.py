"""Evidence of runs as input of the checker: a clean run, and helpers that change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.chaos.checker import check
from tests.chaos.values import (
    FAIR,
    Evidence,
    Execution,
    Expected,
    Fault,
    Outcome,
    QueueEnd,
    result_of,
)

ID = 1795636784480000000


HERE = frozenset({"worker-0"})


def run_of(chunk: int, began: float, **changes: Any) -> Execution:
    """Return a handler's call of 0.1 s on a chunk of `clean()`, by a child of worker-0."""
    one = Execution(
        queue=FAIR,
        submission=ID,
        chunk=chunk,
        attempt=1,
        first=2 * chunk,
        count=2 if chunk < 2 else 1,
        program="worker-0",
        pid=100,
        began=began,
        ended=began + 0.1,
        how="returned",
    )
    return replace(one, **changes)


def clean(*executions: Execution, faults: tuple[Fault, ...] = ()) -> Evidence:
    """A submission of five operations in three chunks, of which the fourth has an error."""
    expected = Expected(
        id=ID,
        queue=FAIR,
        chunk_size=2,
        operations=(0, 1, 2, 3, 4),
        errors=frozenset({3}),
        inserted=9.0,
    )
    outcome = Outcome(
        state="completed",
        chunks_total=3,
        chunks_done=3,
        chunks_in_hand=0,
        operations_done=5,
        operations_failed=1,
        results=(result_of(0), result_of(1), result_of(2), "ValueError", result_of(4)),
    )
    end = QueueEnd(
        stats={
            "submissions_inserted": 1,
            "submissions_completed": 1,
            "chunks_inserted": 3,
            "chunks_completed": 3,
            "operations_inserted": 5,
            "operations_completed": 5,
            "operations_failed": 1,
        },
        submissions=frozenset({ID}),
        chunks_in_hand=0,
        chunks_delayed=0,
        submissions_ready=0,
        submissions_in_progress=0,
    )
    return Evidence(
        expected=(expected,),
        outcomes={expected.key: outcome},
        executions=(run_of(0, 10.0), run_of(1, 10.2), run_of(2, 10.4), *executions),
        faults=faults,
        queues={FAIR: end},
    )


def with_outcome(**changes: Any) -> Evidence:
    evidence = clean()
    outcome = replace(evidence.outcomes[FAIR, ID], **changes)
    return replace(evidence, outcomes={(FAIR, ID): outcome})


def with_end(**changes: Any) -> Evidence:
    evidence = clean()
    return replace(evidence, queues={FAIR: replace(evidence.queues[FAIR], **changes)})


def fault(kind: str, began: float, ended: float | None = None, **scope: Any) -> Fault:
    return Fault(kind=kind, target="", began=began, ended=ended or began, **scope)


def the_one(evidence: Evidence) -> str:
    (wrong,) = check(evidence)
    return wrong
