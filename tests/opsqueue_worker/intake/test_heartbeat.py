"""Heartbeats of one worker on several queues."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from opsqueue.exceptions import RedisUnavailableError
from opsqueue_worker.intake.heartbeat import Heartbeat

WITHIN_S = 20.0


class Beaten:
    """The part of an intake that the heartbeat uses; announces heartbeats, and may hang then."""

    def __init__(self, label: str, *, fails: bool = False) -> None:
        self.queue = SimpleNamespace(label=label, heartbeat=self._heartbeat)
        self.codecs = ["cbor"]
        self.beats = SimpleQueue[str]()
        self.may_answer = threading.Event()
        self._fails = fails

    def _heartbeat(self, worker: str, **_: object) -> SimpleNamespace:
        self.beats.put(worker)
        assert self.may_answer.wait(WITHIN_S)
        if self._fails:
            message = "no answer"
            raise RedisUnavailableError(message)
        return SimpleNamespace(released=0, lost=0, revoked=("1-1",))

    def held(self) -> list[str]:
        return []

    def note_heartbeat(self) -> None: ...

    def begun(self) -> list[str]:
        return []

    def sum_up(self) -> None:
        pass

    def ticket(self, token: str) -> str:
        return f"{self.queue.label}/{token}"


class Told:
    """The part of a pool that hears of heartbeats."""

    def __init__(self, revoked: SimpleQueue[list[str]]) -> None:
        self._revoked = revoked

    def revoke(self, tickets: list[str]) -> None:
        self._revoked.put(tickets)

    def confirm(self, label: str, at: float) -> None: ...


@pytest.fixture
def heartbeats() -> Iterator[list[Heartbeat]]:
    started: list[Heartbeat] = []
    yield started
    for heartbeat in started:
        heartbeat.stop()


def beating(intakes: list[Any], revoked: SimpleQueue[list[str]]) -> Heartbeat:
    heartbeat = Heartbeat(
        intakes,
        worker="w1",
        info=lambda codecs: msgspec.json.encode({"codecs": codecs}),
        interval_s=0.01,
        timeout_s=4,
        redis_timeout_s=3,
        slots=Told(revoked),  # type: ignore[arg-type]  # the part of a pool that is told
    )
    heartbeat.start()
    return heartbeat


def test_a_queue_whose_redis_hangs_keeps_no_other_from_its_beats(
    heartbeats: list[Heartbeat],
) -> None:
    """One node of a cluster may hang; on the others the worker would count as dead."""
    hanging, healthy = Beaten("hangs"), Beaten("healthy")
    healthy.may_answer.set()

    heartbeats.append(beating([hanging, healthy], SimpleQueue()))

    assert hanging.beats.get(timeout=WITHIN_S) == "w1"
    assert ["w1"] * 5 == [healthy.beats.get(timeout=WITHIN_S) for _ in range(5)]
    assert hanging.beats.empty()
    hanging.may_answer.set()
    assert hanging.beats.get(timeout=WITHIN_S) == "w1"


def test_a_partition_that_comes_later_is_beaten_too(heartbeats: list[Heartbeat]) -> None:
    first, later = Beaten("q"), Beaten("q@1")
    for intake in (first, later):
        intake.may_answer.set()
    intakes = [first]
    revoked = SimpleQueue[list[str]]()

    heartbeats.append(beating(intakes, revoked))
    first.beats.get(timeout=WITHIN_S)
    intakes.append(later)

    assert later.beats.get(timeout=WITHIN_S) == "w1"
    told = set[str]()
    while told != {"q/1-1", "q@1/1-1"}:
        told.update(revoked.get(timeout=WITHIN_S))


def test_a_beat_that_fails_is_repeated(heartbeats: list[Heartbeat]) -> None:
    failing = Beaten("q", fails=True)
    failing.may_answer.set()

    heartbeats.append(beating([failing], SimpleQueue()))

    assert ["w1"] * 3 == [failing.beats.get(timeout=WITHIN_S) for _ in range(3)]
