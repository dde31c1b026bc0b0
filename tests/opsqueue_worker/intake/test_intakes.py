"""The partitions that a worker knows, and its behaviour before it knows them."""

from __future__ import annotations

import threading

import pytest
import redis

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.queue.queue import Queue
from opsqueue_worker.intake.intakes import Intakes


class Drained:
    """An intake whose partition has nothing to do."""

    is_drained = True

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def start(self) -> None: ...
    def stop_taking(self) -> None: ...


@pytest.fixture
def queue(fake_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(fake_client, queue_name)


def test_a_worker_is_not_drained_before_it_knows_its_partitions(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis did not answer the first request, so there may be unknown partitions."""
    queue.set_partitions(2)
    look, answers = queue.partitions.look, threading.Event()

    def look_later() -> int:
        if not answers.is_set():
            message = "no answer"
            raise RedisUnavailableError(message)
        return look()

    monkeypatch.setattr(queue.partitions, "look", look_later)
    made: list[str] = []

    def make(part: Queue) -> Drained:
        made.append(part.label)
        return Drained(part)

    intakes = Intakes([queue], make)  # type: ignore[arg-type]
    intakes.start()
    assert not intakes.is_drained
    intakes.learn(queue.name, queue.heartbeat("w").partitions)
    assert intakes.is_drained
    assert made == [queue.name, f"{queue.name}/01"]
    intakes.stop_taking()
    intakes.learn(queue.name, [1, 3])
    assert len(made) == 2
