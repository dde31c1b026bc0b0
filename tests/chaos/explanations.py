"""Whether faults explain the executions beyond the first, and those that never ended. Pure.

Of two executions of a chunk the earlier one, `before`, was followed by another, so something must
have kept its result from being counted: a fault that can do so, that concerns the process, queue or
submission of `before`, and that was there while `before` was in its worker's hands, from LEAD_S
before it began (chunks are reserved ahead) to REPORT_S after it ended. A delay in that time (a
stalled connection, a slow store) makes it longer by as much.

What can keep a result from being counted stands in `_RULES`; what is not there can't. So a flush of
the scripts, a step of a machine's clock, a cut connection, a slow connection, a slow store, a
paused queue or a worker that was asked to end never excuses an execution, and a silence (a stopped
process, an unreachable or killed server) only when it was long enough for others to think its
worker dead.

Two faults together do what neither does alone: a process that is silent while its reservation is
lost does not hear of that, however short the silence is, and begins the chunk after another has run
it (`kept_unheard`).
"""

from __future__ import annotations

from collections import defaultdict
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
    Fault,
    Key,
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


def unexplained(evidence: Evidence) -> Iterator[str]:
    """Give each execution that no fault explains, a line each."""
    yield from _unexplained_executions(evidence)
    yield from _unexplained_attempts(evidence)
    yield from _vanished(evidence)


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
            is_explained = (
                is_tried_again
                or is_late
                or deadly.explains(before, after)
                or deadly.kept_unheard(after, since=before)
            )
            if not is_explained:
                how = before.how or "never ended"
                yield (
                    f"{after} ran again without a fault that explains it: {before} "
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
            yield f"{first} is the first to run, without a fault that used an attempt before"


def _vanished(evidence: Evidence) -> Iterator[str]:
    """Find handlers that never ended though nothing killed their process.

    One that has several at once may have begun one more between its waking up and its end, which
    came for another that was held up: so what killed one of them killed all.
    """
    vanished = [one for one in evidence.executions if one.ended is None]
    killed = {(one.program, one.pid) for one in vanished if _is_killed(one, evidence.faults)}
    for one in vanished:
        if (one.program, one.pid) not in killed:
            yield f"{one} never ended in {one.program}, whose process nothing killed"


def _is_killed(one: Execution, faults: Sequence[Fault]) -> bool:
    return any(
        _concerns(fault, one)
        and fault.ended >= one.began
        and (
            _RULES[fault.kind].effect is Effect.ENDS
            or (fault.kind in _HELD_UP and _length(fault) >= TIME_LIMIT_S - 1)
        )
        for fault in faults
    )


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

    def kept_unheard(self, late: Execution, *, since: Execution) -> bool:
        """Whether a process began what it did not know it had lost, after another had run it.

        It takes two faults: one that lost the reservation, after which `since` began, and a silence
        or freeze of the late process, which could not hear of the loss before it began. Losing a
        reservation uses no attempt: both have the same, unless a retry gives them again.
        """
        unheard = _joined(f for f in (*self._silences, *self._freezes) if _concerns(f, late))
        return any(
            _RULES[lost.kind].effect is Effect.LOSES
            and _concerns(lost, late)
            and lost.began <= since.began
            and (late.attempt == since.attempt or lost.kind == "cancel-and-retry")
            and any(
                silence.began <= lost.began + STEP_S
                and since.began <= silence.ended
                and late.began <= silence.ended + STEP_S
                for silence in unheard
            )
            for lost in self._others
        )

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
