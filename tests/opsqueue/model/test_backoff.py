"""The pauses between repetitions of a call."""

from __future__ import annotations

import pytest

from opsqueue.model.backoff import RetryBackoff


def test_pauses_double_up_to_a_cap_with_half_jitter() -> None:
    """Clients must not all return at the same time."""
    backoff = RetryBackoff(first_s=1, max_s=3)

    pauses_s = [backoff.pause_s(failures) for failures in (1, 2, 3, 4)]

    assert all(full / 2 <= p <= full for full, p in zip([1, 2, 3, 3], pauses_s, strict=True))


@pytest.mark.parametrize("failures", [1, 10, 1_100, 10_000])
def test_there_is_a_pause_however_long_the_outage(failures: int) -> None:
    """Twenty minutes without Redis were once more than a float could hold."""
    assert 0 < RetryBackoff(first_s=0.1, max_s=1.5).pause_s(failures) <= 1.5
