"""The sweeper, step by step: deletions, who leads, what is due, what is forgotten."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from opsqueue.exceptions import (
    RedisUnavailableError,
    StoreUnavailableError,
    SubmissionNotFoundError,
)
from opsqueue.model.answers import Due
from opsqueue.model.chunk import Lost
from opsqueue.model.names import QUEUES_KEY, base_key
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue import sweeper
from opsqueue.queue.due import DueIndex
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names, unregister_queue
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import input_key, output_key
from opsqueue.store.local import LocalStore
from opsqueue.store.memory import MemoryStore
from tests import waiting
from tests.opsqueue.steps import Clock, Raw, insert, listed, prefix_of, take, tokens_of

CHUNKS = 7
NOTHING = Due(
    dead_in_ms=None, objects_in_ms=None, chunks_in_hand=0, is_repairing=False, in_progress=0
)


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


# Leading


@pytest.fixture
def sweeper_of(alone: redis.Redis, store: MemoryStore) -> Callable[..., Sweeper]:
    """Make sweepers on an empty server; no other one leads there."""

    def make(name: str = "s1", *own: Queue, sweeps_all: bool = True) -> Sweeper:
        return Sweeper(lambda: own, client=alone, sweeper=name, store=store, sweeps_all=sweeps_all)

    return make


def leave_a_dead_worker(queue: Queue) -> None:
    """Reserve a chunk for it."""
    insert(queue, 1)
    assert queue.reserve_chunks("dead", heartbeat_timeout_ms=0).chunks


def in_hand(queue: Queue) -> int:
    return queue.count_queue().chunks_in_hand


def scripts_run(client: redis.Redis, run: Callable[[], object]) -> int:
    """Count the scripts that a server has run meanwhile."""

    def calls() -> int:
        stats: Any = client.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")
        )

    before = calls()
    run()
    return calls() - before


def test_with_thousands_of_names_what_is_due_is_swept_in_the_next_round(
    own_client: redis.Redis, store: MemoryStore, queue_name: str
) -> None:
    """Without asking each queue."""
    own_client.flushall()
    own_client.sadd(QUEUES_KEY, *(f"a-{number}" for number in range(5_000)))
    queue = Queue(own_client, queue_name)
    leave_a_dead_worker(queue)
    leading = Sweeper(list, client=own_client, sweeper="s1", store=store, sweeps_all=True)

    scripts = scripts_run(own_client, leading._round)

    assert in_hand(queue) == 0
    assert scripts < 100
    assert own_client.zcard("oq:{/upkeep}:taken") == 1  # stored with the next round


def test_a_refused_sweeper_asks_once_and_the_more_rarely_the_more_there_are(
    own_client: redis.Redis, store: MemoryStore
) -> None:
    """Ten thousand idle workers ask some three hundred times a second."""
    own_client.flushall()
    index = DueIndex(own_client)
    index.take("leader", sweeps_all=True, swept={}, limit=1)
    refused = Sweeper(list, client=own_client, sweeper="s1", store=store)
    refused._round()  # the server learns the script

    waits = []
    for candidates in (1, 500, 10_000):
        now = time.time() * 1000
        names = {f"c{number}": now for number in range(candidates - 1)}
        if names:
            own_client.zadd("oq:{/upkeep}:candidates", names)
        scripts = scripts_run(own_client, lambda: waits.append(refused._round()))
        assert scripts == 1

    assert 0.7 <= waits[0] <= 1.3
    assert 7 <= waits[1] <= 13
    assert 21 <= waits[2] <= 39


def test_a_leader_that_dies_is_replaced_and_what_it_had_taken_is_swept(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper], queue_name: str
) -> None:
    queue = Queue(alone, queue_name)
    leave_a_dead_worker(queue)
    DueIndex(alone).take("died", sweeps_all=True, swept={}, limit=10, lease_ms=100)
    sweeping = sweeper_of()
    sweeping._round()
    assert in_hand(queue) == 1

    waiting.until(lambda: sweeping._round() and in_hand(queue) == 0)


def test_an_index_that_was_lost_is_made_good_by_the_slow_round(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper], queue_name: str
) -> None:
    """Some partitions in each round; afterwards the index has those where more will be due."""
    alone.sadd(QUEUES_KEY, *(f"a-{number}" for number in range(25)))
    queue, other = Queue(alone, f"z-{queue_name}"), Queue(alone, f"y-{queue_name}")
    leave_a_dead_worker(queue)
    other.heartbeat("alive", timeout_ms=60_000)
    alone.delete("oq:{/upkeep}:due")
    sweeping = sweeper_of()

    held = []
    for _ in range(3):
        sweeping._round()
        held.append(in_hand(queue))
    sweeping._take()

    assert held == [1, 1, 0]
    assert set(DueIndex(alone).busiest(100)) == {queue.name, other.name}


def test_the_slow_round_starts_again_only_after_some_time(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few queues must not be asked all the time."""
    alone.sadd(QUEUES_KEY, "a", "b")
    swept: list[str] = []

    def next_due(self: Queue) -> Due:
        swept.append(self.name)
        return NOTHING

    monkeypatch.setattr(Queue, "next_due", next_due)
    monkeypatch.setattr(Queue, "forget_unused", lambda _: False)
    sweeping = sweeper_of()

    for _ in range(3):
        sweeping._round()

    assert swept == ["a", "b"]


def test_a_queue_that_refuses_or_is_away_keeps_no_others_from_being_swept(
    alone: redis.Redis,
    sweeper_of: Callable[..., Sweeper],
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user may have no rights on it; its master may be gone. It is due again later."""
    gone, there = Queue(alone, f"a-{queue_name}"), Queue(alone, f"b-{queue_name}")
    for queue in (gone, there):
        leave_a_dead_worker(queue)
    next_due = Queue.next_due

    def refused(self: Queue) -> Due:
        if self.name == gone.name:
            message = "Redis refused: NOPERM"
            raise RedisUnavailableError(message)
        return next_due(self)

    monkeypatch.setattr(Queue, "next_due", refused)
    sweeping = sweeper_of()

    sweeping._round()

    assert (in_hand(gone), in_hand(there)) == (1, 0)
    sweeping._take()
    assert gone.name in DueIndex(alone).busiest(10)


def test_a_node_that_hangs_is_asked_once(
    alone: redis.Redis,
    sweeper_of: Callable[..., Sweeper],
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of its queues would hold up all others for the socket's timeout."""
    names = [f"{letter}-{queue_name}" for letter in "abc"]
    for name in names:
        leave_a_dead_worker(Queue(alone, name))
    asked: list[str] = []

    def hang(self: Queue) -> Due:
        asked.append(self.name)
        message = "Redis does not answer"
        raise RedisUnavailableError(message)

    monkeypatch.setattr(Queue, "next_due", hang)
    monkeypatch.setattr(sweeper, "_HANGS_S", 0.0)

    sweeper_of()._round()

    assert len(asked) == 1


def test_what_is_asked_for_is_swept_whoever_leads(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper], queue_name: str
) -> None:
    """In all partitions, with its objects."""
    DueIndex(alone).take("leader", sweeps_all=True, swept={}, limit=1, lease_ms=600_000)
    queue = Queue(alone, queue_name)
    queue.set_partitions(2)
    for part in queue.parts_now():
        leave_a_dead_worker(part)
    insert(queue.part(0), 0, retention_ms=0)
    sweeping = sweeper_of("w1", queue, sweeps_all=False)
    sweeping.start()

    sweeping.sweep_soon(queue)

    waiting.until(lambda: in_hand(queue) == 0)
    waiting.until(lambda: not listed(queue, SubmissionState.COMPLETED))
    sweeping.stop()


def test_a_sweeper_that_stops_lets_another_one_lead(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper]
) -> None:
    """At once, not after its lease."""
    first, second = sweeper_of("s1"), sweeper_of("s2")
    first.start()
    waiting.until(lambda: alone.exists("oq:{/upkeep}:leader"))

    first.stop()

    waiting.until(lambda: not alone.exists("oq:{/upkeep}:leader"), within_s=2.0)
    second._round()
    assert alone.get("oq:{/upkeep}:leader") == b"1 s2"


def test_only_a_sweeper_with_their_store_deletes_objects(
    alone: redis.Redis,
    sweeper_of: Callable[..., Sweeper],
    store: MemoryStore,
    queue_name: str,
) -> None:
    """Another team's worker may lead; it reclaims chunks everywhere."""
    queue = Queue(alone, queue_name)
    prefix = prefix_of(queue, "a")
    store.create(input_key(prefix, 0), b"x")
    insert(queue, 0, prefix=prefix, retention_ms=0)
    strangers = sweeper_of("w1", Queue(alone, f"other-{queue_name}"), sweeps_all=False)
    own = sweeper_of("w2", queue, sweeps_all=False)

    strangers._round()
    assert strangers._to_clean.next(0) is None
    assert store.exists(input_key(prefix, 0))

    strangers._resign()
    alone.zadd("oq:{/upkeep}:due", {queue_name: 0})
    own._round()
    part = own._to_clean.next(0)
    assert part is not None
    own._clean(part)
    assert not store.exists(input_key(prefix, 0))


@pytest.mark.parametrize(
    ("due", "cleans", "expected_s"),
    [
        ({}, True, None),
        ({"dead_in_ms": 2_000}, True, 2),
        ({"dead_in_ms": 20_000, "objects_in_ms": 9_000}, True, 9),
        ({"objects_in_ms": 0}, True, 5),
        ({"objects_in_ms": 0}, False, 60),
        ({"in_progress": 3}, True, 300),
        ({"in_progress": 3, "dead_in_ms": 900_000}, True, 300),
        ({"is_repairing": True, "dead_in_ms": 9_000}, True, 0),
        ({"chunks_in_hand": 1, "dead_in_ms": 9_000}, True, 0),
    ],
)
def test_a_partition_is_due_again_with_the_first_thing_that_is(
    fake_client: redis.Redis,
    store: MemoryStore,
    queue: Queue,
    due: dict[str, Any],
    cleans: bool,  # noqa: FBT001 a parameter of the test
    expected_s: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweeping = Sweeper(list, client=fake_client, sweeper="s1", store=store)
    monkeypatch.setattr(sweeper, "_jitter", lambda: 1.0)

    next_at = sweeping._next_at(queue, msgspec.structs.replace(NOTHING, **due), cleans=cleans)

    found_s = None if next_at is None else next_at - time.monotonic()
    assert found_s == (None if expected_s is None else pytest.approx(expected_s, abs=0.5))


def test_a_walk_over_many_reservations_goes_on_in_the_next_round(
    fake_client: redis.Redis, store: MemoryStore, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the meantime other queues are swept."""
    clock = Clock()
    queue = Queue(fake_client, queue_name, clock=clock)
    insert(queue, 600)
    for _ in range(3):
        queue.reserve_chunks("hanging", limit=1_000, reservation_ms=1, heartbeat_timeout_ms=60_000)
    clock.advance(1)
    monkeypatch.setattr(sweeper, "_SWEEP_FOR_S", 0.0)
    sweeping = Sweeper(list, client=fake_client, sweeper="s1", store=store)

    left = [in_hand(queue)]
    while left[-1] and len(left) < 100:
        sweeping._sweep(queue, cleans=True)
        left.append(in_hand(queue))

    assert left[-1] == 0
    assert len(left) > 3
    assert left == sorted(set(left), reverse=True)


# Forgetting unused queues


def lasting_keys(client: redis.Redis) -> set[str]:
    """All keys but those that expire and the sweepers' own."""
    keys: Any = client.keys()
    return {
        key.decode()
        for key in keys
        if client.ttl(key) == -1 and not key.startswith(b"oq:{/upkeep}:")
    }


def test_a_worker_that_waited_for_an_unknown_queue_leaves_nothing(
    alone: redis.Redis, queue_name: str
) -> None:
    """While it waits, it is listed."""
    queue = Queue(alone, queue_name)
    assert not take(queue, 1, worker="w1")
    queue.heartbeat("w1")
    assert queue_name in queue_names(alone)
    assert [worker.name for worker in queue.list_workers()] == ["w1"]

    queue.retire_worker("w1")

    assert lasting_keys(alone) == set()


def test_a_worker_that_died_while_it_waited_for_an_unknown_queue_leaves_nothing(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper], queue_name: str
) -> None:
    queue = Queue(alone, queue_name)
    queue.heartbeat("dead", timeout_ms=0)
    sweeping = sweeper_of()

    for _ in range(3):  # the stream was created, so a repair runs first
        alone.zadd("oq:{/upkeep}:due", {queue_name: 0})
        sweeping._round()

    assert lasting_keys(alone) == set()


def test_a_name_without_a_key_is_forgotten_by_the_slow_round(
    alone: redis.Redis, sweeper_of: Callable[..., Sweeper], queue_name: str
) -> None:
    """An insert that failed after the name was stored leaves one."""
    alone.sadd(QUEUES_KEY, queue_name)

    sweeper_of()._round()

    assert lasting_keys(alone) == set()


@pytest.mark.parametrize(
    "use",
    [
        lambda queue: insert(queue, 1),
        lambda queue: insert(queue, 0),
        lambda queue: queue.heartbeat("w1"),
        lambda queue: queue.heartbeat("dead", timeout_ms=0),
        lambda queue: queue.set_limit("customer", max=1),
        lambda queue: queue.set_defaults({"max_attempts": 3}),
        lambda queue: queue.set_defaults({"retention_ms": 3}),
        lambda queue: queue.pause_queue(),
        lambda queue: queue.set_partitions(2),
        lambda queue: queue.discard_prefixes([prefix_of(queue, "a")]),
        lambda queue: queue.discard_prefixes([prefix_of(queue, "a")], step="hold"),
    ],
)
def test_a_queue_in_use_is_not_forgotten(
    alone: redis.Redis, queue_name: str, use: Callable[[Queue], object]
) -> None:
    queue = Queue(alone, queue_name)
    alone.sadd(QUEUES_KEY, queue_name)
    use(queue)
    before = lasting_keys(alone)

    assert not queue.forget_unused()

    assert lasting_keys(alone) == before
    assert queue_name in queue_names(alone)


def forgotten_but_for_events(queue: Queue) -> SubmissionId:
    """Insert a submission, end it, and forget it; return its id."""
    id_ = insert(queue, 0, retention_ms=0)
    prefixes = queue.forget_submissions().prefixes
    queue.forget_submissions(deleted_prefixes=prefixes)
    return id_


def test_a_queue_is_forgotten_when_its_last_event_is_an_hour_old_and_ids_go_on(
    alone: redis.Redis, queue_name: str
) -> None:
    """Its totals can be read until then."""
    queue = Queue(alone, queue_name)
    first = forgotten_but_for_events(queue)
    assert not queue.forget_unused()
    alone.xtrim(base_key(queue_name) + "events", maxlen=0)

    assert queue.forget_unused()

    assert lasting_keys(alone) == set()
    assert insert(queue, 0) > first
    assert queue_name in queue_names(alone)


@pytest.mark.parametrize("others", ["insert", "heartbeat"])
def test_a_queue_that_is_used_while_its_name_is_removed_keeps_it(
    alone: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    """By a program that stored the name a moment before."""
    queue, other = Queue(alone, queue_name), Queue(alone, queue_name)
    forgotten_but_for_events(other)
    alone.xtrim(base_key(queue_name) + "events", maxlen=0)

    def remove(client: redis.Redis, name: str) -> None:
        unregister_queue(client, name)
        monkeypatch.undo()
        if others == "insert":
            insert(other, 1)
        else:
            other.heartbeat("w1")
            unregister_queue(client, name)

    monkeypatch.setattr("opsqueue.queue.queue.unregister_queue", remove)

    assert not queue.forget_unused()

    assert queue_name in queue_names(alone)


def test_a_name_that_a_sweeper_removed_before_it_died_is_stored_by_the_next_inserts(
    alone: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program stores it once a minute."""
    queue = Queue(alone, queue_name)
    insert(queue, 1)
    unregister_queue(alone, queue_name)
    insert(queue, 1)
    assert queue_name not in queue_names(alone)

    monkeypatch.setattr("opsqueue.queue.queue._REGISTER_EVERY_S", 0.0)
    insert(queue, 1)

    assert queue_name in queue_names(alone)
