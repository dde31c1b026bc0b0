"""delete_inputs: completed -> completed."""

from __future__ import annotations

from opsqueue.model.answers import SpentInputs
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, Clock, insert, prefix_of, take, take_one, tokens_of


def complete(queue: Queue, chunks: int, **fields: object) -> SubmissionId:
    id_ = insert(queue, chunks, delete_inputs_at_completion=True, **fields)
    queue.complete_chunks(tokens_of(take(queue, chunks)))
    return id_


def test_inputs_are_answered_once_their_submission_completed(queue: Queue) -> None:
    """Not while a chunk of it can still need one."""
    id_ = insert(queue, 2, delete_inputs_at_completion=True, prefix=prefix_of(queue, "a/b"))
    first, last = tokens_of(take(queue, 2))
    queue.complete_chunks([first])

    before = queue.delete_inputs()
    queue.complete_chunks([last])

    spent = SpentInputs(
        submission_id=id_, prefix=prefix_of(queue, "a/b"), first_index=0, chunks_total=2
    )
    assert (before, queue.delete_inputs()) == ([], [spent])


def test_inputs_of_other_submissions_stay(queue: Queue) -> None:
    """Of those that did not ask for it, and of failed and cancelled ones, which can be retried."""
    insert(queue, 1)
    queue.complete_chunks(tokens_of(take(queue, 1)))
    insert(queue, 1, delete_inputs_at_completion=True, max_attempts=1)
    queue.fail_chunk(take_one(queue).token, FAILURE)
    queue.cancel_submission(insert(queue, 1, delete_inputs_at_completion=True))
    insert(queue, 0, delete_inputs_at_completion=True)

    assert queue.delete_inputs() == []


def test_inputs_are_answered_until_their_deletion_is_said(queue: Queue) -> None:
    """A crash between the two leaks nothing; a part that is deleted is not answered again."""
    id_ = complete(queue, 10)

    def left() -> list[int]:
        return [spent.first_index for spent in queue.delete_inputs()]

    first, again = left(), left()
    queue.delete_inputs(deleted={id_: 4})
    after_a_part = left()
    queue.delete_inputs(deleted={id_: 3})
    after_a_late_report = left()
    queue.delete_inputs(deleted={id_: 10})

    assert (first, again, after_a_part, after_a_late_report) == ([0], [0], [4], [4])
    assert left() == []


def test_a_large_submission_does_not_hold_up_the_others(queue: Queue) -> None:
    """Submissions with the fewest deleted inputs come first."""
    large = complete(queue, 10)
    queue.delete_inputs(deleted={large: 5})
    small = complete(queue, 1)

    assert [spent.submission_id for spent in queue.delete_inputs(limit=1)] == [small]


def test_forgetting_takes_inputs_that_are_left_along(queue: Queue, clock: Clock) -> None:
    """The prefix is deleted as a whole, and a late report of deleted inputs changes nothing."""
    id_ = complete(queue, 10, retention_ms=0, prefix=prefix_of(queue, "a/b"))
    clock.advance(1)

    forgotten = queue.forget_submissions()

    assert forgotten.prefixes == (prefix_of(queue, "a/b"),)
    assert queue.delete_inputs(deleted={id_: 5}) == []
