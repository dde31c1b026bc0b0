"""release_chunks: reserved -> ready or delayed."""

from __future__ import annotations

from opsqueue.model.chunk import Dropped, Lost, Released, Token
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Clock, Raw, insert, take, take_one, tokens_of


def test_a_chunk_released_at_shutdown_keeps_its_attempt(queue: Queue) -> None:
    """It was not worked on."""
    id_ = insert(queue, 1, max_attempts=1)

    outcome = queue.release_chunks([take_one(queue).token])

    assert [Released(id_)] == outcome
    assert take_one(queue, worker="w2").attempt == 1


def test_a_release_with_a_delay_makes_the_chunk_wait(queue: Queue, clock: Clock) -> None:
    """When something around the handler is out of order, trying at once would not help."""
    insert(queue, 1)
    queue.release_chunks([take_one(queue).token], delay_ms=5_000)

    clock.advance(4_999)
    before = queue.reserve_chunks("w2")
    clock.advance(1)
    at = take(queue, worker="w2")

    assert (before.chunks, before.next_due_in_ms) == ((), 1)
    assert [chunk.attempt for chunk in at] == [1]


def test_a_release_after_a_cancel_is_dropped(queue: Queue) -> None:
    """Its index waits for a retry, without the delay."""
    id_ = insert(queue, 1)
    token = take_one(queue).token
    queue.cancel_submission(id_)

    outcome = queue.release_chunks([token], delay_ms=5_000)

    assert [Dropped(id_)] == outcome
    queue.retry_submission(id_)
    assert take_one(queue).chunk_index == 0


def test_each_token_of_a_release_is_judged_for_itself(queue: Queue) -> None:
    """A lost one in the middle does not stop the others."""
    id_ = insert(queue, 2)
    first, second = tokens_of(take(queue, 2))

    outcomes = queue.release_chunks([first, Token("1-1"), first, second])

    assert [Released(id_), Lost(), Lost(), Released(id_)] == outcomes


def test_a_release_empties_the_in_hand_counts(queue: Queue, raw: Raw) -> None:
    """At once and with a delay alike."""
    id_ = insert(queue, 2, strategic_metadata={"customer": 7})
    first, second = tokens_of(take(queue, 2))

    queue.release_chunks([first])
    queue.release_chunks([second], delay_ms=1)

    assert raw.in_hand("customer") == {}
    assert queue.get_submission(id_).chunks_in_hand == 0


def test_the_last_reason_is_kept_with_the_submission(queue: Queue, clock: Clock) -> None:
    """At first there is none; a release without one changes nothing; a long one is cut."""
    id_ = insert(queue, 1)
    before = queue.get_submission(id_)
    for reason in ("the disk is away", "x" * 5_000, ""):
        queue.release_chunks([take_one(queue).token], reason=reason)
        clock.advance(1)
    last = queue.get_submission(id_)

    assert (before.release_reason, before.released_at) == (None, None)
    assert last.release_reason == "x" * 1_000
    assert last.released_at is not None
