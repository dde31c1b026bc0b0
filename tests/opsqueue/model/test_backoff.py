"""The pauses between repetitions of a call."""

from __future__ import annotations

import pytest

from opsqueue.model.backoff import RetryBackoff


def test_pauses_double_up_to_a_cap_with_half_jitter() -> None:
    """Clients must not all return at the same time."""
    backoff = RetryBackoff(first_s=1, max_s=3)

    pauses_s = [backoff.pause_s(failures) for failures in (1, 2, 3, 4)]

    assert all(full / 2 <= p <= full for full, p in zip([1, 2, 3, 3], pauses_s, strict=True))


def test_brisk_pauses_stay_short_for_as_long_as_a_failover_takes() -> None:
    """A program works again within a second after it; a longer outage is asked about less."""
    backoff = RetryBackoff(first_s=0.2, max_s=5, brisk=50)

    in_time, later = ([backoff.pause_s(n) for n in range(*ends)] for ends in ((1, 52), (59, 70)))

    assert max(in_time) <= 0.5
    assert 12 < sum(in_time) < 26
    assert min(later) >= 2.5


@pytest.mark.parametrize("failures", [1, 10, 1_100, 10_000])
def test_there_is_a_pause_however_long_the_outage(failures: int) -> None:
    """Twenty minutes without Redis were once more than a float could hold."""
    assert 0 < RetryBackoff(first_s=0.1, max_s=1.5).pause_s(failures) <= 1.5
