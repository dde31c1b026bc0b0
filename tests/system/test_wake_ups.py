"""Which of several real workers are woken, and what becomes of a wake-up that is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import redis

from opsqueue.model.names import base_key
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Random
from tests.opsqueue.steps import Sleeper
from tests.redis_sets import until
from tests.system.conftest import ProducerOf, Start, kill

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
QUEUES = 300


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def asleep(client: redis.Redis, queue_name: str) -> list[str]:
    """Workers that would be woken, the next one first."""
    base = base_key(queue_name)
    groups: Any = client.smembers(f"{base}groups")
    sleepers: list[bytes] = []
    for group in groups:
        of_group: Any = client.zrevrange(f"{base}sleepers:{group.decode()}", 0, -1)
        sleepers += of_group
    return [worker.decode() for worker in sleepers]


def test_a_worker_of_many_queues_has_few_threads_and_connections(
    start_worker: Start, producer_of: ProducerOf, real_client: redis.Redis, queue_name: str
) -> None:
    """And each of them is served at once."""
    worker = start_worker("--concurrency", "1", app="many_queues:app", TEST_QUEUES=str(QUEUES))
    last = f"{queue_name}-{QUEUES - 1}"
    until(lambda: bool(asleep(real_client, last)), "it sleeps")

    assert list(producer_of(f"-{QUEUES - 1}").run_submission([1, 2, 3], chunk_size=1)) == [1, 2, 3]

    port = real_client.connection_pool.connection_kwargs["port"]
    process = psutil.Process(worker.pid)
    connections = [c for c in process.net_connections() if c.raddr and c.raddr.port == port]
    until(lambda: process.num_threads() <= 12, "threads that have nothing to do have ended")
    assert len(connections) <= 6


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_chunk_whose_worker_is_woken_in_vain_is_found_by_another(
    start_worker: Start,
    producer_of: ProducerOf,
    real_client: redis.Redis,
    queue_name: str,
    end: str,
) -> None:
    """At once if it is dead, and with the other's next heartbeat if it does not listen."""
    workers = [start_worker("--heartbeat-interval", "1") for _ in range(2)]
    until(lambda: len(asleep(real_client, queue_name)) == 2, "both sleep")
    name = asleep(real_client, queue_name)[0]
    (next_one,) = (worker for worker in workers if str(worker.pid) in name)
    if end == "killed":
        kill(next_one.pid)
        next_one.popen.wait()
        assert list(producer_of().run_submission([1], chunk_size=1)) == [2]
    else:
        with paused(next_one.pid):
            assert list(producer_of().run_submission([1], chunk_size=1)) == [2]


def test_one_that_may_take_nothing_does_not_keep_the_chunk_from_others(
    start_worker: Start, producer_of: ProducerOf, real_client: redis.Redis, queue_name: str
) -> None:
    """Those of each strategy are woken."""
    start_worker()
    until(lambda: len(asleep(real_client, queue_name)) == 1, "it sleeps")
    start_worker("--strategy", "SelectOnly(customer, 7)")
    until(lambda: len(asleep(real_client, queue_name)) == 2, "both sleep")

    assert list(producer_of().run_submission([1], chunk_size=1)) == [2]


def test_a_busy_worker_passes_its_wake_up_on(
    start_worker: Start, producer_of: ProducerOf, real_client: redis.Redis, queue_name: str
) -> None:
    """Its only slot is taken by another queue, and another worker is idle."""
    start_worker("--concurrency", "1", app="many_queues:app", TEST_QUEUES="1")
    name = f"{queue_name}-0"
    until(lambda: len(asleep(real_client, name)) == 1, "it sleeps")
    with Sleeper(Queue(real_client, name), "other", strategy=Random()) as other:
        producer = producer_of("-0")
        producer.insert_submission([1], chunk_size=1)

        assert other.hears()
