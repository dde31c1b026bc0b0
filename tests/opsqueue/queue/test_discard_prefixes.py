"""discard_prefixes: -> forgotten, and the reading that finds them."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue import Queue
from tests.opsqueue.steps import Clock, insert


def test_prefixes_of_submissions_are_known(queue: Queue, clock: Clock) -> None:
    """Until their objects are deleted."""
    insert(queue, 1, prefix="q/running")
    insert(queue, 0, retention_ms=0, prefix="q/gone")
    clock.advance(1)
    queue.forget_submissions()

    asked = ["q/running", "q/orphan", "q/gone"]
    before = queue.unknown_prefixes(asked)
    queue.forget_submissions(deleted_prefixes=["q/gone"])

    assert before == ["q/orphan"]
    assert queue.unknown_prefixes(asked) == ["q/orphan", "q/gone"]


def test_a_discarded_prefix_is_garbage_until_its_objects_are_deleted(queue: Queue) -> None:
    """A crash in between leaves it to the sweepers."""
    discarded = queue.discard_prefixes(["q/orphan"])

    again = queue.discard_prefixes(["q/orphan"])
    garbage = queue.forget_submissions().prefixes
    after = queue.forget_submissions(deleted_prefixes=["q/orphan"]).prefixes

    assert (discarded, again, garbage) == (["q/orphan"], ["q/orphan"], ("q/orphan",))
    assert after == ()
    assert queue.unknown_prefixes(["q/orphan"]) == ["q/orphan"]


def test_a_submissions_prefix_is_not_discarded(queue: Queue) -> None:
    """Whatever a listing of the store said before."""
    insert(queue, 1, prefix="q/1")

    assert queue.discard_prefixes(["q/1"]) == []
    assert queue.forget_submissions().prefixes == ()


def test_an_insert_of_a_discarded_prefix_is_refused(queue: Queue) -> None:
    """Its objects are being deleted; nothing of it is accepted."""
    queue.discard_prefixes(["q/late"])

    with pytest.raises(InvalidArgumentError, match="'q/late' is being deleted"):
        insert(queue, 1, prefix="q/late")

    assert queue.lookup_prefix("q/late") is None


def test_a_look_up_of_prefixes_is_bounded(queue: Queue) -> None:
    """No script keeps the server busy for long."""
    many = [f"q/{number}" for number in range(1_001)]

    for call in (queue.unknown_prefixes, queue.discard_prefixes):
        with pytest.raises(InvalidArgumentError, match="1,001 prefixes"):
            call(many)
