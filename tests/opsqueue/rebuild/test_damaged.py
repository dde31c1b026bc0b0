"""Submissions that can't be restored are reported and skipped."""

from __future__ import annotations

import json
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from opsqueue.contents.codec import open_codec
from opsqueue.producer import ProducerClient
from opsqueue.queue.cluster import run_on_all
from opsqueue.queue.rebuild import Rebuilt, Skipped, rebuild
from opsqueue.store import input_key, manifest_key, open_store, output_key
from opsqueue.testing import LocalOpsqueue
from tests.opsqueue.rebuild.steps import app, insert, the_rebuilt


@pytest.mark.parametrize("damage", ["cut-off", "too-few", "too-many", "empty"])
def test_a_damaged_output_is_said_and_runs_again_once_it_is_deleted(
    local: LocalOpsqueue, producer: ProducerClient, damage: str
) -> None:
    """Or the results could not be read when all is done."""
    lost = insert(producer, *range(0, 12, 2))
    local.work("numbers", limit=2)
    name = output_key(lost.prefix, 1)
    whole = local.store.get(name)
    local.store.delete_objects([name])
    codec = open_codec(lost.codec)
    local.store.create(
        name,
        {
            "cut-off": whole[:-1],
            "too-few": codec.encode([1]),
            "too-many": codec.encode([1, 2, 3]),
            "empty": b"",
        }[damage],
    )
    run_on_all(local.client, lambda server: server.flushall())

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
    run_on_all(local.client, lambda server: server.flushall())

    (outcome,) = rebuild(local.store, local.queue("numbers"))

    assert isinstance(outcome, Skipped)
    assert "idempotency key" in outcome.reason


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
        store.delete_objects(list(store.list_prefix("numbers")))
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
