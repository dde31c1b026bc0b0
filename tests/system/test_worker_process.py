"""The worker as users run it: real processes with a real server, which are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from opsqueue.exceptions import SubmissionFailedError
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from tests.system.conftest import ProducerOf, Start
from tests.waiting import until

pytestmark = pytest.mark.system
NO_WAIT = Backoff(first_ms=0, max_ms=0)


@pytest.fixture
def producer(real_client: redis.Redis, store_url: str, queue_name: str) -> Iterator[ProducerClient]:
    api = RedisBackend(real_client)
    store = open_store(f"{store_url}?durable=false")
    with ProducerClient.over(api, store, queue=queue_name) as client:
        yield client


def test_results_come_back_in_order(start_worker: Start, producer: ProducerClient) -> None:
    """A submission of 1,000 operations in 34 chunks gives 1,000 results in the order of input."""
    start_worker()

    results = list(producer.run_submission(range(1_000), chunk_size=30))

    assert results == list(range(1, 1_001))


def test_the_banner_names_what_is_served_and_hides_the_password(
    start: Start, redis_url: str, store_url: str, queue_name: str
) -> None:
    """Version, masked Redis URL, store, queues with their handlers, then one line `ready`."""
    with_password = redis_url.replace("redis://", "redis://:sesame@")

    worker = start(
        *("opsqueue_worker", "tasks:app", "-c", "1"),
        OPSQUEUE_REDIS_URL=with_password,
        OPSQUEUE_STORE_URL=store_url,
        TEST_QUEUE=queue_name,
    )
    worker.wait_for_line("Error")

    assert worker.wait() == 3
    assert "sesame" not in worker.output


def test_the_banner_ends_with_ready(start_worker: Start, queue_name: str, store_url: str) -> None:
    """What an operator wants to see at start is there, in this order."""
    worker = start_worker()

    banner = worker.output

    parts = ["opsqueue-worker", "redis", "store", f"queue   {queue_name} -> tasks.act", "ready"]
    positions = [banner.index(part) for part in parts]
    assert positions == sorted(positions)


def test_a_handlers_exception_is_in_the_submissions_status(
    start_worker: Start, producer: ProducerClient
) -> None:
    """Type, message and traceback of the user's own frames, and nothing of ours."""
    start_worker()
    submission_id = producer.insert_submission(
        [["raise", "it"]], chunk_size=1, max_attempts=2, backoff=NO_WAIT
    )

    with pytest.raises(SubmissionFailedError) as caught:
        producer.blocking_stream_completed_submission(submission_id)

    failure = caught.value.submission.failure
    assert failure is not None
    assert (failure.type, failure.message) == ("ValueError", "no luck with it")
    assert (failure.attempt, failure.chunk_index) == (2, 0)
    assert "in raise_error" in failure.traceback
    assert "handlers/execute.py" not in failure.traceback


def test_a_result_that_cannot_be_encoded_fails_its_chunk(
    start_worker: Start, producer: ProducerClient
) -> None:
    """The failure names the type of the result and what would help."""
    start_worker()
    submission_id = producer.insert_submission(
        [["object"]], chunk_size=1, max_attempts=1, backoff=NO_WAIT
    )

    with pytest.raises(SubmissionFailedError) as caught:
        producer.blocking_stream_completed_submission(submission_id)

    assert "give plain data" in str(caught.value)


def test_sys_exit_in_a_handler_fails_the_chunk_and_not_the_worker(
    start_worker: Start, producer: ProducerClient
) -> None:
    """The worker goes on with the next submission in the same process."""
    start_worker("--concurrency", "1")
    submission_id = producer.insert_submission(
        [["exit"]], chunk_size=1, max_attempts=1, backoff=NO_WAIT
    )

    with pytest.raises(SubmissionFailedError, match="SystemExit"):
        producer.blocking_stream_completed_submission(submission_id)

    assert list(producer.run_submission([1], chunk_size=1)) == [2]


def test_a_chunk_that_kills_its_process_ends_and_stops_no_worker(
    start_worker: Start, producer: ProducerClient
) -> None:
    """Each death is noticed at once and uses an attempt; the signal is in the failure."""
    worker = start_worker()
    submission_id = producer.insert_submission(
        [["kill"]], chunk_size=1, max_attempts=3, backoff=NO_WAIT
    )

    with pytest.raises(SubmissionFailedError, match="SIGKILL") as caught:
        producer.blocking_stream_completed_submission(submission_id)

    assert caught.value.submission.failure is not None
    assert caught.value.submission.failure.attempt == 3
    assert list(producer.run_submission([1, 2], chunk_size=1)) == [2, 3]
    assert worker.popen.poll() is None


def in_hand(producer: ProducerClient, submission_id: SubmissionId) -> int:
    status = producer.get_submission(submission_id)
    assert status is not None
    return status.chunks_in_hand


@pytest.mark.parametrize(
    ("pool", "number"),
    [
        ("process", signal.SIGTERM),
        ("process", signal.SIGINT),
        ("thread", signal.SIGTERM),
        ("async", signal.SIGTERM),
    ],
)
def test_a_stop_finishes_the_chunks_in_hand_and_gives_the_rest_back(
    start_worker: Start, producer: ProducerClient, tmp_path: Path, pool: str, number: int
) -> None:
    """Exit code 0; what ran is completed, what waited is ready again with its attempts unused.

    It is ready at once: a chunk that runs for long does not keep it from other workers.
    """
    worker = start_worker("--pool", pool, "--concurrency", "1", "--prefetch", "3")
    submission_id = producer.insert_submission([["wait", str(tmp_path)]] * 4, chunk_size=1)
    until(lambda: in_hand(producer, submission_id) == 4)
    until(lambda: list(tmp_path.glob("started-*")))

    worker.signal(number)
    until(lambda: in_hand(producer, submission_id) == 1)
    (tmp_path / "go").touch()
    code = worker.wait()

    status = producer.get_submission(submission_id)
    assert code == 0
    assert status is not None
    assert (status.chunks_done, status.chunks_in_hand) == (1, 0)
    assert status.last_failure is None
    assert [p.name.split("-")[2] for p in tmp_path.glob("started-*")] == ["1"]


def test_a_killed_workers_chunks_are_taken_over(
    start_worker: Start, producer: ProducerClient, tmp_path: Path
) -> None:
    """Nothing is lost or counted twice when a whole worker is killed during the work."""
    timeouts = ("--heartbeat-interval", "0.2", "--heartbeat-timeout", "1")
    doomed = start_worker(*timeouts)
    log = tmp_path / "log"
    submission_id = producer.insert_submission([["log", str(log)]] * 200, chunk_size=1)
    until(log.exists)
    children = doomed.children()

    os.kill(doomed.pid, signal.SIGKILL)
    start_worker(*timeouts)
    status = producer.wait_for_submission(submission_id, timeout=60)

    assert list(producer.try_stream_completed_submission(submission_id)) == list(range(200))
    assert (status.chunks_done, status.operations_done) == (200, 200)
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert (len(gone), alive) == (2, [])


def test_a_reserved_chunk_of_a_cancelled_submission_is_revoked(
    start_worker: Start, producer: ProducerClient, store_url: str, tmp_path: Path
) -> None:
    """The handler can notice it within a heartbeat; its result is not stored."""
    start_worker("--heartbeat-interval", "0.1")
    submission_id = producer.insert_submission([["wait", str(tmp_path)]], chunk_size=1)
    until(lambda: list(tmp_path.glob("started-*")))

    producer.cancel_submission(submission_id)

    until((tmp_path / "void-0").exists)
    until(lambda: producer.get_submission(submission_id).chunks_in_hand == 0)
    status = producer.get_submission(submission_id)
    assert status is not None
    assert status.state is SubmissionState.CANCELLED
    assert not open_store(store_url).exists(f"{status.prefix}/0-out")


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(
    start_worker: Start, producer: ProducerClient, real_client: redis.Redis, queue_name: str
) -> None:
    """Resuming wakes an idle worker."""
    queue = Queue(real_client, queue_name)
    queue.pause_queue()
    start_worker()
    submission_id = producer.insert_submission([1], chunk_size=1)
    until(lambda: queue.count_queue().workers == 1)
    before = producer.get_submission(submission_id)

    queue.resume_queue()

    assert before is not None
    assert before.chunks_in_hand == 0
    assert list(producer.blocking_stream_completed_submission(submission_id)) == [2]


def test_a_wrong_app_path_says_what_is_wrong(start: Start, redis_url: str, store_url: str) -> None:
    """Exit code 2, one line, no traceback; test_app.py has the other mistakes."""
    worker = start(
        *("opsqueue_worker", "tasks:ap"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store_url,
    )

    assert worker.wait() == 2
    assert "apps found there: tasks:app" in worker.output
    assert "Traceback" not in worker.output


def test_an_unknown_queue_says_which_there_are(
    start: Start, redis_url: str, store_url: str
) -> None:
    """A typo in -Q is found at start."""
    worker = start(
        *("opsqueue_worker", "tasks:app", "-Q", "taks"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store_url,
        TEST_QUEUE="tasks",
    )

    assert worker.wait() == 2
    assert "no handler for queue 'taks'; this app has: tasks" in worker.output


def test_redis_down_at_start_says_so(start: Start, store_url: str) -> None:
    """Exit code 3, and what to look at."""
    worker = start(
        *("opsqueue_worker", "tasks:app"),
        OPSQUEUE_REDIS_URL="redis://127.0.0.1:1/0",
        OPSQUEUE_STORE_URL=store_url,
    )

    assert worker.wait() == 3
    assert "OPSQUEUE_REDIS_URL" in worker.output
    assert "Traceback" not in worker.output


def test_children_do_not_outlive_their_parent(start_worker: Start) -> None:
    """They end even when the parent is killed."""
    worker = start_worker()
    children = worker.children()

    os.kill(worker.pid, signal.SIGKILL)

    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_help_has_examples() -> None:
    """`opsqueue-worker --help` shows how it is used."""
    shown = subprocess.run(
        [sys.executable, "-m", "opsqueue_worker", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert "opsqueue-worker tasks:app -c 8 -Q images,emails" in shown


def test_chunks_go_back_while_the_stores_disk_is_not_mounted(
    start_worker: Start,
    producer_of: ProducerOf,
    real_client: redis.Redis,
    store_url: str,
    queue_name: str,
) -> None:
    """No attempt is used, nothing is made at its place, and all of it goes on when it is back."""
    root = Path(store_url.removeprefix("file://"))
    queue = Queue(real_client, queue_name)
    start_worker()
    queue.pause_queue()
    producer = producer_of(inline_bytes=0)
    id_ = producer.insert_submission(range(4), chunk_size=1, max_attempts=1)
    root.rename(root.with_name("unmounted"))

    queue.resume_queue()
    until(lambda: queue.get_submission(id_).release_reason)

    away = queue.get_submission(id_)
    assert "has lost its marker" in (away.release_reason or "")
    assert (away.last_failure, away.chunks_done, root.exists()) == (None, 0, False)
    root.with_name("unmounted").rename(root)
    assert producer.wait_for_submission(id_).chunks_done == 4
