"""Handlers that affect their processes, and the end of a worker with its children."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from opsqueue.exceptions import SubmissionFailedError
from opsqueue.model.new_submission import Backoff
from tests.system.conftest import ProducerOf, Start

pytestmark = pytest.mark.system
ONCE: dict[str, Any] = {"max_attempts": 1, "backoff": Backoff(first_ms=0, max_ms=0)}


def test_a_handler_can_end_what_it_starts(start_worker: Start, producer_of: ProducerOf) -> None:
    """That children ignore SIGTERM is not inherited by the programs of handlers."""
    start_worker("--concurrency", "1")

    results = list(producer_of().run_submission([["terminate"]], chunk_size=1))

    assert results == [-signal.SIGTERM]


def test_a_death_is_noticed_though_a_fork_lives_on(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """The fork has left the session, but the chunk uses an attempt within seconds."""
    path = tmp_path / "fork"
    start_worker("--concurrency", "1")
    submission_id = producer_of().insert_submission([["fork", str(path)]], chunk_size=1, **ONCE)
    deadline = time.monotonic() + 10

    try:
        submission = producer_of().wait_for_submission(submission_id, timeout=10)
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)

    assert time.monotonic() < deadline
    assert submission.failure is not None
    assert "killed by signal SIGKILL" in submission.failure.message


@pytest.mark.parametrize("inline_bytes", [0, 1_000])
def test_a_chunk_is_reported_while_the_next_one_runs(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path, inline_bytes: int
) -> None:
    """Reports may share messages, but none waits for another chunk."""
    start_worker("--concurrency", "1")
    producer = producer_of(inline_bytes=inline_bytes)
    operations = [1, ["wait", str(tmp_path)]]

    results = producer.iter_results(producer.insert_submission(operations, chunk_size=1))
    first = next(results)
    (tmp_path / "go").touch()

    assert [first, *results] == [2, "went"]


def test_a_second_stop_delivers_its_reports(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """Released chunks are reported, so no worker needs to take them over."""
    worker = start_worker("--concurrency", "2", "--heartbeat-interval", "0.5")
    producer_of().insert_submission([["wait", str(tmp_path)]] * 2, chunk_size=1)
    while len(list(tmp_path.glob("started-*"))) < 2:
        time.sleep(0.02)

    worker.signal(signal.SIGTERM)
    worker.wait_for_line("stopping")
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert worker.output.count("released: its process ended") == 2, worker.output
    assert "could not be sent" not in worker.output


def test_an_exit_in_an_async_worker_fails_its_chunk(
    start_worker: Start, producer_of: ProducerOf
) -> None:
    """The failure has the reason."""
    start_worker("--pool", "async")

    with pytest.raises(SubmissionFailedError, match="SystemExit"):
        producer_of().run_submission([["exit"]], chunk_size=1, **ONCE)


def test_reload_needs_children(start: Start) -> None:
    """The solo pool has none, so the worker refuses the option."""
    worker = start(
        *("opsqueue_worker", "tasks:app", "--pool", "solo", "--reload"),
        OPSQUEUE_STORE_URL="memory://x",
    )

    assert worker.wait() == 2
    assert "--pool solo has none" in worker.output
