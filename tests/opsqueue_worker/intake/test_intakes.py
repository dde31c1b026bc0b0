"""The partitions that a worker knows, and its behaviour before it knows them."""

from __future__ import annotations

import threading

import pytest
import redis

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.queue.queue import Queue
from opsqueue_worker.intake.intakes import Intakes
from tests.redis_sets import until


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
    look, answers = queue.parts, threading.Event()

    def parts() -> list[Queue]:
        if not answers.is_set():
            message = "no answer"
            raise RedisUnavailableError(message)
        return look()

    monkeypatch.setattr(queue, "parts", parts)
    made: list[str] = []
    has_both = threading.Event()

    def make(part: Queue) -> Drained:
        made.append(part.label)
        if len(made) == 2:
            has_both.set()
        return Drained(part)

    intakes = Intakes([queue], make, look_every_s=0.01)  # type: ignore[arg-type]
    intakes.start()
    assert not intakes.is_drained
    answers.set()
    assert has_both.wait(10)
    until(lambda: intakes.is_drained, "what it knows of is drained")
    intakes.stop_taking()
