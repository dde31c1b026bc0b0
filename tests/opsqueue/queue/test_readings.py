"""get_submission, list_submissions, count_queue, events: readings."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from opsqueue.cli.queues import cut_lists
from opsqueue.exceptions import (
    InvalidArgumentError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
)
from opsqueue.http.bodies import WorkersBody
from opsqueue.model.answers import WorkerSeen
from opsqueue.model.chunk import Token
from opsqueue.model.submission import SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    insert,
    listed,
    prefix_of,
    take,
    take_one,
    tokens_of,
)


def test_an_unknown_submission_is_an_error_that_names_it(queue: Queue) -> None:
    """With all 19 digits, as it stands in the URL."""
    with pytest.raises(SubmissionNotFoundError, match="42"):
        queue.get_submission(SubmissionId(42))


def test_submissions_are_listed_by_state_in_the_order_of_creation(queue: Queue) -> None:
    """The newest first, or the oldest first."""
    ids = [insert(queue, 1) for _ in range(3)]
    insert(queue, 0)

    newest = listed(queue, SubmissionState.IN_PROGRESS)
    oldest = listed(queue, SubmissionState.IN_PROGRESS, order="oldest")

    assert ids[::-1] == [s.id for s in newest]
    assert ids == [s.id for s in oldest]


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_list_goes_on_after_an_id(queue: Queue, order: str) -> None:
    """Page by page, in either order, nothing twice and nothing left out."""
    ids = [insert(queue, 1) for _ in range(5)]
    pages: list[SubmissionId] = []
    after = None

    for _ in range(3):
        page = listed(
            queue,
            SubmissionState.IN_PROGRESS,
            after=after,
            order=order,
            limit=2,
        )
        pages += [s.id for s in page]
        after = pages[-1]

    assert (ids if order == "oldest" else ids[::-1]) == pages


@pytest.mark.parametrize("limit", [0, -1])
def test_a_list_without_a_limit_is_refused(queue: Queue, limit: int) -> None:
    """Redis reads a negative limit as none at all."""
    with pytest.raises(InvalidArgumentError, match="limit"):
        listed(queue, SubmissionState.IN_PROGRESS, limit=limit)


def test_a_listed_submission_is_the_same_as_a_single_one(queue: Queue) -> None:
    """With metadata and failure."""
    id_ = insert(queue, 2, strategic_metadata={"customer": 7}, metadata=b"m")
    queue.fail_chunk(take_one(queue).token, FAILURE)

    (one,) = listed(queue, SubmissionState.IN_PROGRESS)

    assert queue.get_submission(id_) == one


def test_the_count_of_a_queue_that_nobody_used_is_zero(queue: Queue) -> None:
    """Not an error."""
    counts = queue.count_queue()

    assert dict.fromkeys(SubmissionState, 0) == counts.submissions
    assert (counts.chunks_delayed, counts.chunks_in_hand, counts.workers) == (0, 0, 0)
    assert (counts.is_paused, counts.stats) == (False, {})


def test_a_queue_is_counted(queue: Queue) -> None:
    """What is where now, and the totals since it exists."""
    insert(queue, 6, chunk_size=10, operations_total=52)
    insert(queue, 0)
    queue.cancel_submission(insert(queue, 1, chunk_size=10))
    chunks = tokens_of(take(queue, 4))
    queue.complete_chunks(chunks[:1], operations_failed={chunks[0]: 3})
    queue.fail_chunk(chunks[1], FAILURE)

    counts = queue.count_queue()

    assert counts.submissions == {
        SubmissionState.IN_PROGRESS: 1,
        SubmissionState.COMPLETED: 1,
        SubmissionState.FAILED: 0,
        SubmissionState.CANCELLED: 1,
    }
    assert (counts.submissions_ready, counts.chunks_delayed, counts.chunks_in_hand) == (1, 1, 2)
    assert counts.stats == {
        "submissions_inserted": 3,
        "submissions_completed": 1,
        "submissions_cancelled": 1,
        "chunks_inserted": 7,
        "chunks_completed": 1,
        "chunks_retried": 1,
        "chunks_dropped": 1,
        "operations_inserted": 62,
        "operations_completed": 10,
        "operations_failed": 3,
        "backlog_chunks": 5,
        "backlog_operations": 42,
    }


def test_workers_are_listed_with_what_they_tell_of_themselves(queue: Queue, clock: Clock) -> None:
    """The ones seen last first."""
    queue.heartbeat("old", info=b'{"host":"a"}')
    clock.advance(1_000)
    queue.reserve_chunks("before-its-first-heartbeat")
    clock.advance(500)

    workers = queue.list_workers()

    assert [
        WorkerSeen(name="before-its-first-heartbeat", seen_ms_ago=500, info={}),
        WorkerSeen(name="old", seen_ms_ago=1_500, info={"host": "a"}),
    ] == workers
    assert queue.list_workers(limit=1) == workers[:1]


def test_a_dead_worker_is_listed_as_such_until_it_is_swept(queue: Queue, clock: Clock) -> None:
    """By its own timeout, not by that of whoever reads."""
    queue.heartbeat("quick", timeout_ms=1_000)
    queue.heartbeat("patient", timeout_ms=300_000)
    clock.advance(999)
    before = {worker.name: worker.is_alive for worker in queue.list_workers()}
    clock.advance(1)

    after = {worker.name: worker.is_alive for worker in queue.list_workers()}

    assert before == {"quick": True, "patient": True}
    assert after == {"quick": False, "patient": True}


def test_workers_are_listed_with_what_they_hold(queue: Queue, clock: Clock) -> None:
    """How many chunks, and for how long the oldest of them."""
    insert(queue, 5)
    queue.heartbeat("idle")
    (first,) = take(queue, 1, worker="busy")
    clock.advance(1_000)
    take(queue, 2, worker="busy")
    clock.advance(500)

    before = {worker.name: worker for worker in queue.list_workers()}
    queue.complete_chunks([first.token])
    after = {worker.name: worker for worker in queue.list_workers()}

    assert (3, 1_500) == (before["busy"].chunks_in_hand, before["busy"].oldest_ms)
    assert (2, 500) == (after["busy"].chunks_in_hand, after["busy"].oldest_ms)
    assert (0, None) == (after["idle"].chunks_in_hand, after["idle"].oldest_ms)


def crowd(raw: Raw, queue: Queue) -> None:
    """Add so many consumers to the group that no command counts all of their chunks."""
    queue.repair(begin=True)
    pipeline = raw.client.pipeline(transaction=False)
    for number in range(1_001):
        pipeline.xgroup_createconsumer(raw.key("reservations"), "workers", f"other-{number}")
    pipeline.execute()


@pytest.mark.parametrize("is_crowded", [False, True])
def test_any_number_of_chunks_of_any_number_of_workers_is_counted(
    queue: Queue, raw: Raw, clock: Clock, *, is_crowded: bool
) -> None:
    """In steps: one worker may have more than a step counts, and there may be many."""
    insert(queue, 10_000)
    (first,) = take(queue, 1, worker="most")
    clock.advance(1_000)
    for _ in range(2):
        take(queue, 1_000, worker="most")
    take(queue, 999, worker="many")
    for number in range(0, 300, 100):
        take(queue, 2, worker=f"w{number}")
    for number in range(300):
        queue.heartbeat(f"w{number}")
    if is_crowded:
        crowd(raw, queue)
    clock.advance(500)

    seen = {
        worker.name: (worker.chunks_in_hand, worker.oldest_ms) for worker in queue.list_workers()
    }

    idle = {f"w{number}": (0, None) for number in range(300)}
    few = {f"w{number}": (2, 500) for number in range(0, 300, 100)}
    assert seen == idle | few | {"most": (2_001, 1_500), "many": (999, 500)}
    (most,) = queue.get_workers(["nobody", "most"])
    assert (most.name, most.chunks_in_hand) == ("most", 2_001)
    assert first.chunk_index == 0


def test_workers_are_listed_without_a_stream(queue: Queue, raw: Raw) -> None:
    """They hold nothing then."""
    queue.heartbeat("w1")
    raw.lose_stream()

    (worker,) = queue.list_workers()

    assert (worker.chunks_in_hand, worker.oldest_ms) == (0, None)


def test_a_list_of_workers_has_at_most_a_thousand(queue: Queue) -> None:
    """Those that were seen last; a body says that it is cut."""
    for first in range(0, 1_001, 77):
        queue.pipeline(
            [
                commands.reserve_chunks(f"w{number}", limit=1, reservation_ms=1_000)
                for number in range(first, min(1_001, first + 77))
            ]
        )

    workers = queue.list_workers(limit=5_000)

    assert len({worker.name for worker in workers}) == 1_000
    assert WorkersBody.of(workers).is_cut
    assert not WorkersBody.of(workers[:-1]).is_cut
    assert ["queue q: only the 1,000 workers that were seen last are listed"] == cut_lists(
        {"q": workers, "r": workers[:-1]}
    )


def test_a_worker_that_has_gone_is_not_listed(queue: Queue) -> None:
    """It was neither retired nor found dead."""
    queue.heartbeat("w1")
    queue.retire_worker("w1")

    assert queue.list_workers() == []


def test_events_tell_what_became_of_submissions(queue: Queue) -> None:
    """In order, from a point on, so that a long poll misses nothing."""
    insert(queue, 1)
    start = queue.last_event_id()
    completed = insert(queue, 1)
    cancelled = insert(queue, 1)
    queue.complete_chunks(tokens_of(take(queue, 2)))
    queue.cancel_submission(cancelled)
    queue.retry_submission(cancelled)

    last, events = queue.wait_for_events(start, block_ms=1)

    assert [
        (completed, "created"),
        (cancelled, "created"),
        (completed - 100, "completed"),
        (completed, "completed"),
        (cancelled, "cancelled"),
        (cancelled, "retried"),
    ] == events
    assert (last, []) == queue.wait_for_events(last, block_ms=1)
    assert last == queue.last_event_id()


def test_a_new_queue_has_no_events(queue: Queue) -> None:
    """The point to start from is the very beginning."""
    assert queue.last_event_id() == "0-0"


def test_instants_are_of_the_redis_clock_in_utc(queue: Queue, clock: Clock) -> None:
    """One clock for all."""
    clock.now = 1_795_000_000_123

    created_at = queue.get_submission(insert(queue, 1)).created_at

    assert created_at.isoformat() == "2026-11-18T11:06:40.123000+00:00"


def pages(queue: Queue, wanted: SubmissionFilter, **options: Any) -> list[list[SubmissionId]]:
    """Return all pages by following `next`."""
    found, after = [], None
    while True:
        page = queue.list_submissions(wanted, after=after, **options)
        found.append([s.id for s in page.submissions])
        after = page.next
        if after is None:
            return found


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_list_of_all_states_is_in_one_order(queue: Queue, order: str) -> None:
    """Page by page, nothing twice and nothing left out."""
    ids = []
    for number in range(9):
        ids.append(insert(queue, number % 3))
        if number % 2:
            with suppress(SubmissionNotCancellableError):
                queue.cancel_submission(ids[-1])

    found = pages(queue, SubmissionFilter(), order=order, limit=2)

    assert (ids if order == "oldest" else ids[::-1]) == [id_ for page in found for id_ in page]
    assert all(len(page) <= 2 for page in found)


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_list_is_filtered_by_pairs_and_age(queue: Queue, clock: Clock, order: str) -> None:
    """All that is given must fit; the first instant is within, the second is not."""
    for _ in range(3):
        insert(queue, 1, strategic_metadata={"customer": 7, "region": 1})
        insert(queue, 1, strategic_metadata={"customer": 7})
        clock.advance(60_000)
    begin = datetime.fromtimestamp(clock.now / 1000 - 120, tz=UTC)
    wanted = SubmissionFilter(
        strategic_metadata={"customer": 7, "region": 1},
        created_from=begin,
        created_until=begin + timedelta(seconds=60),
    )

    (id_,) = (id_ for page in pages(queue, wanted, order=order, limit=1) for id_ in page)

    found = queue.get_submission(id_)
    assert (found.strategic_metadata, found.created_at) == ({"customer": 7, "region": 1}, begin)


def test_an_instant_without_a_time_zone_is_refused() -> None:
    """It would mean another one on each machine."""
    with pytest.raises(InvalidArgumentError, match="no time zone"):
        SubmissionFilter(created_from=datetime(2026, 1, 1))  # noqa: DTZ001 what is tested


def test_rates_are_of_the_last_minute(queue: Queue, clock: Clock) -> None:
    """What was completed before it is not counted."""
    clock.now -= clock.now % 10_000
    insert(queue, 3, chunk_size=10)
    queue.complete_chunks(tokens_of(take(queue, 1)))
    clock.advance(60_000)
    queue.complete_chunks(tokens_of(take(queue, 1)))
    clock.advance(10_000)

    counts = queue.count_queue()

    assert (counts.chunks_per_second, counts.operations_per_second) == (1 / 50, 10 / 50)


def test_a_prefix_names_its_submission(queue: Queue) -> None:
    """None where nobody has it."""
    id_ = insert(queue, 1, prefix=prefix_of(queue, "somebody/1"))

    assert queue.lookup_prefix(prefix_of(queue, "somebody/1")) == id_
    assert queue.lookup_prefix("nobody/1") is None


def test_a_reservation_is_read_by_its_token_while_it_holds(queue: Queue, clock: Clock) -> None:
    """Only what a report needs: no metadata, and not what has ended."""
    insert(queue, 3, strategic_metadata={"customer": 2**62}, metadata=b"m")
    chunks = take(queue, 2) + take(queue, 1, worker="w2")
    queue.complete_chunks(tokens_of(chunks)[1:2])
    clock.advance(1_500)

    found = queue.get_reservations([*tokens_of(chunks), Token("1-0")])

    assert found == {
        chunk.token: replace(
            chunk,
            held_ms=1_500,
            source=replace(chunk.source, metadata=None, strategic_metadata={}),
        )
        for chunk in (chunks[0], chunks[2])
    }


def test_no_reservation_is_read_before_the_first(queue: Queue) -> None:
    """The stream and its group come into being with it."""
    assert queue.get_reservations([Token("1-0")]) == {}


def test_durations_are_counted_by_how_submissions_ended(queue: Queue, clock: Clock) -> None:
    """Each once, within the first bound that it did not pass; one that is retried ends twice."""
    first, second, third = insert(queue, 1), insert(queue, 1), insert(queue, 1)
    clock.advance(500)
    queue.complete_chunks([take_one(queue).token])
    clock.advance(60_000)
    queue.cancel_submission(second)
    clock.advance(10**10)
    queue.cancel_submission(third)
    queue.retry_submission(third)
    queue.complete_chunks([take_one(queue).token])

    durations = queue.get_durations()

    def counted(state: SubmissionState) -> dict[float, int]:
        return {bound: number for bound, number in durations[state].counts.items() if number}

    assert queue.get_submission(first).state == "completed"
    assert {0.5: 1, math.inf: 1} == counted(SubmissionState.COMPLETED)
    assert {300.0: 1, math.inf: 1} == counted(SubmissionState.CANCELLED)
    assert {} == counted(SubmissionState.FAILED)
    assert durations[SubmissionState.CANCELLED].sum_s == pytest.approx(60.5 + 60.5 + 10**7)
