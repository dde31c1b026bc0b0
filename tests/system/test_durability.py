"""Servers that are killed or lose their last writes, used by real programs."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect, server_client
from opsqueue.queue.durability import Durability, check_durability
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store, output_key
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.steps import new_submission
from tests.redis_sets import ClusterSet, Place, behind_sentinels, cluster, until
from tests.servers import ALWAYS, lose_writes_since, replica_of, saved, wait_for_replica
from tests.system.conftest import Process, Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

BODY = {"operations": [1, 2, 3], "chunk_size": 2}


@pytest.fixture
def start_api(start: Start, store_url: str) -> Start:
    def start_one(server: EmbeddedServer, *arguments: str, **environment: str) -> Process:
        return start(
            *("opsqueue_api", "--port", "0", *arguments),
            OPSQUEUE_REDIS_URL=server.url,
            OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
            **environment,
        )

    return start_one


@contextmanager
def slow_disk(server: EmbeddedServer, *, delay_ms: int) -> Iterator[None]:
    """Delay each fsync of a server from now on; skip the test where that is not possible."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    delay = f"inject=fdatasync,fsync:delay_enter={delay_ms * 1000}"
    with subprocess.Popen(
        [
            *(strace, "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"),
            *("-e", delay, "-p", str(server.pid)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stderr is not None
        if "attached" not in (line := tracer.stderr.readline()):
            pytest.skip(f"strace can't attach: {line}")
        try:
            yield
        finally:
            tracer.terminate()


def insert(url: str, queue: str) -> str:
    response = httpx.post(f"{url}/v1/queues/{queue}/submissions", json=BODY, timeout=20)
    assert 201 == response.status_code, response.text
    return str(response.json()["id"])


def url_of(api: Process) -> str:
    return api.wait_for_line("ready on ").rpartition(" ")[2]


@pytest.mark.parametrize(("durability", "policy"), [("none", "everysec"), ("fsync", "always")])
def test_an_insert_that_was_answered_survives_a_killed_server(
    start_api: Start, tmp_path: Path, durability: str, policy: str
) -> None:
    """With an append-only file; killed right after the answer, twenty times.

    With everysec once it is written, which a server puts off while its disk is slow, see
    ARCHITECTURE.md.
    """
    with EmbeddedServer(tmp_path / "redis", arguments=("--appendfsync", policy)) as server:
        api = start_api(server, "--durability", durability)
        url = url_of(api)

        for _ in range(20):
            id_ = insert(url, "q")
            if policy == "everysec":
                until(
                    lambda: server_client(server.url).info("persistence")["aof_buffer_length"] == 0,
                    "it is written",
                )
            server.kill()
            server.start()
            found = httpx.get(f"{url}/v1/queues/q/submissions/{id_}", timeout=20)
            assert 200 == found.status_code, found.text

        assert (
            20
            == Queue(connect(server.url), "q")
            .count_queue()
            .submissions[SubmissionState.IN_PROGRESS]
        )


@pytest.mark.parametrize("disk", ["as it is", "slow"])
def test_no_answered_insert_is_lost_by_a_server_killed_under_load(
    tmp_path: Path, disk: str
) -> None:
    """It is killed while eight threads insert and wait for a disk that takes 0.2 s."""
    with EmbeddedServer(tmp_path / "redis", arguments=ALWAYS) as server, ExitStack() as tools:
        if disk == "slow":
            tools.enter_context(slow_disk(server, delay_ms=200))
        queue = Queue(connect(server.url), "q", durability=Durability.FSYNC)
        answered: list[SubmissionId] = []

        def insert_for_ever() -> None:
            with suppress(RedisUnavailableError):
                while True:
                    answered.append(queue.insert_submission(new_submission(queue)).id)

        threads = [threading.Thread(target=insert_for_ever) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) >= 24, "some are answered")
        server.kill()
        for thread in threads:
            thread.join()
        tools.close()
        server.start()

        assert answered == [queue.get_submission(id_).id for id_ in answered]


def test_an_insert_that_was_answered_under_replica_outlives_the_primary(
    start_api: Start, tmp_path: Path
) -> None:
    """The primary keeps nothing on its disk and is killed right after the answer."""
    with (
        EmbeddedServer(tmp_path / "primary", is_durable=False) as primary,
        replica_of(primary, tmp_path / "replica") as replica,
    ):
        wait_for_replica(server_client(primary.url))
        url = url_of(start_api(primary, OPSQUEUE_DURABILITY="replica"))

        ids = [insert(url, "q") for _ in range(20)]
        primary.kill()

        heir = Queue(connect(replica.url), "q")
        assert ids == [str(heir.get_submission(SubmissionId(id_)).id) for id_ in ids]


def test_an_api_that_can_not_keep_fsync_does_not_start(start_api: Start, tmp_path: Path) -> None:
    """The exit code is 2, and the message says what helps."""
    with EmbeddedServer(tmp_path / "redis") as server:
        api = start_api(server, "--durability", "fsync")

        assert 2 == api.wait()

    assert "set appendfsync always, or promise less with --durability replica" in api.output


def test_an_api_without_replicas_warns_and_says_that_inserts_are_not_confirmed(
    start_api: Start, tmp_path: Path
) -> None:
    """Everything else works."""
    with EmbeddedServer(tmp_path / "redis") as server:
        api = start_api(server, "--durability", "replica")
        api.wait_for_line("warning: durability 'replica' is not kept now: no replica is connected")
        url = f"{url_of(api)}/v1/queues/q/submissions"

        refused = httpx.post(url, json=BODY, timeout=20)

        assert 503 == refused.status_code
        assert "no replica has confirmed it within 5,000 ms" in refused.json()["detail"]
        assert 200 == httpx.get(f"{url}/{refused.json()['submission_id']}").status_code
        assert 200 == httpx.get(url).status_code


def test_an_api_on_a_replica_warns(start_api: Start, tmp_path: Path) -> None:
    """All of its inserts would be refused; the warning names the primary."""
    with (
        EmbeddedServer(tmp_path / "primary") as primary,
        replica_of(primary, tmp_path / "replica") as replica,
    ):
        api = start_api(replica)

        line = api.wait_for_line("warning: Redis is a replica of")

    assert f"127.0.0.1:{primary.port}" in line
    assert "give the primary's URL" in line


CHUNKS = 400


@pytest.mark.parametrize("who", ["the same worker", "another worker"])
def test_completions_that_a_server_lost_are_made_again(
    start: Start, tmp_path: Path, store_url: str, who: str
) -> None:
    """All results are correct and counted once; chunks with a stored output do not run again."""
    name, log = f"lost-{secrets.token_hex(4)}", tmp_path / "log"
    environment = {"OPSQUEUE_STORE_URL": f"{store_url}?durable=false", "TEST_QUEUE": name}
    # What the lost server had given out unnoticed is released after two times --redis-timeout.
    quick = ("-c", "2", "--heartbeat-interval", "0.3", "--heartbeat-timeout", "1.5",
             "--redis-timeout", "6")  # fmt: skip
    with EmbeddedServer(tmp_path / "redis") as server:
        environment["OPSQUEUE_REDIS_URL"] = server.url
        client = server_client(server.url)
        queue, store = Queue(client, name), open_store(store_url)
        producer = ProducerClient.over(RedisBackend(client), store, queue=name, inline_bytes=0)
        worker = start("opsqueue_worker", "tasks:app", *quick, **environment)
        id_ = producer.insert_submission([["log", str(log)]] * CHUNKS, chunk_size=1)

        until(lambda: queue.get_submission(id_).chunks_done >= 40, "some are done")
        copy = saved(server, tmp_path / "copy")
        at_copy = queue.get_submission(id_).chunks_done
        until(lambda: queue.get_submission(id_).chunks_done >= at_copy + 40, "more are done")
        prefix = queue.get_submission(id_).prefix
        if who == "another worker":
            worker.end()
        server.kill()
        stored = [i for i in range(CHUNKS) if store.exists(output_key(prefix, i))]
        lose_writes_since(server, copy)
        client.connection_pool.disconnect()
        went_back_to = queue.get_submission(id_).chunks_done
        if who == "another worker":
            start("opsqueue_worker", "tasks:app", *quick, **environment)

        done = producer.wait_for_submission(id_, timeout=120)
        results = list(producer.try_stream_completed_submission(id_))
        counts = queue.count_queue()
        until(lambda: queue.count_queue().chunks_in_hand == 0, "nothing is in hand")
        producer.close()

    runs = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert went_back_to <= at_copy < len(stored)
    assert list(range(CHUNKS)) == results
    assert (CHUNKS, CHUNKS) == (done.chunks_done, done.operations_done)
    assert (CHUNKS, 0) == (counts.stats["chunks_completed"], counts.backlog_chunks)
    assert 1 == counts.submissions[SubmissionState.COMPLETED]
    assert set(range(CHUNKS)) == set(runs)
    assert {1} == {runs[index] for index in stored}
    assert max(runs.values()) <= 2


@pytest.mark.parametrize("place", [cluster, behind_sentinels])
def test_inserts_that_a_replica_confirmed_are_there_after_a_fail_over(
    place: Place, tmp_path: Path
) -> None:
    """A master is killed right after the last answer; eight queues lie on it and on others."""
    with place(tmp_path / "servers") as servers:
        client = connect(servers.url)
        assert [] == check_durability(client, Durability.REPLICA, url=servers.url)
        api = RedisBackend(client, durability=Durability.REPLICA)

        ids = {
            (
                queue,
                api.queue(queue)
                .insert_submission(new_submission(queue), idempotency_key=f"key {n}")
                .id,
            )
            for n in range(10)
            for queue in (f"q{number}" for number in range(8))
        }
        victim = servers.master_of("{q0}") if isinstance(servers, ClusterSet) else servers.master()
        victim.kill()

        def found() -> set[tuple[str, int]]:
            try:
                return {(queue, api.queue(queue).get_submission(id_).id) for queue, id_ in ids}
            except RedisUnavailableError:
                return set()

        until(lambda: found() == ids, "the replica took over, and has all of them")
