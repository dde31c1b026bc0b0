"""Explanations of repeated and unfinished executions by faults. It is pure: no I/O, no clock.

If an execution of a chunk, `before`, was followed by another one, something must have kept its
result from being counted: a fault that can do so, that concerns the process, queue or submission of
`before`, and that was active while the worker of `before` held the chunk, from LEAD_S before it
began (chunks are reserved ahead) to REPORT_S after it ended. A delay in that time (a stalled
connection, a slow store) extends it by as much.

`_RULES` lists the faults that can keep a result from being counted; no other fault can. So a flush
of the scripts, a step of a machine's clock, a cut connection, a slow connection, a slow store, a
paused queue or a worker that was asked to end never excuses an execution. A silence (a stopped
process, an unreachable or killed server) excuses one only if it was long enough for others to
consider its worker dead.

Two faults can have an effect together that neither has alone: a process that is silent while its
reservation is lost does not learn of the loss, however short the silence is, and begins the chunk
after another process has run it (`kept_unheard`).
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
"""Maximum time from a chunk's reservation to its handler, without a delay."""
REPORT_S: Final = 1.0
"""Maximum time from a handler's end to the counted report, without a delay."""
DEADLY_SILENCE_S: Final = HEARTBEAT_TIMEOUT_S - 2 * HEARTBEAT_INTERVAL_S
STEP_S: Final = 1.5
"""Silences so close to each other count as one, since no heartbeat need have come in between."""


class Effect(Enum):
    """The effect of a fault on reserved chunks."""

    ENDS = "ends the process that had the chunk"
    LOSES = "loses the reservation"
    REFUSES = "makes storing an output fail"
    SILENCES = "keeps heartbeats away: deadly when it is long"
    FREEZES = "keeps a handler from ending: deadly past its time limit"
    DELAYS = "takes time, and nothing else"
    NOTHING = "must not be noticed"


@dataclass(frozen=True, slots=True)
class Rule:
    """The effect of a kind of fault, and for how long it lasts after its end."""

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
"""Effects by which a handler exceeds its time limit, so that its process is killed."""


def unexplained(evidence: Evidence) -> Iterator[str]:
    """Return a line for each execution that no fault explains."""
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
    """Return whether the submission was retried between two executions, at any time."""
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

    A process with several handlers may have begun another one between its waking up and its end,
    which came because of a delayed handler. So a fault that killed one of them killed all.
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
        """Return whether a process began a chunk without knowing that it had lost the chunk.

        Another process had run the chunk before. It takes two faults: one that lost the
        reservation, after which `since` began, and a silence or freeze of the late process, which
        could not learn of the loss before it began. Losing a reservation uses no attempt, so both
        have the same attempt unless a retry resets it.
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
        """Return whether one of these programs can have used an attempt without running the chunk.

        It is not known which program had the chunk, and in which of its processes.
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
        """Return the silences and freezes that are long enough, with adjacent ones joined."""
        every = list(faults)
        silences = [f for f in every if _RULES[f.kind].effect is Effect.SILENCES]
        freezes = [f for f in every if _RULES[f.kind].effect is Effect.FREEZES]
        return [
            *(f for f in _joined(silences) if _length(f) >= DEADLY_SILENCE_S),
            *(f for f in _joined(freezes) if _length(f) >= TIME_LIMIT_S - 1),
        ]

    def _in_hand(self, before: Execution, after: Execution) -> tuple[float, float]:
        """Return the longest possible time during which the worker held the chunk."""
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
    """Join spans with hardly any time between them."""
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
