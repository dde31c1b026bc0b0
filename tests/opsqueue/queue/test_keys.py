"""A queue's keys: all in one slot of a cluster, and few after its submissions are forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from opsqueue.exceptions import QueueInUseError
from opsqueue.model.names import QUEUES_KEY, UPKEEP, base_key
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    insert,
    new_submission,
    repair_wholly,
    take,
    tokens_of,
)


def keys_of(client: redis.Redis) -> set[str]:
    keys: Any = client.keys()
    return {key.decode() for key in keys}


DUE_KEY = base_key(UPKEEP) + "due"


def go_through_every_transition(queue: Queue, clock: Clock) -> None:
    pairs = {"customer": 7}
    queue.set_defaults({"retention_ms": 60_000})
    insert(queue, 1, delete_inputs_at_completion=True)
    queue.complete_chunks(tokens_of(take(queue, 1)))
    first = insert(queue, 9, strategic_metadata=pairs, retention_ms=0, max_attempts=3)
    second = insert(queue, 1, strategic_metadata=pairs, retention_ms=0, max_attempts=1)
    insert(queue, 0, retention_ms=0)
    tokens = tokens_of(take(queue, 8))
    queue.complete_chunks(tokens[:1])
    queue.fail_chunk(tokens[1], FAILURE)
    queue.release_chunks(tokens[2:3])
    queue.release_chunks(tokens[3:4], delay_ms=1_000)
    queue.heartbeat("w1", tokens=tokens[4:], unknown_ms=0)
    queue.update_metadata(first, {"customer": 8})
    queue.pause_queue()
    queue.resume_queue()
    queue.cancel_submission(first)
    queue.retry_submission(first)
    queue.repair(begin=True)
    clock.advance(600_000)
    queue.reclaim_expired("sweeper")
    queue.reclaim_dead("sweeper")
    queue.complete_chunks(tokens_of(take(queue, 100))[:5])
    queue.retire_worker("w1")
    queue.cancel_submission(first)
    queue.cancel_submission(second)


def test_every_key_has_the_queues_hash_tag(
    own_client: redis.Redis, queue_name: str, clock: Clock
) -> None:
    """A cluster refuses a script whose keys lie in several slots."""
    own_client.flushall()

    go_through_every_transition(Queue(own_client, queue_name, clock=clock), clock)

    strays = {key for key in keys_of(own_client) if not key.startswith(base_key(queue_name))}
    assert strays == {QUEUES_KEY, DUE_KEY}


def test_a_queue_whose_submissions_are_gone_keeps_only_what_does_not_grow(
    own_client: redis.Redis, queue_name: str, clock: Clock
) -> None:
    """Whatever became of them."""
    own_client.flushall()
    queue = Queue(own_client, queue_name, clock=clock)

    go_through_every_transition(queue, clock)
    repair_wholly(queue)
    clock.advance(600_000)
    forgotten = queue.forget_submissions()
    queue.forget_submissions(deleted_prefixes=forgotten.prefixes)
    take(queue, 1)
    queue.retire_worker("w1")

    kept = {key.removeprefix(base_key(queue_name)) for key in keys_of(own_client)}
    assert kept == {
        QUEUES_KEY,
        DUE_KEY,
        "durations",
        "events",
        "fence",
        "history",
        "last_id",
        "recent",
        "retention",
        "reservations",
        "stats",
        "sweeper:dead",
        "sweeper:expired",
        "wake",
    }
    assert own_client.xlen(base_key(queue_name) + "reservations") == 0


def test_a_deleted_queue_leaves_no_key_that_stays(
    own_client: redis.Redis, queue_name: str, clock: Clock
) -> None:
    """Settings and the name are removed, too."""
    own_client.flushall()
    queue = Queue(own_client, queue_name, clock=clock)
    go_through_every_transition(queue, clock)
    repair_wholly(queue)
    queue.set_limit("api", max=1)
    clock.advance(600_000)
    forgotten = queue.forget_submissions()
    queue.forget_submissions(deleted_prefixes=forgotten.prefixes)

    queue.delete_queue()

    lasting = {key for key in keys_of(own_client) if own_client.ttl(key) == -1}
    assert lasting == {DUE_KEY}  # until a sweeper looks


def test_a_queue_with_anything_in_it_is_not_deleted(queue: Queue, clock: Clock) -> None:
    """The error says what is; a worker would bring it back."""
    new = new_submission(queue, 1, retention_ms=1_000)
    queue.insert_submission(new)
    queue.set_defaults({"retention_ms": 5_000})

    def refused() -> str:
        with pytest.raises(QueueInUseError) as raised:
            queue.delete_queue()
        assert queue.get_defaults().retention_ms == 5_000
        assert f"{next(iter(raised.value.found))}: 1" in str(raised.value)
        return ", ".join(raised.value.found)

    assert refused() == "submissions in progress"
    (chunk,) = take(queue)
    assert refused() == "submissions in progress, reserved chunks, live workers"
    queue.complete_chunks([chunk.token])
    assert refused() == "submissions completed, live workers"
    queue.retire_worker("w1")
    clock.advance(1_000)
    queue.forget_submissions()
    assert refused() == "prefixes pending deletion"
    queue.forget_submissions(deleted_prefixes=[new.prefix])

    queue.delete_queue()

    assert queue.get_defaults().retention_ms is None


def test_an_insert_brings_a_deleted_queue_back(client: redis.Redis, queue: Queue) -> None:
    """Also by a program that has registered its name before."""
    other = Queue(client, queue.name)
    id_ = insert(queue, 0, retention_ms=0)
    forgotten = queue.forget_submissions()
    queue.forget_submissions(deleted_prefixes=forgotten.prefixes)
    other.delete_queue()
    assert queue.name not in queue_names(client)

    again = insert(queue, 1)

    assert queue.name in queue_names(client)
    assert again > id_


def test_a_queue_is_deleted_with_all_its_partitions(client: redis.Redis, queue: Queue) -> None:
    """Refused while one of them has something."""
    queue.set_partitions(3)
    new = new_submission(queue, 1)
    queue.part(2).insert_submission(new)

    with pytest.raises(QueueInUseError):
        queue.delete_queue()
    assert queue.partitions.look() == 3
