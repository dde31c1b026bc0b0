"""The checker: says what is wrong with the evidence of a run. Pure: no I/O, no clock.

Results, totals and rest are exact. Executions beyond a chunk's first must each be explained. The
earlier one, `before`, was followed by another, so something must have kept its result from being
counted: a fault that can do so, that concerns the process, queue or submission of `before`, and
that was there while `before` was in its worker's hands, from LEAD_S before it began (chunks are
reserved ahead) to REPORT_S after it ended. A delay in that time (a stalled connection, a slow
store) makes it longer by as much.

What can keep a result from being counted stands in `_RULES`; what is not there can't. So a flush of
the scripts, a step of a machine's clock, a cut connection, a slow connection, a slow store, a
paused queue or a worker that was asked to end never excuses an execution, and a silence (a stopped
process, an unreachable or killed server) only when it was long enough for others to think its
worker dead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Final

from tests.chaos.values import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_S,
    TIME_LIMIT_S,
    Evidence,
    Execution,
    Expected,
    Fault,
    Key,
    Outcome,
    QueueEnd,
    result_of,
)

LEAD_S: Final = 2.0
"""From a chunk's reservation to its handler, at most, without a delay."""
REPORT_S: Final = 1.0
"""From a handler's end to the counted report, at most, without a delay."""
DEADLY_SILENCE_S: Final = HEARTBEAT_TIMEOUT_S - 2 * HEARTBEAT_INTERVAL_S
STEP_S: Final = 1.5
"""Silences so close to each other are one: no heartbeat need have come between."""


class Effect(Enum):
    """What a fault does to chunks in hand."""

    ENDS = "ends the process that had the chunk"
    LOSES = "loses the reservation"
    REFUSES = "makes storing an output fail"
    SILENCES = "keeps heartbeats away: deadly when it is long"
    FREEZES = "keeps a handler from ending: deadly past its time limit"
    DELAYS = "takes time, and nothing else"
    NOTHING = "must not be noticed"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a kind of fault does, and for how long after its end."""

    effect: Effect
    after_s: float = 0.0


_RULES: Final[Mapping[str, Rule]] = {
    "kill-child": Rule(Effect.ENDS),
    "kill-worker": Rule(Effect.ENDS),
    "kill-consumer": Rule(Effect.ENDS),
    # Told to give back at once, it ends what its children run.
    "quit-worker": Rule(Effect.ENDS, after_s=2.0),
    # Asked to end, it finishes what runs, and gives back what has not begun.
    "term-worker": Rule(Effect.DELAYS),
    "hup-worker": Rule(Effect.NOTHING),
    "stop-child": Rule(Effect.FREEZES),
    "stop-worker": Rule(Effect.SILENCES, after_s=0.5),
    "stop-consumer": Rule(Effect.SILENCES, after_s=0.5),
    # Connections are made again after a pause of at most 1.5 s.
    "kill-server": Rule(Effect.SILENCES, after_s=1.5),
    "stop-server": Rule(Effect.SILENCES, after_s=0.5),
    "redis-partition": Rule(Effect.SILENCES, after_s=1.5),
    "redis-stall": Rule(Effect.SILENCES, after_s=0.5),
    # The old connections stay silent until redis-py gives them up.
    "redis-swallow": Rule(Effect.SILENCES, after_s=17.0),
    # Of a consumer over HTTP, which beats through it; it asks again at most 5 s later.
    "kill-api": Rule(Effect.SILENCES, after_s=5.0),
    "stop-api": Rule(Effect.SILENCES, after_s=5.0),
    "term-api": Rule(Effect.SILENCES, after_s=5.0),
    "machine-stall": Rule(Effect.SILENCES, after_s=0.5),
    "delete-stream": Rule(Effect.LOSES),
    "delete-group": Rule(Effect.LOSES),
    "cancel-and-retry": Rule(Effect.LOSES),
    # boto3 has pauses of up to 20 s in all between its tries.
    "store-errors": Rule(Effect.REFUSES, after_s=5.0),
    "store-cut": Rule(Effect.REFUSES, after_s=5.0),
    "store-lost-answers": Rule(Effect.REFUSES, after_s=5.0),
    "store-pause": Rule(Effect.DELAYS, after_s=5.0),
    "pause-queue": Rule(Effect.DELAYS),
    "redis-delay": Rule(Effect.DELAYS),
    "redis-cut": Rule(Effect.DELAYS, after_s=1.5),
    # Not ours: measured, where the machine has too much to do.
    "store-slow": Rule(Effect.DELAYS),
    "flush-scripts": Rule(Effect.NOTHING),
    "spread-queue": Rule(Effect.NOTHING),
    "step-clock": Rule(Effect.NOTHING),
}
KINDS: Final = frozenset(_RULES)
_USE_ATTEMPTS: Final = frozenset({Effect.ENDS, Effect.SILENCES, Effect.FREEZES})
_HELD_UP: Final = frozenset({"stop-child", "stop-worker", "machine-stall"})
"""Of these a handler comes past its time limit, and its process is killed for it."""


def check(evidence: Evidence) -> list[str]:
    """Give what is wrong, a line each; [] when all is well."""
    return [
        *evidence.surprises,
        *_wrong_submissions(evidence),
        *_wrong_queues(evidence),
        *_wrong_executions(evidence),
        *_unexplained_executions(evidence),
        *_unexplained_attempts(evidence),
        *_vanished(evidence),
    ]


def extra_executions(executions: Sequence[Execution]) -> int:
    """Count those beyond the first of each chunk."""
    return len(executions) - len({(*one.key, one.chunk) for one in executions})


# Results and totals


def _wrong_submissions(evidence: Evidence) -> Iterator[str]:
    for expected in evidence.expected:
        outcome = evidence.outcomes.get(expected.key)
        if outcome is None:
            yield f"{_named(expected)} was accepted and is gone"
        elif outcome.state != "completed":
            if not (expected.is_cancelled and outcome.state == "cancelled"):
                yield f"{_named(expected)} is stuck or failed: {outcome.state}"
            yield from _wrong_part(expected, outcome)
        else:
            if expected.is_cancelled:
                yield f"{_named(expected)} was cancelled and is completed"
            yield from _wrong_results(expected, outcome)
        if outcome is not None and outcome.chunks_in_hand != 0:
            yield f"{_named(expected)} counts {outcome.chunks_in_hand} chunks in hand for ever"


def _wrong_part(expected: Expected, outcome: Outcome) -> Iterator[str]:
    """Check the counts of a submission that did not come to its end."""
    chunks, done = _chunks_of(expected), outcome.chunks_done
    every = done * expected.chunk_size
    # The last chunk may have fewer, and may be among them.
    short = chunks * expected.chunk_size - len(expected.operations)
    if outcome.chunks_total != chunks or done > chunks:
        yield f"{_named(expected)} counts {done} of {outcome.chunks_total} chunks, not of {chunks}"
    elif outcome.operations_done not in (every if done < chunks else -1, every - short):
        yield (
            f"{_named(expected)} counts {outcome.operations_done} operations in {done} chunks of "
            f"{expected.chunk_size}"
        )


def _chunks_of(expected: Expected) -> int:
    return -(-len(expected.operations) // expected.chunk_size)


def _wrong_results(expected: Expected, outcome: Outcome) -> Iterator[str]:
    total, chunks = len(expected.operations), _chunks_of(expected)
    counted = (outcome.chunks_total, outcome.chunks_done, outcome.operations_done)
    if counted != (chunks, chunks, total):
        yield (
            f"{_named(expected)} counts {counted[1]} of {counted[0]} chunks and {counted[2]} "
            f"operations, not {chunks} of {chunks} and {total}"
        )
    if outcome.operations_failed != len(expected.errors):
        yield (
            f"{_named(expected)} counts {outcome.operations_failed} failed operations, not "
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
        yield f"{_named(expected)} has wrong results from operation {at} on: {got[at : at + 3]}"


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
            yield f"queue {name} has submission {stranger}, which no producer handed in"
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
            yield f"{_of(one)} ran for a submission that no producer handed in"
            continue
        first = one.chunk * expected.chunk_size
        operations = expected.operations[first : first + expected.chunk_size]
        if not operations or (one.first, one.count) != (operations[0], len(operations)):
            yield f"{_of(one)} was given {one.count} operations from {one.first} on"
        ran[one.key].add(one.chunk)
    for expected in evidence.expected:
        outcome = evidence.outcomes.get(expected.key)
        if outcome is not None and len(ran[expected.key]) < outcome.chunks_done:
            yield (
                f"{_named(expected)} counts {outcome.chunks_done} chunks done, but "
                f"{len(ran[expected.key])} ever ran"
            )


def _unexplained_executions(evidence: Evidence) -> Iterator[str]:
    deadly = _Deadly(evidence.faults)
    for runs in _by_chunk(evidence.executions).values():
        for before, after in pairwise(runs):
            is_tried_again = before.how == "raised" and (
                after.attempt > before.attempt
                or _are_attempts_given_again(evidence.faults, before, after)
            )
            # Who was stopped before it began a chunk begins it when it wakes up: long after another
            # attempt has, which its silence was the reason of.
            is_late = after.attempt < before.attempt and deadly.explains(after, before)
            if not (is_tried_again or is_late or deadly.explains(before, after)):
                how = before.how or "never ended"
                yield (
                    f"{_of(after)} ran again without a fault that explains it: {_of(before)} "
                    f"{how} in {before.program}"
                )


def _are_attempts_given_again(faults: Sequence[Fault], before: Execution, after: Execution) -> bool:
    """Whether the submission was retried between two executions, at whatever time."""
    return any(
        fault.kind == "cancel-and-retry"
        and _concerns(fault, before)
        and fault.began <= after.began
        and fault.ended >= before.began
        for fault in faults
    )


def _unexplained_attempts(evidence: Evidence) -> Iterator[str]:
    """Find attempts that were used and left no execution, as when a child dies at its start."""
    inserted = {expected.key: expected.inserted for expected in evidence.expected}
    programs: dict[str, set[str]] = defaultdict(set)
    for one in evidence.executions:
        programs[one.queue].add(one.program)
    deadly = _Deadly(evidence.faults)
    for runs in _by_chunk(evidence.executions).values():
        first = runs[0]
        since = inserted.get(first.key, first.began)
        if first.attempt > 1 and not deadly.uses_attempt(first, programs[first.queue], since):
            yield f"{_of(first)} is the first to run, without a fault that used an attempt before"


def _vanished(evidence: Evidence) -> Iterator[str]:
    """Find handlers that never ended though nothing killed their process."""
    for one in evidence.executions:
        is_killed = any(
            _concerns(fault, one)
            and fault.ended >= one.began
            and (
                _RULES[fault.kind].effect is Effect.ENDS
                or (fault.kind in _HELD_UP and _length(fault) >= TIME_LIMIT_S - 1)
            )
            for fault in evidence.faults
        )
        if one.ended is None and not is_killed:
            yield f"{_of(one)} never ended in {one.program}, whose process nothing killed"


class _Deadly:
    """The faults that can keep a result from being counted."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        stretched = [replace(f, ended=f.ended + _RULES[f.kind].after_s) for f in faults]
        self._delays = [f for f in stretched if _RULES[f.kind].effect is not Effect.NOTHING]
        self._others = [
            f
            for f in stretched
            if _RULES[f.kind].effect in (Effect.ENDS, Effect.LOSES, Effect.REFUSES)
        ]
        self._silences = [f for f in stretched if _RULES[f.kind].effect is Effect.SILENCES]
        self._freezes = [f for f in stretched if _RULES[f.kind].effect is Effect.FREEZES]

    def explains(self, before: Execution, after: Execution) -> bool:
        began, ended = self._in_hand(before, after)
        causes = [
            *(f for f in self._others if _concerns(f, before)),
            *self._long(f for f in (*self._silences, *self._freezes) if _concerns(f, before)),
        ]
        return any(f.began <= min(ended, after.began) and f.ended >= began for f in causes)

    def uses_attempt(self, first: Execution, programs: Collection[str], since: float) -> bool:
        """Whether one of these programs can have used an attempt without running the chunk.

        Which one had it, and in which of its processes, nobody knows.
        """
        for program in programs:
            mine = [
                f
                for f in (*self._others, *self._silences, *self._freezes)
                if _RULES[f.kind].effect in _USE_ATTEMPTS
                and _concerns(replace(f, pids=frozenset()), replace(first, program=program))
            ]
            ends = [f for f in mine if _RULES[f.kind].effect is Effect.ENDS]
            if any(f.began <= first.began and f.ended >= since for f in (*ends, *self._long(mine))):
                return True
        return False

    @staticmethod
    def _long(faults: Iterable[Fault]) -> list[Fault]:
        """Give the silences and freezes that are long enough, those in a row as one."""
        every = list(faults)
        silences = [f for f in every if _RULES[f.kind].effect is Effect.SILENCES]
        freezes = [f for f in every if _RULES[f.kind].effect is Effect.FREEZES]
        return [
            *(f for f in _joined(silences) if _length(f) >= DEADLY_SILENCE_S),
            *(f for f in _joined(freezes) if _length(f) >= TIME_LIMIT_S - 1),
        ]

    def _in_hand(self, before: Execution, after: Execution) -> tuple[float, float]:
        """Give when it was in its worker's hands, at most."""
        began = before.began - LEAD_S
        ended = after.began if before.ended is None else before.ended + REPORT_S
        for delay in self._delays:
            if (
                _concerns(delay, before)
                and delay.began <= ended
                and delay.ended >= before.began - LEAD_S
            ):
                began = min(began, delay.began - LEAD_S)
                ended = max(ended, delay.ended + REPORT_S)
        return began, ended


def _concerns(fault: Fault, one: Execution) -> bool:
    return (
        (not fault.programs or one.program in fault.programs)
        and (not fault.pids or one.pid in fault.pids)
        and (not fault.queues or one.queue in fault.queues)
        and (not fault.partitions or one.partition in fault.partitions)
        and (not fault.submissions or one.submission in fault.submissions)
    )


def _joined(faults: Iterable[Fault]) -> list[Fault]:
    """Join those where hardly anything is between them."""
    joined: list[Fault] = []
    for fault in sorted(faults, key=lambda f: f.began):
        if joined and fault.began <= joined[-1].ended + STEP_S:
            joined[-1] = replace(joined[-1], ended=max(joined[-1].ended, fault.ended))
        else:
            joined.append(fault)
    return joined


def _length(fault: Fault) -> float:
    return fault.ended - fault.began


def _by_chunk(executions: Sequence[Execution]) -> dict[tuple[Key, int], list[Execution]]:
    by_chunk: dict[tuple[Key, int], list[Execution]] = defaultdict(list)
    for one in sorted(executions, key=lambda one: one.began):
        by_chunk[one.key, one.chunk].append(one)
    return by_chunk


def _named(expected: Expected) -> str:
    return f"submission {expected.id} of queue {expected.queue}"


def _of(one: Execution) -> str:
    return (
        f"chunk {one.queue} {one.submission}/{one.chunk} attempt {one.attempt} at {one.began:.2f}"
    )


def kinds_of(faults: Sequence[Fault]) -> Mapping[str, int]:
    """Count faults by kind."""
    return Counter(fault.kind for fault in faults)
