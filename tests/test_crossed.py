"""`python -m tests.crossed`, whose numbers docs/internals/changes.md shows, untested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_each_flow_crosses_functions_modules_and_redis() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.crossed"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert ran.returncode == 0, ran.stderr
    _, *rows = ran.stdout.splitlines()
    assert len(rows) == 5, ran.stdout
    for row in rows:
        functions, modules, round_trips, _ = row.split(maxsplit=3)
        assert int(functions) > int(modules) > 0, row
        assert int(round_trips) > 0, row
