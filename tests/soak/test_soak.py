"""A short soak; `make soak MINUTES=30` has long ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import soak

SECONDS = 6
"""With the load before and the rests half a minute: buckets of rate limits are kept for 10 s."""


@pytest.mark.system
@pytest.mark.timeout(300)
def test_at_rest_nothing_is_left(tmp_path: Path) -> None:
    """Keys, files, processes, descriptors and memory are as before the load."""
    left = soak(tmp_path, seconds=SECONDS, say=print)

    assert left == []
