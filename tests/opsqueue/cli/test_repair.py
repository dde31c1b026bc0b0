"""`opsqueue repair`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from opsqueue.cli.commands import main
from opsqueue.queue.queue import Queue
from tests.opsqueue.partitions.steps import PARTITIONS
from tests.opsqueue.steps import Raw, indexes_of, insert, repair_wholly, take

Run = Callable[..., Result]


@pytest.fixture
def run(redis_url: str) -> Run:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env={"OPSQUEUE_REDIS_URL": redis_url})

    return call


@pytest.fixture
def queue(real_client: redis.Redis, queue_name: str) -> Queue:
    """Knows its chunks, of which three are in hand."""
    queue = Queue(real_client, queue_name)
    insert(queue, 5)
    repair_wholly(queue)
    take(queue, 3)
    return queue


def test_a_whole_queue_is_looked_at_and_left_as_it_is(run: Run, queue: Queue) -> None:
    result = run("repair", queue.name)

    assert result.exit_code == 0
    assert result.stdout == (
        "looked at 3 reservations and 3 chunks of 1 submission; 0 reservations lost, "
        "0 chunks freed\n"
        f"queue {queue.name}: 0 chunks freed\n"
    )
    assert queue.count_queue().chunks_in_hand == 3


def test_chunks_whose_reservations_are_gone_are_freed(
    run: Run, real_client: redis.Redis, queue: Queue
) -> None:
    """Both halves of one reservation are lost, and the entry of another."""
    stream = Raw(real_client, queue.name).key("reservations")
    entries: Any = real_client.xrange(stream)
    (first, _), (second, _), _ = entries
    real_client.xdel(stream, first, second)
    real_client.xack(stream, "workers", first)

    result = run("repair", queue.name)

    assert result.exit_code == 0
    assert "1 reservation lost, 2 chunks freed\n" in result.stdout
    assert indexes_of(take(queue, 9, worker="w2")) == [0, 1, 3, 4]


def test_all_partitions_are_repaired(run: Run, real_client: redis.Redis, queue_name: str) -> None:
    queue = Queue(real_client, queue_name)
    queue.set_partitions(PARTITIONS)
    for _ in range(40):
        insert(queue, 1)
    for part in queue.parts():
        repair_wholly(part)
    taken = len(queue.reserve_chunks("w1", limit=100).chunks)
    for part in queue.parts():
        real_client.delete(f"{part.base}reservations")

    result = run("repair", queue_name)

    lines = result.stdout.splitlines()
    assert [f"partition {n} of {PARTITIONS}" for n in range(PARTITIONS)] == [
        line.partition(":")[0] for line in lines[:-1]
    ]
    assert f"queue {queue_name}: {taken} chunks freed" == lines[-1]
    assert len(queue.reserve_chunks("w2", limit=100).chunks) == taken


def test_a_queue_that_is_not_there_is_an_error_that_names_similar_ones(
    run: Run, queue: Queue
) -> None:
    result = run("repair", queue.name + "x")

    assert result.exit_code == 2
    assert f"there is no queue '{queue.name}x': did you mean" in result.stderr
    assert queue.name in result.stderr


def test_a_server_that_does_not_answer_is_an_error() -> None:
    result = CliRunner().invoke(main, ["repair", "q", "--redis-url", "redis://127.0.0.1:1"])

    assert result.exit_code == 3
    assert "Redis does not answer" in result.stderr


def test_a_repair_that_a_sweeper_has_begun_is_taken_over_and_ended(run: Run, queue: Queue) -> None:
    assert queue.repair(begin=True, limit=1, sweeper="sweeper", lock_ms=600_000) is not None

    result = run("repair", queue.name)

    assert result.exit_code == 0
    assert queue.repair() is None
