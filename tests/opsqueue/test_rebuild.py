"""After Redis was lost, work goes on from what the store has; nothing is inserted twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from opsqueue import rebuild as rebuilding
from opsqueue.app import Opsqueue
from opsqueue.cli import main
from opsqueue.connection import connect
from opsqueue.embedded import EmbeddedServer
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.manifest import read_manifest
from opsqueue.new_submission import Backoff, NewSubmission
from opsqueue.partitioned import PartitionedQueue
from opsqueue.producer import ProducerClient
from opsqueue.rebuild import Rebuilt, Skipped, find_finished, rebuild
from opsqueue.store import ObjectStore, input_key, manifest_key, open_store, output_key
from opsqueue.submission import Submission, SubmissionState
from opsqueue.submission_api import QueueApi
from opsqueue.testing import LocalOpsqueue

KEPT = (
    "prefix",
    "codec",
    "chunks_total",
    "chunk_size",
    "operations_total",
    "max_failed_operations",
    "max_attempts",
    "backoff",
    "retention_ms",
    "delete_inputs_at_completion",
    "metadata",
    "strategic_metadata",
    "trace_context",
)

app = Opsqueue()


@app.operation_handler("numbers", on_error="collect")
def halve(operation: int) -> int:
    if operation % 2:
        message = f"{operation} is odd"
        raise ValueError(message)
    return operation // 2


@pytest.fixture(scope="module")
def own_client(tmp_path_factory: pytest.TempPathFactory):
    """A server of this module alone, to flush."""
    with EmbeddedServer(tmp_path_factory.mktemp("own"), is_durable=False) as server:
        client = connect(server.url)
        yield client
        client.close()


@pytest.fixture(params=["own_client", "fake_client"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    client: redis.Redis = request.getfixturevalue(request.param)
    client.flushall()
    return client


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def local(client: redis.Redis, store: ObjectStore) -> LocalOpsqueue:
    return LocalOpsqueue(app, client, store)


@pytest.fixture
def producer(local: LocalOpsqueue, store: ObjectStore) -> ProducerClient:
    return ProducerClient.over(local.api, store, queue="numbers", inline_bytes=0)


def insert(producer: ProducerClient, *operations: int, **options: Any) -> Submission:
    id_ = producer.insert_submission(operations, chunk_size=2, **options)
    return producer.get_submission(id_)


def the_rebuilt(local: LocalOpsqueue) -> Submission:
    (rebuilt,) = list(rebuild(local.store, local.queue("numbers")))
    assert isinstance(rebuilt, Rebuilt)
    assert rebuilt.submission_id is not None
    return local.queue("numbers").get_submission(rebuilt.submission_id)


def test_work_goes_on_after_redis_was_lost(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """With all settings; what was done is not done again, and results come in order."""
    lost = insert(
        producer,
        *range(9),
        metadata=b"\x00meta",
        strategic_metadata={"customer": -7},
        max_attempts=3,
        max_failed_operations=0.5,
        backoff=Backoff(first_ms=5, max_ms=50),
        retention=60.5,
        delete_inputs_at_completion=True,
    )
    local.work("numbers", limit=2)
    client.flushall()

    found = the_rebuilt(local)

    assert (found.chunks_done, found.operations_done, found.operations_failed) == (2, 4, 2)
    for name in KEPT:
        assert getattr(found, name) == getattr(lost, name), name
    assert local.work("numbers") == 3
    ended = producer.get_submission(found.id)
    assert ended.state is SubmissionState.COMPLETED
    assert (ended.chunks_done, ended.operations_done, ended.operations_failed) == (5, 9, 4)
    results = producer.blocking_stream_completed_submission(found.id, errors="skip")
    assert list(results) == [0, 1, 2, 3, 4]
    assert [error.index for error in producer.iter_errors(found.id)] == [1, 3, 5, 7]
    stats = local.queue("numbers").count_queue().stats
    assert (stats["chunks_completed"], stats["operations_completed"]) == (5, 9)
    assert (stats["operations_failed"], stats["chunks_inserted"]) == (4, 5)
    assert (stats["backlog_chunks"], stats["backlog_operations"]) == (0, 0)


def test_a_second_rebuild_changes_nothing(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """What Redis has is left alone, in progress or ended."""
    insert(producer, *range(4))
    client.flushall()
    found = the_rebuilt(local)

    again = list(rebuild(local.store, local.queue("numbers")))
    local.work("numbers")
    after = list(rebuild(local.store, local.queue("numbers")))

    assert (again, after) == ([], [])
    (only,) = local.queue("numbers").list_submissions().submissions
    assert (only.id, only.state) == (found.id, SubmissionState.COMPLETED)


def test_two_rebuilds_at_once_insert_one(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """Both may have found it unknown: the script looks once more."""
    lost = insert(producer, *range(4))
    client.flushall()
    new = read_manifest(local.store, lost.prefix).to_new_submission()
    finished = find_finished(local.store, new)
    on = local.queue("numbers")
    on.restore_submission(new, finished)

    with pytest.raises(InvalidArgumentError, match="belongs to submission"):
        on.restore_submission(new, finished)

    assert on.count_queue().stats["submissions_inserted"] == 1


class RebuiltMeanwhile(QueueApi):
    """Whose Redis is lost, and rebuilt, while a producer's insert is on its way."""

    def __init__(self, client: redis.Redis, store: ObjectStore, *, partitions: int = 1) -> None:
        super().__init__(client)
        self.client, self.store, self.partitions = client, store, partitions
        self.keeps_keys = True

    def insert(self, queue: str, new: NewSubmission, idempotency_key: str) -> Submission:
        self.client.flushall()
        on = PartitionedQueue(self.client, queue)
        on.set_partitions(self.partitions)
        if not self.keeps_keys:  # as of an older version
            key = manifest_key(new.prefix)
            manifest = json.loads(self.store.get(key))
            del manifest["idempotency_key"]
            self.store.delete_objects([key])
            self.store.create(key, json.dumps(manifest).encode())
        assert all(isinstance(outcome, Rebuilt) for outcome in rebuild(self.store, on))
        return super().insert(queue, new, idempotency_key)


@pytest.mark.parametrize("partitions", [1, 7])
@pytest.mark.parametrize("options", [{}, {"idempotency_key": "the same"}])
def test_an_insert_that_is_repeated_behind_a_rebuild_finds_what_that_restored(
    client: redis.Redis, store: ObjectStore, options: dict[str, Any], partitions: int
) -> None:
    """And its chunks stay; of the same key, too, under which another one was restored before."""
    api = RebuiltMeanwhile(client, store, partitions=partitions)
    producer = ProducerClient.over(api, store, queue="numbers", inline_bytes=0)

    for _ in range(2):
        id_ = producer.insert_submission([2, 4, 6], chunk_size=2, **options)

    found = PartitionedQueue(client, "numbers").list_submissions().submissions
    assert len(found) == 2
    assert id_ in [submission.id for submission in found]
    for submission in found:
        assert [store.exists(input_key(submission.prefix, index)) for index in (0, 1)] == [True] * 2


def test_an_insert_whose_key_was_not_restored_finds_its_submission_by_the_prefix(
    local: LocalOpsqueue, client: redis.Redis, store: ObjectStore
) -> None:
    api = RebuiltMeanwhile(client, store)
    api.keeps_keys = False
    producer = ProducerClient.over(api, store, queue="numbers", inline_bytes=0)

    id_ = producer.insert_submission([2, 4], chunk_size=2)

    assert [id_] == [s.id for s in local.queue("numbers").list_submissions().submissions]
    assert local.work("numbers") == 1
    assert list(producer.blocking_stream_completed_submission(id_)) == [1, 2]


def test_a_key_that_somebody_has_by_now_stays_theirs(
    local: LocalOpsqueue, producer: ProducerClient
) -> None:
    insert(producer, 1, idempotency_key="k")
    local.client.flushall()
    again = insert(producer, 1, idempotency_key="k")

    assert the_rebuilt(local).id != again.id

    assert insert(producer, 1, idempotency_key="k").id == again.id
    assert local.work("numbers") == 2


def test_a_damaged_output_is_said_and_runs_again_once_it_is_deleted(
    local: LocalOpsqueue, producer: ProducerClient
) -> None:
    """Or the results could not be read when all is done."""
    lost = insert(producer, *range(0, 12, 2))
    local.work("numbers", limit=2)
    name = output_key(lost.prefix, 1)
    whole = local.store.get(name)
    local.store.delete_objects([name])
    local.store.create(name, whole[:-1])
    local.client.flushall()

    (outcome,) = rebuild(local.store, local.queue("numbers"))

    assert isinstance(outcome, Skipped)
    assert f"{name} is damaged" in outcome.reason
    assert "delete it" in outcome.reason
    local.store.delete_objects([name])
    found = the_rebuilt(local)
    assert found.chunks_done == 1
    assert local.work("numbers") == 2
    assert list(producer.blocking_stream_completed_submission(found.id)) == list(range(6))


@pytest.mark.parametrize("key", ["\u00e4", "x" * 256, "\n"])
def test_a_key_that_can_be_none_is_said(
    local: LocalOpsqueue, producer: ProducerClient, key: str
) -> None:
    lost = insert(producer, 1)
    name = manifest_key(lost.prefix)
    manifest = json.loads(local.store.get(name)) | {"idempotency_key": key}
    local.store.delete_objects([name])
    local.store.create(name, json.dumps(manifest).encode())
    local.client.flushall()

    (outcome,) = rebuild(local.store, local.queue("numbers"))

    assert isinstance(outcome, Skipped)
    assert "idempotency key" in outcome.reason


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


@pytest.mark.parametrize("max_redo", [10, 2, 0])
def test_chunks_are_done_in_whatever_order(
    local: LocalOpsqueue,
    producer: ProducerClient,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    max_redo: int,
) -> None:
    """Those between finished ones run; beyond the bound, finished ones run again, to no effect."""
    lost = insert(producer, *range(0, 40, 2))
    local.work("numbers")
    gaps = [2, 3, 7]
    local.store.delete_objects([output_key(lost.prefix, index) for index in gaps])
    client.flushall()
    monkeypatch.setattr(rebuilding, "MAX_REDO", max_redo)

    found = the_rebuilt(local)

    known = {10: 7, 2: 5, 0: 2}[max_redo]
    assert (found.chunks_done, found.operations_done) == (known, 2 * known)
    assert local.work("numbers") == 10 - known
    assert list(producer.blocking_stream_completed_submission(found.id)) == list(range(20))


def test_a_submission_that_had_completed_is_completed_again(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """Also without its inputs; with the operations of a last chunk that is not full."""
    lost = insert(producer, 0, 2, 4)
    local.work("numbers")
    local.store.delete_objects([input_key(lost.prefix, index) for index in range(2)])
    client.flushall()

    found = the_rebuilt(local)

    assert (found.state, found.operations_done) == (SubmissionState.COMPLETED, 3)
    assert list(producer.blocking_stream_completed_submission(found.id)) == [0, 1, 2]


def test_more_failed_operations_than_allowed_fail_it_again(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """As the report did that passed the limit; a retry lets it go on."""
    insert(producer, 1, 3, 4, 6, max_failed_operations=1)
    local.work("numbers")
    client.flushall()

    found = the_rebuilt(local)

    assert (found.state, found.chunks_dropped) == (SubmissionState.FAILED, 1)
    assert found.failure is not None
    assert found.failure.is_of_operations
    local.queue("numbers").retry_submission(found.id)
    assert local.work("numbers") == 1


def test_what_can_not_be_restored_is_said_and_skipped(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """And the others are restored."""
    no_input, no_manifest, damaged, whole = (insert(producer, 0, 2, 4) for _ in range(4))
    local.store.delete_objects([input_key(no_input.prefix, 1)])
    local.store.delete_objects([manifest_key(no_manifest.prefix), manifest_key(damaged.prefix)])
    local.store.create(manifest_key(damaged.prefix), b"{")
    client.flushall()

    outcomes = {outcome.prefix: outcome for outcome in rebuild(local.store, local.queue("numbers"))}

    for lost, reason in (
        (no_input, "inputs are missing, of 1 of 2 chunks (first: 1)"),
        (no_manifest, "no manifest"),
        (damaged, "can't be read"),
    ):
        skipped = outcomes.pop(lost.prefix)
        assert isinstance(skipped, Skipped)
        assert reason in skipped.reason
    assert isinstance(outcomes.pop(whole.prefix), Rebuilt)
    assert outcomes == {}


def test_deleting_a_submission_deletes_its_manifest(
    local: LocalOpsqueue, producer: ProducerClient
) -> None:
    """It lies below the prefix, as all does."""
    prefix = insert(producer, 0, 2).prefix
    was_there = local.store.exists(manifest_key(prefix))

    local.store.delete_prefix(prefix)

    assert was_there
    assert not local.store.exists(manifest_key(prefix))


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


def test_what_only_looks_like_a_chunk_is_none(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """Whoever can write to the store may have left anything there."""
    lost = insert(producer, 0, 2, 4)
    local.store.delete_objects([input_key(lost.prefix, 1)])
    for name in ("01-in", "\u0661-in", "1-in/x", "1_-in", "+1-in", "1", "-in", "99-out", "1-IN"):
        local.store.create(f"{lost.prefix}/{name}", b"")
    client.flushall()

    (outcome,) = rebuild(local.store, local.queue("numbers"))

    assert isinstance(outcome, Skipped)
    assert "inputs are missing, of 1 of 2 chunks (first: 1)" in outcome.reason


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ({"chunks_total": 2**32 - 1, "operations_total": 2**33 - 2}, "(first: 2)"),
        ({"chunks_total": 10**400}, "chunks_total is"),
        ({"operations": "DEEP"}, "can't be read"),
        ({"prefix": "../numbers"}, "prefix"),
        ({"codec": "\ud800"}, "can't be read"),
    ],
)
def test_a_damaged_manifest_costs_no_more_than_what_is_there(
    local: LocalOpsqueue,
    producer: ProducerClient,
    client: redis.Redis,
    damaged: dict[str, Any],
    reason: str,
) -> None:
    """Neither memory for billions of chunks nor the rebuild of the others."""
    lost, whole = insert(producer, 0, 2, 4), insert(producer, 6)
    key = manifest_key(lost.prefix)
    manifest = json.loads(local.store.get(key))
    manifest["submission"] |= damaged
    local.store.delete_objects([key])
    deep = "[" * 100_000 + "]" * 100_000
    local.store.create(key, json.dumps(manifest).replace('"DEEP"', deep).encode())
    client.flushall()

    outcomes = {outcome.prefix: outcome for outcome in rebuild(local.store, local.queue("numbers"))}

    skipped = outcomes[lost.prefix]
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason
    assert isinstance(outcomes[whole.prefix], Rebuilt)


def test_whatever_became_of_its_objects_a_rebuild_goes_on(queue_name: str) -> None:
    """Each prefix is restored or skipped with a reason, and never stops the ones behind it."""
    store = open_store(f"memory://{queue_name}")
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(server_type="valkey"), protocol=2)
    local = LocalOpsqueue(app, client, store)
    producer = ProducerClient.over(local.api, store, queue="numbers", inline_bytes=0)

    @settings(max_examples=30, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 3), st.integers(0, 700), st.binary(max_size=9), st.booleans())
    def damage(which: int, at: int, put: bytes, is_cut: bool) -> None:  # noqa: FBT001 drawn
        client.flushall()
        store.delete_prefix("numbers")
        lost = insert(producer, 0, 1, 2)
        local.work("numbers", limit=1)
        keys = sorted(store.list_prefix("numbers"))
        key = keys[which % len(keys)]
        data = store.get(key)
        store.delete_objects([key])
        store.create(key, data[:at] + put + (b"" if is_cut else data[at + len(put) :]))
        client.flushall()

        (outcome,) = rebuild(store, local.queue("numbers"))

        assert lost.prefix == outcome.prefix
        assert isinstance(outcome, Rebuilt) or outcome.reason
        for submission in local.queue("numbers").list_submissions().submissions:
            assert submission.operations_failed <= submission.operations_done

    damage()
