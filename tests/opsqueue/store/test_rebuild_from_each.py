"""What Redis has lost is restored from a store of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsqueue.producer import ProducerClient
from opsqueue.queue.rebuild import Rebuilt, queues_in, rebuild
from opsqueue.testing import LocalOpsqueue
from tests.opsqueue.rebuild.steps import app

if TYPE_CHECKING:
    import redis

    from opsqueue.store import ObjectStore


def test_work_goes_on_from_what_the_store_has(store: ObjectStore, fake_client: redis.Redis) -> None:
    """Two submissions, one half done and one not begun; nothing is done twice."""
    local = LocalOpsqueue(app, fake_client, store)
    producer = ProducerClient.over(local.api, store, queue="numbers", inline_bytes=0)
    begun = producer.insert_submission(range(23), chunk_size=2, strategic_metadata={"customer": 7})
    local.work("numbers", limit=5)
    before = producer.get_submission(begun)
    producer.insert_submission(range(3), chunk_size=2)
    fake_client.flushall()

    assert queues_in(store) == ["numbers"]
    first, second = rebuild(store, local.queue("numbers"))

    assert isinstance(first, Rebuilt)
    assert isinstance(second, Rebuilt)
    assert first.submission_id is not None
    assert second.submission_id is not None
    assert (first.prefix, first.chunks_done, first.operations_failed) == (before.prefix, 5, 5)
    assert (second.chunks_done, second.chunks_total) == (0, 2)
    assert local.work("numbers") == 12 - 5 + 2
    found = producer.get_submission(first.submission_id)
    assert found.strategic_metadata == {"customer": 7}
    assert (found.operations_done, found.operations_failed) == (23, 11)
    results = producer.blocking_stream_completed_submission(first.submission_id, errors="skip")
    assert list(results) == list(range(12))
    results = producer.blocking_stream_completed_submission(second.submission_id, errors="skip")
    assert list(results) == [0, 1]
    assert list(rebuild(store, local.queue("numbers"))) == []
