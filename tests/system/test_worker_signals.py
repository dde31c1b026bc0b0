"""A worker's reaction to signals: stop, release chunks, replace children, print stacks."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from tests.system.conftest import Process, ProducerOf, Start
from tests.waiting import until

pytestmark = pytest.mark.system

Begun = tuple[Process, ProducerClient, SubmissionId]
Begin = Callable[..., Begun]


@pytest.fixture
def begin(start_worker: Start, producer_of: ProducerOf, tmp_path: Path) -> Begin:
    """Start a worker with one child, and a submission whose chunk runs until `go` exists.

    Return the worker, a producer, and the submission's id.
    """

    def start_and_wait(*options: str, **settings: Any) -> Begun:
        worker, producer = start_worker("--concurrency", "1", *options), producer_of()
        submission_id = producer.insert_submission(
            [["wait", str(tmp_path)]], chunk_size=1, **settings
        )
        until(lambda: list(tmp_path.glob("started-*")))
        return worker, producer, submission_id

    return start_and_wait


def check_given_back(producer: ProducerClient, submission_id: SubmissionId) -> None:
    """Check that its chunk is not reserved and that no attempt of it was used."""
    status = producer.get_submission(submission_id)
    assert status is not None
    assert (status.chunks_in_hand, status.last_failure) == (0, None)


def test_a_second_stop_gives_back_at_once(begin: Begin) -> None:
    """The running chunk is released with its attempt unused; the exit code is 0."""
    worker, producer, submission_id = begin()

    worker.signal(signal.SIGTERM)
    worker.wait_for_line("stopping")
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    check_given_back(producer, submission_id)


STARTING = """
import subprocess
from opsqueue import Opsqueue
app = Opsqueue()
app.operation_handler("a")(abs)

@app.on_worker_start
def hang():
    program = subprocess.Popen(["sleep", "100"], process_group=0)
    print("the hook has started", program.pid, flush=True)
    program.wait()
"""


def test_a_term_while_it_starts_ends_it_at_once(
    start: Start, redis_url: str, store_url: str, tmp_path: Path
) -> None:
    """The worker holds no chunks yet; the exit code is 0. Programs of start hooks end, too."""
    (tmp_path / "starting.py").write_text(STARTING)
    worker = start(
        *("opsqueue_worker", "starting:app", "-c", "1"),
        cwd=tmp_path,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store_url,
    )
    worker.wait_for_line("the hook has started")
    (program,) = psutil.Process(worker.pid).children(recursive=True)[1:]

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert "Traceback" not in worker.output
    program.wait(20)


def test_a_worker_that_is_told_to_stop_while_its_app_is_imported_ends_well(
    start: Start, tmp_path: Path, redis_url: str, store_url: str
) -> None:
    """Importing can take long; that it was cut short is no mistake of the app."""
    (tmp_path / "slow.py").write_text(
        "import threading\nprint('importing', flush=True)\nthreading.Event().wait(60)\n"
    )
    worker = start(
        *("opsqueue_worker", "slow:app"),
        cwd=tmp_path,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store_url,
    )
    worker.wait_for_line("importing")

    worker.signal(signal.SIGTERM)

    assert (0, ["importing"]) == (worker.wait(), worker.lines)


@pytest.mark.parametrize("pool", ["process", "solo"])
def test_quit_gives_back_at_once(begin: Begin, pool: str) -> None:
    """It has the same effect as two TERMs."""
    worker, producer, submission_id = begin("--pool", pool, "--shutdown-timeout", "1000")

    worker.signal(signal.SIGQUIT)

    assert worker.wait() == 0
    check_given_back(producer, submission_id)


def test_a_chunk_that_outlasts_the_shutdown_timeout_goes_back(begin: Begin) -> None:
    """The chunk is released, since the orchestrator does not wait forever."""
    worker, producer, submission_id = begin("--shutdown-timeout", "0.5")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    check_given_back(producer, submission_id)


def test_a_term_to_the_whole_group_lets_children_finish(begin: Begin, tmp_path: Path) -> None:
    """As a terminal or an init system sends it."""
    worker, producer, submission_id = begin()

    for process in [*worker.children(), psutil.Process(worker.pid)]:
        process.send_signal(signal.SIGTERM)
    worker.wait_for_line("stopping")
    (tmp_path / "go").touch()

    assert worker.wait() == 0
    assert list(producer.try_stream_completed_submission(submission_id)) == ["went"]


def test_hup_replaces_the_children_after_their_chunks(begin: Begin, tmp_path: Path) -> None:
    """The old child completes its running chunk, and a new one runs the waiting chunks."""
    worker, producer, submission_id = begin("--prefetch", "1")
    (old,) = worker.children()
    next_id = producer.insert_submission([["pid"]], chunk_size=1)
    until(lambda: producer.get_submission(next_id).chunks_in_hand == 1)

    worker.signal(signal.SIGHUP)
    (new,) = producer.blocking_stream_completed_submission(next_id)
    (tmp_path / "go").touch()

    assert list(producer.blocking_stream_completed_submission(submission_id)) == ["went"]
    assert new != old.pid
    old.wait(20)


def test_a_chunk_that_kills_a_replaced_child_has_used_an_attempt(begin: Begin) -> None:
    """Otherwise such a chunk would return as long as somebody sends HUP."""
    worker, producer, submission_id = begin(max_attempts=1)
    (old,) = worker.children()

    worker.signal(signal.SIGHUP)
    worker.wait_for_line("has started: replacing")
    until(lambda: len(worker.children()) == 2)
    old.kill()

    failure = producer.wait_for_submission(submission_id).failure
    assert failure is not None
    assert failure.type == "WorkerChildDied"


def test_usr1_prints_the_stacks_of_all_threads(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """It prints those of the parent and of the child with its handler."""
    worker = start_worker("--concurrency", "1")
    producer_of().insert_submission([["wait", str(tmp_path)]], chunk_size=1)
    until(lambda: list(tmp_path.glob("started-*")))

    worker.signal(signal.SIGUSR1)

    worker.wait_for_line("in wait_for")
    (tmp_path / "go").touch()
