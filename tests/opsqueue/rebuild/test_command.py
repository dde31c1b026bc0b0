"""`opsqueue rebuild`: its output and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from opsqueue.cli.commands import main
from opsqueue.http.manifest import store_manifest
from opsqueue.model.new_submission import NewSubmission
from opsqueue.producer import ProducerClient
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue.testing import LocalOpsqueue
from tests.opsqueue.rebuild.steps import app, insert


def test_the_command_says_what_it_does(
    own_client: redis.Redis, store_url: str, tmp_path: Path
) -> None:
    """A dry run changes nothing; a second run finds nothing to do."""
    own_client.flushall()
    store = open_store(store_url)
    local = LocalOpsqueue(app, own_client, store)
    producer = ProducerClient.over(local.api, store, queue="numbers", inline_bytes=0)
    insert(producer, *range(6))
    local.work("numbers", limit=1)
    own_client.flushall()
    port = own_client.connection_pool.connection_kwargs["port"]

    def run(*options: str) -> tuple[int, str]:
        arguments = ["rebuild", "--store", store_url, *options]
        environment = {"OPSQUEUE_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
        result = CliRunner().invoke(main, arguments, env=environment)
        return result.exit_code, result.output

    code, output = run("--dry-run")
    assert (code, own_client.dbsize()) == (0, 0)
    assert "would be inserted  1 of 3 chunks done  1 operation failed" in output
    assert "small submissions, whose chunks were in Redis, are lost" in output
    assert "queue numbers: 1 inserted again, 0 skipped" in run("--queue", "numbers")[1]
    assert "queue numbers: 0 inserted again, 0 skipped" in run()[1]
    store.delete_objects(key for key in list(store.list_prefix("")) if key.endswith("-in"))
    own_client.flushall()
    assert run()[0] == 1


def test_the_command_says_what_it_did_not_find(
    own_client: redis.Redis, store_url: str, tmp_path: Path
) -> None:
    """A wrong URL or name must not look as if there were nothing to restore."""
    store = open_store(store_url)
    local = LocalOpsqueue(app, own_client, store)
    insert(ProducerClient.over(local.api, store, queue="numbers", inline_bytes=0), 1)
    port = own_client.connection_pool.connection_kwargs["port"]

    def run(url: str, *options: str, port: int = port) -> tuple[int, str]:
        environment = {"OPSQUEUE_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
        result = CliRunner().invoke(main, ["rebuild", "--store", url, *options], env=environment)
        return result.exit_code, result.output

    for wrong in (f"file://{tmp_path}/typo", f"{store_url}/numbers"):
        code, output = run(wrong)
        assert code == 2
        assert "has no submissions: is this the store URL" in output
    code, output = run(store_url, "--queue", "numbrs")
    assert code == 2
    assert "has no queue numbrs: it has numbers" in output
    code, output = run(f"file://{tmp_path}/typo", port=1)
    assert code == 3
    assert "does not answer" in output


@pytest.mark.usefixtures("folding")
def test_of_two_queues_in_one_folder_the_one_asked_for_is_rebuilt(
    own_client: redis.Redis, tmp_path: Path
) -> None:
    """A case-insensitive disk holds both in one folder; the other one is named, not restored."""
    own_client.flushall()
    store = open_store(f"file://{tmp_path}/store?durable=false")
    for name, number in (("Jobs", "1"), ("jobs", "2")):
        prefix = f"{name}/{number * 32}"
        (tmp_path / "store" / "Jobs" / (number * 32)).mkdir(parents=True)
        store.create(f"{prefix}/0-in", b"\x91\x01")
        store_manifest(store, name, NewSubmission(prefix=prefix, chunks_total=1), "")
    port = own_client.connection_pool.connection_kwargs["port"]
    environment = {"OPSQUEUE_REDIS_URL": f"redis://127.0.0.1:{port}/0"}

    def run(*options: str) -> str:
        arguments = ["rebuild", "--store", store.url, *options]
        return CliRunner().invoke(main, arguments, env=environment).output

    assert "rebuild it with --queue jobs" in run()
    assert "rebuild it with --queue Jobs" in run("--queue", "jobs")
    for name, number in (("Jobs", "1"), ("jobs", "2")):
        assert Queue(own_client, name).lookup_prefix(f"{name}/{number * 32}")


def test_a_rebuild_takes_the_defaults_of_the_api(own_client: redis.Redis, store_url: str) -> None:
    """The store does not have options that an insert did not give."""
    own_client.flushall()
    store = open_store(store_url)
    prefix = f"numbers/{'1' * 32}"
    store.create(f"{prefix}/0-in", b"\x91\x01")
    given = NewSubmission(prefix=prefix, chunks_total=1, max_attempts=2)
    store_manifest(store, "numbers", given, "")
    port = own_client.connection_pool.connection_kwargs["port"]

    rebuilt = CliRunner().invoke(
        main,
        ["rebuild", "--store", store_url, "--default-max-attempts", "7"],
        env={
            "OPSQUEUE_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "OPSQUEUE_DEFAULT_RETENTION": "30d",
        },
    )

    assert rebuilt.exit_code == 0, rebuilt.output
    id_ = Queue(own_client, "numbers").lookup_prefix(prefix)
    assert id_ is not None
    restored = Queue(own_client, "numbers").get_submission(id_)
    assert (2, 30 * 24 * 3600 * 1000) == (restored.max_attempts, restored.retention_ms)
