"""Starts of children that take too long, or for which there is no room."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from opsqueue_worker.pool.child_pool import ChildPool
from opsqueue_worker.pool.messages import Hello
from opsqueue_worker.pool.pool import NotStartedError, PoolCalls
from opsqueue_worker.pool.status import Status

APP = """
import os, pathlib, time
from opsqueue import Opsqueue
app = Opsqueue()
app.operation_handler("q")(abs)
while pathlib.Path("hang").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def changed() -> threading.Event:
    return threading.Event()


@pytest.fixture
def pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: threading.Event
) -> Iterator[ChildPool]:
    """A pool of one child, whose app hangs while a file `hang` exists."""
    (tmp_path / "hanging.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    pool = ChildPool(
        Hello(
            app="hanging:app",
            store_url=f"file://{tmp_path}/store",
            pool="process",
            slots=1,
            worker="w",
            log_level="info",
            log_format="plain",
            must_serve=("q",),
        ),
        size=1,
        prefetch=1,
        heartbeat_timeout_s=30.0,
        calls=PoolCalls(
            on_reports=lambda _: None,
            on_change=changed.set,
            on_begin=lambda _: None,
            time_limit_of=lambda _: 60.0,
        ),
    )
    yield pool
    pool.kill()
    while not pool.is_empty:
        pool.tick()
        changed.wait(0.01)


def test_a_start_that_takes_too_long_is_no_start(pool: ChildPool, tmp_path: Path) -> None:
    """The worker ends with the reason, rather than waiting for ever."""
    (tmp_path / "hang").touch()
    pool._ready_within_s = 0.5

    with pytest.raises(NotStartedError, match=r"not ready within 0\.5 s"):
        pool.start()


def test_new_code_that_hangs_is_given_up(
    pool: ChildPool, tmp_path: Path, changed: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """The old child stays, and a child that dies meanwhile is not waited for, either."""
    caplog.set_level(logging.INFO)
    pool.start()
    (old,) = pool._children
    (tmp_path / "hang").touch()
    pool._ready_within_s = 0.5

    pool.retire_children()
    while "goes on with the old code" not in caplog.text:
        pool.tick()
        changed.wait(0.01)
    kept = pool.health()
    old.kill()
    while "a child does not start: it was not ready" not in pool.health().problem:
        pool.tick()
        changed.wait(0.01)
    lost = pool.health()
    (tmp_path / "hang").unlink()
    pool._ready_within_s = 60.0
    pool.retire_children()
    while pool.health().problem:
        pool.tick()
        changed.wait(0.01)

    assert "the new code does not start: it was not ready within 0.5 s" in kept.problem
    assert (kept.ready, kept.wanted, lost.ready) == (1, 1, 0)


def test_refused_code_does_not_come_in_with_a_child_that_is_replaced_later(
    pool: ChildPool, tmp_path: Path, changed: threading.Event
) -> None:
    """That child reads the new files, too; and a good one does not hide the refusal."""

    def tick_until_problem_has(text: str) -> None:
        while text not in pool.health().problem:
            pool.tick()
            changed.wait(0.01)

    pool.start()
    (old,) = pool._children
    (tmp_path / "hanging.py").write_text(APP.replace('"q"', '"other"'))
    pool.retire_children()
    tick_until_problem_has("the new code does not start: no handler for queue 'q'")

    old.kill()
    tick_until_problem_has("a child does not start: no handler for queue 'q'")
    assert pool.health().ready == 0
    (tmp_path / "hanging.py").write_text(APP)
    while not pool.health().ready:
        pool.tick()
        changed.wait(0.01)

    assert pool.health().problem.startswith("the new code does not start")


@pytest.mark.parametrize("has_memory_files", [True, False])
def test_a_status_without_room_is_an_error_and_no_bus_error(
    tmp_path: Path, *, has_memory_files: bool
) -> None:
    """Touching a hole of a file in a full file system would kill the worker itself."""
    program = (
        "import os, resource\n"
        "from opsqueue_worker.pool.pool import NotStartedError\n"
        "from opsqueue_worker.pool.status import Status\n"
        f"if not {has_memory_files}:\n"
        "    def refuse(*_): raise OSError('a sandbox')\n"
        "    os.memfd_create = refuse\n"
        "whole = Status.new(3)\n"
        "whole.begin(2, 7)\n"
        "assert list(whole.running()) == [7]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n"
        "    Status.new(3)\n"
        "except NotStartedError as exc:\n"
        "    print(exc)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"{tmp_path}: File too large; free some, or set TMPDIR" in ended.stdout


def test_a_status_has_all_its_bytes_from_the_start() -> None:
    status = Status.new(1_000)

    assert os.fstat(status.descriptor).st_blocks * 512 >= 16_000

    status.close()
