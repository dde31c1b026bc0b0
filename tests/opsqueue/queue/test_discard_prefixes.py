"""discard_prefixes: -> forgotten, and the reading that finds them."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Clock, insert, prefix_of


def test_prefixes_of_submissions_are_known(queue: Queue, clock: Clock) -> None:
    """They are known until their objects are deleted."""
    insert(queue, 1, prefix=prefix_of(queue, "running"))
    insert(queue, 0, retention_ms=0, prefix=prefix_of(queue, "gone"))
    clock.advance(1)
    queue.forget_submissions()

    asked = [prefix_of(queue, "running"), prefix_of(queue, "orphan"), prefix_of(queue, "gone")]
    before = queue.unknown_prefixes(asked)
    queue.forget_submissions(deleted_prefixes=[prefix_of(queue, "gone")])

    assert before == [prefix_of(queue, "orphan")]
    assert queue.unknown_prefixes(asked) == [prefix_of(queue, "orphan"), prefix_of(queue, "gone")]


def test_a_discarded_prefix_is_garbage_until_its_objects_are_deleted(queue: Queue) -> None:
    """The prefix stays pending deletion, so that a crash loses nothing."""
    discarded = queue.discard_prefixes([prefix_of(queue, "orphan")])

    again = queue.discard_prefixes([prefix_of(queue, "orphan")])
    garbage = queue.forget_submissions().prefixes
    after = queue.forget_submissions(deleted_prefixes=[prefix_of(queue, "orphan")]).prefixes

    assert (discarded, again, garbage) == (
        [prefix_of(queue, "orphan")],
        [prefix_of(queue, "orphan")],
        (prefix_of(queue, "orphan"),),
    )
    assert after == ()
    assert queue.unknown_prefixes([prefix_of(queue, "orphan")]) == [prefix_of(queue, "orphan")]


def test_a_submissions_prefix_is_not_discarded(queue: Queue) -> None:
    """Whatever a listing of the store said before."""
    insert(queue, 1, prefix=prefix_of(queue, "1"))

    assert queue.discard_prefixes([prefix_of(queue, "1")]) == []
    assert queue.forget_submissions().prefixes == ()


def test_an_insert_of_a_discarded_prefix_is_refused(queue: Queue) -> None:
    """Its objects are being deleted; nothing of it is accepted."""
    late = prefix_of(queue, "late")
    queue.discard_prefixes([late])

    with pytest.raises(InvalidArgumentError, match=f"{late!r} is being deleted"):
        insert(queue, 1, prefix=late)

    assert queue.lookup_prefix(late) is None


def test_a_look_up_of_prefixes_is_bounded(queue: Queue) -> None:
    """No script keeps the server busy for long."""
    many = [prefix_of(queue, str(number)) for number in range(1_001)]

    for call in (queue.unknown_prefixes, queue.discard_prefixes):
        with pytest.raises(InvalidArgumentError, match="1,001 prefixes"):
            call(many)
