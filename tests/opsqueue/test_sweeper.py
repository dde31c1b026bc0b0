"""What the sweeper deletes, step by step."""

from __future__ import annotations

import pytest
import redis

from opsqueue import sweeper
from opsqueue.queue import Queue
from opsqueue.store import input_key, output_key
from opsqueue.store.memory import MemoryStore
from opsqueue.sweeper import Sweeper
from tests.opsqueue.steps import insert, take, tokens_of

CHUNKS = 7


@pytest.fixture
def queue(fake_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(fake_client, queue_name)


@pytest.fixture
def store(queue_name: str) -> MemoryStore:
    return MemoryStore(queue_name)


@pytest.fixture
def sweeping(queue: Queue, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    """Beside a completed submission whose inputs are to be deleted, three at a time."""
    insert(queue, CHUNKS, prefix="a/b", delete_inputs_at_completion=True)
    for index in range(CHUNKS):
        store.create(input_key("a/b", index), b"x")
        store.create(output_key("a/b", index), b"x")
    queue.complete_chunks(tokens_of(take(queue, CHUNKS)))
    monkeypatch.setattr(sweeper, "_INPUTS_AT_ONCE", 3)
    return Sweeper(lambda: [queue], sweeper="w1", store=store)


def test_spent_inputs_are_deleted_and_results_stay(
    queue: Queue, store: MemoryStore, sweeping: Sweeper
) -> None:
    """Page by page, in one round if there is time."""
    sweeping.delete_inputs(queue)

    assert {output_key("a/b", index) for index in range(CHUNKS)} == set(store.list_prefix("a"))
    assert queue.delete_inputs() == []


def test_a_round_of_deleting_inputs_is_bounded_and_goes_on_where_it_was(
    queue: Queue, store: MemoryStore, sweeping: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are."""
    monkeypatch.setattr(sweeper, "_INPUTS_FOR_S", 0.0)

    left = []
    for _ in range(3):
        sweeping.delete_inputs(queue)
        left.append(sum(key.endswith("-in") for key in store.list_prefix("a")))

    assert left == [4, 1, 0]
    assert queue.delete_inputs() == []
