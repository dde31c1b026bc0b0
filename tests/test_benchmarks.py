"""`make bench` runs every benchmark, and each one starts; the numbers are not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NO_BENCHMARKS = {"report", "run"}
PROGRAMS = sorted(path for path in BENCHMARKS.glob("*.py") if path.stem not in NO_BENCHMARKS)


# Forked, so that the third-party packages, which all of them need, are imported once.
SHOW_HELP = """
import os, runpy, sys
import opsqueue.producer, opsqueue.queue.connection
for path in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv, sys.path[0] = [path, "--help"], os.path.dirname(path)
        runpy.run_path(path, run_name="__main__")
        os._exit(1)
    _, status = os.wait()
    print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)
"""


def test_each_benchmark_can_be_run_alone_and_says_how() -> None:
    """It runs by its path from any folder."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, *PROGRAMS],
        capture_output=True,
        text=True,
        cwd="/",
        check=True,
    )

    *shown, rest = done.stdout.split("exit 0\n")
    assert (len(PROGRAMS), "") == (len(shown), rest), done.stderr
    for path, text in zip(PROGRAMS, shown, strict=True):
        assert f"python benchmarks/{path.name}" in text


def test_every_benchmark_is_run_with_all_others() -> None:
    """Also those that come later."""
    run = (BENCHMARKS / "run.py").read_text()

    assert [] == [path.name for path in PROGRAMS if f'"{path.name}"' not in run]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_benchmark_has_a_section(path: Path) -> None:
    """With the command that gives its numbers."""
    page = (BENCHMARKS / "README.md").read_text()

    assert f"## `{path.name}`" in page
    assert f"`python benchmarks/{path.name}" in page
