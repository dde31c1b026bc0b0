"""Programs of two versions on one server: the release and the working tree; too new formats."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

import opsqueue
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
from tests.opsqueue.steps import Clock, insert, take
from tests.system.conftest import ProducerOf, Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
RELEASE = (Path(__file__).parent / "release.txt").read_text().strip()
"""The commit of the last release: a clone may have no tags."""
COUNT = 40


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last release, installed into a folder of its own; dependencies are those of the tests."""
    source, installed = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("release")
    archive = subprocess.run(
        ["git", "archive", "--format=tar", RELEASE], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"no commit {RELEASE} here, the last release: a shallow clone, or no clone")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(source, filter="data")
    build = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    wheels = ["--no-build-isolation", "--wheel-dir", str(source / "dist")]
    subprocess.run([*build, "wheel", *offline, *wheels, str(source)], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([*build, "install", *offline, "--target", str(installed), wheel], check=True)
    return installed


def test_programs_of_the_last_release_and_of_this_version_share_a_queue(
    start: Start, release: Path, redis_url: str, store_url: str, queue_name: str, tmp_path: Path
) -> None:
    """Each inserts through the other's API, both work on each submission, all results are right."""
    store = f"{store_url}?durable=false"
    environment = {
        "OPSQUEUE_REDIS_URL": redis_url,
        "OPSQUEUE_STORE_URL": store,
        "TEST_QUEUE": queue_name,
        "MEETING": str(tmp_path / "meeting"),
        "GATE": str(tmp_path / "gate"),
    }
    (tmp_path / "meeting").mkdir()
    os.mkfifo(tmp_path / "gate")
    versions = {"old": {"PYTHONPATH": str(release)}, "new": {}}
    folders = {"old": str(release), "new": str(Path(opsqueue.__file__).parents[1])}
    apis = {
        role: start("opsqueue_api", "--port", "0", **environment, **version)
        for role, version in versions.items()
    }
    urls = {role: api.wait_for_line("ready on ").rpartition(" ")[2] for role, api in apis.items()}

    def inserted(role: str, url: str) -> int:
        program = start(
            *("insert", url, store, queue_name, str(COUNT)), **environment, **versions[role]
        )
        assert program.wait() == 0, program.output
        return int(program.lines[-1])

    ids = {"old": inserted("old", urls["new"]), "new": inserted("new", urls["old"])}
    for role, version in versions.items():
        start("opsqueue_worker", "meeting:app", "-c", "1", ROLE=role, **environment, **version)

    for role, id_ in ids.items():
        with ProducerClient(urls[role], store, queue=queue_name) as producer:
            results = list(producer.iter_results(SubmissionId(id_)))
        assert [number for number, *_ in results] == list(range(1, COUNT + 1))
        for _, worker, file in results:
            assert file == f"{folders[worker]}/opsqueue/__init__.py"
    assert {path.name for path in (tmp_path / "meeting").iterdir()} == {"old", "new"}


OF_QUEUE = """
import sys
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
client = connect(sys.argv[1])
for line in sys.stdin:
    now, _, call = line.partition(" ")
    queue = Queue(client, sys.argv[2], clock=lambda: int(now))
    print(eval(call), flush=True)
"""
"""Evaluates calls of a queue, each at an instant."""


@pytest.fixture
def released_queue(
    release: Path, redis_url: str, queue_name: str
) -> Iterator[Callable[[int, str], str]]:
    """Calls of the release's own `Queue`, with its scripts: an instant and an expression."""
    with subprocess.Popen(
        [sys.executable, "-c", OF_QUEUE, redis_url, queue_name],
        cwd=release,  # before PYTHONPATH, for -c
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def call(now: int, expression: str) -> str:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(f"{now} {expression}\n")
            program.stdin.flush()
            return program.stdout.readline().strip()

        yield call
        program.stdin.close()


def test_workers_of_the_last_release_share_suspects_and_what_has_not_begun(
    real_client: redis.Redis, queue_name: str, released_queue: Callable[[int, str], str]
) -> None:
    """They know neither, so that they lose and duplicate nothing, and free suspects at last."""
    clock = Clock()
    queue = Queue(real_client, queue_name, clock=clock)
    reserve = "[c.attempt for c in queue.reserve_chunks('old', limit={}, strategy=Oldest()).chunks]"
    id_ = insert(queue, 6)
    chunks = take(queue, 3, worker="dead")
    queue.note_begun("dead", [chunks[0].token])

    # What an old worker holds is charged as a whole; an old sweep charges all of a new worker's.
    held_by_old = released_queue(clock.now, reserve.format(1))
    clock.advance(30_000)
    queue.heartbeat("new", begun=[])
    assert queue.reclaim_dead("sweeper") is not None
    suspect_is_left = released_queue(clock.now, reserve.format(9))
    waiting = [one.index for one in queue.list_delayed(id_).chunks if one.is_suspect]
    clock.advance(300_000)
    freed = released_queue(clock.now, reserve.format(9))
    stale = queue.reserve_chunks("new", alone=True)
    clock.advance(30_000)
    swept = released_queue(clock.now, "queue.reclaim_dead('sweeper').chunks")
    left = queue.reserve_chunks("later", limit=9, strategy=Oldest())

    assert held_by_old == "[1]"
    # Two that did not begin, the one that the old worker held, and two that are new.
    assert suspect_is_left == "[1, 1, 2, 1, 1]"
    assert waiting == [0]
    assert freed == "[2]"
    assert stale.chunks == ()
    assert swept == "6"
    assert [3, 2, 2, 3, 2, 2] == [chunk.attempt for chunk in left.chunks]
    assert not left.is_suspect


def test_a_worker_leaves_a_queue_whose_format_is_too_new_and_serves_the_others(
    start: Start, real_client: redis.Redis, redis_url: str, store_url: str, queue_name: str,
    producer_of: ProducerOf,
) -> None:  # fmt: skip
    """It names both versions, changes nothing, and goes on once the format can be read."""
    a, b = producer_of("-a"), producer_of("-b")
    of_a, of_b = (one.insert_submission([0, 2], chunk_size=1) for one in (a, b))
    format_of_a = f"{base_key(a.queue)}format"
    real_client.set(format_of_a, 4)

    worker = start(
        *("opsqueue_worker", "two_queues:app", "-c", "1"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        TEST_QUEUE=queue_name,
    )

    line = worker.wait_for_line(f"queue {a.queue}: queue {a.queue} has format 4, and opsqueue ")
    assert "reads formats up to 3: upgrade that program" in line
    assert list(b.iter_results(of_b)) == ["b0", "b2"]
    real_client.delete(format_of_a)
    assert a.get_submission(of_a).chunks_done == 0
    assert list(a.iter_results(of_a)) == ["a0", "a2"]
