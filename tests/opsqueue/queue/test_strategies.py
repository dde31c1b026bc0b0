"""Small examples of each strategy; the model tests all of them at random."""

from __future__ import annotations

import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import InvalidArgumentError, TooManyMatchingSubmissionsError
from opsqueue.model.chunk import Reservation
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Strategy, parse_strategy
from tests.opsqueue.steps import Clock, Raw, Sleeper, take, tokens_of


def fill(queue: Queue, *metas: dict[str, int], chunks: int = 2) -> list[SubmissionId]:
    """Insert a submission for each metadata."""
    return [
        queue.insert_submission(
            NewSubmission(
                prefix=fresh_prefix(queue.name), chunks_total=chunks, strategic_metadata=meta
            )
        ).id
        for meta in metas
    ]


def order(queue: Queue, ids: list[SubmissionId], text: str, *, limit: int = 20) -> list[int]:
    """Return the numbers of the submissions that a batch's chunks belong to."""
    reserved = queue.reserve_chunks("w", limit=limit, strategy=parse_strategy(text))
    return [ids.index(chunk.source.submission_id) for chunk in reserved.chunks]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Oldest", [0, 0, 1, 1, 2, 2, 3, 3]),
        ("Newest", [3, 3, 2, 2, 1, 1, 0, 0]),
        ("PreferDistinct(customer, Oldest)", [0, 2, 3, 0, 2, 3, 1, 1]),
        ("PreferDistinct(customer, Newest)", [3, 2, 1, 3, 2, 1, 0, 0]),
        ("SelectOnly(customer, 1, Newest)", [1, 1, 0, 0]),
        ("Highest(priority, Oldest)", [2, 2, 0, 0, 3, 3, 1, 1]),
        ("Lowest(priority, Oldest)", [3, 3, 0, 0, 2, 2, 1, 1]),
        ("MaxSimultaneous(customer, 1, Oldest)", [0, 2, 3, 3]),
        ("OrElse(SelectOnly(customer, 2), Newest)", [2, 2, 3, 3, 1, 1, 0, 0]),
        ("PreferDistinct(customer, SelectOnly(customer, 1))", [0, 0, 1, 1]),
    ],
)
def test_the_order(queue: Queue, text: str, expected: list[int]) -> None:
    """Customers 1, 1, 2 and none; priorities 5, none, 9 and -3."""
    ids = fill(
        queue,
        {"customer": 1, "priority": 5},
        {"customer": 1},
        {"customer": 2, "priority": 9},
        {"priority": -3},
    )

    assert order(queue, ids, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "PreferDistinct(customer, Oldest)",
        "PreferDistinct(customer, Newest)",
        "PreferDistinct(customer, Highest(priority, Newest))",
        "OrElse(MaxSimultaneous(customer, 1, Newest), PreferDistinct(customer, Oldest))",
    ],
)
def test_a_batch_is_what_as_many_reserves_of_one_chunk_give(
    real_client: redis.Redis, queue_name: str, text: str
) -> None:
    """Customers that are equally busy are asked for a hundred at a time: here 130, some twice."""
    queue = Queue(real_client, queue_name)
    customers = [*range(130), *range(0, 130, 7)]
    metas = [{"customer": customer, "priority": customer % 3} for customer in customers]
    ids = fill(queue, *metas, {"priority": 1}, {}, chunks=2)
    strategy = parse_strategy(text)
    reserved: list[Reservation] = []
    while len(reserved) < 280:  # so many submissions are too much work for one script
        reserved += take(queue, 280 - len(reserved), strategy=strategy)
    queue.release_chunks(tokens_of(reserved))

    one_by_one = [order(queue, ids, text, limit=1)[0] for _ in range(280)]

    assert [ids.index(chunk.source.submission_id) for chunk in reserved] == one_by_one


@pytest.mark.parametrize("text", ["PreferDistinct(customer)", "PreferDistinct(customer, Newest)"])
def test_a_submission_with_nothing_left_is_passed_over(queue: Queue, raw: Raw, text: str) -> None:
    """No transition leaves one among those that are ready; if it is there, a reserve must end."""
    ids = fill(queue, {"customer": 1}, {"customer": 2}, {"customer": 3})
    raw.client.hset(raw.key(f"sub:{ids[1]}"), "cursor", 2)

    assert sorted(order(queue, ids, text)) == [0, 0, 2, 2]


def test_values_beyond_53_bits_keep_their_order(queue: Queue) -> None:
    """A score would take them for equal."""
    ids = fill(
        queue, {"v": 2**62}, {"v": 2**62 + 1}, {"v": -(2**62)}, {"v": -(2**62) - 1}, chunks=1
    )

    assert order(queue, ids, "Highest(v, Oldest)") == [1, 0, 2, 3]


def test_a_priority_can_be_changed_while_it_runs(queue: Queue) -> None:
    """It is a key like any other."""
    ids = fill(queue, {"priority": 1}, {"priority": 2})
    first = order(queue, ids, "Highest(priority)", limit=1)

    queue.update_metadata(ids[0], {"priority": 3})

    assert (first, order(queue, ids, "Highest(priority)", limit=1)) == ([1], [0])


def test_a_hard_limit_lets_go_when_a_chunk_is_reported(queue: Queue) -> None:
    """And who waits for that is woken."""
    ids = fill(queue, {"api": 1}, {"api": 1})
    strategy = Strategy.MaxSimultaneous("api", 1)
    held = queue.reserve_chunks("w1", strategy=strategy)
    with Sleeper(queue, "w2", strategy=strategy) as waiting:
        assert waiting.found.chunks == ()

        queue.complete_chunks([held.chunks[0].token])

        assert waiting.hears()
    assert order(queue, ids, "MaxSimultaneous(api, 1)") == [0]


def test_a_rate_limit_tells_when_the_next_token_comes(queue: Queue, clock: Clock) -> None:
    """Two at once, then one every half second."""
    ids = fill(queue, {"api": 1}, chunks=10)
    text = "RateLimit(api, 2, 2, Oldest)"
    burst = order(queue, ids, text)
    waiting = queue.reserve_chunks("w", strategy=parse_strategy(text))

    clock.advance(500)

    assert len(burst) == 2
    assert waiting.next_due_in_ms == 500
    assert len(order(queue, ids, text)) == 1


def test_a_rate_limit_in_operations_counts_operations(queue: Queue, clock: Clock) -> None:
    """A chunk of ten borrows what is missing; the average is kept."""
    queue.insert_submission(
        NewSubmission(
            prefix=fresh_prefix(queue.name),
            chunks_total=10,
            chunk_size=10,
            strategic_metadata={"api": 1},
        )
    )
    strategy = Strategy.RateLimit("api", 10, 10, unit="operations")
    taken = 0
    for _ in range(40):
        taken += len(queue.reserve_chunks("w", limit=9, strategy=strategy).chunks)
        clock.advance(100)

    # 4 s at 10 a second, and a full bucket at the start: 50 operations, 5 chunks.
    assert taken in (5, 6)


def test_submissions_without_the_key_have_no_limit(queue: Queue) -> None:
    """They have no value that could be limited."""
    ids = fill(queue, {"api": 1}, {}, chunks=3)

    assert order(queue, ids, "MaxSimultaneous(api, 1)") == [0, 1, 1, 1]


def test_nothing_is_answered_only_when_nothing_is_allowed(queue: Queue) -> None:
    """600 submissions that a filter holds back are in front of the one that it lets through."""
    metas = [{"a": 1, "b": number % 7} for number in range(600)]
    ids = fill(queue, *metas, {"a": 1, "b": 99}, chunks=1)
    text = "SelectOnly(a, 1, SelectOnly(b, 99))"

    assert order(queue, ids, text) == [600]


def test_limits_set_while_running_take_the_place_of_the_strategys_own(queue: Queue) -> None:
    """For all values, and for one."""
    ids = fill(queue, {"api": 1}, {"api": 2}, chunks=9)
    queue.set_limit("api", max=2)
    queue.set_limit("api", value=2, max=4)

    taken = order(queue, ids, "MaxSimultaneous(api, 1)")

    assert (taken.count(0), taken.count(1)) == (2, 4)
    assert [(x.meta_key, x.value, x.max) for x in queue.list_limits()] == [
        ("api", None, 2),
        ("api", 2, 4),
    ]


def test_a_raised_limit_wakes_who_waits(queue: Queue) -> None:
    """And a removed one lets the strategy's own number hold again."""
    fill(queue, {"api": 1}, chunks=9)
    queue.reserve_chunks("w1", strategy=Strategy.MaxSimultaneous("api", 1))
    with Sleeper(queue, "w2", strategy=Strategy.MaxSimultaneous("api", 1)) as waiting:
        queue.set_limit("api", max=2)

        assert waiting.hears()
    assert len(queue.reserve_chunks("w2", strategy=Strategy.MaxSimultaneous("api", 1)).chunks) == 1
    queue.remove_limit("api")
    assert queue.list_limits() == []


def test_a_limit_without_numbers_is_refused(queue: Queue) -> None:
    """Says what to give."""
    with pytest.raises(InvalidArgumentError, match="no limit given"):
        queue.set_limit("api")


def test_submissions_are_looked_up_by_all_pairs(queue: Queue) -> None:
    """Ascending; in progress unless other states are asked for."""
    ids = fill(queue, {"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": 1}, {})
    queue.cancel_submission(ids[2])

    assert queue.lookup_submissions({"a": 1, "b": 1}) == [ids[0]]
    assert queue.lookup_submissions({}) == [ids[0], ids[1], ids[3]]
    assert queue.lookup_submissions({"b": 1}, states=SubmissionState) == [ids[0], ids[2]]
    assert queue.lookup_submissions({"a": 2}) == []


def test_too_many_matches_are_an_error_that_names_the_limit(queue: Queue) -> None:
    """Nobody is given half of them."""
    fill(queue, {"a": 1}, {"a": 1}, {"a": 1})

    with pytest.raises(TooManyMatchingSubmissionsError, match="more than 2 submissions") as caught:
        queue.lookup_submissions({"a": 1}, limit=2)

    assert caught.value.max_submissions == 2


def test_forgotten_submissions_leave_the_index_of_look_ups(
    queue: Queue, client: redis.Redis, clock: Clock
) -> None:
    """Nothing of them stays."""
    (id_,) = fill(queue, {"a": 1})
    queue.cancel_submission(id_)
    clock.advance(48 * 3600 * 1000)

    queue.forget_submissions()

    assert client.keys(f"oq:{{{queue.name}}}:pairs:*") == []


def test_limits_of_which_one_is_wrong_are_not_set_at_all(queue: Queue) -> None:
    """Neither half of them."""
    with pytest.raises(InvalidArgumentError, match="per_second"):
        queue.set_limit("api", max=2, per_second=-1, burst=3)

    assert queue.list_limits() == []


def test_rate_limits_keep_no_bucket_of_values_that_were_seen_once(
    queue: Queue, client: redis.Redis, clock: Clock, raw: Raw
) -> None:
    """A full bucket is the same as none: what is kept follows what is in use, not what ever was."""
    strategy = parse_strategy("RateLimit(customer, 10, 1)")
    for customer in range(300):
        fill(queue, {"customer": customer}, chunks=1)
        assert queue.reserve_chunks("w", strategy=strategy).chunks
        clock.advance(100)

    buckets = raw.key("full_at:customer")

    assert client.hlen(buckets) < 30
    assert 0 < client.pttl(buckets) <= 10_100


def test_a_bucket_that_is_not_full_keeps_its_key(
    queue: Queue, client: redis.Redis, clock: Clock, raw: Raw
) -> None:
    """The key lives as long as the last of its buckets, one of an earlier version as well."""
    slow, fast = (parse_strategy(f"RateLimit(customer, {rate}, 1)") for rate in (0.001, 1000))
    fill(queue, {"customer": 1})
    queue.reserve_chunks("w", strategy=slow)
    client.persist(raw.key("full_at:customer"))
    clock.advance(10)
    fill(queue, {"customer": 2})

    queue.reserve_chunks("w", limit=2, strategy=parse_strategy(f"SelectOnly(customer, 2, {fast})"))

    assert client.pttl(raw.key("full_at:customer")) > 900_000


def test_removed_limits_leave_nothing(queue: Queue, client: redis.Redis, raw: Raw) -> None:
    """Also not what empty reserves must know of the limits of single values."""
    queue.set_limit("api", max=5, per_second=1, burst=1)
    queue.set_limit("api", value=1, max=7, per_second=1, burst=1)
    queue.set_limit("api", value=-2, max=9)
    queue.set_limit("apis", value=1, max=20)

    queue.remove_limit("api", value=-2)

    assert client.hget(raw.key("limits"), "most:api") == b"7"

    queue.remove_limit("api", value=1, kind="rate")

    assert client.hget(raw.key("limits"), "own_rates:api") is None

    queue.remove_limit("api", value=1)
    queue.remove_limit("api")

    assert client.hkeys(raw.key("limits")) == [b"max:apis:1", b"most:apis"]

    queue.remove_limit("apis", value=1)

    assert not client.exists(raw.key("limits"))
