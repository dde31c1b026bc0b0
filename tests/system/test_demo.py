"""`opsqueue demo` and `opsqueue dev`: everything in one terminal, and nothing left over."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.system.conftest import Start

pytestmark = pytest.mark.system


def test_the_demo_checks_its_totals_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    """A real batch of real files; no process and no folder of it is there afterwards."""
    demo = start("opsqueue.cli", "demo", "--files", "150", "-c", "1", TMPDIR=str(tmp_path))
    demo.wait_for_line("submitted")
    family = psutil.Process(demo.pid).children(recursive=True)

    code = demo.wait()

    assert (code, demo.lines[-1]) == (0, "totals match"), demo.output
    assert "the ten largest modules" in demo.output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing(start: Start, tmp_path: Path, number: int) -> None:
    """Ctrl-C in the middle ends every process that it has started."""
    demo = start("opsqueue.cli", "demo", "-c", "1", TMPDIR=str(tmp_path))
    demo.wait_for_line("submitted")
    family = psutil.Process(demo.pid).children(recursive=True)

    demo.signal(number)
    code = demo.wait()

    assert (code, demo.lines[-1]) == (130, "stopped; nothing was left running"), demo.output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert list(tmp_path.iterdir()) == []


def test_dev_keeps_its_data_between_runs(start: Start, tmp_path: Path) -> None:
    """The second run has the submissions of the first one."""
    options = ("--port", "0", "-c", "1", "--folder", str(tmp_path / "data"))
    first = start("opsqueue.cli", "dev", "tasks:app", *options)
    first.wait_for_line("Ctrl-C ends it")
    first.signal(signal.SIGINT)
    kept = {p.name for p in (tmp_path / "data" / "redis").iterdir()}

    assert first.wait() == 0
    second = start("opsqueue.cli", "dev", "tasks:app", *options)
    second.wait_for_line("Ctrl-C ends it")
    second.signal(signal.SIGINT)

    assert second.wait() == 0
    assert "appendonlydir" in kept


def test_dev_says_what_is_wrong_with_the_app(start: Start, tmp_path: Path) -> None:
    """The error comes before anything is started."""
    dev = start("opsqueue.cli", "dev", "tsks:app", "--folder", str(tmp_path / "data"))

    assert dev.wait() == 2
    assert "no module 'tsks'" in " ".join(dev.output.split())
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("opsqueue_worker", "worker ended with exit code -9"),
        ("valkey-server", "the embedded Redis ended by itself"),
    ],
)
def test_a_part_that_dies_ends_dev_and_is_named(
    start: Start, tmp_path: Path, part: str, named: str
) -> None:
    """Its last lines are shown, and the other parts are ended, too."""
    dev = start(
        *("opsqueue.cli", "dev", "tasks:app", "--port", "0", "-c", "1"),
        *("--folder", str(tmp_path / "data")),
    )
    dev.wait_for_line("Ctrl-C ends it")
    family = psutil.Process(dev.pid).children()
    doomed = next(p for p in family if part in " ".join(p.cmdline()))

    doomed.kill()

    assert dev.wait() == 1
    assert named in " ".join(dev.output.split())
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_a_second_dev_in_the_same_folder_is_refused(start: Start, tmp_path: Path) -> None:
    """It would use the first one's files and chunks."""
    options = ("--port", "0", "-c", "1", "--folder", str(tmp_path / "data"))
    start("opsqueue.cli", "dev", "tasks:app", *options).wait_for_line("Ctrl-C ends it")

    second = start("opsqueue.cli", "dev", "tasks:app", *options)

    assert second.wait() == 2
    assert "is `opsqueue dev` running already?" in " ".join(second.output.split())


def test_a_second_ctrl_c_ends_dev_without_waiting_for_chunks(start: Start, tmp_path: Path) -> None:
    """The first one waits up to a minute for the handler."""
    dev = start(
        *("opsqueue.cli", "dev", "tasks:app", "--port", "0", "-c", "1"),
        *("--folder", str(tmp_path / "data")),
    )
    url = dev.wait_for_line("curl").split()[3]
    dev.wait_for_line("Ctrl-C ends it")
    body = {"operations": [["wait", str(tmp_path)]], "chunk_size": 1}
    httpx.post(url, json=body).raise_for_status()
    while not list(tmp_path.glob("started-*")):
        time.sleep(0.02)

    dev.signal(signal.SIGINT)
    dev.wait_for_line("signal again to release them at once")
    began = time.monotonic()
    dev.signal(signal.SIGINT)

    assert dev.wait() == 0
    assert time.monotonic() - began < 20
