"""A queue on a cluster: it is found, followed when its slot moves, and never used half-moved."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from redis.cluster import NodesManager
from redis.crc import key_slot
from redis.exceptions import RedisClusterException

from opsqueue.cli.commands import main
from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.answers import Reserved
from opsqueue.model.chunk import Completed
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue import cluster as cluster_module
from opsqueue.queue import commands
from opsqueue.queue.cluster import ClusterClient
from opsqueue.queue.connection import check, connect
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import ping, queue_names
from opsqueue.strategy import Oldest
from opsqueue.testing.embedded import EmbeddedServer
from tests.redis_sets import MASTERS, ClusterSet, ask, cluster, until


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSet]:
    with cluster(tmp_path_factory.mktemp("cluster")) as formed:
        yield formed


@pytest.fixture
def queue(servers: ClusterSet, queue_name: str) -> Iterator[Queue]:
    client = connect(servers.url)
    yield Queue(client, queue_name)
    client.close()


def new(queue: Queue, chunks: int = 3) -> NewSubmission:
    return NewSubmission(
        prefix=fresh_prefix(queue.name), chunks_total=chunks, chunk_size=1, operations_total=chunks,
        codec="json",
    )  # fmt: skip


def reserve(queue: Queue, *, limit: int) -> commands.Command[Reserved]:
    return commands.reserve_chunks("w", limit=limit, reservation_ms=60_000, strategy=Oldest())


def test_the_masters_are_all_looked_at(servers: ClusterSet) -> None:
    """The embedded ones keep an append-only file and evict nothing: no warnings."""
    client = connect(servers.url)

    ping(client)

    assert check(client, url=servers.url) == []


def test_queues_of_all_masters_are_listed(servers: ClusterSet, queue_name: str) -> None:
    client = connect(servers.url)
    names = [f"{queue_name}-{number}" for number in range(12)]

    for name in names:
        queue = Queue(client, name)
        queue.insert_submission(new(queue))

    assert {servers.master_of(base_key(name)).port for name in names} == {
        server.port for server in servers.servers[:MASTERS]
    }
    assert set(names) <= set(queue_names(client))


@pytest.mark.parametrize("number", range(8))
def test_new_partitions_lie_on_a_master_each(
    servers: ClusterSet, queue: Queue, number: int
) -> None:
    """With the number alone as their tag, half of all names had two of three on one master."""
    client = connect(servers.url)
    queue = Queue(client, f"{queue.name}-{number}")

    queue.set_partitions(MASTERS)

    parts = queue.parts()
    assert len({servers.master_of(part.base).port for part in parts}) == MASTERS
    id_ = parts[2].insert_submission(new(queue)).id
    other = Queue(connect(servers.url), queue.name)
    assert other.get_submission(id_).chunks_total == 3
    (chunk, *_) = other.reserve_chunks("w", limit=3).chunks
    assert [type(outcome) for outcome in queue.complete_chunks([chunk.token])] == [Completed]


def test_partitions_that_were_set_by_an_earlier_version_stay_where_they_are(
    servers: ClusterSet, queue: Queue
) -> None:
    """New ones go to the masters that have fewer."""
    client = connect(servers.url)
    assert isinstance(client, ClusterClient)
    key = f"{base_key(queue.name)}partitions"
    client.run(key, lambda server: server.rpush(key, 4))
    id_ = queue.part(3).insert_submission(new(queue)).id

    queue.set_partitions(12)

    assert [part.base for part in queue.parts()[:4]] == [base_key(queue.name, n) for n in range(4)]
    assert queue.get_submission(id_).chunks_total == 3
    ports = [servers.master_of(part.base).port for part in queue.parts()]
    assert sorted(ports.count(port) for port in set(ports)) == [4, 4, 4]


def test_settings_of_a_queue_reach_new_partitions_before_they_are_used(queue: Queue) -> None:
    """Whatever their tags are."""
    queue.set_limit("api", max=3)
    queue.pause_queue()

    queue.set_partitions(MASTERS)

    assert [part.list_limits() for part in queue.parts()] == [queue.list_limits()] * MASTERS
    assert all(part.count_queue().is_paused for part in queue.parts())


def test_partitions_and_their_masters_are_shown(servers: ClusterSet, queue: Queue) -> None:
    """By `partitions show` and `doctor`, which warn if several share one without need."""
    queue.insert_submission(new(queue))
    queue.set_partitions(MASTERS)
    shared = Queue(connect(servers.url), f"{queue.name}-shared")
    shared.insert_submission(new(shared))
    at = servers.master_of(shared.base)
    tag = next(
        tag for n in range(100)
        if servers.master_of(base_key(shared.name, 1, tag := f"01.{n}")) is at
    )  # fmt: skip
    shared.run(commands.set_partitions(2, step="choose", tags={1: tag}))
    shared.set_partitions(2)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env={"OPSQUEUE_REDIS_URL": servers.url})

    spread, warned = (run("partitions", "show", one.name) for one in (queue, shared))
    number, _, *rows = [line.split() for line in spread.stdout.splitlines()]
    assert number == [str(MASTERS)]
    assert [[part.label, address_of(servers, part)] for part in queue.parts()] == [
        row[:2] for row in rows
    ]
    assert spread.stderr == ""
    assert f"warning: partitions {shared.name}, {shared.name}/01 share the master" in warned.stderr

    found = json.loads(run("doctor", "--json").stdout)["findings"]
    texts = [(one["level"], one["text"]) for one in found if one["check"] == "partitions"]
    where = ", ".join(f"{part.label} on {address_of(servers, part)}" for part in queue.parts())
    assert ("good", f"queue {queue.name}: {where}") in texts
    assert [f"queue {shared.name}: partitions {shared.name}, {shared.name}/01 share"] == [
        text.partition(" the master")[0] for level, text in texts if level == "warning"
    ]


def address_of(servers: ClusterSet, part: Queue) -> str:
    return f"127.0.0.1:{servers.master_of(part.base).port}"


def test_calls_go_together_on_a_cluster(queue: Queue) -> None:
    """Also scripts that its node does not know yet: redis-py's own client can't."""
    queue.insert_submission(new(queue))

    answers = queue.pipeline([reserve(queue, limit=2), commands.release_chunks([])])

    assert len(answers[0].chunks) == 2
    assert answers[1] == []


def test_a_queue_is_followed_when_its_slot_moves(servers: ClusterSet, queue: Queue) -> None:
    """It moves at once with all of its keys, as in Valkey 9; nothing is done twice or lost."""
    id_ = queue.insert_submission(new(queue)).id
    taken = queue.reserve_chunks("w").chunks[0]
    old = servers.master_of(base_key(queue.name))

    target = move_slot(servers, base_key(queue.name), away_from=old)

    outcomes = queue.pipeline([commands.complete_chunks([taken.token])])[0]
    assert [Completed] == [type(outcome) for outcome in outcomes]
    assert len(queue.reserve_chunks("w", limit=9).chunks) == 2
    assert queue.get_submission(id_).chunks_done == 1
    assert servers.master_of(base_key(queue.name)) is target


def test_a_queue_stands_still_while_its_slot_is_moved_key_by_key(
    servers: ClusterSet, queue: Queue
) -> None:
    """A script that ran on either node would find only some of the keys."""
    id_ = queue.insert_submission(new(queue)).id
    slot = key_slot(base_key(queue.name).encode())
    old = servers.master_of(base_key(queue.name))
    target = next(s for s in servers.servers[:MASTERS] if s is not old)
    ids = {server: ask(server.port, "CLUSTER", "MYID").decode() for server in (old, target)}
    ask(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
    ask(old.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    key = f"{base_key(queue.name)}sub:{id_}"
    ask(old.port, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)

    with pytest.raises(RedisUnavailableError, match="being moved to another node"):
        queue.reserve_chunks("w")
    assert isinstance(queue.pipeline([reserve(queue, limit=1)])[0], RedisUnavailableError)

    rest = ask(old.port, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
    for key in rest:
        ask(old.port, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for server in servers.servers[:MASTERS]:
        ask(server.port, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    assert len(queue.reserve_chunks("w", limit=9).chunks) == 3


def test_a_node_that_hangs_when_it_is_asked_for_the_others_stops_one_thread_only(
    servers: ClusterSet, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats of other queues, whose nodes are well, must not wait for it; nor a second one."""
    client = connect(servers.url)
    assert isinstance(client, ClusterClient)
    other, asked, answered = Queue(client, queue.name), threading.Semaphore(0), threading.Event()
    ask_nodes = NodesManager.initialize
    other.count_queue()

    def hang(self: NodesManager) -> None:
        asked.release()
        assert answered.wait(60)
        ask_nodes(self)

    def lose_a_node() -> None:
        client.forget_nodes()
        other.count_queue()

    monkeypatch.setattr(cluster_module, "_REFRESH_EVERY_S", 0.0)
    monkeypatch.setattr(NodesManager, "initialize", hang)
    stopped = threading.Thread(target=lose_a_node)
    stopped.start()
    assert asked.acquire(timeout=60)

    lose_a_node()
    other.insert_submission(new(other))

    assert stopped.is_alive()
    assert not asked.acquire(blocking=False)
    answered.set()
    stopped.join()
    assert len(other.reserve_chunks("w", limit=9).chunks) == 3


def test_who_has_missed_a_node_asks_for_all_and_anybody_where_that_one_does_not_come_back(
    servers: ClusterSet, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, asked = connect(servers.url), Mock()
    assert isinstance(client, ClusterClient)
    other = Queue(client, queue.name)
    other.count_queue()
    monkeypatch.setattr(cluster_module, "_REFRESH_EVERY_S", 0.0)
    monkeypatch.setattr(cluster_module, "_UNATTENDED_S", float("inf"))
    monkeypatch.setattr(NodesManager, "initialize", lambda _: asked())

    missed = threading.Thread(target=client.forget_nodes)
    missed.start()
    missed.join()
    other.count_queue()
    assert asked.call_count == 0

    monkeypatch.setattr(cluster_module, "_UNATTENDED_S", 0.0)
    other.count_queue()
    other.count_queue()
    assert asked.call_count == 1

    monkeypatch.setattr(cluster_module, "_UNATTENDED_S", float("inf"))
    asked.side_effect = RedisClusterException("no node answers")
    client.forget_nodes()
    with pytest.raises(RedisUnavailableError):
        other.count_queue()
    asked.side_effect = None
    other.count_queue()
    other.count_queue()
    assert asked.call_count == 3


def test_a_cluster_that_is_not_there_is_named_without_a_password() -> None:
    url = "redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2"
    client = connect(url)

    with pytest.raises(RedisUnavailableError, match="does not answer"):
        Queue(client, "q").reserve_chunks("w")
    with pytest.raises(RedisUnavailableError, match="is it running") as caught:
        check(client, url=url)

    assert "secret" not in str(caught.value)


def test_sentinels_that_are_not_there_are_named_in_a_few_words() -> None:
    url = "redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/mymaster"

    with pytest.raises(RedisUnavailableError, match="knows a master 'mymaster'") as caught:
        check(connect(url), url=url)

    assert "object at" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_without_cluster_mode_says_so(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis+cluster://")

    with pytest.raises(
        RedisUnavailableError, match="is not a cluster: its URL begins with redis://"
    ):
        check(connect(url), url=url)


def move_slot(servers: ClusterSet, key: str, *, away_from: EmbeddedServer) -> EmbeddedServer:
    """Move a key's slot, with all of its keys, to another master; give that one."""
    slot = key_slot(key.encode())
    target = next(s for s in servers.servers[:MASTERS] if s is not away_from)
    id_ = ask(target.port, "CLUSTER", "MYID").decode()
    ask(away_from.port, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", id_)
    until(
        lambda: all(id_ in _owner_of(server.port, slot) for server in servers.servers[:MASTERS]),
        "all masters know the slot's new owner",
    )
    return target


def _owner_of(port: int, slot: int) -> str:
    rows = ask(port, "CLUSTER", "SLOTS")
    return str(next(row[2][2] for row in rows if row[0] <= slot <= row[1]).decode())
