"""The checker finds errors in the evidence of a run. It is pure: no I/O, no clock.

Results, totals and the state at the end must be exact. Each execution beyond a chunk's first must
be explained, which `explanations.py` decides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos.explanations import unexplained
from tests.chaos.values import (
    Evidence,
    Execution,
    Expected,
    Fault,
    Key,
    Outcome,
    QueueEnd,
    result_of,
)


def check(evidence: Evidence) -> list[str]:
    """Return a line for each error; [] if there is none."""
    return [
        *evidence.surprises,
        *_wrong_submissions(evidence),
        *_wrong_queues(evidence),
        *_wrong_executions(evidence),
        *unexplained(evidence),
    ]


def extra_executions(executions: Sequence[Execution]) -> int:
    """Count the executions beyond the first of each chunk."""
    return len(executions) - len({(*one.key, one.chunk) for one in executions})


# Results and totals


def _wrong_submissions(evidence: Evidence) -> Iterator[str]:
    for expected in evidence.expected:
        outcome = evidence.outcomes.get(expected.key)
        if outcome is None:
            yield f"{expected} was accepted and is gone"
        elif outcome.state != "completed":
            if not (expected.is_cancelled and outcome.state == "cancelled"):
                yield f"{expected} is stuck or failed: {outcome.state}"
            yield from _wrong_part(expected, outcome)
        else:
            if expected.is_cancelled:
                yield f"{expected} was cancelled and is completed"
            yield from _wrong_results(expected, outcome)
        if outcome is not None and outcome.chunks_in_hand != 0:
            yield f"{expected} counts {outcome.chunks_in_hand} chunks in hand for ever"


def _wrong_part(expected: Expected, outcome: Outcome) -> Iterator[str]:
    """Check the counts of a submission that did not complete."""
    chunks, done = _chunks_of(expected), outcome.chunks_done
    every = done * expected.chunk_size
    # The last chunk may have fewer, and may be among them.
    short = chunks * expected.chunk_size - len(expected.operations)
    if outcome.chunks_total != chunks or done > chunks:
        yield f"{expected} counts {done} of {outcome.chunks_total} chunks, not of {chunks}"
    elif outcome.operations_done not in (every if done < chunks else -1, every - short):
        yield (
            f"{expected} counts {outcome.operations_done} operations in {done} chunks of "
            f"{expected.chunk_size}"
        )


def _chunks_of(expected: Expected) -> int:
    return -(-len(expected.operations) // expected.chunk_size)


def _wrong_results(expected: Expected, outcome: Outcome) -> Iterator[str]:
    total, chunks = len(expected.operations), _chunks_of(expected)
    counted = (outcome.chunks_total, outcome.chunks_done, outcome.operations_done)
    if counted != (chunks, chunks, total):
        yield (
            f"{expected} counts {counted[1]} of {counted[0]} chunks and {counted[2]} "
            f"operations, not {chunks} of {chunks} and {total}"
        )
    if outcome.operations_failed != len(expected.errors):
        yield (
            f"{expected} counts {outcome.operations_failed} failed operations, not "
            f"{len(expected.errors)}"
        )
    wanted = tuple(
        "ValueError" if number in expected.errors else result_of(number)
        for number in expected.operations
    )
    if outcome.results != wanted:
        got = outcome.results or ()
        at = next(
            (i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b),
            min(len(wanted), len(got)),
        )
        yield f"{expected} has wrong results from operation {at} on: {got[at : at + 3]}"


def _wrong_queues(evidence: Evidence) -> Iterator[str]:
    by_queue: dict[str, list[Expected]] = {queue: [] for queue in evidence.queues}
    for expected in evidence.expected:
        by_queue.setdefault(expected.queue, []).append(expected)
    for name, all_expected in by_queue.items():
        end = evidence.queues.get(name)
        if end is None:
            yield f"queue {name} is gone"
            continue
        known = {expected.id for expected in all_expected}
        for stranger in sorted(end.submissions - known):
            yield f"queue {name} has submission {stranger}, which no producer submitted"
        outcomes = [evidence.outcomes[name, i] for i in known if (name, i) in evidence.outcomes]
        yield from _rest(name, end)
        yield from _wrong_totals(name, end, outcomes, evidence)


def _rest(name: str, end: QueueEnd) -> Iterator[str]:
    rests = {
        "chunks in hand": end.chunks_in_hand,
        "delayed chunks": end.chunks_delayed,
        "ready submissions": end.submissions_ready,
        "submissions in progress": end.submissions_in_progress,
        "chunks of backlog": end.stats.get("backlog_chunks", 0),
        "operations of backlog": end.stats.get("backlog_operations", 0),
    }
    for what, number in rests.items():
        if number:
            yield f"queue {name} is left with {number} {what}"
    for index, number in end.counted_in_hand.items():
        yield f"queue {name} is left with {number} in {index}"


def _wrong_totals(
    name: str, end: QueueEnd, outcomes: Sequence[Outcome], evidence: Evidence
) -> Iterator[str]:
    mine = [one for one in evidence.expected if one.queue == name]
    wanted = {
        "submissions_inserted": len(mine),
        "chunks_inserted": sum(one.chunks_total for one in outcomes),
        "operations_inserted": sum(len(one.operations) for one in mine),
        "chunks_completed": sum(one.chunks_done for one in outcomes),
        "operations_completed": sum(one.operations_done for one in outcomes),
        "operations_failed": sum(one.operations_failed for one in outcomes),
        "submissions_completed": sum(one.state == "completed" for one in outcomes),
        "submissions_cancelled": sum(
            fault.kind == "cancel-and-retry" and name in fault.queues for fault in evidence.faults
        ),
    }
    for total, number in wanted.items():
        if end.stats.get(total, 0) != number:
            yield f"queue {name} counts {end.stats.get(total, 0)} {total}, not {number}"
    # A retry takes back what a cancellation dropped, but totals only ever grow.
    left = sum(one.chunks_total - one.chunks_done for one in outcomes if one.state == "cancelled")
    dropped = end.stats.get("chunks_dropped", 0)
    if dropped < left:
        yield f"queue {name} counts {dropped} chunks_dropped, not {left} or more"


# Executions


def _wrong_executions(evidence: Evidence) -> Iterator[str]:
    by_key = {expected.key: expected for expected in evidence.expected}
    ran: dict[Key, set[int]] = defaultdict(set)
    for one in evidence.executions:
        expected = by_key.get(one.key)
        if expected is None:
            yield f"{one} ran for a submission that no producer submitted"
            continue
        first = one.chunk * expected.chunk_size
        operations = expected.operations[first : first + expected.chunk_size]
        if not operations or (one.first, one.count) != (operations[0], len(operations)):
            yield f"{one} was given {one.count} operations from {one.first} on"
        ran[one.key].add(one.chunk)
    for expected in evidence.expected:
        outcome = evidence.outcomes.get(expected.key)
        if outcome is not None and len(ran[expected.key]) < outcome.chunks_done:
            yield (
                f"{expected} counts {outcome.chunks_done} chunks done, but "
                f"{len(ran[expected.key])} ever ran"
            )


def kinds_of(faults: Sequence[Fault]) -> Mapping[str, int]:
    """Count faults by kind."""
    return Counter(fault.kind for fault in faults)
