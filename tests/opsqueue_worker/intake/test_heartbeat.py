"""Heartbeats of one worker on several queues."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.answers import Alive
from opsqueue.model.chunk import Token
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
from opsqueue_worker.intake.heartbeat import Heartbeat

WITHIN_S = 20.0


class Beaten:
    """The part of an intake that the heartbeat uses; announces heartbeats, and may hang then."""

    codecs: ClassVar = ["cbor"]
    strategy, is_idle = Oldest(), False

    def __init__(self, label: str, *, server: str = "", fails: bool = False) -> None:
        self.queue = SimpleNamespace(
            name=label, label=label, heartbeat=self._heartbeat, server=lambda: server
        )
        self.label, self.server = label, server
        self.beats = SimpleQueue[str]()
        self.may_answer = threading.Event()
        self._fails = fails
        self.looks: list[Alive] = []

    def count_held(self) -> int:
        return 1_000  # so it is not sent together with others'

    def _heartbeat(self, worker: str, **_: object) -> Alive:
        self.beats.put(worker)
        assert self.may_answer.wait(WITHIN_S)
        if self._fails:
            message = "no answer"
            raise RedisUnavailableError(message)
        return Alive(released=0, lost=0, revoked=frozenset([Token("1-1")]), is_free=True)

    def held(self) -> list[str]:
        return []

    def note_heartbeat(self) -> None: ...

    def begun(self) -> list[str]:
        return []

    def sum_up(self) -> None:
        pass

    def look(self, alive: Alive) -> None:
        self.looks.append(alive)

    def ticket(self, token: str) -> str:
        return f"{self.label}/{token}"


class Several(list[Any]):
    """The intakes of a worker."""

    def learn(self, name: str, numbers: Sequence[int]) -> None: ...


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


def beating(intakes: Several, revoked: SimpleQueue[list[str]]) -> Heartbeat:
    heartbeat = Heartbeat(
        intakes,
        worker="w1",
        info=lambda codecs: msgspec.json.encode({"codecs": codecs}),
        interval_s=0.01,
        timeout_s=4,
        redis_timeout_s=3,
        slots=Told(revoked),  # type: ignore[arg-type]  # the part of a pool that is told
        sweep_soon=lambda _part: None,
    )
    heartbeat.start()
    return heartbeat


def test_a_server_that_hangs_keeps_no_other_from_its_beats(
    heartbeats: list[Heartbeat],
) -> None:
    """One node of a cluster may hang; on the others the worker would count as dead."""
    hanging, healthy = Beaten("hangs", server="a"), Beaten("healthy", server="b")
    healthy.may_answer.set()

    heartbeats.append(beating(Several([hanging, healthy]), SimpleQueue()))

    assert hanging.beats.get(timeout=WITHIN_S) == "w1"
    assert ["w1"] * 5 == [healthy.beats.get(timeout=WITHIN_S) for _ in range(5)]
    assert hanging.beats.empty()
    hanging.may_answer.set()
    assert hanging.beats.get(timeout=WITHIN_S) == "w1"


def test_a_partition_that_comes_later_is_beaten_too(heartbeats: list[Heartbeat]) -> None:
    first, later = Beaten("q"), Beaten("q@1")
    for intake in (first, later):
        intake.may_answer.set()
    intakes = Several([first])
    revoked = SimpleQueue[list[str]]()

    heartbeats.append(beating(intakes, revoked))
    first.beats.get(timeout=WITHIN_S)
    intakes.append(later)

    assert later.beats.get(timeout=WITHIN_S) == "w1"
    assert first.looks[0].is_free
    told = set[str]()
    while told != {"q/1-1", "q@1/1-1"}:
        told.update(revoked.get(timeout=WITHIN_S))


def test_a_beat_that_fails_is_repeated(heartbeats: list[Heartbeat]) -> None:
    failing = Beaten("q", fails=True)
    failing.may_answer.set()

    heartbeats.append(beating(Several([failing]), SimpleQueue()))

    assert ["w1"] * 3 == [failing.beats.get(timeout=WITHIN_S) for _ in range(3)]


def test_many_partitions_share_round_trips(real_client: redis.Redis, queue_name: str) -> None:
    """And those of which the worker holds nothing are looked at, and swept, if there is need."""
    queues = [Queue(real_client, f"{queue_name}-{n}") for n in range(120)]
    queues[7].insert_submission(
        NewSubmission(prefix=fresh_prefix(queues[7].name), chunks_total=1, chunk_size=1)
    )
    intakes = Several(Beaten(queue.name) for queue in queues)
    learnt: list[str] = []
    intakes.learn = lambda name, numbers: learnt.append(f"{name} {numbers}")  # type: ignore[method-assign]
    for intake, queue in zip(intakes, queues, strict=True):
        intake.queue, intake.count_held = queue.part(0), lambda: 0
    heartbeat = beating(intakes, SimpleQueue())
    heartbeat.stop()
    before = real_client.info("commandstats")["cmdstat_evalsha"]["calls"]

    heartbeat.beat(intakes)

    assert real_client.info("commandstats")["cmdstat_evalsha"]["calls"] >= before + 120
    assert [n for n, intake in enumerate(intakes) if intake.looks[-1].is_free] == [7]
    assert set(learnt) == {f"{queue.name} (1,)" for queue in queues}
