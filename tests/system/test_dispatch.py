"""Which chunk begins next, and where: nobody waits, nothing is hoarded, nothing begins twice."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from tests.system.conftest import Process, ProducerOf, Start
from tests.waiting import until

pytestmark = pytest.mark.system
QUICK = ("--heartbeat-interval", "0.3", "--heartbeat-timeout", "1.5")


def started(folder: Path) -> list[str]:
    """Return the index and attempt of each run of the action `wait`."""
    return sorted(path.name.rsplit("-", 1)[0] for path in folder.glob("started-*"))


def done(producer: ProducerClient, submission_id: SubmissionId) -> int:
    status = producer.get_submission(submission_id)
    assert status is not None
    return status.chunks_done


def in_hand(producer: ProducerClient, submission_id: SubmissionId) -> int:
    status = producer.get_submission(submission_id)
    assert status is not None
    return status.chunks_in_hand


@pytest.mark.parametrize(
    ("options", "inline_bytes"),
    [
        (("--concurrency", "2"), 0),
        (("--concurrency", "2"), 100_000),
        (("--concurrency", "2", "--prefetch", "40"), 0),
        (("--concurrency", "2", "--pool", "thread"), 0),
        (("--concurrency", "2", "--pool", "async"), 100_000),
    ],
)
def test_no_chunk_waits_behind_a_long_one_while_a_slot_is_free(
    start_worker: Start,
    producer_of: ProducerOf,
    tmp_path: Path,
    options: tuple[str, ...],
    inline_bytes: int,
) -> None:
    start_worker(*options)
    producer = producer_of(inline_bytes=inline_bytes)
    operations = [1, 2, ["wait", str(tmp_path)], *range(40)]

    submission_id = producer.insert_submission(operations, chunk_size=1)
    until(lambda: done(producer, submission_id) == len(operations) - 1)
    (tmp_path / "go").touch()

    assert list(producer.iter_results(submission_id)) == [2, 3, "went", *range(1, 41)]


def test_a_handler_may_wait_for_a_submission_of_its_own(
    start_worker: Start, producer_of: ProducerOf
) -> None:
    """Its chunks begin in the slot that is free."""
    start_worker("--concurrency", "2", app="nested:app")

    results = producer_of().run_submission([[1, 2, 3]], chunk_size=1, max_attempts=1)

    assert list(results) == [14]


def test_tiny_chunks_of_another_queue_do_not_make_a_worker_hoard(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """The long chunks are left to the second worker, which begins its own at once."""
    start_worker("--concurrency", "1")
    assert len(list(producer_of("-collecting").run_submission(range(400), chunk_size=1))) == 400
    producer = producer_of()

    submission_id = producer.insert_submission([["wait", str(tmp_path)]] * 12, chunk_size=1)
    until(lambda: len(started(tmp_path)) == 1)
    until(lambda: in_hand(producer, submission_id) == 1)  # what waited was released
    start_worker("--concurrency", "1")
    until(lambda: len(started(tmp_path)) == 2)
    until(lambda: in_hand(producer, submission_id) == 2)
    (tmp_path / "go").touch()

    assert list(producer.iter_results(submission_id)) == ["went"] * 12
    assert started(tmp_path) == sorted(f"started-{index}-1" for index in range(12))


@pytest.mark.parametrize("options", [("--prefetch", "5"), ("--prefetch", "5", "--pool", "thread")])
def test_chunks_that_waited_for_a_child_that_dies_use_no_attempt(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path, options: tuple[str, ...]
) -> None:
    start_worker("--concurrency", "1", *options)
    path = tmp_path / "log"

    results = producer_of().run_submission(
        [["die_once", str(tmp_path / "died")], *[["log", str(path)]] * 5], chunk_size=1
    )

    assert list(results) == ["survived", 1, 2, 3, 4, 5]
    runs = [line.split()[:2] for line in path.read_text().splitlines()]
    assert sorted(runs) == [[str(index), "1"] for index in range(1, 6)]


def test_a_new_generation_of_children_gets_what_the_old_one_has_not_begun(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """It is not given back to the queue, and uses no attempt."""
    worker = start_worker("--concurrency", "1", "--prefetch", "3")
    path = tmp_path / "log"
    producer = producer_of()
    submission_id = producer.insert_submission(
        [["wait", str(tmp_path)], *[["log", str(path)]] * 3], chunk_size=1
    )
    until(lambda: len(started(tmp_path)) == 1)
    (old,) = worker.children()

    worker.signal(signal.SIGHUP)
    until(lambda: path.exists() and len(path.read_text().splitlines()) == 3)
    (tmp_path / "go").touch()

    assert list(producer.iter_results(submission_id)) == ["went", 1, 2, 3]
    assert str(old.pid) not in {line.split()[2] for line in path.read_text().splitlines()}
    assert "released" not in worker.output


def family_of(worker: Process) -> list[psutil.Process]:
    return [psutil.Process(worker.pid), *worker.children()]


@pytest.mark.parametrize("pool", ["process", "async", "solo"])
def test_a_worker_that_was_suspended_begins_nothing_that_others_have(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path, pool: str
) -> None:
    """It asks first, in the child, too: a call that is paid for must not be paid for twice."""
    options = ("--concurrency", "1", "--prefetch", "4", *QUICK)
    sleeper = start_worker(*options, "--pool", pool)
    path = tmp_path / "log"
    producer = producer_of()
    submission_id = producer.insert_submission(
        [["wait", str(tmp_path)], *[["log", str(path)]] * 4], chunk_size=1
    )
    until(lambda: len(started(tmp_path)) == 1 and in_hand(producer, submission_id) == 5)
    family = family_of(sleeper)

    for process in family:
        process.suspend()
    (tmp_path / "go").touch()
    other = start_worker("--concurrency", "1", *QUICK)
    results = list(producer.iter_results(submission_id))
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
    for process in reversed(family):  # the child first, which can't know how long it was
        process.resume()
    later = list(producer.run_submission([["log", str(path)]], chunk_size=1))

    assert (results, later) == (["went", 1, 2, 3, 4], [0])
    runs = Counter(" ".join(line.split()[:2]) for line in path.read_text().splitlines())
    assert runs == {"1 1": 1, "2 1": 1, "3 1": 1, "4 1": 1, "0 1": 1}


@contextmanager
def supervised(start_worker: Start) -> Iterator[list[Process]]:
    """Keep a worker running, as a container platform does; yield those that died."""
    is_over, dead = threading.Event(), list[Process]()

    def keep_one_running() -> None:
        while not is_over.is_set():
            worker = start_worker("--concurrency", "2", *QUICK)
            while worker.popen.poll() is None and not is_over.wait(0.05):
                pass
            if worker.popen.poll() is not None:
                dead.append(worker)

    supervisor = threading.Thread(target=keep_one_running)
    supervisor.start()
    try:
        yield dead
    finally:
        is_over.set()
        supervisor.join()


def test_a_chunk_that_kills_its_worker_ends_alone(
    start_worker: Start,
    producer_of: ProducerOf,
    real_client: redis.Redis,
    queue_name: str,
) -> None:
    """The others go on: a suspect and an ordinary chunk take turns on an only worker."""
    producer = producer_of()
    operations = [*range(500), ["kill_worker"], *range(499)]

    submission_id = producer.insert_submission(operations, chunk_size=1, max_attempts=3)
    with supervised(start_worker) as dead:
        submission = producer.wait_for_submission(submission_id, timeout=100)

    assert submission.last_failure is not None
    assert submission.last_failure.chunk_index == 500
    assert submission.last_failure.type == "WorkerDied"
    assert submission.chunks_done == 999
    assert 3 <= len(dead) <= 5  # it was not known to have begun when the first ones died
    used = real_client.hgetall(f"{base_key(queue_name)}sub:{submission_id}:attempts")
    others = [int(number) for index, number in used.items() if index != b"500"]
    assert max(others, default=0) <= 2
