"""Everything around a worker fails while 200 chunks run: all complete, each counted once."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import redis

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import server_client
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue.testing.embedded import EmbeddedServer
from tests.chaos.proxy import Loop, Proxy
from tests.system.conftest import Process, Start
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

QUICK = ("--heartbeat-interval", "0.3", "--heartbeat-timeout", "1.5")
CHUNKS = 200


@dataclass
class Run:
    """A queue on a server of its own, a submission in it, and a log of what ran."""

    server: EmbeddedServer
    client: redis.Redis
    producer: ProducerClient
    queue: Queue
    log: Path
    environment: dict[str, str]

    def submit(self, chunks: int = CHUNKS) -> SubmissionId:
        return self.producer.insert_submission([["log", str(self.log)]] * chunks, chunk_size=1)

    def wait_until_some_ran(self, count: int = 20) -> None:
        until(lambda: len(self.runs()) >= count)

    def runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def done(self, submission_id: SubmissionId) -> int:
        return self.status(submission_id).chunks_done

    def status(self, submission_id: SubmissionId) -> Submission:
        status = self.producer.get_submission(submission_id)
        assert status is not None
        return status

    def check(
        self, submission_id: SubmissionId, chunks: int = CHUNKS, within_s: float = 60
    ) -> None:
        """Check that the results are complete and in order, counted once, and none reserved."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                status = self.producer.wait_for_submission(submission_id, timeout=within_s)
                break
            except RedisUnavailableError:
                assert time.monotonic() < deadline
        assert list(self.producer.try_stream_completed_submission(submission_id)) == list(
            range(chunks)
        )
        assert (status.chunks_done, status.operations_done) == (chunks, chunks)
        until(lambda: self.queue.count_queue().chunks_in_hand == 0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with EmbeddedServer(tmp_path / "redis", arguments=("--appendfsync", "always")) as server:
        client = server_client(server.url)
        store_url = f"file://{tmp_path}/store?durable=false"
        name = f"recovery-{secrets.token_hex(4)}"
        producer = ProducerClient.over(RedisBackend(client), open_store(store_url), queue=name)
        yield Run(
            server=server,
            client=client,
            producer=producer,
            queue=Queue(client, name),
            log=tmp_path / "log",
            environment={
                "OPSQUEUE_REDIS_URL": server.url,
                "OPSQUEUE_STORE_URL": store_url,
                "TEST_QUEUE": name,
            },
        )
        producer.close()
        client.close()


@pytest.fixture
def start_quick(start: Start, run: Run) -> Start:
    def start_ready(*arguments: str, **environment: str) -> Process:
        worker = start(
            *("opsqueue_worker", "tasks:app", "-c", "2", *QUICK, *arguments),
            **(run.environment | environment),
        )
        worker.wait_for_line("ready")
        return worker

    return start_ready


def test_a_killed_child_is_replaced_and_its_chunk_taken_over_within_a_second(
    start_quick: Start, run: Run
) -> None:
    """The parent notices at once; the chunk's failure tells the signal."""
    worker = start_quick()
    submission_id = run.submit()
    run.wait_until_some_ran()

    victim = worker.children()[0]
    victim.kill()
    began = time.monotonic()
    until(lambda: run.status(submission_id).last_failure is not None)
    noticed_s = time.monotonic() - began

    run.check(submission_id)
    failure = run.status(submission_id).last_failure
    assert failure is not None
    assert "SIGKILL" in failure.message
    assert noticed_s < 1.0
    until(lambda: len(worker.children()) == 2)


def test_a_server_that_restarts_finds_its_worker_again(start_quick: Start, run: Run) -> None:
    """Killed and started on the same data: work goes on within 2 s, without a new worker."""
    # The shortest: what the killed server had just reserved is released after twice that.
    worker = start_quick("--redis-timeout", "6")
    submission_id = run.submit()
    run.wait_until_some_ran()

    run.server.kill()
    run.server.start()
    began = time.monotonic()
    before = run.done(submission_id)
    until(lambda: run.done(submission_id) > before + 3)

    assert time.monotonic() - began < 4.0  # 2 s, and as much for a busy machine
    run.check(submission_id)
    assert worker.popen.poll() is None


def test_flushed_scripts_are_loaded_again(start_quick: Start, run: Run) -> None:
    """SCRIPT FLUSH during the work changes nothing."""
    worker = start_quick()
    submission_id = run.submit()
    run.wait_until_some_ran()

    run.client.script_flush()

    run.check(submission_id)
    assert "defect" not in worker.output


@pytest.mark.parametrize("what", ["group", "stream"])
def test_a_deleted_group_or_stream_is_made_again_and_repaired(
    start_quick: Start, run: Run, what: str
) -> None:
    """What was in hand is found and freed; nothing is counted twice."""
    start_quick()
    submission_id = run.submit()
    run.wait_until_some_ran()
    reservations = f"oq:{{{run.queue.name}}}:reservations"

    if what == "group":
        run.client.xgroup_destroy(reservations, "workers")
    else:
        run.client.delete(reservations)

    run.check(submission_id)


def test_a_worker_outlives_a_flushed_server(start_quick: Start, run: Run) -> None:
    """The submissions are gone, and later ones are processed."""
    worker = start_quick()
    run.submit()
    run.wait_until_some_ran()

    run.client.flushall()
    submission_id = run.submit(20)

    run.check(submission_id, 20)
    assert worker.popen.poll() is None


def test_a_stalled_worker_that_wakes_up_changes_nothing(start_quick: Start, run: Run) -> None:
    """After its timeout its chunks are taken over; later it continues with others."""
    stalled = start_quick()
    submission_id = run.submit()
    run.wait_until_some_ran()

    family = [psutil.Process(stalled.pid), *stalled.children()]
    for process in family:
        process.suspend()
    start_quick()
    run.check(submission_id)
    done = run.status(submission_id)
    for process in family:
        process.resume()
    second = run.submit(40)
    run.check(second, 40)

    assert run.status(submission_id) == done
    assert stalled.popen.poll() is None
    until(lambda: len(run.queue.list_workers()) == 2)


def test_a_connection_that_hangs_is_given_up(start_quick: Start, run: Run) -> None:
    """A proxy swallows everything for a while; reports are repeated until they are stored."""
    with Loop() as loop, Proxy(loop, run.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        worker = start_quick("--redis-timeout", "6", OPSQUEUE_REDIS_URL=url)
        submission_id = run.submit(60)
        run.wait_until_some_ran(10)

        proxy.set("swallow")
        worker.wait_for_line("trying again")
        proxy.set("well")  # for new connections; the old ones stay silent

        run.check(submission_id, 60)


def test_random_kills_of_children_and_parents_lose_nothing(
    start: Start, start_quick: Start, run: Run
) -> None:
    """Ten rounds, every 200 ms, over 2,000 chunks; a parent that dies is started again."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 shown when it fails
    chance = random.Random(seed)
    workers = [start_quick("--prefetch", "4") for _ in range(2)]
    # Ten attempts might not do: a chunk of bad luck is not what this is about.
    submission_id = run.producer.insert_submission(
        [["log", str(run.log)]] * 2_000, chunk_size=1, max_attempts=100
    )
    run.wait_until_some_ran()

    for _ in range(10):
        number = chance.randrange(len(workers))
        worker = workers[number]
        if chance.random() < 0.5:
            with contextlib.suppress(IndexError, psutil.NoSuchProcess):
                chance.choice(worker.children()).kill()
        else:
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            workers[number] = start_quick("--prefetch", "4")
        threading.Event().wait(0.2)

    run.check(submission_id, 2_000, within_s=100)
    again = run.submit(20)
    run.check(again, 20)
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    counted = Counter(line.split()[0] for line in run.runs())
    assert set(counted) == {str(index) for index in range(2_000)}
