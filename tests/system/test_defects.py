"""Programs that fail or are killed: other programs continue with their chunks."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from opsqueue.producer import Backoff, ProducerClient
from opsqueue.queue.queue import Queue
from tests.system.conftest import Process, ProducerOf, Start

pytestmark = pytest.mark.system

StartDefective = Callable[..., tuple[Process, Path]]
NO_WAIT = Backoff(first_ms=0, max_ms=0)


@pytest.fixture
def start_defective(start_worker: Start, tmp_path: Path) -> StartDefective:
    """Start a worker of `apps/defective.py`; it fails when a file is created in the folder."""
    folder = tmp_path / "defects"
    folder.mkdir()

    def start(*arguments: str) -> tuple[Process, Path]:
        worker = start_worker(*arguments, app="defective:app", TEST_DEFECTS=str(folder))
        return worker, folder

    return start


@pytest.mark.parametrize(("pool", "where"), [("process", "stored"), ("async", "small")])
def test_a_defect_in_a_childs_thread_ends_the_child_as_if_it_had_died(
    start_worker: Start, producer_of: ProducerOf, pool: str, where: str
) -> None:
    """An attempt is used, a new child takes over, and the worker continues."""
    worker = start_worker("--pool", pool, "--concurrency", "1")
    producer = producer_of(inline_bytes=0 if where == "stored" else 10_000)
    id_ = producer.insert_submission([["break"]], chunk_size=1, backoff=NO_WAIT)

    results = list(producer.blocking_stream_completed_submission(id_))

    assert results == ["whole"]
    failure = producer.get_submission(id_).last_failure
    assert failure is not None
    assert (failure.type, failure.attempt) == ("WorkerChildDied", 1)
    assert "a defect for a test" in worker.output
    assert worker.popen.poll() is None


def test_a_defect_in_a_workers_thread_gives_its_chunks_back_and_ends_it(
    start_defective: StartDefective,
    producer_of: ProducerOf,
    real_client: redis.Redis,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """The exit code is 1, and no attempt is used."""
    worker, folder = start_defective("--heartbeat-interval", "0.1", "--shutdown-timeout", "0.2")
    producer_of().insert_submission([["wait", str(tmp_path)]], chunk_size=1)
    until_there(tmp_path, "started-0-1-*")

    (folder / "heartbeat").touch()

    assert worker.wait() == 1
    assert "a defect in" in worker.output
    (chunk,) = Queue(real_client, queue_name).reserve_chunks("another").chunks
    assert chunk.attempt == 1


def test_children_that_die_while_they_start_are_started_again_more_slowly(
    start_defective: StartDefective, producer_of: ProducerOf
) -> None:
    """There is a pause after the third in a row; HUP ends it early."""
    worker, folder = start_defective("--concurrency", "1")
    (folder / "import").touch()
    worker.children()[0].kill()
    for _ in range(4):  # the one that was killed, and three that could not start
        worker.wait_for_line("replacing it")

    threading.Event().wait(1.0)
    assert worker.children() == []
    (folder / "import").unlink()
    worker.signal(signal.SIGHUP)

    assert list(producer_of().run_submission([1], chunk_size=1)) == [2]


def test_an_api_that_was_killed_has_kept_nothing(
    start: Start,
    start_worker: Start,
    redis_url: str,
    store_url: str,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """Waiting clients continue with the API that its supervisor starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start_api() -> Process:
        api = start(
            *("opsqueue_api", "--port", str(port)),
            OPSQUEUE_REDIS_URL=redis_url,
            OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        )
        api.wait_for_line("ready on")
        return api

    first = start_api()
    start_worker()
    with ProducerClient(f"http://127.0.0.1:{port}", store_url, queue=queue_name) as producer:
        id_ = producer.insert_submission([["wait", str(tmp_path)]], chunk_size=1)
        results: list[object] = []
        waiting = threading.Thread(
            target=lambda: results.extend(producer.blocking_stream_completed_submission(id_))
        )
        waiting.start()
        until_there(tmp_path, "started-0-1-*")

        first.end()
        (tmp_path / "go").touch()
        start_api()

        waiting.join(60)
        assert results == ["went"]


def until_there(folder: Path, pattern: str) -> None:
    """Wait until another process has created such a file."""
    for _ in range(3_000):
        if list(folder.glob(pattern)):
            return
        threading.Event().wait(0.01)
    pytest.fail(f"no {pattern} in {folder}")
