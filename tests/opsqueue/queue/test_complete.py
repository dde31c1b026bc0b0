"""complete_chunks: reserved -> completed."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.chunk import Completed, Dropped, Lost, Token
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Clock, Raw, insert, take, take_one, tokens_of


def test_the_last_chunk_completes_the_submission(queue: Queue, clock: Clock) -> None:
    """In whichever order they are reported."""
    id_ = insert(queue, 3)
    first, second, third = tokens_of(take(queue, 3))
    queue.complete_chunks([third, first])
    clock.advance(500)

    outcome = queue.complete_chunks([second])

    submission = queue.get_submission(id_)
    assert [Completed(id_, 0)] == outcome
    assert submission.state is SubmissionState.COMPLETED
    assert submission.ended_at is not None
    assert clock.now == submission.ended_at.timestamp() * 1000
    assert submission.chunks_done == 3


def test_each_report_says_how_many_chunks_are_left(queue: Queue) -> None:
    """Progress needs no second request."""
    id_ = insert(queue, 4)

    outcomes = queue.complete_chunks(tokens_of(take(queue, 3)))

    assert [Completed(id_, 3), Completed(id_, 2), Completed(id_, 1)] == outcomes


def test_the_last_chunk_counts_only_the_operations_that_it_has(queue: Queue) -> None:
    """It may have fewer than the others."""
    id_ = insert(queue, 3, chunk_size=10, operations_total=21)
    first, second, third = take(queue, 3)

    queue.complete_chunks([third.token])
    with_the_short_one = queue.get_submission(id_).operations_done
    queue.complete_chunks([first.token, second.token])

    assert (with_the_short_one, queue.get_submission(id_).operations_done) == (1, 21)
    assert queue.count_queue().stats["backlog_operations"] == 0


def test_a_report_that_is_repeated_does_not_count_twice(queue: Queue) -> None:
    """The token was used up by the first one."""
    id_ = insert(queue, 3)
    token = take_one(queue).token
    queue.complete_chunks([token])

    again = queue.complete_chunks([token])

    assert [Lost()] == again
    assert queue.get_submission(id_).chunks_done == 1


def test_a_token_that_is_named_twice_in_a_call_counts_once(queue: Queue) -> None:
    """The second mention finds the reservation ended."""
    id_ = insert(queue, 3)
    token = take_one(queue).token

    outcomes = queue.complete_chunks([token, token])

    assert [Completed(id_, 2), Lost()] == outcomes
    assert queue.get_submission(id_).chunks_done == 1


def test_a_chunk_whose_bit_is_set_already_is_not_counted_again(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """Counters move only when a bit changes, whatever brought the chunk here twice."""
    id_ = insert(queue, 3)
    client.setbit(raw.key(f"sub:{id_}:done"), 0, 1)
    client.hset(raw.key(f"sub:{id_}"), "chunks_done", 1)

    outcome = queue.complete_chunks([take_one(queue).token])

    assert [Completed(id_, 2)] == outcome
    assert queue.get_submission(id_).chunks_done == 1
    assert queue.count_queue().chunks_in_hand == 0


def test_a_late_report_is_lost_and_changes_nothing(queue: Queue, clock: Clock) -> None:
    """The worker that holds the chunk now decides its outcome."""
    id_ = insert(queue, 1)
    late = queue.reserve_chunks("slow", reservation_ms=1_000).chunks[0]
    clock.advance(1_000)
    queue.reclaim_expired("sweeper")
    holder = take_one(queue, worker="quick")

    outcome = queue.complete_chunks([late.token])

    assert [Lost()] == outcome
    assert queue.get_submission(id_).state is SubmissionState.IN_PROGRESS
    assert queue.get_submission(id_).chunks_in_hand == 1
    assert [Completed(id_, 0)] == queue.complete_chunks([holder.token])


def test_a_token_that_never_was_is_lost(queue: Queue) -> None:
    """This also holds in a queue that was never used."""
    assert [Lost()] == queue.complete_chunks([Token("1-1")])


def test_a_reservation_ends_once_by_whichever_names(queue: Queue, raw: Raw) -> None:
    """Redis reads an entry's id with leading zeros as the same one."""
    id_ = insert(queue, 3, strategic_metadata={"customer": 7})
    token, _ = tokens_of(take(queue, 2))
    entry_id = token.split(":")[0]
    first, _, sequence = entry_id.partition("-")
    others = [entry_id, f"0{token}", f"0{entry_id}", f"{first}-0{sequence}"]

    outcomes = queue.complete_chunks([token, *map(Token, others)])

    assert [Completed(id_, 2), *[Lost()] * 4] == outcomes
    assert queue.get_submission(id_).chunks_in_hand == 1
    assert raw.in_hand("customer") == {7: 1}


def test_a_report_after_a_cancel_is_dropped_and_its_index_waits_for_a_retry(queue: Queue) -> None:
    """Nothing is counted and nothing is lost."""
    id_ = insert(queue, 1)
    token = take_one(queue).token
    queue.cancel_submission(id_)

    outcome = queue.complete_chunks([token])

    assert [Dropped(id_)] == outcome
    assert queue.get_submission(id_).chunks_done == 0
    assert take(queue, 5) == []
    queue.retry_submission(id_)
    assert take_one(queue).chunk_index == 0


def test_failed_operations_are_summed_up(queue: Queue) -> None:
    """Errors of single operations, where the handler collects them."""
    id_ = insert(queue, 3, chunk_size=10)
    first, second, third = tokens_of(take(queue, 3))

    queue.complete_chunks([first, second, third], operations_failed={first: 2, third: 5})

    assert queue.get_submission(id_).operations_failed == 7
    assert queue.count_queue().stats["operations_failed"] == 7


def test_completion_leaves_the_in_hand_counts_empty(queue: Queue, raw: Raw) -> None:
    """Each exit from reserved undoes what reserve did."""
    id_ = insert(queue, 3, strategic_metadata={"customer": 7, "region": -1})
    chunks = take(queue, 3)
    in_hand = raw.in_hand("customer"), raw.in_hand("region")

    queue.complete_chunks(tokens_of(chunks))

    assert in_hand == ({7: 3}, {-1: 3})
    assert raw.in_hand("customer") == raw.in_hand("region") == {}
    assert queue.get_submission(id_).chunks_in_hand == 0


def test_a_completed_submission_keeps_no_key_of_a_size_that_grows(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """Its state says that every bit is set."""
    id_ = insert(queue, 3)

    queue.complete_chunks(tokens_of(take(queue, 3)))

    keys = [raw.key(f"sub:{id_}:{name}") for name in ("done", "redo", "attempts")]
    assert client.exists(*keys) == 0


def test_reports_of_several_submissions_go_in_one_call(queue: Queue) -> None:
    """Each report has its own outcome."""
    first, second = insert(queue, 1), insert(queue, 1)
    one, two = take(queue, 2)
    queue.cancel_submission(first)

    outcomes = queue.complete_chunks([one.token, Token("1-1"), two.token])

    assert [Dropped(first), Lost(), Completed(second, 0)] == outcomes


def test_no_tokens_are_no_reports(queue: Queue) -> None:
    """An empty batch is not an error."""
    assert queue.complete_chunks([]) == []


def test_reports_may_come_in_any_order_with_lost_ones_among_them(queue: Queue) -> None:
    """Tokens are read as one range, and their order as text is not that of their numbers."""
    first, second = insert(queue, 25), insert(queue, 25)
    held = take(queue, 50)
    late = held[7].token
    queue.release_chunks([late])
    tokens = [chunk.token for chunk in held[::-1]]

    outcomes = dict(zip(tokens, queue.complete_chunks(tokens), strict=True))

    assert Lost() == outcomes.pop(late)
    assert all(isinstance(outcome, Completed) for outcome in outcomes.values())
    assert queue.get_submission(first).chunks_done == 24
    assert queue.get_submission(second).state is SubmissionState.COMPLETED


def test_reports_between_those_of_others_are_found(queue: Queue) -> None:
    """Another worker's entries, many more than ours, lie between the first token and the last."""
    id_ = insert(queue, 60)
    ours = take(queue, 2)
    take(queue, 50, worker="w2")
    ours.append(take_one(queue))

    outcomes = queue.complete_chunks([chunk.token for chunk in ours])

    assert [Completed(id_, 59), Completed(id_, 58), Completed(id_, 57)] == outcomes
    assert queue.get_submission(id_).chunks_in_hand == 50


def test_what_is_reported_to_a_group_made_anew_is_lost(queue: Queue, raw: Raw) -> None:
    """The entries exist, but are not pending; the acknowledgement decides."""
    id_ = insert(queue, 3)
    tokens = tokens_of(take(queue, 2))
    raw.client.xgroup_destroy(raw.key("reservations"), "workers")
    raw.client.xgroup_create(raw.key("reservations"), "workers", "$")

    outcomes = queue.complete_chunks(tokens)

    assert [Lost(), Lost()] == outcomes
    assert queue.get_submission(id_).chunks_done == 0


@pytest.mark.parametrize("failed", [-1, 2**63, 1.5, True])
def test_a_count_of_failed_operations_that_can_not_be_is_refused_and_the_chunk_kept(
    queue: Queue, failed: int
) -> None:
    """The script would fail at it after the reservation's end: the chunk would be lost."""
    id_ = insert(queue, 1)
    token = take_one(queue).token

    with pytest.raises(InvalidArgumentError, match="operations_failed is"):
        queue.complete_chunks([token], operations_failed={token: failed})

    assert [Completed(id_, 0)] == queue.complete_chunks([token])


def test_no_more_operations_have_failed_than_the_chunk_has(queue: Queue) -> None:
    """Whatever a consumer reports: those that succeeded are the others, and never below 0."""
    id_ = insert(queue, 2, chunk_size=3, operations_total=4)
    tokens = tokens_of(take(queue, 2))

    queue.complete_chunks(tokens, operations_failed=dict.fromkeys(tokens, 2**53))

    submission = queue.get_submission(id_)
    assert (4, 4, 0) == (
        submission.operations_done,
        submission.operations_failed,
        submission.operations_succeeded,
    )
    assert queue.count_queue().stats["operations_failed"] == 4
