"""done_chunks and watch_submission: the chunks that are done, and notifications of progress."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotFoundError
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.commands import MAX_WINDOW
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, Clock, Ear, insert, take, tokens_of


def finish(queue: Queue, indexes: set[int]) -> None:
    """Reserve all ready chunks, complete these, and release the others."""
    chunks = take(queue, 1_000)
    queue.complete_chunks([c.token for c in chunks if c.chunk_index in indexes])
    queue.release_chunks([c.token for c in chunks if c.chunk_index not in indexes])


def test_a_window_tells_which_of_its_chunks_are_done(queue: Queue) -> None:
    """Wherever it begins and ends."""
    id_ = insert(queue, 40)
    done = {0, 1, 7, 8, 15, 16, 17, 33}

    finish(queue, done)

    assert done == set(queue.done_chunks(id_).done)
    for start in range(42):
        for limit in (1, 7, 8, 9, 100):
            window = queue.done_chunks(id_, start=start, limit=limit).done
            expected = {i for i in done if start <= i < start + limit}
            assert expected == set(window) == {i for i in range(50) if i in window}


@pytest.mark.parametrize(("start", "until"), [(0, 19), (3, 19), (19, 19), (20, 40), (40, 40)])
def test_a_window_tells_where_the_first_gap_is(queue: Queue, start: int, until: int) -> None:
    """What a reader in order waits for."""
    id_ = insert(queue, 41)

    finish(queue, set(range(40)) - {19})

    assert until == queue.done_chunks(id_, start=start).done.done_until


def test_a_window_is_bounded(queue: Queue) -> None:
    """By what was asked for, by the submission, and by what one answer may hold."""
    id_ = insert(queue, 1_000_000)

    window = queue.done_chunks(id_, limit=10**9).done
    last = queue.done_chunks(id_, start=999_999).done

    assert (0, MAX_WINDOW) == (window.first, window.end)
    assert (999_999, 1_000_000) == (last.first, last.end)


def test_of_a_completed_submission_everything_is_done(queue: Queue) -> None:
    """Though its bitmap is gone."""
    id_ = insert(queue, 21, chunk_size=2, operations_total=41)

    finish(queue, set(range(21)))

    progress = queue.done_chunks(id_, start=3)
    assert list(range(3, 21)) == list(progress.done)
    assert progress.done.done_until == 21
    assert progress.state is SubmissionState.COMPLETED
    assert (progress.chunks_done, progress.operations_done) == (21, 41)


def test_of_a_failed_submission_what_was_done_stays_known(queue: Queue) -> None:
    """Its results are there."""
    id_ = insert(queue, 3, max_attempts=1)
    chunks = take(queue, 2)
    queue.complete_chunks(tokens_of(chunks[1:]))

    queue.fail_chunk(chunks[0].token, FAILURE)

    progress = queue.done_chunks(id_)
    assert (SubmissionState.FAILED, [1]) == (progress.state, list(progress.done))


def test_what_can_not_be_asked_is_refused(queue: Queue) -> None:
    """By name."""
    id_ = insert(queue, 1)

    with pytest.raises(InvalidArgumentError, match="start is -1"):
        queue.done_chunks(id_, start=-1)
    with pytest.raises(SubmissionNotFoundError):
        queue.done_chunks(SubmissionId(42))
    with pytest.raises(SubmissionNotFoundError):
        queue.watch_submission(SubmissionId(42))


def test_a_watcher_learns_of_each_chunk_and_of_the_end(queue: Queue) -> None:
    """Also of what happens between its watch and its wait."""
    id_ = insert(queue, 2)
    first, second = tokens_of(take(queue, 2))

    for token in (first, second):
        with Ear(queue, f"sub:{id_}:news") as ear:
            assert queue.watch_submission(id_)
            assert ear.hears_nothing()
            queue.complete_chunks([token])
            assert ear.hears()

    assert not queue.watch_submission(id_)


def test_a_watcher_learns_of_a_cancel_and_of_a_failure(queue: Queue) -> None:
    """Whatever ends it."""
    cancelled, failed = insert(queue, 1), insert(queue, 1, max_attempts=1)
    for id_ in (cancelled, failed):
        queue.watch_submission(id_)
    with ExitStack() as stack:
        ears = [
            stack.enter_context(Ear(queue, f"sub:{id_}:{channel}"))
            for id_ in (cancelled, failed)
            for channel in ("news", "end")
        ]

        queue.cancel_submission(cancelled)
        queue.fail_chunk(take(queue, 1)[0].token, FAILURE)

        assert [True] * 4 == [ear.hears() for ear in ears]


def test_two_watchers_do_not_wake_each_other(queue: Queue) -> None:
    """Else each would make the other watch again."""
    id_ = insert(queue, 1)
    with Ear(queue, f"sub:{id_}:news") as ear:
        queue.watch_submission(id_)
        queue.watch_submission(id_, watch_ms=120_000)

        assert ear.hears_nothing()


def test_nobody_is_told_of_what_nobody_watches(queue: Queue, clock: Clock) -> None:
    """There is no news before or after a watch."""
    unwatched, once = insert(queue, 2), insert(queue, 2)
    with Ear(queue, f"sub:{unwatched}:news") as ear, Ear(queue, f"sub:{once}:news") as late:
        queue.watch_submission(once, watch_ms=1_000)
        clock.advance(1_001)

        queue.complete_chunks(tokens_of(take(queue, 3)))

        assert ear.hears_nothing()
        assert late.hears_nothing()


def test_a_watch_leaves_nothing_behind(queue: Queue, client: redis.Redis, queue_name: str) -> None:
    id_ = insert(queue, 2)
    queue.watch_submission(id_, watch_ms=60_000)
    queue.complete_chunks(tokens_of(take(queue, 1)))

    assert not client.exists(f"{base_key(queue_name)}sub:{id_}:news")


def test_clients_of_version_0_1_hear_of_what_they_watch(
    queue: Queue, client: redis.Redis, queue_name: str
) -> None:
    """They create a stream, and read it."""
    id_ = insert(queue, 2)
    news = f"{base_key(queue_name)}sub:{id_}:news"
    queue.watch_submission(id_)
    client.xadd(news, {"what": "watched"})

    queue.complete_chunks(tokens_of(take(queue, 1)))

    entries: Any = client.xrange(news)
    assert entries[-1][1] == {b"what": b"done"}
