"""set_defaults: running -> running, and whose option holds for a submission."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.new_submission import BUILT_IN, Backoff, Defaults
from opsqueue.model.submission import Submission
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, Clock, Raw, insert, new_submission, take_one

DAY_MS = 24 * 3600 * 1000
OF_QUEUE = {"max_attempts": 3, "backoff_first_ms": 5, "backoff_max_ms": 50, "retention_ms": 9_000}


def is_forgotten_after(queue: Queue, clock: Clock, ms: int) -> bool:
    """Whether the only submission that has ended just now goes at this instant, not before."""
    clock.advance(ms - 1)
    before = queue.forget_submissions().submissions
    clock.advance(1)
    return before == 0 and queue.forget_submissions().submissions == 1


def inserted(queue: Queue, **options: Any) -> Submission:
    """Insert a submission and return it; the answer and a later reading agree."""
    submission = queue.insert_submission(new_submission(queue, 1, **options)).submission
    assert submission is not None
    assert submission == queue.get_submission(submission.id)
    return submission


def options_of(submission: Submission) -> Defaults:
    return Defaults(
        max_attempts=submission.max_attempts,
        backoff_first_ms=submission.backoff.first_ms,
        backoff_max_ms=submission.backoff.max_ms,
        retention_ms=submission.retention_ms,
    )


def test_without_any_default_the_built_in_ones_hold(queue: Queue) -> None:
    assert Defaults() == queue.get_defaults()
    assert BUILT_IN == options_of(inserted(queue))


def test_a_queues_defaults_hold_where_an_insert_does_not_say(queue: Queue) -> None:
    queue.set_defaults(OF_QUEUE)

    assert Defaults(**OF_QUEUE) == queue.get_defaults()
    assert Defaults(**OF_QUEUE) == options_of(inserted(queue))


def test_an_inserts_own_options_come_first(queue: Queue) -> None:
    """Also those that are the built-in ones."""
    queue.set_defaults(OF_QUEUE)
    backoff = Backoff(first_ms=BUILT_IN.backoff_first_ms, max_ms=BUILT_IN.backoff_max_ms)

    submission = inserted(queue, max_attempts=10, backoff=backoff, retention_ms=DAY_MS)

    assert BUILT_IN == options_of(submission)


def test_a_programs_defaults_hold_where_the_queue_has_none(
    client: redis.Redis, queue: Queue
) -> None:
    """An API is such a program."""
    of_api = Defaults(max_attempts=4, retention_ms=7_000, backoff_max_ms=2_000)
    api = Queue(client, queue.name, defaults=of_api)
    queue.set_defaults({"max_attempts": 3})

    assert Defaults(
        max_attempts=3, backoff_first_ms=1_000, backoff_max_ms=2_000, retention_ms=7_000
    ) == options_of(inserted(api))
    assert inserted(queue).retention_ms == DAY_MS


@pytest.mark.parametrize(
    ("of_queue", "own", "expected"),
    [
        ((None, None), (120_000, None), (120_000, 120_000)),
        ((None, None), (None, 500), (500, 500)),
        ((5_000, 8_000), (9_000, None), (9_000, 9_000)),
        ((5_000, 8_000), (None, 10), (10, 10)),
        ((5_000, 8_000), (6_000, None), (6_000, 8_000)),
        ((5_000, 8_000), (0, 0), (0, 0)),
        ((120_000, None), (None, None), (120_000, 120_000)),
        ((None, 500), (None, None), (500, 500)),
        ((None, 500), (700, None), (700, 700)),
    ],
)
def test_of_two_back_offs_that_do_not_fit_the_one_that_comes_first_stays(
    queue: Queue,
    of_queue: tuple[int | None, int | None],
    own: tuple[int | None, int | None],
    expected: tuple[int, int],
) -> None:
    """Whoever gives one alone means that one."""
    queue.set_defaults(dict(zip(("backoff_first_ms", "backoff_max_ms"), of_queue, strict=True)))

    submission = inserted(queue, backoff=Backoff(first_ms=own[0], max_ms=own[1]))

    assert expected == (submission.backoff.first_ms, submission.backoff.max_ms)
    program = Defaults(backoff_first_ms=own[0], backoff_max_ms=own[1])
    defaults = program.over(queue.get_defaults().over(BUILT_IN))
    assert expected == (defaults.backoff_first_ms, defaults.backoff_max_ms)


def test_defaults_that_are_not_named_stay_and_none_removes_one(queue: Queue) -> None:
    queue.set_defaults(OF_QUEUE)

    queue.set_defaults({"max_attempts": 8, "backoff_max_ms": None, "retention_ms": None})

    assert Defaults(max_attempts=8, backoff_first_ms=5) == queue.get_defaults()


def test_a_default_counts_at_the_insert_and_later_changes_do_not_touch_it(
    queue: Queue, clock: Clock
) -> None:
    """Setting a shorter retention deletes no result that somebody counts on."""
    queue.set_defaults({"max_attempts": 2, "retention_ms": 5_000})
    insert(queue, 1)
    queue.set_defaults({"max_attempts": 1, "retention_ms": 1})

    queue.fail_chunk(take_one(queue).token, FAILURE, jitter=0)
    clock.advance(DAY_MS)
    queue.fail_chunk(take_one(queue).token, FAILURE)

    assert is_forgotten_after(queue, clock, 5_000)


def test_the_default_back_off_is_waited_for(queue: Queue, clock: Clock) -> None:
    queue.set_defaults({"backoff_first_ms": 9_000, "backoff_max_ms": 9_000})
    insert(queue, 1)

    queue.fail_chunk(take_one(queue).token, FAILURE, jitter=1_000)

    assert queue.reserve_chunks("w1").next_due_in_ms == 9_000


@pytest.mark.parametrize("retention_ms", [None, 5_000])
def test_a_submission_of_an_earlier_version_is_kept_as_its_queue_has_it_at_its_end(
    queue: Queue, clock: Clock, client: redis.Redis, raw: Raw, retention_ms: int | None
) -> None:
    """Its retention was not written down at its insert."""
    id_ = insert(queue, 1)
    client.hdel(raw.key(f"sub:{id_}"), "retention_ms")
    queue.set_defaults({"retention_ms": retention_ms})

    queue.cancel_submission(id_)

    assert queue.get_submission(id_).retention_ms is None
    assert is_forgotten_after(queue, clock, retention_ms or DAY_MS)


def test_a_retention_that_an_earlier_version_has_set_is_the_queues_default(
    queue: Queue, client: redis.Redis, raw: Raw
) -> None:
    """And the other way round: earlier versions read the same key."""
    client.set(raw.key("retention"), 5_000)
    assert queue.get_defaults().retention_ms == 5_000
    assert inserted(queue).retention_ms == 5_000

    queue.set_defaults({"retention_ms": 6_000})

    assert client.get(raw.key("retention")) == b"6000"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"retention_ms": -1}, "ten years"),
        ({"retention_ms": 10**15}, "ten years"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"max_attempts": True}, "max_attempts is True"),
        ({"backoff_first_ms": 10**12}, "30 days"),
        ({"backoff_first_ms": 2, "backoff_max_ms": 1}, "at least first_ms"),
        ({"backoff_first_ms": 51}, "51 ms and the longest 50 ms"),
        ({"backoff_max_ms": 4}, "5 ms and the longest 4 ms"),
        ({"chunk_size": 1}, "'chunk_size' has no default"),
    ],
)
def test_defaults_that_can_not_be_meant_are_refused_and_nothing_is_changed(
    queue: Queue, changes: dict[str, int | None], why: str
) -> None:
    """Also those that don't fit what stays."""
    queue.set_defaults(OF_QUEUE)

    with pytest.raises(InvalidArgumentError, match=why):
        queue.set_defaults({"max_attempts": 9, **changes})

    assert Defaults(**OF_QUEUE) == queue.get_defaults()
