"""Exchanges: the few threads in which all intakes talk to Redis, each when it has something to do.

A worker may serve hundreds of queues, most of them idle, so an intake has no thread of its own. It
is offered here when it has reports, when its queue was woken, when a time has come, or when places
have become free. One thread at a time runs it. Each server of a cluster has its own threads, since
a server that hangs holds them until the connection times out.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

logger = logging.getLogger("opsqueue.worker")

THREADS: Final = 3
"""The most threads for each server: enough for one to wait while others prepare and read."""
_ENDS_AFTER_S: Final = 5.0
"""A thread that has had nothing to do for so long ends, unless it is the only one."""
_ASKS_AGAIN_S: Final = 0.5
"""The interval at which intakes ask for places without being told that some are free."""


@dataclass(frozen=True, slots=True)
class Next:
    """The conditions under which an intake runs again."""

    at_once: bool = False
    at: float | None = None
    """An instant of the monotonic clock; None: when it is offered."""
    is_paused: bool = False
    """True if it must not run before, whatever is offered."""
    wants_places: bool = False
    """True if it waits for places."""


class Runs(Protocol):
    """Anything that is run: an intake."""

    @property
    def label(self) -> str:
        """Its partition's name."""

    @property
    def server(self) -> str:
        """The name of the server that has its partition."""

    def run(self) -> Next:
        """Do what there is to do, in one round trip."""


@dataclass(slots=True)
class _Lane:
    """The intakes of one server."""

    changed: threading.Condition
    ready: deque[Runs] = field(default_factory=deque)
    alarms: list[tuple[float, int, Runs]] = field(default_factory=list)
    wanting: dict[Runs, None] = field(default_factory=dict)
    threads: int = 0
    idle: int = 0
    asks_at: float = 0.0


@dataclass(slots=True)
class _State:
    """The place of an intake in its lane."""

    lane: _Lane
    is_ready: bool = False
    is_running: bool = False
    is_offered: bool = False
    """It was offered while it ran, or paused."""
    alarm_at: float | None = None
    is_paused: bool = False


class Exchanges:
    """Runs intakes when there is something to do.

    Args:
        whose_turn: returns the label of the partition that is promised places before the others;
            None: any.
    """

    def __init__(self, whose_turn: Callable[[], str | None]) -> None:
        self._whose_turn = whose_turn
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._states: dict[Runs, _State] = {}
        self._by_label: dict[str, Runs] = {}
        self._numbers = itertools.count()
        self._wanting = 0

    def offer(self, intake: Runs) -> None:
        """Run an intake soon."""
        with self._lock:
            self._offer(intake)
            self._call_threads()

    def places_are_free(self) -> None:
        """Make the next intake that waits for places ask again, or all if no one is next."""
        if self._wanting:
            label = self._whose_turn()
            with self._lock:
                intake = self._by_label.get(label) if label is not None else None
                if intake is not None:
                    self._offer(intake)
                else:
                    for lane in self._lanes.values():
                        self._offer_wanting(lane)
                self._call_threads()

    def _call_threads(self) -> None:
        """Make a thread run for each intake that is ready, as far as there may be threads."""
        for lane in self._lanes.values():
            missing = len(lane.ready) - lane.idle
            if lane.ready:
                lane.changed.notify(len(lane.ready))
            while missing > 0 and lane.threads < THREADS:
                missing -= 1
                lane.threads += 1
                threading.Thread(
                    target=self._run_for_ever, args=(lane,), name="exchange", daemon=True
                ).start()

    def _offer(self, intake: Runs) -> None:
        state = self._states.get(intake)
        if state is None:
            state = self._states[intake] = _State(self._lane_of(intake))
            self._by_label[intake.label] = intake
        if state.is_running or state.is_paused:
            state.is_offered = True
        elif not state.is_ready:
            state.lane = self._lane_of(intake)
            self._make_ready(intake, state)

    def _lane_of(self, intake: Runs) -> _Lane:
        lane = self._lanes.get(intake.server)
        if lane is None:
            lane = self._lanes[intake.server] = _Lane(threading.Condition(self._lock))
        return lane

    def _make_ready(self, intake: Runs, state: _State) -> None:
        lane, state.is_ready, state.is_offered = state.lane, True, False
        if intake in lane.wanting:
            del lane.wanting[intake]
            self._wanting -= 1
        lane.ready.append(intake)

    def _offer_wanting(self, lane: _Lane) -> None:
        lane.asks_at = time.monotonic() + _ASKS_AGAIN_S
        for intake in list(lane.wanting):
            self._offer(intake)

    def _run_for_ever(self, lane: _Lane) -> None:
        while True:
            with self._lock:
                intake = self._take(lane)
            if intake is None:
                return
            then = intake.run()
            with self._lock:
                self._note(lane, intake, then)

    def _take(self, lane: _Lane) -> Runs | None:
        """Wait for an intake that is ready; None: this thread ends, since others are enough."""
        ends_at = time.monotonic() + _ENDS_AFTER_S
        while True:
            self._ring(lane)
            if lane.ready:
                intake = lane.ready.popleft()
                state = self._states[intake]
                state.is_ready, state.is_running = False, True
                return intake
            if lane.threads > 1 and time.monotonic() >= ends_at:
                lane.threads -= 1
                return None
            lane.idle += 1
            lane.changed.wait(self._next_s(lane, ends_at))
            lane.idle -= 1

    def _next_s(self, lane: _Lane, ends_at: float) -> float | None:
        instants = [ends_at] if lane.threads > 1 else []
        if lane.alarms:
            instants.append(lane.alarms[0][0])
        if lane.wanting:
            instants.append(lane.asks_at)
        return max(0.0, min(instants) - time.monotonic()) if instants else None

    def _ring(self, lane: _Lane) -> None:
        """Make those ready whose time has come."""
        now = time.monotonic()
        while lane.alarms and lane.alarms[0][0] <= now:
            at, _, intake = heapq.heappop(lane.alarms)
            state = self._states[intake]
            if state.alarm_at == at:
                state.alarm_at, state.is_paused = None, False
                self._offer(intake)
        if lane.wanting and lane.asks_at <= now:
            self._offer_wanting(lane)

    def _note(self, lane: _Lane, intake: Runs, then: Next) -> None:
        state = self._states[intake]
        state.is_running, state.is_paused, state.alarm_at = False, then.is_paused, then.at
        if then.at is not None:
            heapq.heappush(lane.alarms, (then.at, next(self._numbers), intake))
        if then.wants_places and intake not in lane.wanting:
            if not lane.wanting:
                lane.asks_at = time.monotonic() + _ASKS_AGAIN_S
            lane.wanting[intake] = None
            self._wanting += 1
        if (then.at_once or state.is_offered) and not state.is_paused:
            self._offer(intake)
