"""pause_queue, resume_queue: running <-> paused."""

from __future__ import annotations

from opsqueue.model.chunk import Completed
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Clock, insert, take, take_one


def test_a_paused_queue_hands_out_nothing(queue: Queue) -> None:
    """The answer says why it is empty."""
    insert(queue, 1)

    queue.pause_queue()

    reserved = queue.reserve_chunks("w1")
    assert (reserved.chunks, reserved.is_paused) == ((), True)
    assert queue.count_queue().is_paused


def test_chunks_in_hand_are_finished_in_a_paused_queue(queue: Queue) -> None:
    """Pausing stops nobody in the middle."""
    id_ = insert(queue, 2)
    token = take_one(queue).token
    queue.pause_queue()

    assert [Completed(id_, 1)] == queue.complete_chunks([token])


def test_a_resumed_queue_goes_on_where_it_stopped(queue: Queue) -> None:
    """Repeated pausing or resuming changes nothing."""
    insert(queue, 2)
    take_one(queue)
    queue.pause_queue()
    queue.pause_queue()

    queue.resume_queue()
    queue.resume_queue()

    reserved = queue.reserve_chunks("w1")
    assert not reserved.is_paused
    assert [chunk.chunk_index for chunk in reserved.chunks] == [1]


def test_a_paused_queue_tells_no_due_instant(queue: Queue, clock: Clock) -> None:
    """A worker can't reserve a chunk that comes due, so it would ask without end."""
    insert(queue, 1)
    queue.release_chunks([take_one(queue).token], delay_ms=10)
    queue.pause_queue()
    clock.advance(20)

    assert queue.reserve_chunks("w1").next_due_in_ms is None
    queue.resume_queue()
    assert len(take(queue, 5)) == 1


def test_submissions_are_accepted_by_a_paused_queue(queue: Queue) -> None:
    """They wait."""
    queue.pause_queue()

    id_ = insert(queue, 1)

    assert queue.get_submission(id_).chunks_done == 0
    assert queue.count_queue().submissions_ready == 1
