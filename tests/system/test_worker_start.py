"""What apps and hosts do to a worker's processes: it starts and works, or says why not."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis

from opsqueue.queue.queue import Queue
from tests.system.conftest import Process, ProducerOf, Start
from tests.waiting import until

pytestmark = pytest.mark.system


@pytest.mark.parametrize("pool", ["process", "async"])
def test_a_worker_works_whatever_its_app_does_to_its_process(
    start_worker: Start, producer_of: ProducerOf, pool: str
) -> None:
    """Its own lines appear, it hears its signals, and no handler reaches its connections."""
    worker = start_worker("--pool", pool, app="unruly:app")
    producer = producer_of()

    results = list(producer.run_submission(range(40), chunk_size=2))
    worker.signal(signal.SIGHUP)
    worker.wait_for_line("the new code has started")
    more = list(producer.run_submission(range(10), chunk_size=1))
    worker.signal(signal.SIGTERM)

    assert (worker.wait(), results, more) == (0, list(range(1, 41)), list(range(1, 11)))
    assert "stopped after 30 chunks" in worker.output
    assert "the stop hook unruly.fail raised" in worker.output
    assert "a stop hook's error" in worker.output
    assert "which is no daemon held it up" in worker.lines[-1]
    assert "signal handler of the app" not in worker.output


PATCHED = """
import select
def green_select(*_): ...
green_select.__module__ = 'gevent.select'
select.select = green_select
"""
STAYING = """
import threading
@app.on_worker_start
def leave():
    threading.Thread(target=threading.Event().wait, name="left").start()
    raise ValueError
"""


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        (PATCHED, 2, "gevent has replaced green_select.*use --pool thread"),
        ("import sys\nsys.exit(0)\n", 2, "importing unlucky raised SystemExit: 0"),
        (
            "app.on_worker_start(lambda: 1 / 0)\n",
            1,
            "start hook unlucky.<lambda> raised ZeroDivisionError",
        ),
        (
            STAYING,
            1,
            "thread 'left', which is no daemon held it up\nError: the start hook unlucky.leave",
        ),
        ("app.on_worker_start(exit)\n", 1, "start hook .* raised SystemExit"),
        ("import os\napp.on_worker_start(lambda: os._exit(5))\n", 1, "ended with exit code 5"),
        (
            "import os, sys\nif 'worker.pool' in sys.orig_argv[-4]: os.closerange(3, 2000)\n",
            1,
            "its connection to the worker was closed here",
        ),
        (
            "import sys\nif 'worker.pool' in sys.orig_argv[-4]: raise ValueError('in a child')\n",
            2,
            "importing unlucky raised ValueError: in a child",
        ),
    ],
)
def test_an_app_that_can_not_be_served_is_told_why(
    start: Start, redis_url: str, store_url: str, tmp_path: Path, source: str, code: int, says: str
) -> None:
    """The reason is the worker's own last line, and comes once."""
    (tmp_path / "unlucky.py").write_text(
        "from opsqueue import Opsqueue\napp = Opsqueue()\n"
        f"@app.operation_handler('a')\ndef act(_): ...\n{source}"
    )

    worker = start(
        *("opsqueue_worker", "unlucky:app", "-c", "2"),
        cwd=tmp_path,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=store_url,
    )

    assert worker.wait() == code
    errors = [line for line in worker.lines if line.startswith("Error: ")]
    assert len(errors) == 1, worker.output
    assert re.search(says, worker.output), worker.output


@pytest.fixture
def versioned(
    start: Start,
    real_client: redis.Redis,
    redis_url: str,
    store_url: str,
    queue_name: str,
    tmp_path: Path,
) -> tuple[Process, Path]:
    """A worker that has sent a heartbeat, and the file whose text its handler's module is."""
    source = tmp_path / "versioned.py"
    source.write_text(version("first", queue_name))
    worker = start(
        *("opsqueue_worker", "versioned:app", "-c", "1", "--metrics-port", "0"),
        *("--heartbeat-interval", "0.2"),
        cwd=tmp_path,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        PYTHONDONTWRITEBYTECODE="1",
    )
    worker.wait_for_line("ready")
    until(lambda: Queue(real_client, queue_name).list_workers())
    return worker, source


def version(answer: str, queue: str, before: str = "") -> str:
    return (
        f"{before}\nfrom opsqueue import Opsqueue\napp = Opsqueue()\n"
        f"@app.operation_handler({queue!r})\ndef act(_): return {answer!r}\n"
    )


def metric(worker: Process, name: str) -> str:
    (url,) = [line.split()[1] for line in worker.lines if line.startswith("  metrics")]
    (found,) = [line for line in httpx.get(url).text.splitlines() if line.startswith(name + " ")]
    return found.removeprefix(name + " ")


def test_new_code_that_does_not_start_replaces_nothing(
    versioned: tuple[Process, Path],
    producer_of: ProducerOf,
    real_client: redis.Redis,
    queue_name: str,
) -> None:
    """The old code goes on; log, metrics and lists of workers say why; the next HUP tries again."""
    worker, source = versioned
    (old,) = worker.children()
    answers: list[str] = []

    def run() -> None:
        answers.extend(producer_of().run_submission([0], chunk_size=1))

    for broken, reason in (
        (version("second", queue_name, "a syntax error"), "invalid syntax"),
        (version("second", queue_name, "import os; os._exit(7)"), "ended with exit code 7"),
        (version("second", queue_name + "-other"), f"no handler for queue '{queue_name}'"),
    ):
        source.write_text(broken)
        worker.signal(signal.SIGHUP)
        assert reason in worker.wait_for_line("goes on with the old code")
        run()
    failed = metric(worker, "opsqueue_worker_reload_failed_total")
    (seen,) = Queue(real_client, queue_name).list_workers()
    until(lambda: "no handler" in Queue(real_client, queue_name).list_workers()[0].info["problem"])
    assert (failed, seen.info["children_ready"], worker.children()) == ("3.0", 1, [old])

    source.write_text(version("third", queue_name))
    worker.signal(signal.SIGHUP)
    worker.wait_for_line("the new code has started")
    run()

    assert answers == ["first"] * 3 + ["third"]
    until(lambda: not Queue(real_client, queue_name).list_workers()[0].info["problem"])
    assert worker.popen.poll() is None


def test_a_newer_hup_ends_the_proof_of_older_code(
    versioned: tuple[Process, Path], producer_of: ProducerOf, queue_name: str, tmp_path: Path
) -> None:
    """Code that hangs while it is imported does not keep the correction out."""
    worker, source = versioned
    hanging = tmp_path / "hangs"
    source.write_text(
        version("second", queue_name, f"import time; open({str(hanging)!r}, 'w'); time.sleep(60)")
    )
    worker.signal(signal.SIGHUP)
    until(hanging.exists)
    before = list(producer_of().run_submission([0], chunk_size=1))

    source.write_text(version("third", queue_name))
    worker.signal(signal.SIGHUP)
    worker.wait_for_line("the new code has started")

    assert before == ["first"]
    assert list(producer_of().run_submission([0], chunk_size=1)) == ["third"]
    until(lambda: len(worker.children()) == 1)
    assert metric(worker, "opsqueue_worker_reload_failed_total") == "0.0"


def test_a_worker_without_resources_for_a_child_stays_and_tells(
    versioned: tuple[Process, Path],
    start: Start,
    producer_of: ProducerOf,
    real_client: redis.Redis,
    redis_url: str,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """`--check` fails meanwhile, without importing the app; then a child starts."""
    worker, source = versioned
    source.rename(tmp_path / "away.py")
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (10, before[1]))

    worker.children()[0].kill()
    worker.wait_for_line("can't start a process: Too many open files")
    until(lambda: Queue(real_client, queue_name).list_workers()[0].info["children_ready"] == 0)

    def check() -> Process:
        asked = start(
            *("opsqueue_worker", "versioned:app", "--check", "-Q", queue_name),
            OPSQUEUE_REDIS_URL=redis_url,
        )
        asked.wait()
        return asked

    failed = check()
    assert failed.popen.returncode == 1
    assert "Too many open files" in failed.output
    assert metric(worker, "opsqueue_worker_children_ready") == "0.0"
    (tmp_path / "away.py").rename(source)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
    worker.signal(signal.SIGHUP)
    worker.wait_for_line("the new code has started")

    assert list(producer_of().run_submission([0], chunk_size=1)) == ["first"]
    until(lambda: Queue(real_client, queue_name).list_workers()[0].info["children_ready"] == 1)
    assert check().popen.returncode == 0


ORPHANS = """
import os, pathlib, subprocess
from opsqueue import Opsqueue
app = Opsqueue()

def states():
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            yield path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue

@app.operation_handler(os.environ["TEST_QUEUE"])
def leave(orphans):
    for _ in range(orphans):
        subprocess.run(["/bin/sh", "-c", "sleep 0.01 & exit 0"], check=True)
    code = subprocess.run(["/bin/sh", "-c", "exit 7"], check=False).returncode
    return os.getppid(), code, list(states()).count(["Z", "1"])
"""


def test_a_worker_that_is_process_1_reaps_what_handlers_leave_behind(
    start: Start,
    producer_of: ProducerOf,
    redis_url: str,
    store_url: str,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """As in a container; handlers get the exit codes of what they start, and TERM works."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces of processes can't be made here")
    (tmp_path / "orphans.py").write_text(ORPHANS)
    worker = start(
        *(*unshare[1:], sys.executable, "-m", "opsqueue_worker", "orphans:app", "-c", "1"),
        program=unshare[0],
        cwd=tmp_path,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        TEST_QUEUE=queue_name,
    )
    worker.wait_for_line("ready")
    seen = []

    def zombies(orphans: int) -> int:
        ((parent, code, zombies),) = producer_of().run_submission([orphans], chunk_size=1)
        seen.append((parent, code))
        return int(zombies)

    until(lambda: zombies(orphans=1) >= 3, every_s=0.1)
    until(lambda: zombies(orphans=0) == 0, every_s=0.5)
    worker.children()[0].terminate()

    assert (worker.wait(), set(seen)) == (0, {(1, 7)})


@pytest.mark.parametrize("reads", ["stops", "goes away"])
def test_output_that_nobody_reads_stops_neither_work_nor_the_end(
    producer_of: ProducerOf, redis_url: str, store_url: str, queue_name: str, reads: str
) -> None:
    """Handlers print, parent and children log, and then TERM ends the worker."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "opsqueue_worker", "tasks:app", "-c", "2", "-l", "debug"],
        cwd=Path(__file__).parent / "apps",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "OPSQUEUE_REDIS_URL": redis_url,
            "OPSQUEUE_STORE_URL": f"{store_url}?durable=false",
            "TEST_QUEUE": queue_name,
        },
    )
    assert worker.stdout is not None
    assert worker.stderr is not None
    try:
        if reads == "goes away":
            worker.stdout.close()
            worker.stderr.close()
        results = list(producer_of().run_submission([["print", 300_000]] * 30, chunk_size=1))
        worker.terminate()
        code = worker.wait(50)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
        worker.stderr.close()

    assert (code, results) == (0, [300_000] * 30)
