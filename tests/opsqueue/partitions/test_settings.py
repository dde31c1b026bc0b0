"""A queue's settings apply to all of its partitions, including later ones."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import redis

from opsqueue.exceptions import (
    InvalidArgumentError,
    RedisUnavailableError,
)
from opsqueue.queue.commands import Command
from opsqueue.queue.queue import Queue
from opsqueue.strategy import MaxSimultaneous, Oldest
from tests.opsqueue.partitions.steps import PARTITIONS, behind_and_ahead
from tests.opsqueue.steps import insert


def test_what_is_set_holds_in_all_partitions_and_in_those_that_come(
    queue: Queue,
) -> None:
    queue.set_limit("api", max=1)
    queue.set_defaults({"retention_ms": 5_000})
    queue.pause_queue()
    queue.set_partitions(PARTITIONS + 2)

    parts = queue.parts()
    assert len(parts) == PARTITIONS + 2
    for part in parts:
        assert part.get_defaults().retention_ms == 5_000
        assert part.count_queue().is_paused
        assert part.list_limits() == queue.list_limits()
    queue.resume_queue()
    for part in parts:
        for _ in range(3):
            insert(part, 1, strategic_metadata={"api": 1})
    limited = queue.reserve_chunks("w", limit=100, strategy=MaxSimultaneous("api", 9))
    assert len(limited.chunks) == PARTITIONS + 2  # one in each: limits hold within a partition
    queue.remove_limit("api")
    assert [part.list_limits() for part in parts] == [[]] * len(parts)


@pytest.mark.parametrize("partitions", [0, -1, 101, 3])
def test_partitions_are_never_fewer_and_at_most_a_hundred(queue: Queue, partitions: int) -> None:
    with pytest.raises(InvalidArgumentError, match="partitions"):
        queue.set_partitions(partitions)

    assert queue.partitions.look() == PARTITIONS
    queue.set_partitions(PARTITIONS)
    assert [1, PARTITIONS] == queue.get_partitions().numbers


def test_pauses_of_all_partitions_are_the_queues(queue: Queue) -> None:
    queue.pause_queue()
    insert(queue.parts()[2], 1)

    assert queue.reserve_chunks("w", strategy=Oldest()).is_paused
    assert queue.count_queue().is_paused


def test_what_is_set_holds_in_partitions_that_a_program_has_not_heard_of(
    client: redis.Redis, queue_name: str
) -> None:
    """Nothing would set it there later: what is set is copied once, when a partition comes."""
    behind, ahead = behind_and_ahead(client, queue_name)

    behind.set_limit("api", max=1)
    ahead.set_partitions(PARTITIONS + 1)
    behind.set_defaults({"retention_ms": 5_000})
    ahead.set_partitions(PARTITIONS + 2)
    behind.pause_queue()

    for part in ahead.parts():
        assert [1] == [limit.max for limit in part.list_limits()]
        assert part.get_defaults().retention_ms == 5_000
        assert part.count_queue().is_paused
    ahead.set_partitions(PARTITIONS + 3)
    behind.resume_queue()
    ahead.set_partitions(PARTITIONS + 4)
    behind.remove_limit("api")
    for part in ahead.parts():
        assert not part.count_queue().is_paused
        assert part.list_limits() == []


def test_what_is_set_while_partitions_are_added_holds_in_them_too(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who looked before they were there, behind the copy of what was set then."""
    behind, ahead = behind_and_ahead(client, queue_name)
    behind.set_limit("api", max=1)
    behind.pause_queue()
    run = ahead.run

    def set_others(command: Command[Any], *, partition: int | None = None) -> Any:
        if command.script != "set_partitions":
            return run(command, partition=partition)
        monkeypatch.undo()
        behind.resume_queue()
        behind.remove_limit("api")
        behind.set_limit("api", value=3, per_second=7, burst=9)
        behind.set_defaults({"retention_ms": 5_000})
        return run(command, partition=partition)

    monkeypatch.setattr(ahead, "run", set_others)
    ahead.set_partitions(PARTITIONS + 2)

    assert len(ahead.parts()) == PARTITIONS + 2
    assert_all_have_what_the_first_has(ahead)
    assert [3] == [limit.value for limit in ahead.list_limits()]


def test_partitions_that_come_while_all_are_told_are_told_too(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied to them is what the first one had before."""
    behind, ahead = behind_and_ahead(client, queue_name)

    run = behind.run

    def add_first(command: Command[Any], *, partition: int | None = None) -> Any:
        if partition == 0 and command.script == "pause_queue":
            ahead.set_partitions(PARTITIONS + 2)
        return run(command, partition=partition)

    monkeypatch.setattr(behind, "run", add_first)

    behind.pause_queue()

    assert len(ahead.parts()) == PARTITIONS + 2
    assert ahead.part(0).count_queue().is_paused
    assert_all_have_what_the_first_has(ahead)


def test_partitions_that_come_are_told_though_one_does_not_answer(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, ahead = behind_and_ahead(client, queue_name)
    ahead.set_partitions(PARTITIONS + 1)

    run = behind.run

    def add_and_fail(command: Command[Any], *, partition: int | None = None) -> Any:
        if partition == 0 and command.script == "pause_queue":
            ahead.set_partitions(PARTITIONS + 2)
            message = "no answer"
            raise RedisUnavailableError(message)
        return run(command, partition=partition)

    monkeypatch.setattr(behind, "run", add_and_fail)

    with pytest.raises(RedisUnavailableError, match="no answer"):
        behind.pause_queue()

    assert [False] + [True] * (PARTITIONS + 1) == [
        part.count_queue().is_paused for part in ahead.parts()
    ]


def test_partitions_set_again_have_what_the_first_has(queue: Queue) -> None:
    """Whatever kept them from it."""
    queue.part(0).set_limit("api", max=1)
    queue.part(0).set_limit("api", max=1, per_second=4, burst=4, value=3)
    queue.parts()[1].set_limit("api", max=2, per_second=7, burst=9)
    queue.parts()[2].pause_queue()

    queue.set_partitions(PARTITIONS)

    assert len(queue.list_limits()) == 3
    assert_all_have_what_the_first_has(queue)


def test_a_limit_that_is_changed_is_never_away(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition is in use, so more chunks than either limit would be reserved."""
    queue.set_limit("api", max=1)
    queue.set_limit("other", max=1)
    queue.part(0).set_limit("api", max=2)
    queue.part(0).remove_limit("other")
    removed: list[str] = []
    part = queue.parts()[1]
    remove = part.remove_limit

    def remember(meta_key: str, **of: Any) -> None:
        removed.append(meta_key)
        remove(meta_key, **of)

    monkeypatch.setattr(part, "remove_limit", remember)
    queue.set_partitions(PARTITIONS)

    assert removed == ["other"]
    assert_all_have_what_the_first_has(queue)


def test_the_others_are_paused_though_the_first_partition_does_not_answer(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_answer = Mock(side_effect=RedisUnavailableError("no answer"))
    monkeypatch.setattr(queue._scripts_of(0), "call", no_answer)

    with pytest.raises(RedisUnavailableError):
        queue.pause_queue()

    assert all(part.count_queue().is_paused for part in queue.parts()[1:])


def assert_all_have_what_the_first_has(queue: Queue) -> None:
    for part in queue.parts():
        assert part.list_limits() == queue.part(0).list_limits()
        assert part.get_defaults() == queue.part(0).get_defaults()
        assert part.count_queue().is_paused == queue.part(0).count_queue().is_paused
