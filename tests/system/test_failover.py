"""A master dies in the middle of the work: of a cluster, or one that Sentinels watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opsqueue.connection import connect
from opsqueue.consumer import ConsumerClient
from opsqueue.keys import base_key
from opsqueue.producer import ProducerClient
from opsqueue.queue import Queue
from tests.redis_sets import ClusterSet, SentinelSet, behind_sentinels, cluster, until
from tests.system.conftest import Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

CHUNKS = 500
OPERATIONS_A_CHUNK = 2
QUEUES = 8


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterSet | SentinelSet]:
    make = {"cluster": cluster, "sentinel": behind_sentinels}[request.param]
    with make(tmp_path / "servers") as formed:
        yield formed


def test_all_chunks_complete_though_a_master_is_killed_in_the_middle(
    servers: ClusterSet | SentinelSet, start: Start, store_url: str, queue_name: str
) -> None:
    """API, workers and a consumer find the new master by themselves; every count is exact."""
    store = f"{store_url}?durable=false"
    places = {"OPSQUEUE_REDIS_URL": servers.url, "OPSQUEUE_STORE_URL": store}
    names = [f"{queue_name}-{number}" for number in range(QUEUES)]
    client = connect(servers.url)
    queues = [Queue(client, name) for name in names]
    api = start("opsqueue_api", "--port", "0", **places)
    url = api.wait_for_line("ready on").rpartition(" ")[2]
    # Half of them small ones, whose outputs are in Redis, too.
    producers = [
        ProducerClient(url, store, queue=name, inline_bytes=(number % 2) * 262_144)
        for number, name in enumerate(names)
    ]
    ids = [
        producer.insert_submission(
            range(OPERATIONS_A_CHUNK * chunks_of(number)), chunk_size=OPERATIONS_A_CHUNK
        )
        for number, producer in enumerate(producers)
    ]
    workers = [
        start("opsqueue_worker", "eight_queues:app", "-c", "2", "--prefetch", "0",
              TEST_QUEUE=queue_name, **places)
        for _ in range(2)
    ]  # fmt: skip
    with ConsumerClient(servers.url, store, queue=names[0]) as consumer:
        consumed = consumer.reserve_chunks(max=1)
    assert len(consumed) == 1

    until(lambda: chunks_done(queues) >= CHUNKS // 5, "some chunks are done")
    victim = (
        servers.master_of(base_key(names[0]))
        if isinstance(servers, ClusterSet)
        else servers.master()
    )
    victim.kill()

    for number, (producer, id_) in enumerate(zip(producers, ids, strict=True)):
        expected = list(range(1, OPERATIONS_A_CHUNK * chunks_of(number) + 1))
        assert expected == list(producer.iter_results(id_))
    client.close()
    client = connect(servers.url)  # knows nothing of the old master, and so repeats nothing
    for number, name in enumerate(names):
        counts = Queue(client, name).count_queue()
        assert (chunks_of(number), 0) == (counts.stats["chunks_completed"], counts.backlog_chunks)
    for worker in workers:
        assert worker.popen.poll() is None, worker.output
    client.close()


def chunks_of(number: int) -> int:
    return CHUNKS // QUEUES + (number < CHUNKS % QUEUES)


def chunks_done(queues: list[Queue]) -> int:
    return sum(queue.count_queue().stats.get("chunks_completed", 0) for queue in queues)
