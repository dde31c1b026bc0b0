"""Deletions by the sweeper, step by step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis

from opsqueue.exceptions import (
    StoreUnavailableError,
    SubmissionNotFoundError,
)
from opsqueue.model.chunk import Lost
from opsqueue.queue import sweeper
from opsqueue.queue.queue import Queue
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import input_key, output_key
from opsqueue.store.local import LocalStore
from opsqueue.store.memory import MemoryStore
from tests.opsqueue.steps import Clock, Raw, insert, prefix_of, take, tokens_of

CHUNKS = 7


@pytest.fixture
def queue(fake_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(fake_client, queue_name)


@pytest.fixture
def store(queue_name: str) -> MemoryStore:
    return MemoryStore(queue_name)


@pytest.fixture
def sweeping(
    fake_client: redis.Redis,
    queue: Queue,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Sweeper:
    """Beside a completed submission whose inputs are to be deleted, three at a time."""
    insert(queue, CHUNKS, prefix=prefix_of(queue, "a/b"), delete_inputs_at_completion=True)
    for index in range(CHUNKS):
        store.create(input_key(prefix_of(queue, "a/b"), index), b"x")
        store.create(output_key(prefix_of(queue, "a/b"), index), b"x")
    queue.complete_chunks(tokens_of(take(queue, CHUNKS)))
    monkeypatch.setattr(sweeper, "_INPUTS_AT_ONCE", 3)
    return Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store)


def test_spent_inputs_are_deleted_and_results_stay(
    queue: Queue, store: MemoryStore, sweeping: Sweeper
) -> None:
    """Page by page, in one round if there is time."""
    sweeping.delete_inputs(queue)

    assert {output_key(prefix_of(queue, "a/b"), index) for index in range(CHUNKS)} == set(
        store.list_prefix(queue.name)
    )
    assert queue.delete_inputs() == []


def test_a_round_of_deleting_inputs_is_bounded_and_goes_on_where_it_was(
    queue: Queue, store: MemoryStore, sweeping: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are."""
    monkeypatch.setattr(sweeper, "_INPUTS_FOR_S", 0.0)

    left = []
    for _ in range(3):
        sweeping.delete_inputs(queue)
        left.append(sum(key.endswith("-in") for key in store.list_prefix(queue.name)))

    assert left == [4, 1, 0]
    assert queue.delete_inputs() == []


def test_what_could_not_be_deleted_is_deleted_by_the_next_sweep(
    fake_client: redis.Redis, store: MemoryStore, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The submission is already forgotten, but its prefix is still pending deletion."""
    clock = Clock()
    queue = Queue(fake_client, queue_name, clock=clock)
    id_ = insert(queue, 1, prefix=prefix_of(queue, "a/b"))
    store.create(input_key(prefix_of(queue, "a/b"), 0), b"x")
    queue.complete_chunks(tokens_of(take(queue, 1)))
    clock.advance(25 * 3600 * 1000)
    sweeping = Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store)

    def fail(_: str) -> None:
        message = "the store is down"
        raise StoreUnavailableError(message)

    with monkeypatch.context() as trouble:
        trouble.setattr(store, "delete_prefix", fail)
        sweeping._clean(queue)
    left = list(store.list_prefix(queue.name))
    sweeping._clean(queue)

    with pytest.raises(SubmissionNotFoundError):
        queue.get_submission(id_)
    assert [input_key(prefix_of(queue, "a/b"), 0)] == left
    assert [] == list(store.list_prefix(queue.name))


def test_objects_that_cannot_be_deleted_keep_no_others_from_it(
    fake_client: redis.Redis, queue_name: str, tmp_path: Path
) -> None:
    """A link in place of one submission's folder, which nobody follows; and the round ends."""
    store, queue = LocalStore(str(tmp_path / "store")), Queue(fake_client, queue_name)
    stuck, *others = (prefix_of(queue, str(number)) for number in range(150))
    for prefix in (stuck, *others):
        store.create(input_key(prefix, 0), b"x")
        insert(queue, 0, prefix=prefix, retention_ms=0)
    shutil.move(tmp_path / "store" / stuck, tmp_path / "elsewhere")
    (tmp_path / "store" / stuck).symlink_to(tmp_path / "elsewhere")

    Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store).forget(queue)

    assert list(store.list_prefix("")) == []
    assert queue.forget_submissions().prefixes == (stuck,)
    assert (tmp_path / "elsewhere" / "0-in").exists()


def test_inputs_that_cannot_be_deleted_keep_no_others_from_it(
    fake_client: redis.Redis, queue_name: str, tmp_path: Path
) -> None:
    """The one with the fewest deleted comes first, and would for ever."""
    store, queue = LocalStore(str(tmp_path / "store")), Queue(fake_client, queue_name)
    stuck, other = (prefix_of(queue, str(number)) for number in range(2))
    for prefix in (stuck, other):
        store.create(input_key(prefix, 0), b"x")
        insert(queue, 1, prefix=prefix, delete_inputs_at_completion=True)
    queue.complete_chunks(tokens_of(take(queue, 2)))
    shutil.move(tmp_path / "store" / stuck, tmp_path / "elsewhere")
    (tmp_path / "store" / stuck).symlink_to(tmp_path / "elsewhere")

    Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store).delete_inputs(queue)

    assert not store.exists(input_key(other, 0))
    assert [inputs.prefix for inputs in queue.delete_inputs()] == [stuck]
    assert (tmp_path / "elsewhere" / "0-in").exists()


def test_an_old_prefix_above_anothers_takes_nothing_of_it(
    fake_client: redis.Redis, store: MemoryStore, queue_name: str
) -> None:
    """Earlier versions let a client choose another queue's name, or a folder above its own."""
    queue, raw = Queue(fake_client, queue_name), Raw(fake_client, queue_name)
    victim = f"victim/{'1' * 32}"
    for key in (input_key(victim, 0), input_key(f"{victim}/1", 0), input_key("victim", 0)):
        store.create(key, b"x")
    for prefix in ("victim", f"{victim}/1"):
        id_ = insert(queue, 0, retention_ms=0)
        own = queue.get_submission(id_).prefix
        fake_client.hset(raw.key(f"sub:{id_}"), "prefix", prefix)
        fake_client.hdel(raw.key("prefixes"), own)
        fake_client.hset(raw.key("prefixes"), prefix, str(id_))

    Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store).forget(queue)

    assert list(store.list_prefix("")) == [input_key(victim, 0)]
    assert queue.forget_submissions().prefixes == ()


def test_a_sweep_frees_chunks_whose_reservation_ran_out_though_their_worker_lives(
    fake_client: redis.Redis, store: MemoryStore, queue_name: str
) -> None:
    """An attempt is used; the worker's late report is lost."""
    clock = Clock()
    queue = Queue(fake_client, queue_name, clock=clock)
    insert(queue, 1)
    (held,) = queue.reserve_chunks("hanging", reservation_ms=60_000).chunks
    clock.advance(60_000)
    queue.heartbeat("hanging", tokens=[held.token], info=b"{}")
    sweeping = Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store)

    sweeping._sweep(queue, cleans=True)

    assert [Lost()] == queue.complete_chunks([held.token])
    (again,) = queue.reserve_chunks("another").chunks
    assert again.attempt == 2


def test_what_is_taken_back_is_logged_with_its_queue_and_workers(
    fake_client: redis.Redis,
    store: MemoryStore,
    queue_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line names dead workers and workers that hang."""
    clock = Clock()
    queue = Queue(fake_client, queue_name, clock=clock)
    insert(queue, 3)
    queue.reserve_chunks("hanging", reservation_ms=20_000)
    queue.reserve_chunks("dead", reservation_ms=60_000, heartbeat_timeout_ms=1_000, limit=2)
    clock.advance(20_000)
    queue.heartbeat("hanging", unknown_ms=60_000, timeout_ms=60_000)

    Sweeper(lambda: [queue], client=fake_client, sweeper="w1", store=store)._sweep(
        queue, cleans=True
    )

    assert caplog.messages == [
        f"queue {queue_name}: reclaimed 2 chunks from dead workers: dead",
        f"queue {queue_name}: reclaimed 1 chunk whose reservation had expired, from hanging",
    ]
