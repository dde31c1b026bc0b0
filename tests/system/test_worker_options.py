"""Pools, limits, signals and other options of `opsqueue-worker`."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from opsqueue.exceptions import SubmissionFailedError
from opsqueue.model.new_submission import Backoff
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue_worker.cli import main
from tests.system.conftest import Process, ProducerOf, Start, running
from tests.waiting import until

pytestmark = pytest.mark.system
ONCE: dict[str, Any] = {"max_attempts": 1, "backoff": Backoff(first_ms=0, max_ms=0)}


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "meeting"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module", params=["process", "thread", "async", "solo"])
def queue_of_pool(
    request: pytest.FixtureRequest, redis_url: str, module_store_url: str
) -> Iterator[str]:
    """Run a worker of each pool in turn, for tests that do not change it; return its queue."""
    queue_name = f"test-{secrets.token_hex(6)}"
    with running(
        *("opsqueue_worker", "tasks:app", "--concurrency", "2", "--pool", request.param),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=module_store_url,
        OPSQUEUE_WORKER_MAX_CHUNK_BYTES="10000",
        TEST_QUEUE=queue_name,
    ) as worker:
        worker.wait_for_line("ready")
        yield queue_name


@pytest.fixture
def producer_of_pool(
    real_client: redis.Redis, module_store_url: str, queue_of_pool: str
) -> ProducerOf:
    """A producer of one of that worker's queues."""

    def make(suffix: str = "") -> ProducerClient:
        store = open_store(module_store_url)
        return ProducerClient.over(RedisBackend(real_client), store, queue=queue_of_pool + suffix)

    return make


def test_every_pool_gives_results_in_order(producer_of_pool: ProducerOf) -> None:
    """A plain handler works in each pool."""
    results = list(producer_of_pool().run_submission(range(300), chunk_size=7))

    assert results == list(range(1, 301))


def test_every_pool_runs_async_handlers(producer_of_pool: ProducerOf, meeting: Path) -> None:
    """Eight operations of a chunk run at the same time, as tasks."""
    for name in "abcdefgh":  # the other chunk's half of the meeting
        (meeting / name).touch()

    results = list(producer_of_pool("-async").run_submission([str(meeting)] * 8, chunk_size=8))

    assert results == ["met"] * 8


def test_the_async_pool_runs_many_chunks_on_one_loop(
    start_worker: Start, producer_of: ProducerOf, meeting: Path
) -> None:
    """Two chunks of eight operations are all there at the same time, in one process."""
    start_worker("--pool", "async", "--concurrency", "2")

    results = list(producer_of("-async").run_submission([str(meeting)] * 16, chunk_size=8))

    assert results == ["met"] * 16
    assert len({path.name.split("-")[0] for path in meeting.iterdir()}) == 1


def test_the_thread_pool_runs_several_chunks_in_one_process(
    start_worker: Start, producer_of: ProducerOf, meeting: Path
) -> None:
    """Four chunks of two operations meet, though each chunk runs two at once only."""
    start_worker("--pool", "thread", "--concurrency", "4")

    results = list(producer_of("-threads").run_submission([str(meeting)] * 8, chunk_size=2))

    assert results == ["met"] * 8
    assert len({path.name.split("-")[0] for path in meeting.iterdir()}) == 1


def test_operations_of_a_chunk_run_at_once_in_threads(
    start_worker: Start, producer_of: ProducerOf, meeting: Path
) -> None:
    """`concurrency=8` of a plain handler, in a process with one slot."""
    start_worker("--concurrency", "1")

    results = list(producer_of("-threads").run_submission([str(meeting)] * 8, chunk_size=8))

    assert results == ["met"] * 8


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_chunk_past_its_time_limit_is_killed(
    start_worker: Start, producer_of: ProducerOf, pool: str
) -> None:
    """It fails with that reason, the child is replaced, and others are not charged."""
    worker = start_worker("--pool", pool, "--concurrency", "1")
    before = worker.children()[0].pid
    submission_id = producer_of("-limited").insert_submission([60], chunk_size=1, **ONCE)

    with pytest.raises(SubmissionFailedError, match="TimeLimitExceeded: it ran for"):
        producer_of("-limited").blocking_stream_completed_submission(submission_id)

    assert list(producer_of().run_submission([1], chunk_size=1)) == [2]
    assert [child.pid for child in worker.children()] != [before]


def test_a_soft_time_limit_is_raised_in_the_handler(producer_of_pool: ProducerOf) -> None:
    """The handler can clean up and even return a result."""
    results = list(producer_of_pool("-soft").run_submission([60, 0], chunk_size=1))

    assert results == ["tidied up", "in time"]


def test_a_child_is_replaced_after_its_chunks(start_worker: Start, producer_of: ProducerOf) -> None:
    """With --max-chunks-per-child 5, twenty chunks need four processes, and lose none."""
    start_worker("--max-chunks-per-child", "5", "--concurrency", "1", "--prefetch", "0")

    pids = list(producer_of().run_submission([["pid"]] * 20, chunk_size=1))

    assert len(pids) == 20
    assert len(set(pids)) == 4


def test_a_child_is_replaced_after_too_much_memory(
    start_worker: Start, producer_of: ProducerOf
) -> None:
    """Any Python has had more than 1 MB, so each child is replaced after a chunk or a few."""
    start_worker("--max-memory-per-child", "1MB", "--concurrency", "1", "--prefetch", "0")

    first = list(producer_of().run_submission([["pid"]], chunk_size=1))
    time_of_tick = 0.6
    signal.sigtimedwait([], time_of_tick)
    second = list(producer_of().run_submission([["pid"]], chunk_size=1))

    assert first != second


def test_hooks_run_once_a_process(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path
) -> None:
    """They run before the first chunk and after the last one."""
    worker = start_worker("--concurrency", "1", TEST_STOPPED=str(tmp_path))
    (child,) = worker.children()

    results = list(producer_of("-hooks").run_submission([0, 0], chunk_size=1))
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert results == [[f"started {child.pid}"]] * 2
    assert [path.name for path in tmp_path.glob("stopped-*")] == [f"stopped-{child.pid}"]


def test_burst_drains_the_queue_and_exits(
    start: Start, producer_of: ProducerOf, redis_url: str, store_url: str, queue_name: str
) -> None:
    """It also waits for chunks in a back-off."""
    producer = producer_of()
    submission_id = producer.insert_submission(range(50), chunk_size=5)

    worker = start(
        *("opsqueue_worker", "tasks:app", "--burst", "-Q", queue_name, "-c", "2"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        TEST_QUEUE=queue_name,
    )

    assert worker.wait() == 0
    assert list(producer.try_stream_completed_submission(submission_id)) == list(range(1, 51))


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "2>/dev/full"])
def test_a_worker_needs_no_standard_streams(
    start: Start,
    producer_of: ProducerOf,
    redis_url: str,
    store_url: str,
    queue_name: str,
    streams: str,
) -> None:
    """As some supervisors start programs, and as a full disk leaves their log; children neither."""
    producer = producer_of()
    submission_id = producer.insert_submission(range(4), chunk_size=2)
    program = f"{sys.executable} -m opsqueue_worker tasks:app --burst -Q {queue_name} -c 1"

    worker = start(
        *("-c", f"exec {program} {streams}"),
        program="/bin/sh",
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        TEST_QUEUE=queue_name,
    )

    assert 0 == worker.wait()
    assert [1, 2, 3, 4] == list(producer.try_stream_completed_submission(submission_id))


@pytest.mark.parametrize("program", ["opsqueue_worker --help", "opsqueue_api --version"])
def test_help_that_cannot_be_written_is_one_line_and_an_exit_code(program: str) -> None:
    """As for the command line."""
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m {program} >/dev/full"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == ended.returncode
    assert "Error: can't read or write: No space left on device\n" == ended.stderr


def test_reload_replaces_the_children_when_a_file_changes(
    start: Start,
    producer_of: ProducerOf,
    redis_url: str,
    store_url: str,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """Later chunks run the new code."""
    source = tmp_path / "changing.py"
    text = (
        "import os\nfrom opsqueue import Opsqueue\napp = Opsqueue()\n"
        "@app.operation_handler(os.environ['TEST_QUEUE'])\n"
        "def answer(_): return 'before'\n"
    )
    source.write_text(text)
    worker = start(
        *("opsqueue_worker", "changing:app", "--reload", "-c", "1"),
        cwd=tmp_path,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store_url,
        TEST_QUEUE=queue_name,
        PYTHONDONTWRITEBYTECODE="1",
    )
    worker.wait_for_line("ready")
    before = list(producer_of().run_submission([0], chunk_size=1))

    source.write_text(text.replace("'before'", "'afterwards'"))
    worker.wait_for_line("changing.py changed")
    worker.wait_for_line("the new code has started")

    assert before == ["before"]
    assert list(producer_of().run_submission([0], chunk_size=1)) == ["afterwards"]


def test_check_says_whether_a_worker_of_this_host_lives(
    start: Start, start_worker: Start, redis_url: str, store_url: str, queue_name: str
) -> None:
    """Exit code 1 before, 0 while, 1 after."""

    def check() -> Process:
        return start(
            *("opsqueue_worker", "tasks:app", "--check", "-Q", queue_name),
            OPSQUEUE_REDIS_URL=redis_url,
            TEST_QUEUE=queue_name,
        )

    before = check()
    assert before.wait() == 1
    assert "no worker of" in before.output
    worker = start_worker()
    assert check().wait() == 0
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert check().wait() == 1


def test_json_logs_have_a_line_a_chunk(start_worker: Start, producer_of: ProducerOf) -> None:
    """With queue, submission, chunk, attempt, operations and duration."""
    worker = start_worker("--log-format", "json", "--log-level", "debug")

    submission_id = producer_of().insert_submission(range(6), chunk_size=3)
    list(producer_of().blocking_stream_completed_submission(submission_id))
    first = json.loads(worker.wait_for_line("completed"))
    second = json.loads(worker.wait_for_line("completed"))

    assert {first["chunk"], second["chunk"]} == {0, 1}
    assert first["submission"] == str(submission_id)
    assert (first["attempt"], first["operations"]) == (1, 3)
    assert first["duration_s"] >= 0


@pytest.mark.parametrize("form", ["plain", "json"])
def test_a_handlers_own_lines_carry_submission_and_chunk(
    start_worker: Start, producer_of: ProducerOf, form: str
) -> None:
    """So the log shows what happened to a chunk."""
    worker = start_worker("--log-format", form)
    submission_id = producer_of("-hooks").insert_submission([0], chunk_size=1)

    line = worker.wait_for_line("a line of the handler's own")

    if form == "json":
        parsed = json.loads(line)
        assert (parsed["submission"], parsed["chunk"]) == (str(submission_id), 0)
    else:
        assert f"submission={submission_id} chunk=0" in line


def test_a_handler_that_holds_the_interpreter_does_not_stop_the_heartbeat(
    start_worker: Start,
    producer_of: ProducerOf,
    real_client: redis.Redis,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """A stopped child is the worst of them; the parent goes on giving signs of life."""
    worker = start_worker("--heartbeat-interval", "0.2", "--concurrency", "1")
    producer_of().insert_submission([["wait", str(tmp_path)]], chunk_size=1)
    until(lambda: list(tmp_path.glob("started-*")))
    (child,) = worker.children()
    queue = Queue(real_client, queue_name)

    child.suspend()
    until(queue.list_workers)
    signal.sigtimedwait([], 1.0)
    (seen,) = queue.list_workers()

    assert seen.seen_ms_ago < 900
    child.resume()
    (tmp_path / "go").touch()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--max-memory-per-child", "lots"), "write it like 512MB"),
        (("--prefetch", "-1"), "use auto or a number"),
        (("--pool", "gevent"), "'process', 'thread', 'async', 'solo'"),
        (("--check", "--redis-url", "http://x"), "give redis://"),
    ],
)
def test_a_wrong_option_says_what_is_right(option: list[str], says: str) -> None:
    """The exit code is 2."""
    shown = CliRunner(env={"OPSQUEUE_STORE_URL": "memory://x"}).invoke(main, ["tasks:app", *option])

    assert shown.exit_code == 2
    assert says in shown.output


def test_heartbeats_that_are_too_seldom_are_refused(start: Start, store_url: str) -> None:
    """Exit code 2: others would take the worker for dead."""
    worker = start(
        *("opsqueue_worker", "tasks:app", "--heartbeat-timeout", "1", "--heartbeat-interval", "1"),
        OPSQUEUE_STORE_URL=store_url,
    )

    assert worker.wait() == 2
    assert "a healthy worker would count" in worker.output


def test_a_worker_without_a_store_says_what_to_give(start: Start) -> None:
    """Exit code 2, with an example."""
    worker = start("opsqueue_worker", "tasks:app")

    assert worker.wait() == 2
    assert "set OPSQUEUE_STORE_URL" in worker.output


def test_a_chunk_larger_than_the_workers_limit_fails_by_its_name(
    producer_of_pool: ProducerOf,
) -> None:
    """Before the handler is called; smaller ones are served."""
    producer = producer_of_pool()

    assert list(producer.run_submission(range(10), chunk_size=5)) == list(range(1, 11))
    with pytest.raises(SubmissionFailedError, match=r"limit of 10,000 bytes .max-chunk-bytes"):
        list(producer.run_submission(["x" * 20_000], chunk_size=1, **ONCE))
