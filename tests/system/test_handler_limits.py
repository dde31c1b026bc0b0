"""What handlers leave behind: each process ends, and what it started ends with it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from opsqueue.producer import Backoff
from opsqueue.queue.queue import Queue
from tests.system.conftest import ProducerOf, Start
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
ONCE: dict[str, Any] = {"max_attempts": 1, "backoff": Backoff(first_ms=0, max_ms=0)}
APP = "limits:app"


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started_by(folder: Path) -> dict[str, int]:
    return {path.name: int(path.read_text()) for path in folder.iterdir() if path.is_file()}


def outcome(producer_of: ProducerOf, suffix: str, operation: Any) -> tuple[str, str]:
    """Run one operation, and return the type and message of its failure."""
    producer = producer_of(suffix)
    id_ = producer.insert_submission([operation], chunk_size=1, **ONCE)
    failure = producer.wait_for_submission(id_, timeout=60).last_failure
    return ("", "") if failure is None else (failure.type, failure.message)


@pytest.mark.parametrize(
    ("ending", "failure"), [("hang", "TimeLimitExceeded"), ("die", "WorkerChildDied")]
)
def test_what_a_handler_started_is_killed_with_it(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path, ending: str, failure: str
) -> None:
    """Except for a program that has a session of its own."""
    start_worker("--concurrency", "1", app=APP)
    started: dict[str, int] = {}

    try:
        kind, _ = outcome(producer_of, "-limited", ["start", str(tmp_path), ending])

        started = started_by(tmp_path)
        assert kind == failure
        until(lambda: not (is_running(started["group"]) or is_running(started["own group"])))
        assert is_running(started["own session"])
    finally:
        for pid in started.values():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def test_what_a_handler_started_ends_with_its_worker(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """Also after a success, when its process ends in order."""
    worker = start_worker("--concurrency", "1", app=APP)
    assert outcome(producer_of, "", ["start", str(tmp_path), "return"]) == ("", "")
    started = started_by(tmp_path)
    assert all(map(is_running, started.values()))

    try:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

        until(lambda: not is_running(started["group"]))
        assert is_running(started["own session"])
    finally:
        for pid in started.values():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_child_is_replaced_when_threads_of_an_attempt_did_not_end(
    start_worker: Start, producer_of: ProducerOf
) -> None:
    """Chunks that wait in it use no attempt, and the next ones run elsewhere."""
    worker = start_worker("--concurrency", "1", app=APP)
    (first,) = worker.children()
    producer = producer_of("-threads")
    hanging = producer.insert_submission([-1, -2], chunk_size=2, **ONCE)
    good = [producer.insert_submission([n, n + 1], chunk_size=2, **ONCE) for n in range(3)]

    failed = producer.wait_for_submission(hanging, timeout=60)

    assert failed.failure is not None
    assert failed.failure.type.endswith("SoftTimeLimitExceeded")
    assert [list(producer.iter_results(id_)) for id_ in good] == [[0, 10], [10, 20], [20, 30]]
    worker.wait_for_line("2 threads of it did not end")
    until(lambda: not is_running(first.pid))
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("leave", ["leave_thread", "hang_at_exit"])
def test_a_retired_child_ends_whatever_handlers_have_left_in_it(
    start_worker: Start, producer_of: ProducerOf, leave: str
) -> None:
    """As do those that HUP replaces, and the worker at TERM."""
    worker = start_worker("--concurrency", "1", "--max-chunks-per-child", "2", app=APP)
    producer = producer_of()

    pids = list(producer.run_submission([[leave]] * 4, chunk_size=1))

    assert len(set(pids)) == 2
    until(lambda: not any(map(is_running, pids)))
    (pid,) = producer.run_submission([[leave]], chunk_size=1)
    worker.signal(signal.SIGHUP)
    until(lambda: len(worker.children()) == 1 and not is_running(pid))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize("pool", ["process", "async", "solo"])
def test_term_ends_a_worker_whose_stop_hooks_hang(start_worker: Start, pool: str) -> None:
    """Within --shutdown-timeout."""
    worker = start_worker(
        *("--pool", pool, "--shutdown-timeout", "1"), app=APP, TEST_HANG_AT_STOP="1"
    )
    children = [child.pid for child in worker.children()]
    if children:
        os.kill(children[0], signal.SIGSTOP)  # it never answers

    began = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert time.monotonic() - began < 10
    assert not any(map(is_running, children))


def test_term_ends_a_solo_worker_whose_handler_hangs(
    start_worker: Start, producer_of: ProducerOf, real_client: redis.Redis, queue_name: str
) -> None:
    """Its chunk is released, and uses no attempt."""
    worker = start_worker("--pool", "solo", "--shutdown-timeout", "0.5", app=APP)
    producer_of().insert_submission([["hang"]], chunk_size=1)
    worker.wait_for_line("hanging")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert "stopped after 0 chunks" in worker.output
    (chunk,) = Queue(real_client, queue_name).reserve_chunks("another").chunks
    assert chunk.attempt == 1


@pytest.mark.parametrize("pool", ["process", "thread", "async"])
def test_a_fork_never_becomes_a_second_child(
    start_worker: Start, producer_of: ProducerOf, pool: str
) -> None:
    """However it ends, wherever it was made; its parent goes on with the chunk."""
    worker = start_worker(*("--pool", pool, "--concurrency", "1"), app=APP, TEST_FORK_AT_START="1")
    (child,) = worker.children()
    endings = ["exit", "raise", "return", "fork", "forkpty"]
    operations = [["fork", ending] for ending in endings]

    plain = list(producer_of().run_submission(operations, chunk_size=1, **ONCE))
    later = list(producer_of("-async").run_submission(operations, chunk_size=1, **ONCE))
    in_task = list(
        producer_of("-async").run_submission(
            [["task", "fork", "exit"], ["task", "fork", "raise"]], chunk_size=1, **ONCE
        )
    )
    pooled = list(producer_of().run_submission([["multiprocessing"]], chunk_size=1, **ONCE))

    assert plain == later == [f"after {ending}" for ending in endings]
    assert in_task == ["after exit", "after raise"]
    assert pooled == [[1, 2]]
    assert [child] == worker.children()
    until(lambda: child.children(recursive=True) == [])


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_whatever_a_handler_raises_fails_its_chunk_and_nothing_else(
    start_worker: Start, producer_of: ProducerOf, pool: str
) -> None:
    """The process and its slot stay, with and without a loop."""
    worker = start_worker("--pool", pool, "--concurrency", "1", app=APP)
    pid_before = list(producer_of().run_submission([["pid"]], chunk_size=1))
    for suffix in ("", "-async"):
        for error in ("unprintable", "generator", "exit", "interrupt", "syntax", "surrogate"):
            kind, message = outcome(producer_of, suffix, ["fail", error])

            assert kind not in ("", "WorkerChildDied"), (suffix, error)
            assert "told" in message or error == "unprintable", (suffix, error)
    assert list(producer_of().run_submission([["pid"]], chunk_size=1)) == pid_before
    assert list(producer_of("-async").run_submission(["pid"], chunk_size=1)) == pid_before
    assert worker.popen.poll() is None
