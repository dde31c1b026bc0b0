"""A producer may be repeating the insert that a rebuild restores."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from opsqueue.model.answers import Inserted
from opsqueue.model.new_submission import NewSubmission
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import run_on_all
from opsqueue.queue.queue import Queue
from opsqueue.queue.rebuild import Rebuilt, rebuild
from opsqueue.store import ObjectStore, input_key, manifest_key
from opsqueue.testing import LocalOpsqueue
from tests.opsqueue.rebuild.steps import insert, the_rebuilt


class RebuiltMeanwhile(Queue):
    """Whose Redis is lost, and rebuilt, while a producer's insert is on its way."""

    def __init__(self, client: redis.Redis, store: ObjectStore, *, partitions: int = 1) -> None:
        super().__init__(client, "numbers")
        self.client, self.store, self.spread_over = client, store, partitions
        self.keeps_keys = True

    def insert_submission(self, new: NewSubmission, **options: Any) -> Inserted:
        self.client.flushall()
        on = Queue(self.client, self.name)
        on.set_partitions(self.spread_over)
        if not self.keeps_keys:  # as of an older version
            key = manifest_key(new.prefix)
            manifest = json.loads(self.store.get(key))
            del manifest["idempotency_key"]
            self.store.delete_objects([key])
            self.store.create(key, json.dumps(manifest).encode())
        assert all(isinstance(outcome, Rebuilt) for outcome in rebuild(self.store, on))
        return super().insert_submission(new, **options)


@pytest.mark.parametrize("partitions", [1, 7])
@pytest.mark.parametrize("options", [{}, {"idempotency_key": "the same"}])
def test_an_insert_that_is_repeated_behind_a_rebuild_finds_what_that_restored(
    client: redis.Redis, store: ObjectStore, options: dict[str, Any], partitions: int
) -> None:
    """And its chunks stay; of the same key, too, under which another one was restored before."""
    queue = RebuiltMeanwhile(client, store, partitions=partitions)
    api = RedisBackend(client, queue_of=lambda _: queue)
    producer = ProducerClient.over(api, store, queue="numbers", inline_bytes=0)

    for _ in range(2):
        id_ = producer.insert_submission([2, 4, 6], chunk_size=2, **options)

    found = Queue(client, "numbers").list_submissions().submissions
    assert len(found) == 2
    assert id_ in [submission.id for submission in found]
    for submission in found:
        assert [store.exists(input_key(submission.prefix, index)) for index in (0, 1)] == [True] * 2


def test_an_insert_whose_key_was_not_restored_finds_its_submission_by_the_prefix(
    local: LocalOpsqueue, client: redis.Redis, store: ObjectStore
) -> None:
    queue = RebuiltMeanwhile(client, store)
    api = RedisBackend(client, queue_of=lambda _: queue)
    queue.keeps_keys = False
    producer = ProducerClient.over(api, store, queue="numbers", inline_bytes=0)

    id_ = producer.insert_submission([2, 4], chunk_size=2)

    assert [id_] == [s.id for s in local.queue("numbers").list_submissions().submissions]
    assert local.work("numbers") == 1
    assert list(producer.blocking_stream_completed_submission(id_)) == [1, 2]


def test_a_key_that_somebody_has_by_now_stays_theirs(
    local: LocalOpsqueue, producer: ProducerClient
) -> None:
    insert(producer, 1, idempotency_key="k")
    run_on_all(local.client, lambda server: server.flushall())
    again = insert(producer, 1, idempotency_key="k")

    assert the_rebuilt(local).id != again.id

    assert insert(producer, 1, idempotency_key="k").id == again.id
    assert local.work("numbers") == 2
