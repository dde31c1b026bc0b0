"""A queue gets partitions while its programs run, and they serve these without a restart."""

from __future__ import annotations

import pytest
import redis

from opsqueue.consumer import ConsumerClient, Strategy
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue.queue import Queue
from tests.redis_sets import until
from tests.system.conftest import Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SUBMISSIONS = 24
PARTITIONS = 4


@pytest.fixture
def store(store_url: str) -> str:
    return f"{store_url}?durable=false"


@pytest.fixture
def api_url(start: Start, redis_url: str, store: str) -> str:
    api = start(
        "opsqueue_api", "--port", "0", OPSQUEUE_REDIS_URL=redis_url, OPSQUEUE_STORE_URL=store
    )
    return api.wait_for_line("ready on").rpartition(" ")[2]


@pytest.fixture
def producer(api_url: str, store: str, queue_name: str) -> ProducerClient:
    """Over an API that has known the queue with one partition."""
    producer = ProducerClient(api_url, store, queue=queue_name)
    producer.insert_submission([1], chunk_size=1)
    return producer


def insert_in_all(producer: ProducerClient) -> list[SubmissionId]:
    """Insert until the API has used each partition; it learns of new ones in seconds."""
    ids: list[SubmissionId] = []

    def is_spread() -> bool:
        ids.append(producer.insert_submission([len(ids), 10], chunk_size=1))
        return {id_ % 100 for id_ in ids} == set(range(PARTITIONS))

    until(is_spread, "the API uses all partitions")
    return ids


def test_a_worker_serves_partitions_that_come_while_it_runs(
    producer: ProducerClient, start_worker: Start, real_client: redis.Redis
) -> None:
    queue = Queue(real_client, producer.queue)
    queue.set_partitions(2)
    worker = start_worker()
    queue.set_partitions(PARTITIONS)

    ids = insert_in_all(producer)

    results = [list(producer.iter_results(id_)) for id_ in ids]
    assert [[number + 1, 11] for number in range(len(ids))] == results
    assert f"also serving its new partition {producer.queue}/03" in worker.output
    counts = queue.count_queue()
    assert 1 + 2 * len(ids) == counts.stats["chunks_completed"]
    assert (0, 0) == (counts.backlog_chunks, counts.chunks_in_hand)


@pytest.mark.parametrize("over", ["redis", "http"])
def test_a_consumer_works_on_all_partitions(
    producer: ProducerClient, real_client: redis.Redis, redis_url: str, api_url: str, store: str,
    over: str,
) -> None:  # fmt: skip
    """What it holds has tokens of their partitions, which come back with the reports."""
    queue = Queue(real_client, producer.queue)
    queue.set_partitions(PARTITIONS)
    ids = insert_in_all(producer)
    url = redis_url if over == "redis" else api_url

    with ConsumerClient(url, store, queue=producer.queue) as consumer:
        left = 1 + 2 * len(ids)
        while left:
            for chunk in consumer.reserve_chunks(max=7, strategy=Strategy.Oldest()):
                consumer.complete_chunk(
                    chunk.submission_id,
                    chunk.submission_prefix,
                    chunk.chunk_index,
                    chunk.input_content,
                )
                left -= 1

    for id_ in ids:
        assert producer.get_submission(id_).state is SubmissionState.COMPLETED
    assert queue.list_workers() == []
