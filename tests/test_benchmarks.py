"""`make bench` runs every benchmark, and each starts: the numbers are for who runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NO_BENCHMARKS = {"report", "run"}
PROGRAMS = sorted(path for path in BENCHMARKS.glob("*.py") if path.stem not in NO_BENCHMARKS)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_run_alone_and_says_how(path: Path) -> None:
    """By its path, from anywhere."""
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, cwd="/", check=True
    )

    assert f"python benchmarks/{path.name}" in done.stdout


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
