"""The slots of child processes: which waiting chunk goes to which child, and when.

Chunks come from the intakes' threads, reports from one thread for each child.

A chunk waits in the parent until a slot is free. Only as much more is handed to a child as keeps it
busy until the next message (`PIPE_S` of work), and one chunk for each slot whose input must be
fetched from the store. A child returns what it has not begun when another one is idle.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from opsqueue.handlers.execute import Done, Failed, GivenBack, Report
from opsqueue.model.chunk import ChunkFailure, Token
from opsqueue_worker.pool.child_process import ChildProcess
from opsqueue_worker.pool.durations import Durations
from opsqueue_worker.pool.places import LONG_S, NO_PLACES, Places, Promise
from opsqueue_worker.pool.pool import BEGUN_AFTER_S, PoolCalls
from opsqueue_worker.pool.waiting import (
    LONGEST_WAIT_S,
    Clearance,
    PoolChunk,
    WaitingRoom,
    boot_time,
)

PIPE_S: Final = 0.02
"""Seconds of work that a slot may have waiting in its child."""
_PIPE_AT_MOST: Final = 64
_STANDS_STILL_S: Final = 0.05
"""A child that has not moved for so long returns what it has not begun, if another is idle."""
_NOT_CLEARED: Final = (Clearance.NEEDED, Clearance.ASKED)
_STOPS: Final = "worker stops"
_REVOKED: Final = "its reservation was revoked"


@dataclass(slots=True)
class _Capacity:
    """The chunks that a child can be handed now."""

    child: ChildProcess
    slots: int
    """Chunks that begin at once."""
    inputs: int
    """Chunks that may wait for a slot while their inputs are fetched."""
    pipe_s: float
    """Seconds of work that may wait, so that a slot has its next chunk at once."""
    promised: int = 0
    """Slots for chunks that Redis takes for begun."""


_slots_of: Final = attrgetter("slots")
_inputs_of: Final = attrgetter("inputs")
_pipe_of: Final = attrgetter("pipe_s")
_promised_of: Final = attrgetter("promised")


class ChildSlots:
    """The chunks in hand, those that wait and those in children.

    Args:
        prefetch: chunks to reserve ahead for each slot; None: by the durations of each queue.
        heartbeat_timeout_s: the worker's heartbeat timeout.
        calls: the pool's callbacks.
    """

    def __init__(
        self, *, prefetch: int | None, heartbeat_timeout_s: float, calls: PoolCalls
    ) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._durations = Durations()
        self._places = Places(prefetch, self._durations)
        self._room = WaitingRoom(
            timeout_s=heartbeat_timeout_s, releases_early=not self._places.is_fixed
        )
        self._children: list[ChildProcess] = []
        self._said_to_begin: set[Token] = set()
        """Chunks in hand that Redis knows, or is being told, to begin."""
        self._is_closed = False

    # The way of a chunk: submit, _dispatch, finish

    def take_places(self, label: str, limit: int) -> Promise:
        """See `Slots`."""
        with self._lock:
            if self._is_closed:
                return NO_PLACES
            able = [child for child in self._children if child.takes_chunks]
            slots = sum(child.slots for child in able)
            most = limit + self._places.in_hand
            if any(child.chunks_left is not None for child in able):
                most = sum((child.chunks_left or 0) + len(child.assigned) for child in able)
            return self._places.take(
                label, limit, slots=slots, most=most, is_stuck=self._is_stuck(able, slots)
            )

    def _is_stuck(self, able: Sequence[ChildProcess], slots: int) -> bool:
        """Return whether every slot has been busy for so long that others should have the rest."""
        if self._places.is_fixed or self._places.in_hand < slots:
            return False
        ran_s = [seconds for child in able for seconds in child.running_s()]
        return len(ran_s) >= slots > 0 and min(ran_s) > LONGEST_WAIT_S

    def whose_turn(self) -> str | None:
        """See `Slots`."""
        with self._lock:
            return self._places.whose_turn()

    def withdraw(self, label: str) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.withdraw(label)

    def give_places_back(self, label: str, number: int) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.give_back(label, number)

    def submit(self, chunks: Sequence[PoolChunk]) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.host(sum(chunk.is_suspect for chunk in chunks))
            is_refused = self._is_closed
            if not is_refused:
                self._room.add(chunks)
        if is_refused:
            self._release(chunks, _STOPS)
            return
        self._dispatch()
        if self._places.is_hosting:
            self._calls.on_change()  # the main thread releases what waits beside it

    def _dispatch(self) -> None:
        """Assign waiting chunks to children that have a slot or too little in their pipe."""
        with self._lock:
            if not len(self._room):
                return
            able = [
                child for child in self._children if child.takes_chunks and not child.has_enough
            ]
            free = [capacity for child in able if (capacity := self._capacity(child)) is not None]
            begin = self._ask_to_begin(sum(map(_slots_of, free)))
            self._hand_over(free)
            is_one_used_up = any(child.is_retiring for child in able)
        if begin:
            self._calls.on_begin(begin)
        if is_one_used_up:
            self._calls.on_change()  # wakes the main thread, which starts its successor

    def _ask_to_begin(self, slots: int) -> list[Token]:
        """Return the chunks of which Redis must know that they begin, as many as have a slot."""
        if not self._room.unasked:
            return []
        slots -= sum(chunk.is_said_to_begin for chunk in self._room)
        unasked = [chunk for chunk in self._room.unasked.values() if not self._must_wait(chunk)]
        chunks = list(filter(self._room.is_current, unasked))
        for chunk in chunks[: max(0, slots)]:
            self._room.ask(chunk)
            self._said_to_begin.add(chunk.token)
        return [chunk.token for chunk in chunks[: max(0, slots)]]

    def _hand_over(self, free: list[_Capacity]) -> None:
        if not free:
            return
        # Of those that Redis takes for begun, each has a slot, also before the answer is here.
        said = [c for c in self._room if c.is_said_to_begin] if self._said_to_begin else []
        for _ in said:
            most = max(free, key=_slots_of)
            if most.slots > 0:
                most.slots -= 1
                most.promised += 1
        children, now = [capacity.child for capacity in free], boot_time()
        # They come first; then the others, in their order.
        for chunk in [*said, *self._room]:
            good_until = self._room.good_until(chunk)
            is_cleared = chunk.clearance not in _NOT_CLEARED
            may_leave = is_cleared and now < good_until and not self._must_wait(chunk)
            if chunk.sequence or not may_leave:
                continue
            capacity = self._capacity_for(chunk, free)
            if capacity is not None:
                self._room.remove(chunk.token)
                capacity.child.assign(chunk, good_until=good_until)
                if capacity.child.is_retiring:
                    free.remove(capacity)
            elif not chunk.is_said_to_begin:
                break  # the others came later
        for child in children:
            child.hand_over()

    def _must_wait(self, chunk: PoolChunk) -> bool:
        return chunk.is_suspect and self._places.in_hand > 1

    def _capacity(self, child: ChildProcess) -> _Capacity | None:
        waiting = child.not_begun()
        slots = child.free_slots(waiting)
        if self._stands_still(child) and not slots:
            return None
        whole_s = PIPE_S * child.slots
        pipe_s = whole_s - sum(chunk.pipe_s for chunk in waiting)
        if not slots and pipe_s < whole_s / 4 and len(waiting) >= child.slots:
            child.enough_for(len(waiting) // 4)  # so that messages are fewer and larger
            return None
        return _Capacity(child, slots, child.slots - len(waiting), pipe_s)

    def _capacity_for(self, chunk: PoolChunk, free: Sequence[_Capacity]) -> _Capacity | None:
        """Return the capacity that a chunk takes a part of, if there is one."""
        if not free:
            return None
        if chunk.clearance is Clearance.GIVEN:
            capacity = max(free, key=_promised_of)
            if capacity.promised <= 0:
                return None
            capacity.promised -= 1
            return capacity
        chunk.pipe_s = self._pipe_s(chunk)
        capacity = max(free, key=_slots_of)
        if capacity.slots > 0:
            capacity.slots -= 1
            return capacity
        seconds = chunk.pipe_s
        capacity = max(free, key=_pipe_of)
        if capacity.pipe_s < seconds:
            # One for each slot may wait in any case, so that its input is fetched meanwhile.
            is_long = seconds > LONG_S and self._durations.usual_s(chunk.queue) is not None
            capacity = max(free, key=_inputs_of)
            if chunk.reservation.input is not None or is_long or capacity.inputs <= 0:
                return None
        capacity.pipe_s -= seconds
        capacity.inputs -= 1
        return capacity

    def _pipe_s(self, chunk: PoolChunk) -> float:
        usual_s = self._durations.usual_s(chunk.queue)
        return math.inf if usual_s is None else max(usual_s, PIPE_S / _PIPE_AT_MOST)

    def _stands_still(self, child: ChildProcess) -> bool:
        return time.monotonic() - child.moved_at > _STANDS_STILL_S

    def may_begin(self, tokens: Iterable[Token]) -> None:
        """See `Slots`."""
        with self._lock:
            for token in tokens:
                chunk = self._room.find(token)
                if chunk is not None and chunk.clearance is Clearance.ASKED:
                    chunk.clearance = Clearance.GIVEN
        self._dispatch()

    def begun(self) -> list[Token]:
        """See `Slots`."""
        with self._lock:
            begun = set(self._said_to_begin)
            for child in self._children:
                begun.update(child.running(at_least_s=BEGUN_AFTER_S))
            return sorted(begun)

    def confirm(self, label: str, at: float) -> None:
        """See `Slots`."""
        with self._lock:
            self._room.confirm(label, at)
            for child in self._children:
                child.confirm({c.token: self._room.good_until(c) for c in child.not_running(label)})
        self._dispatch()

    def drain(self, label: str) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.drain(label)

    def revoke(self, tokens: Iterable[Token]) -> None:
        """See `Slots`."""
        revoked = list(tokens)
        with self._lock:
            waiting = [chunk for token in revoked if (chunk := self._room.remove(token))]
            for child in self._children:
                child.revoke(revoked)
        self._release(waiting, _REVOKED)

    def finish(self, child: ChildProcess, reports: Sequence[Report]) -> None:
        """Pass on a child's reports, whose places are free."""
        with self._lock:
            child.note_reports(len(reports))
            ours, left = [], list[PoolChunk]()
            for report in reports:
                chunk = child.assigned.pop(report.token, None)
                if chunk is not None:
                    ours.append(report)
                    left.append(chunk)
                    if isinstance(report, Done) and report.ran:
                        self._durations.saw(chunk.queue, report.duration_s)
            self._leave(left)
        self._dispatch()
        self._calls.on_reports(ours)

    def take_back(self, child: ChildProcess, tokens: Sequence[Token]) -> None:
        """Return chunks to the waiting room that a child has returned."""
        with self._lock:
            revoked = self._let_wait(child.take_back(tokens))
        self._release(*revoked)
        self._dispatch()

    def _let_wait(self, returned: Sequence[PoolChunk]) -> tuple[list[PoolChunk], str]:
        """Return chunks to the waiting room; return those that can't wait, and the reason."""
        if self._is_closed:
            return list(returned), _STOPS
        self._room.put_back(chunk for chunk in returned if not chunk.is_revoked)
        return [chunk for chunk in returned if chunk.is_revoked], _REVOKED

    def _release(self, chunks: Sequence[PoolChunk], reason: str) -> None:
        """Release chunks that are neither in the room nor in a child any more."""
        reports = [GivenBack(token=chunk.token, reason=reason) for chunk in chunks]
        if reports:
            with self._lock:
                self._leave(chunks)
            self._calls.on_reports(reports)

    def _leave(self, chunks: Sequence[PoolChunk]) -> None:
        """Note that chunks are reported; the caller holds the lock."""
        for label, number in Counter(chunk.label for chunk in chunks).items():
            self._places.give_back(label, number)
        for chunk in chunks:
            self._said_to_begin.discard(chunk.token)
        self._places.dismiss(sum(chunk.is_suspect for chunk in chunks))

    # Upkeep, on the main thread

    def care_for_waiting(self) -> None:
        """Release chunks that have waited too long, and recall those that could begin elsewhere."""
        with self._lock:
            goes_on = self._places.stop_draining()
            overdue = self._room.take_overdue()
            if self._places.is_hosting:
                beside = [chunk for chunk in self._room if not chunk.is_suspect]
                overdue += [chunk for chunk in beside if self._room.remove(chunk.token)]
            self._recall()
        self._release(overdue, "other workers may be idle")
        self._dispatch()
        if goes_on:
            self._calls.on_change()  # wakes the intakes

    def _recall(self) -> None:
        """Recall chunks that could begin elsewhere from children that stand still."""
        waiting = {child: child.not_begun() for child in self._children}
        is_one_idle = any(child.free_slots(chunks) for child, chunks in waiting.items())
        could_begin = self._places.is_hosting or (is_one_idle and not len(self._room))
        longest_s = math.inf if self._places.is_fixed else LONGEST_WAIT_S
        waits_since = time.monotonic() - longest_s
        for child, chunks in waiting.items():
            if child.is_recalling or child.is_stopping or not self._stands_still(child):
                continue
            if chunks and (could_begin or min(c.waits_since for c in chunks) < waits_since):
                child.recall()

    @property
    def is_any_waiting(self) -> bool:
        """True if a chunk has not begun, so that `care_for_waiting` is needed soon."""
        with self._lock:
            return len(self._room) > 0 or any(child.not_begun() for child in self._children)

    # Children, which the pool starts and ends

    def add(self, child: ChildProcess) -> None:
        """Add a child, which gets chunks from when it is ready."""
        with self._lock:
            self._children.append(child)

    def remove(self, child: ChildProcess) -> tuple[list[PoolChunk], dict[Token, float]]:
        """Remove a dead child. What it had not begun goes to others.

        Returns:
            The chunks that it had begun and not reported, which must be reported by `report_dead`,
            and the suspects among them, see `ChildProcess.suspects`.
        """
        with self._lock:
            self._children.remove(child)
            waiting, suspects = child.not_begun(), child.suspects()
            running = child.running()
            begun = [chunk for chunk in child.assigned.values() if chunk not in waiting]
            for chunk in begun:
                chunk.may_have_output = chunk.token not in running
            released = self._let_wait(waiting)
            child.assigned.clear()
            self._leave(begun)
        self._release(*released)
        return begun, suspects

    def report_dead(
        self, begun: Sequence[PoolChunk], suspects: dict[Token, float], message: str
    ) -> None:
        """Report the chunks of a dead child: suspects have failed, the others are released."""
        reports: list[Report] = []
        for chunk in begun:
            if chunk.token in suspects:
                failure = ChunkFailure(type="WorkerChildDied", message=message)
                ran_s = suspects[chunk.token]
                reports.append(Failed(token=chunk.token, failure=failure, duration_s=ran_s))
            else:
                # After a delay, however short, its output is looked for.
                delay_ms = 1 if chunk.may_have_output else 0
                reason = "its process ended"
                reports.append(GivenBack(token=chunk.token, reason=reason, delay_ms=delay_ms))
        self._calls.on_reports(reports)
        self._dispatch()

    def take_overdue(self, child: ChildProcess) -> tuple[PoolChunk, float, float] | None:
        """Remove a chunk that has run for too long.

        Returns:
            The chunk, the seconds that it has run, and its limit; None if none runs for too long.
        """
        with self._lock:
            for token, seconds in child.running().items():
                limit = self._calls.time_limit_of(child.assigned[token].queue)
                if seconds > limit:
                    chunk = child.assigned.pop(token)
                    self._leave([chunk])
                    # The chunks that ran beside it are not to blame.
                    child.is_stopping = child.is_overdue = True
                    return chunk, seconds, limit
        return None

    def retire(self, children: Iterable[ChildProcess]) -> None:
        """Ask children to end after their running chunks; they return the others."""
        with self._lock:
            for child in children:
                child.is_retiring = True
                child.stop()

    def close(self) -> None:
        """Release what waits, and let all children end after their running chunks."""
        with self._lock:
            self._is_closed = True
            waiting = self._room.clear()
            for child in self._children:
                child.stop()
        self._release(waiting, _STOPS)

    @property
    def chunks_running(self) -> int:
        """See `Pool`."""
        with self._lock:
            return sum(len(child.running_s()) for child in self._children)
