"""The number of chunks that a worker reserves ahead."""

from __future__ import annotations

import pytest

from opsqueue_worker.pool.pool import AHEAD_AT_MOST, Ahead


def test_at_first_one_chunk_is_held_ahead() -> None:
    """Their durations are not known yet."""
    assert Ahead(None).chunks == 1


@pytest.mark.parametrize(
    ("duration_s", "chunks"), [(0.0, AHEAD_AT_MOST), (0.001, 64), (0.01, 10), (0.1, 1), (30.0, 1)]
)
def test_some_100_ms_of_work_are_held_ahead(duration_s: float, chunks: int) -> None:
    """Tiny chunks share round trips, and long ones are not hoarded."""
    ahead = Ahead(None)

    ahead.saw(duration_s)

    assert ahead.chunks == chunks


def test_it_follows_when_chunks_become_longer() -> None:
    """It takes a few chunks."""
    ahead = Ahead(None)
    ahead.saw(0.001)

    for _ in range(20):
        ahead.saw(1.0)

    assert ahead.chunks == 1


def test_a_fixed_number_stays() -> None:
    """The durations do not matter, and 0 is allowed."""
    ahead = Ahead(0)

    ahead.saw(0.001)

    assert ahead.chunks == 0
