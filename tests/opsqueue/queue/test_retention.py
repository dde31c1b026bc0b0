"""set_retention: running -> running, and whose retention holds."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Clock, insert

DAY_MS = 24 * 3600 * 1000


def is_forgotten_after(queue: Queue, clock: Clock, ms: int) -> bool:
    """Whether the only submission that has ended just now goes at this instant, not before."""
    clock.advance(ms - 1)
    before = queue.forget_submissions().submissions
    clock.advance(1)
    return before == 0 and queue.forget_submissions().submissions == 1


def test_without_any_retention_a_submission_is_kept_for_a_day(queue: Queue, clock: Clock) -> None:
    """Counted from its end."""
    insert(queue, 0)

    assert queue.get_retention() is None
    assert is_forgotten_after(queue, clock, DAY_MS)


def test_the_queues_retention_holds_for_submissions_without_their_own(
    queue: Queue, clock: Clock
) -> None:
    """Also for those inserted before it was set, which end after."""
    id_ = insert(queue, 1)

    queue.set_retention(5_000)
    queue.cancel_submission(id_)

    assert queue.get_retention() == 5_000
    assert is_forgotten_after(queue, clock, 5_000)


def test_a_submissions_own_retention_comes_first(queue: Queue, clock: Clock) -> None:
    """Longer or shorter."""
    queue.set_retention(5_000)

    insert(queue, 0, retention_ms=7_000)

    assert is_forgotten_after(queue, clock, 7_000)


def test_what_has_ended_keeps_the_retention_that_it_ended_with(queue: Queue, clock: Clock) -> None:
    """Setting a shorter one deletes no result that somebody counts on."""
    queue.set_retention(5_000)
    insert(queue, 0)

    queue.set_retention(1)

    assert is_forgotten_after(queue, clock, 5_000)


def test_a_retention_that_is_removed_is_a_day_again(queue: Queue, clock: Clock) -> None:
    """As if it had never been set."""
    queue.set_retention(0)

    queue.set_retention(None)
    insert(queue, 0)

    assert is_forgotten_after(queue, clock, DAY_MS)


def test_a_retention_that_cannot_be_meant_is_refused(queue: Queue) -> None:
    """And says what it may be."""
    for wrong in (-1, 10**15):
        with pytest.raises(InvalidArgumentError, match="ten years"):
            queue.set_retention(wrong)
