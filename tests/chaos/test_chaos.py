"""A short run of the fault suite; `make chaos` has long ones, with any seed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.run import run_seed

SEED = int(os.environ.get("CHAOS_SEED", "1"))
"""Fixed, so that a failure can be reproduced."""


@pytest.mark.system
@pytest.mark.timeout(240)
def test_faults_lose_nothing_count_nothing_twice_and_leave_nothing_behind(tmp_path: Path) -> None:
    result = run_seed(SEED, seconds=12, folder=tmp_path)

    print(result.text)
    assert result.wrong == ()
