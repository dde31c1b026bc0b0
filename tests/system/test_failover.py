"""A master dies during the work, in a cluster or with Sentinels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opsqueue.consumer import ConsumerClient
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from tests.redis_sets import (
    MASTERS,
    WITHIN_S,
    ClusterSet,
    Place,
    SentinelSet,
    behind_sentinels,
    cluster,
    until,
)
from tests.system.conftest import Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

CHUNKS = 500
OPERATIONS_A_CHUNK = 2
QUEUES = 8
HIT = 3
"""Queues whose master is killed, at least."""
CHUNKS_BEFORE = 20
"""Of the consumer's queue."""


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterSet | SentinelSet]:
    make: dict[str, Place] = {"cluster": cluster, "sentinel": behind_sentinels}
    with make[request.param](tmp_path / "servers") as formed:
        yield formed


def test_all_chunks_complete_though_a_master_is_killed_in_the_middle(
    servers: ClusterSet | SentinelSet, start: Start, store_url: str, queue_name: str
) -> None:
    """API, workers and a consumer find the new master by themselves; every count is exact.

    The consumer alone serves the first queue. That one and two others or more, small and stored,
    lie on the master that is killed.
    """
    store = f"{store_url}?durable=false"
    places = {"OPSQUEUE_REDIS_URL": servers.url, "OPSQUEUE_STORE_URL": store}
    prefix = next(
        prefix
        for number in range(1_000)
        if are_well_spread(servers, names_of(prefix := f"{queue_name}-{number}"))
    )
    names = names_of(prefix)
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
    victim = master_of(servers, names[0])
    hit = [queue for queue in queues if master_of(servers, queue.name) is victim]
    workers = [
        start("opsqueue_worker", "eight_queues:app", "-c", "2", "--prefetch", "0",
              "--queues", ",".join(names[1:]), TEST_QUEUE=prefix, **places)
        for _ in range(2)
    ]  # fmt: skip
    is_killed = threading.Event()
    with consuming(ConsumerClient(servers.url, store, queue=names[0]), is_killed) as consumed:
        until(lambda: chunks_done(queues) >= CHUNKS // 5, "some chunks are done")
        until(lambda: all(chunks_done([queue]) for queue in hit), "of each, too")
        left = [queue.count_queue().backlog_chunks for queue in hit]
        victim.kill()
        is_killed.set()

        for number, (producer, id_) in enumerate(zip(producers, ids, strict=True)):
            expected = list(range(1, OPERATIONS_A_CHUNK * chunks_of(number) + 1))
            assert expected == list(producer.iter_results(id_))

    assert all(left), "a queue was through before its master was killed"
    assert victim is not master_of(servers, names[0])
    assert OPERATIONS_A_CHUNK * chunks_of(0) <= len(consumed)
    client.close()
    client = connect(servers.url)  # knows nothing of the old master, and so repeats nothing
    for number, (name, id_) in enumerate(zip(names, ids, strict=True)):
        queue, operations = Queue(client, name), OPERATIONS_A_CHUNK * chunks_of(number)
        done, counts = queue.get_submission(id_), queue.count_queue()
        assert (chunks_of(number), operations) == (done.chunks_done, done.operations_done)
        assert chunks_of(number) == counts.stats["chunks_completed"]
        assert operations == counts.stats["operations_completed"]
        assert 1 == counts.stats["submissions_completed"]
        assert (0, 0) == (counts.backlog_chunks, counts.chunks_in_hand)
        assert {SubmissionState.COMPLETED: 1} == {k: n for k, n in counts.submissions.items() if n}
    for worker in workers:
        assert worker.popen.poll() is None, worker.output
    client.close()


def names_of(prefix: str) -> list[str]:
    """As `eight_queues.py` has them."""
    return [f"{prefix}-{number}" for number in range(QUEUES)]


def master_of(servers: ClusterSet | SentinelSet, name: str) -> EmbeddedServer:
    return (
        servers.master_of(base_key(name)) if isinstance(servers, ClusterSet) else servers.master()
    )


def are_well_spread(servers: ClusterSet | SentinelSet, names: list[str]) -> bool:
    """Whether every master has some, and that of the first HIT of them, of both kinds."""
    masters = MASTERS if isinstance(servers, ClusterSet) else 1
    ports = [master_of(servers, name).port for name in names]
    hit = [number for number, port in enumerate(ports) if port == ports[0]]
    return masters == len(set(ports)) and HIT <= len(hit) and {0, 1} == {n % 2 for n in hit}


@contextmanager
def consuming(consumer: ConsumerClient, may_go_on: threading.Event) -> Iterator[list[int]]:
    """Run a consumer, which must not end by itself; return the operations that it got.

    In the middle of its queue it waits until the test lets it continue.
    """
    given: list[int] = []
    ended: list[BaseException | None] = []

    def add_one(number: int) -> int:
        given.append(number)
        if len(given) > CHUNKS_BEFORE * OPERATIONS_A_CHUNK:
            may_go_on.wait(WITHIN_S)
        return number + 1

    def work() -> None:
        try:
            consumer.run_each_op(add_one)
            ended.append(None)
        except BaseException as exc:  # noqa: BLE001 told below
            ended.append(exc)

    thread = threading.Thread(target=work)
    with consumer:
        thread.start()
        try:
            yield given
            assert not ended
        finally:
            consumer.stop()
            thread.join()
    assert [None] == ended


def chunks_of(number: int) -> int:
    return CHUNKS // QUEUES + (number < CHUNKS % QUEUES)


def chunks_done(queues: list[Queue]) -> int:
    return sum(queue.count_queue().stats.get("chunks_completed", 0) for queue in queues)
