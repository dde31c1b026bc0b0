"""`opsqueue doctor`: its findings, its advice, and its exit code."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from opsqueue.cli import checks
from opsqueue.cli.checks import Finding, Level
from opsqueue.cli.commands import main
from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import ApiUnavailableError, InvalidArgumentError
from opsqueue.http import client as http_client
from opsqueue.model.new_submission import NewSubmission
from opsqueue.producer import http_api
from opsqueue.queue.connection import connect, server_client
from opsqueue.queue.queue import Queue
from opsqueue.store.memory import MemoryStore
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.cli.conftest import Document, Run


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Set up as it should be, and nobody else's."""
    with EmbeddedServer(tmp_path_factory.mktemp("durable")) as server:
        yield server


@pytest.fixture
def real_client(durable: EmbeddedServer) -> Iterator[redis.Redis]:
    """The API's, too."""
    client = server_client(durable.url)
    client.flushall()
    yield client
    client.close()


def by_check(document: Any) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in document["findings"]}


def test_all_is_well(run: Run, document: Document, durable: EmbeddedServer) -> None:
    """Exit code 0, and nothing is left in the store."""
    found = by_check(document(run("doctor", "--json", OPSQUEUE_REDIS_URL=durable.url)))
    shown = run("doctor", OPSQUEUE_REDIS_URL=durable.url)

    assert {"good"} == {finding["level"] for finding in found.values()}
    assert {
        *("redis", "redis-version", "redis-eviction", "redis-persistence", "clock"),
        *("durability-fsync", "durability-replica"),
        *("store", "api", "api-version", "api-token", "queue"),
    } == found.keys()
    assert "✓ store: " in shown.stdout


def test_work_without_workers_is_a_warning(
    run: Run, document: Document, durable: EmbeddedServer, real_client: redis.Redis
) -> None:
    """A paused queue is one, too; each warning says what helps."""
    for name in ("idle", "paused"):
        Queue(real_client, name).insert_submission(
            NewSubmission(prefix=fresh_prefix(name), chunks_total=3)
        )
    Queue(real_client, "paused").pause_queue()

    shown = run("doctor", OPSQUEUE_REDIS_URL=durable.url)

    assert 0 == shown.exit_code
    assert "! queue: queue idle has 3 chunks to do and no worker" in shown.stdout
    assert "→ `opsqueue resume paused` resumes it" in shown.stdout


def test_a_server_that_evicts_is_a_problem(
    run: Run, durable: EmbeddedServer, real_client: redis.Redis
) -> None:
    """The exit code is 1; a missing append-only file is only a warning."""
    real_client.config_set("maxmemory-policy", "allkeys-lru")
    real_client.config_set("appendonly", "no")

    shown = run("doctor", OPSQUEUE_REDIS_URL=durable.url)

    real_client.config_set("maxmemory-policy", "noeviction")
    real_client.config_set("appendonly", "yes")
    assert 1 == shown.exit_code
    assert "✗ redis-eviction: evicts keys" in shown.stdout
    assert "→ set it to noeviction" in shown.stdout
    assert "! redis-persistence: keeps no append-only file" in shown.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {"OPSQUEUE_API_URL": "http://127.0.0.1:1"},
        {"OPSQUEUE_REDIS_URL": "redis://127.0.0.1:1"},
        {"OPSQUEUE_STORE_URL": "file:///proc/no-such-folder"},
    ],
)
def test_what_is_given_must_be_reachable(
    run: Run, durable: EmbeddedServer, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the exit code is 3; the other checks still run."""
    monkeypatch.setattr(http_client.Patience, "pauses_s", lambda _: iter(()))

    shown = run("doctor", **{"OPSQUEUE_REDIS_URL": durable.url, **variables})

    assert 3 == shown.exit_code, shown.output
    assert 1 == shown.stdout.count("✗")
    assert "queue: " in shown.stdout


def test_a_store_that_replaces_objects_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such a store would let a late worker replace results."""

    class Forgetful(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            self.delete_prefix(key.rpartition("/")[0])
            return super().create(key, data)

    monkeypatch.setattr(checks, "open_store", lambda _: Forgetful(str(tmp_path)))

    (finding,) = checks.check_store("memory://x", None)

    assert Level.UNREACHABLE is finding.level
    assert "does not keep the first object" in finding.text


def test_a_refused_token_is_a_problem(
    run: Run, durable: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is, although the version can be read without a token."""

    def refuse(_: object) -> None:
        message = "the API refused (401)"
        raise InvalidArgumentError(message)

    monkeypatch.setattr(http_api.HttpBackend, "queues", refuse)

    shown = run("doctor", OPSQUEUE_REDIS_URL=durable.url)

    assert 1 == shown.exit_code
    assert "✗ api-token: the API refused (401)\n  → give OPSQUEUE_API_TOKEN" in shown.stdout


def test_an_api_whose_redis_is_away_is_not_said_to_be_away_itself(
    run: Run, durable: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def can_not_serve(_: object) -> None:
        message = "the API can't serve: Redis does not answer"
        raise ApiUnavailableError(message)

    monkeypatch.setattr(http_api.HttpBackend, "queues", can_not_serve)

    shown = run("doctor", OPSQUEUE_REDIS_URL="redis://127.0.0.1:1/0")

    assert 3 == shown.exit_code
    assert "✓ api: the API answers at" in shown.stdout
    assert "✗ api-redis: the API can't serve: Redis does not answer\n  → start" in shown.stdout
    assert "neither Redis nor the API" not in shown.stdout


def test_another_version_and_another_time_are_warnings(
    run: Run, durable: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warnings say what the difference causes and what helps."""
    monkeypatch.setattr(http_api.HttpBackend, "version", lambda _: "0.0.9")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 60)

    shown = run("doctor", OPSQUEUE_REDIS_URL=durable.url)

    assert 0 == shown.exit_code
    assert "! api-version: the API is 0.0.9, this command" in shown.stdout
    assert "! clock: this machine's clock is 60.0 s ahead of the server's" in shown.stdout


def test_replicas_are_looked_at() -> None:
    """A replica accepts no writes, and one that lags would lose them."""
    replica = {"role": "slave", "master_host": "a", "master_port": 6379}
    late = {"ip": "b", "port": 6379, "state": "online", "lag": 60}
    primary = {"role": "master", "connected_slaves": 1}

    def found(info: dict[str, Any]) -> Finding:
        (finding,) = checks._replication_findings(info)
        return finding

    assert Level.PROBLEM is found(replica).level
    assert (
        "has replicas that are not up to date (b:6379): a fail-over now would lose what they lack"
        == found({**primary, "slave0": late}).text
    )
    assert Level.GOOD is found({**primary, "slave0": {**late, "lag": 0}}).level
    assert [] == list(checks._replication_findings({**primary, "connected_slaves": 0}))


def test_delete_is_of_orphans_alone() -> None:
    """Without --orphans the exit code is 2, since doctor itself deletes nothing."""
    ended = CliRunner().invoke(main, ["doctor", "--delete"])

    assert (ended.exit_code, "need --orphans" in ended.output) == (2, True)


def test_orphans_need_a_store() -> None:
    """The exit code is 2, and the message names the missing option."""
    ended = CliRunner().invoke(main, ["doctor", "--orphans"])

    assert (ended.exit_code, "give --store-url" in ended.output) == (2, True)


def test_orphans_are_listed_and_deleted(redis_url: str, tmp_path: Path, queue_name: str) -> None:
    """The exit code is 1 while there are some and 0 afterwards; young uploads are kept."""
    Queue(connect(redis_url), queue_name).heartbeat("w1")
    old, young = (tmp_path / queue_name / f"{ms:012x}{'a' * 20}" / "0-in" for ms in (1, 2**47 - 1))
    for path in (old, young):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    arguments = [
        *("doctor", "--orphans", "--redis-url", redis_url, "--store-url", f"file://{tmp_path}")
    ]

    listed = CliRunner().invoke(main, arguments)
    deleted = CliRunner().invoke(main, [*arguments, "--delete", "--yes"])

    assert (listed.exit_code, deleted.exit_code) == (1, 0)
    assert old.parent.name in listed.output
    assert (old.exists(), young.exists()) == (False, True)
