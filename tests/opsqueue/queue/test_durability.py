"""The durability of answered inserts, on servers that guarantee it and on others."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotConfirmedError
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue import durability
from opsqueue.queue.acl import user_line
from opsqueue.queue.connection import check, connect, server_client
from opsqueue.queue.durability import (
    ACL_COMMAND,
    Durability,
    check_durability,
    fsync_warning,
    waits_rightly,
)
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.steps import new_submission
from tests.servers import (
    ALWAYS,
    redis_binary,
    replica_of,
    server_of,
    stopped,
    wait_for_replica,
)

KEYS = [f"key {number}" for number in range(8)]
"""Enough that some have another home among four partitions."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Valkey, whose WAITAOF is true with `appendfsync always` alone."""
    with EmbeddedServer(tmp_path_factory.mktemp("primary"), arguments=ALWAYS) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = server_client(server.url)
    yield client
    client.config_set("appendfsync", "always")
    client.config_set("no-appendfsync-on-rewrite", "no")
    client.close()


@pytest.fixture(scope="module")
def replica(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    with replica_of(server, tmp_path_factory.mktemp("replica")) as replica:
        wait_for_replica(server_client(server.url))
        yield replica


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which nobody confirms."""
    monkeypatch.setattr(durability, "CONFIRM_WITHIN_MS", 300)


def insert(queue: Queue, new: NewSubmission | None = None) -> tuple[int, bool]:
    inserted = queue.insert_submission(new or new_submission(queue), idempotency_key="key")
    return inserted.id, inserted.is_new


# fsync


def test_fsync_is_refused_where_the_server_answers_before_it(
    client: redis.Redis, server: EmbeddedServer
) -> None:
    """Valkey with everysec, whose WAITAOF says 1 at once; the message has what helps."""
    client.config_set("appendfsync", "everysec")

    with pytest.raises(InvalidArgumentError, match="set appendfsync always, or promise less"):
        check_durability(client, Durability.FSYNC, url=server.url)


def test_fsync_is_kept_with_appendfsync_always(
    client: redis.Redis, server: EmbeddedServer, queue_name: str
) -> None:
    """The server answers after its fsync."""
    queue = Queue(client, queue_name, durability=Durability.FSYNC)

    assert check_durability(client, Durability.FSYNC, url=server.url) == []
    assert insert(queue)[1]


def test_fsync_is_refused_where_a_rewrite_puts_it_off(
    client: redis.Redis, server: EmbeddedServer
) -> None:
    """`always` is not always then."""
    client.config_set("no-appendfsync-on-rewrite", "yes")

    with pytest.raises(InvalidArgumentError, match="set no-appendfsync-on-rewrite no"):
        check_durability(client, Durability.FSYNC, url=server.url)


def test_an_insert_is_not_confirmed_by_a_server_that_was_set_otherwise_meanwhile(
    client: redis.Redis, queue_name: str
) -> None:
    """Asked behind each insert; when it is set right, repeating the insert confirms the first."""
    queue = Queue(client, queue_name, durability=Durability.FSYNC)
    client.config_set("appendfsync", "everysec")

    with pytest.raises(SubmissionNotConfirmedError, match="answers before the fsync") as caught:
        insert(queue)
    client.config_set("appendfsync", "always")

    assert (caught.value.submission_id, False) == insert(queue)
    assert 1 == queue.count_queue().submissions[SubmissionState.IN_PROGRESS]


def test_fsync_is_refused_without_an_append_only_file(
    tmp_path: Path, queue_name: str, impatient: None
) -> None:
    """At the start, and behind an insert."""
    with EmbeddedServer(tmp_path, is_durable=False, arguments=ALWAYS) as server:
        client = connect(server.url)

        with pytest.raises(InvalidArgumentError, match="set appendonly yes"):
            check_durability(client, Durability.FSYNC, url=server.url)
        with pytest.raises(SubmissionNotConfirmedError, match="no append-only file"):
            insert(Queue(client, queue_name, durability=Durability.FSYNC))


def test_fsync_is_refused_where_settings_may_not_be_read(
    client: redis.Redis, server: EmbeddedServer
) -> None:
    """What is not known is not promised; the message says what to allow."""
    url = limited_url(client, server, "config|get")

    with pytest.raises(InvalidArgumentError, match=r"ACL \+config\|get") as caught:
        check_durability(connect(url), Durability.FSYNC, url=url)

    assert "secret" not in str(caught.value)


def limited_url(client: redis.Redis, server: EmbeddedServer, *refused: str) -> str:
    """Of a user who may do all but these."""
    client.execute_command(  # type: ignore[no-untyped-call]  # redis-py has no type for it
        *("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all"),
        *(f"-{command}" for command in refused),
    )
    return server.url.replace("//", "//limited:secret@")


def test_fsync_is_refused_where_settings_may_not_be_read_of_a_server_that_waits_rightly() -> None:
    """With appendfsync no there would be no fsync to wait for."""
    refused = redis.exceptions.NoPermissionError("NOPERM")

    trouble = fsync_warning({"redis_version": "8.2.3"}, refused)

    assert "Redis 8.2.3 does not let this user read its appendfsync" in str(trouble)
    assert ACL_COMMAND in str(trouble)


def test_fsync_is_refused_where_a_server_tells_only_some_settings() -> None:
    """Those of some providers answer CONFIG GET with less."""
    told = {"appendonly": "yes", "appendfsync": "always"}

    trouble = fsync_warning({"redis_version": "8.2.3"}, told)

    assert "does not report its no-appendfsync-on-rewrite" in str(trouble)


@pytest.mark.parametrize(
    ("durability", "command", "prints"),
    [
        (Durability.FSYNC, "waitaof", "`opsqueue acl api --durability fsync`"),
        (Durability.REPLICA, "wait", "`opsqueue acl api`"),
    ],
)
def test_a_user_who_may_not_wait_is_refused_at_the_start(
    client: redis.Redis,
    server: EmbeddedServer,
    durability: Durability,
    command: str,
    prints: str,
) -> None:
    """Not with each insert."""
    url = limited_url(client, server, command)

    with pytest.raises(InvalidArgumentError, match="does not let this user wait") as caught:
        check_durability(connect(url), durability, url=url)

    assert prints in str(caught.value)


def test_replicas_that_can_not_be_seen_are_not_said_to_be_absent(
    client: redis.Redis, server: EmbeddedServer
) -> None:
    """Each insert will tell."""
    url = limited_url(client, server, "info")

    (warning,) = check_durability(connect(url), Durability.REPLICA, url=url)

    assert "it is not known whether a replica is connected" in warning


def test_fsync_is_kept_with_always_by_a_server_whose_version_can_not_be_seen(
    client: redis.Redis, server: EmbeddedServer
) -> None:
    """Any server's answer comes after the fsync then; with everysec it depends on the server."""
    url = limited_url(client, server, "info")

    assert check_durability(connect(url), Durability.FSYNC, url=url) == []
    client.config_set("appendfsync", "everysec")
    with pytest.raises(InvalidArgumentError, match=r"read its version \(INFO\)"):
        check_durability(connect(url), Durability.FSYNC, url=url)


@pytest.mark.parametrize(
    ("version", "is_right"),
    [
        ({"redis_version": "7.0.15"}, False),
        ({"redis_version": "7.2.0", "gcc_version": "12.2.0"}, True),
        ({"redis_version": "8.2.3"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, False),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30"}, False),
        ({}, False),
    ],
)
def test_only_the_waitaof_of_redis_is_taken_at_its_word(
    version: dict[str, str], *, is_right: bool
) -> None:
    """Other servers call themselves Redis too, for old clients' sake."""
    assert is_right is waits_rightly(version)


def test_a_redis_before_waitaof_keeps_fsync_with_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue_name: str
) -> None:
    """7.0 has no WAITAOF: refused with everysec, kept with always."""
    binary = redis_binary(at_least=(7, 0), below=(7, 2))

    with server_of(binary, tmp_path, monkeypatch) as client:
        with pytest.raises(InvalidArgumentError, match="set appendfsync always"):
            check_durability(client, Durability.FSYNC, url="redis://host")
        client.config_set("appendfsync", "always")
        assert check_durability(client, Durability.FSYNC, url="redis://host") == []
        assert insert(Queue(client, queue_name, durability=Durability.FSYNC))[1]


def test_a_redis_whose_waitaof_is_right_keeps_fsync_with_everysec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue_name: str
) -> None:
    """8.2 waits for the next fsync; with appendfsync no there would be none."""
    binary = redis_binary(at_least=(7, 2), below=(9, 0))

    with server_of(binary, tmp_path, monkeypatch) as client:
        assert check_durability(client, Durability.FSYNC, url="redis://host") == []
        assert insert(Queue(client, queue_name, durability=Durability.FSYNC))[1]
        client.config_set("appendfsync", "no")
        with pytest.raises(InvalidArgumentError, match="leaves the fsync to chance"):
            check_durability(client, Durability.FSYNC, url="redis://host")


# replica


def test_a_primary_without_replicas_gives_a_warning_and_confirms_nothing(
    tmp_path: Path, queue_name: str, impatient: None
) -> None:
    """No refusal at the start: the replica may come back, and all but inserts goes on meanwhile."""
    with EmbeddedServer(tmp_path) as server:
        client = connect(server.url)

        (warning,) = check_durability(client, Durability.REPLICA, url=server.url)
        with pytest.raises(SubmissionNotConfirmedError, match="no replica has confirmed it"):
            insert(Queue(client, queue_name, durability=Durability.REPLICA))

    assert "no replica is connected" in warning


def test_an_insert_is_confirmed_by_a_replica(
    client: redis.Redis, server: EmbeddedServer, replica: EmbeddedServer, queue_name: str
) -> None:
    """The replica has it when the insert is answered."""
    new = new_submission(queue_name)
    assert check_durability(client, Durability.REPLICA, url=server.url) == []

    id_, _ = insert(Queue(client, queue_name, durability=Durability.REPLICA), new)

    there = Queue(connect(replica.url), queue_name)
    assert new.prefix == there.get_submission(SubmissionId(id_)).prefix


def test_a_repeated_insert_waits_too(
    client: redis.Redis,
    server: EmbeddedServer,
    replica: EmbeddedServer,
    queue_name: str,
    impatient: None,
) -> None:
    """Over another connection, where a wait without a write before it would answer at once."""
    other = Queue(connect(server.url), queue_name, durability=Durability.REPLICA)

    with stopped(replica):
        with pytest.raises(SubmissionNotConfirmedError) as first:
            insert(Queue(client, queue_name, durability=Durability.REPLICA))
        with pytest.raises(SubmissionNotConfirmedError) as second:
            insert(other)

    assert first.value.submission_id == second.value.submission_id
    wait_for_replica(client)
    assert (first.value.submission_id, False) == insert(other)


def test_a_script_that_the_server_forgot_is_waited_for_too(
    client: redis.Redis, replica: EmbeddedServer, queue_name: str, impatient: None
) -> None:
    """Its text is sent, and the wait again behind it."""
    queue = Queue(client, queue_name, durability=Durability.REPLICA)
    insert(queue)
    client.script_flush()

    with stopped(replica), pytest.raises(SubmissionNotConfirmedError):
        queue.insert_submission(new_submission(queue))
    wait_for_replica(client)
    client.script_flush()

    assert queue.insert_submission(new_submission(queue)).is_new


def test_an_insert_that_a_replica_confirmed_survives_its_primary(
    tmp_path: Path, queue_name: str
) -> None:
    """Killed right after the answer; the replica takes over."""
    with (
        EmbeddedServer(tmp_path / "primary", is_durable=False) as primary,
        replica_of(primary, tmp_path / "replica") as replica,
    ):
        client = server_client(primary.url)
        wait_for_replica(client)
        queue = Queue(client, queue_name, durability=Durability.REPLICA)

        ids = [queue.insert_submission(new_submission(queue)).id for _ in range(50)]
        primary.kill()
        heir = server_client(replica.url)
        heir.replicaof("NO", "ONE")

        after = Queue(heir, queue_name)
        assert ids == [after.get_submission(id_).id for id_ in ids]
        assert 50 == len(after.reserve_chunks("w1", limit=50).chunks)


def test_a_replica_gives_a_warning(replica: EmbeddedServer) -> None:
    """It would refuse every insert; the message names its primary."""
    (warning,) = check(connect(replica.url), url=replica.url)

    assert "is a replica of 127.0.0.1:" in warning
    assert "refuses to write" in warning


def test_a_replica_that_lost_its_primary_says_so(tmp_path: Path) -> None:
    """Nobody listens where its primary was."""
    arguments = ("--replicaof", "127.0.0.1", "1")
    with EmbeddedServer(tmp_path, arguments=arguments) as orphan:
        (warning,) = check(connect(orphan.url), url=orphan.url)

    assert "is a replica of 127.0.0.1:1, which it does not reach" in warning


def test_a_repeated_insert_waits_in_the_partition_that_knows_its_key(
    client: redis.Redis, server: EmbeddedServer, queue_name: str, impatient: None
) -> None:
    """Its key had another home when the queue had fewer partitions."""
    queue = Queue(client, queue_name)
    known = {
        key: queue.insert_submission(new_submission(queue), idempotency_key=key).id for key in KEYS
    }
    queue.set_partitions(4)
    client.config_set("appendfsync", "everysec")
    durable = Queue(client, queue_name, durability=Durability.FSYNC)

    for key, id_ in known.items():
        with pytest.raises(SubmissionNotConfirmedError) as caught:
            durable.insert_submission(new_submission(durable), idempotency_key=key)
        assert id_ == caught.value.submission_id
    client.config_set("appendfsync", "always")
    again = {
        key: durable.insert_submission(new_submission(durable), idempotency_key=key)
        for key in known
    }

    assert known == {key: inserted.id for key, inserted in again.items()}
    assert {False} == {inserted.is_new for inserted in again.values()}


@pytest.mark.parametrize("promise", [Durability.FSYNC, Durability.REPLICA])
def test_the_apis_acl_user_may_wait(
    client: redis.Redis,
    server: EmbeddedServer,
    replica: EmbeddedServer,
    queue_name: str,
    promise: Durability,
) -> None:
    """And may ask what the promise depends on."""
    secret = secrets.token_hex(8)
    line = user_line("api", name="durable-api", password=secret, durability=promise)
    _, name, *rules = line.split()
    client.execute_command("ACL", "SETUSER", name, *rules)  # type: ignore[no-untyped-call]  # redis-py has no type for it
    url = server.url.replace("//", f"//{name}:{secret}@")
    theirs = server_client(url)

    assert check_durability(theirs, promise, url=url) == []
    assert insert(Queue(theirs, queue_name, durability=promise))[1]
