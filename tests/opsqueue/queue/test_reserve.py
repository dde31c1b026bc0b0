"""reserve_chunks: ready -> reserved."""

from __future__ import annotations

import threading

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.chunk import MAX_BATCH, Lost, Token
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Newest, Oldest, Random
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    indexes_of,
    insert,
    prefix_of,
    take,
    take_one,
    tokens_of,
)
from tests.opsqueue.submission_model import order_of


def test_oldest_takes_the_submission_that_was_inserted_first(queue: Queue) -> None:
    """It is emptied before the next one is touched."""
    first, second = insert(queue, 2), insert(queue, 2)

    chunks = take(queue, 3, strategy=Oldest())

    assert [first, first, second] == [chunk.source.submission_id for chunk in chunks]
    assert indexes_of(chunks) == [0, 1, 0]


def test_newest_takes_the_submission_that_was_inserted_last(queue: Queue) -> None:
    """It is emptied before the one before it is touched."""
    first, second = insert(queue, 2), insert(queue, 2)

    chunks = take(queue, 3, strategy=Newest())

    assert [second, second, first] == [chunk.source.submission_id for chunk in chunks]


def test_random_reaches_every_submission(queue: Queue) -> None:
    """Picked anew for each chunk: in 200 draws of 3, missing one has odds of 1 to 10**34."""
    ids = {insert(queue, 1_000) for _ in range(3)}

    chunks = take(queue, 200, strategy=Random())

    assert ids == {chunk.source.submission_id for chunk in chunks}
    assert len(chunks) == 200


def test_random_empties_every_submission(queue: Queue) -> None:
    """One without a free chunk is not picked again."""
    for _ in range(3):
        insert(queue, 2)

    chunks = take(queue, 100, strategy=Random())

    assert len(chunks) == 6


def test_no_chunk_is_handed_out_twice(queue: Queue) -> None:
    """What one worker holds, another does not get."""
    insert(queue, 3)
    first = take(queue, 2, worker="w1")

    second = take(queue, 10, worker="w2")

    assert (indexes_of(first), indexes_of(second)) == ([0, 1], [2])
    assert take(queue, 10, worker="w3") == []


def test_released_chunks_come_before_the_cursor_in_ascending_index(queue: Queue) -> None:
    """Results are wanted in order: early holes are filled first."""
    insert(queue, 5)
    chunks = take(queue, 3)
    queue.release_chunks(tokens_of(list(reversed(chunks))))

    again = take(queue, 5)

    assert indexes_of(again) == [0, 1, 2, 3, 4]


def test_ten_comes_after_nine_among_released_chunks(queue: Queue) -> None:
    """By number, not by text."""
    insert(queue, 12)
    chunks = take(queue, 12)
    queue.release_chunks(tokens_of([chunks[10], chunks[9], chunks[2]]))

    again = take(queue, 5)

    assert indexes_of(again) == [2, 9, 10]


def test_a_reservation_carries_all_that_a_worker_needs(queue: Queue, clock: Clock) -> None:
    """No second question to Redis before the handler runs."""
    id_ = insert(
        queue,
        3,
        prefix=prefix_of(queue, "folder/of-it"),
        chunk_size=10,
        operations_total=25,
        codec="json",
        metadata=b"m",
        strategic_metadata={"customer": 7},
        trace_context={"traceparent": "t"},
        max_attempts=4,
    )

    (chunk,) = queue.reserve_chunks("w1", reservation_ms=5_000).chunks

    assert id_ == chunk.source.submission_id
    assert queue.name == chunk.source.queue
    assert (chunk.source.prefix, chunk.source.codec) == (prefix_of(queue, "folder/of-it"), "json")
    assert (
        chunk.source.chunks_total,
        chunk.source.chunk_size,
        chunk.source.operations_total,
    ) == (3, 10, 25)
    assert (chunk.source.metadata, chunk.source.max_attempts) == (b"m", 4)
    assert chunk.source.strategic_metadata == {"customer": 7}
    assert chunk.source.trace_context == {"traceparent": "t"}
    assert (chunk.chunk_index, chunk.attempt) == (0, 1)
    assert clock.now + 5_000 == chunk.expires_at_ms


def test_chunks_of_one_submission_share_its_source(queue: Queue) -> None:
    """The submission is sent once a call, not once a chunk."""
    insert(queue, 3, metadata=b"x" * 1_000)

    chunks = take(queue, 3)

    assert chunks[0].source is chunks[1].source is chunks[2].source


def test_a_submission_leaves_the_index_of_work_with_its_last_free_chunk(
    queue: Queue, raw: Raw
) -> None:
    """An idle worker asks an empty index, not every submission in progress."""
    first, second = insert(queue, 2), insert(queue, 1)

    take(queue, 2)

    assert [second] == raw.ready()
    assert queue.get_submission(first).chunks_in_hand == 2


def test_a_stale_entry_in_the_index_of_work_is_passed_over(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """An index that is wrong must not stop the queue, nor loop for ever."""
    empty, full = insert(queue, 1), insert(queue, 1)
    take(queue, 1)
    client.zadd(raw.key("ready"), {str(empty): 0})

    (chunk,) = take(queue, 5)

    assert full == chunk.source.submission_id
    assert raw.ready() == []


def test_a_reserve_counts_as_a_heartbeat(queue: Queue, raw: Raw) -> None:
    """reclaim_dead always knows a worker that holds a chunk."""
    insert(queue)

    take(queue, 1, worker="newcomer")

    assert raw.workers() == ["newcomer"]


def test_the_due_instant_of_a_delayed_chunk_is_told(queue: Queue, clock: Clock) -> None:
    """A worker that finds nothing knows how long it may sleep."""
    insert(queue, 2, backoff=Backoff(first_ms=1_000, max_ms=1_000))
    first, second = take(queue, 2)
    queue.fail_chunk(first.token, FAILURE, jitter=1_000)
    queue.fail_chunk(second.token, FAILURE, jitter=0)
    clock.advance(200)

    reserved = queue.reserve_chunks("w1")

    assert reserved.chunks == ()
    assert reserved.next_due_in_ms == 300


def test_without_a_delayed_chunk_no_due_instant_is_told(queue: Queue) -> None:
    """None, not zero: there is nothing to wait for but a wake-up."""
    reserved = queue.reserve_chunks("w1")

    assert reserved.next_due_in_ms is None


def test_delayed_chunks_that_are_due_are_freed_at_most_a_hundred_a_call(
    queue: Queue, clock: Clock
) -> None:
    """One call is bounded; the answer says that more is due now."""
    insert(queue, 150)
    queue.release_chunks(tokens_of(take(queue, 150)), delay_ms=10)
    clock.advance(10)

    first = queue.reserve_chunks("w1", limit=1_000)
    second = queue.reserve_chunks("w1", limit=1_000)

    assert (len(first.chunks), first.next_due_in_ms) == (100, 0)
    assert (len(second.chunks), second.next_due_in_ms) == (50, None)


@pytest.mark.parametrize("limit", [0, -1, MAX_BATCH + 1])
def test_a_limit_out_of_range_is_refused(queue: Queue, limit: int) -> None:
    """No script keeps the server busy for long."""
    with pytest.raises(InvalidArgumentError, match=f"limit is {limit}"):
        queue.reserve_chunks("w1", limit=limit)


@pytest.mark.parametrize("reservation_ms", [0, 31 * 24 * 3600 * 1000])
def test_a_reservation_time_out_of_range_is_refused(queue: Queue, reservation_ms: int) -> None:
    """A chunk that would expire at once, or never."""
    with pytest.raises(InvalidArgumentError, match="reservation_ms"):
        queue.reserve_chunks("w1", reservation_ms=reservation_ms)


@pytest.mark.parametrize("worker", ["", "has space", "ä", "x" * 201])
def test_a_worker_name_that_logs_could_not_show_is_refused(queue: Queue, worker: str) -> None:
    """Names stand in messages, in URLs and in Redis."""
    with pytest.raises(InvalidArgumentError, match="worker name"):
        queue.reserve_chunks(worker)


@pytest.mark.parametrize("token", ["", "1", "1-", "-1", "*", "1-1 ", "1-1\n", "9" * 20 + "-0"])
def test_what_is_no_token_is_refused_before_redis_sees_it(queue: Queue, token: str) -> None:
    """Redis would fail in the middle of a script, with half of the chunks reported."""
    with pytest.raises(InvalidArgumentError, match="give the token of a reservation"):
        queue.complete_chunks([Token(token)])


def test_a_thousand_chunks_fit_into_one_call(queue: Queue) -> None:
    """The largest batch goes through every script that takes one."""
    id_ = insert(queue, MAX_BATCH)

    chunks = take(queue, MAX_BATCH)
    queue.release_chunks(tokens_of(chunks))
    again = take(queue, MAX_BATCH)
    queue.complete_chunks(tokens_of(again))

    assert list(range(MAX_BATCH)) == indexes_of(again)
    assert queue.get_submission(id_).chunks_done == MAX_BATCH


def test_more_tokens_than_a_batch_are_refused(queue: Queue) -> None:
    """No script keeps the server busy for long."""
    with pytest.raises(InvalidArgumentError, match="1,001 tokens in one call"):
        queue.complete_chunks([Token("1-1")] * (MAX_BATCH + 1))


def test_tokens_ascend(queue: Queue) -> None:
    """A later reservation has the larger token, within a call and between calls."""
    insert(queue, 4)

    tokens = [*tokens_of(take(queue, 2)), *tokens_of(take(queue, 2))]

    assert sorted(tokens, key=order_of) == tokens


def test_many_workers_at_once_complete_each_chunk_once(
    real_client: redis.Redis, queue_name: str
) -> None:
    """Each transition is one script: whoever comes in between finds it done or not begun."""
    queue = Queue(real_client, queue_name)
    id_ = insert(queue, 1_000)
    done: list[int] = []

    def work(worker: str) -> None:
        while chunks := take(queue, 7, worker=worker):
            kept, given_back = chunks[:5], chunks[5:]
            outcomes = queue.complete_chunks(tokens_of(kept))
            queue.release_chunks(tokens_of(given_back))
            done.extend(c.chunk_index for c, o in zip(kept, outcomes, strict=True) if o != Lost())

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while chunks := take(queue, 100):
        done.extend(indexes_of(chunks))
        queue.complete_chunks(tokens_of(chunks))

    assert sorted(done) == list(range(1_000))
    assert queue.get_submission(id_).state is SubmissionState.COMPLETED


def test_two_queues_share_nothing(client: redis.Redis, queue: Queue, clock: Clock) -> None:
    """One's submissions are not the other's work."""
    other = Queue(client, queue.name + "-other", clock=clock)
    insert(other, 1)

    assert take(queue, 5) == []
    assert take_one(other).chunk_index == 0
