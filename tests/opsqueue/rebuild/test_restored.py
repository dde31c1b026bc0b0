"""After Redis was lost, work continues from the store; nothing is inserted twice."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.http.manifest import read_manifest
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue import rebuild as rebuilding
from opsqueue.queue.rebuild import find_finished, rebuild
from opsqueue.store import input_key, manifest_key, output_key
from opsqueue.testing import LocalOpsqueue
from tests.opsqueue.rebuild.steps import insert, the_rebuilt

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


def test_deleting_a_submission_deletes_its_manifest(
    local: LocalOpsqueue, producer: ProducerClient
) -> None:
    """It lies below the prefix, as all does."""
    prefix = insert(producer, 0, 2).prefix
    was_there = local.store.exists(manifest_key(prefix))

    local.store.delete_prefix(prefix)

    assert was_there
    assert not local.store.exists(manifest_key(prefix))


def test_many_are_restored_in_the_order_of_their_uploads(
    local: LocalOpsqueue, producer: ProducerClient, client: redis.Redis
) -> None:
    """More than are read at a time; how far it is is told after each."""
    lost = [insert(producer, number).prefix for number in range(3 * rebuilding.AT_ONCE)]
    client.flushall()
    told: list[tuple[int, int]] = []

    outcomes = list(
        rebuild(
            local.store,
            local.queue("numbers"),
            on_progress=lambda done, total: told.append((done, total)),
        )
    )

    assert sorted(lost) == [outcome.prefix for outcome in outcomes]
    assert told == [(number, len(lost)) for number in range(1, len(lost) + 1)]
