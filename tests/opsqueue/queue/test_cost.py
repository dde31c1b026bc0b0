"""The cost of a transition, in commands, does not grow with the submission."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from opsqueue.model.answers import Reserved, Swept
from opsqueue.model.chunk import (
    Completed,
    CompleteOutcome,
    Dropped,
    Lost,
    Released,
    ReleaseOutcome,
    Token,
)
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Newest, Oldest, Random, parse_strategy
from tests.opsqueue.steps import Clock, insert, take, tokens_of


def commands_in(client: redis.Redis, act: Callable[[], object]) -> int:
    """Count the commands that the server runs meanwhile, including those of scripts."""

    def calls() -> int:
        stats: dict[str, Any] = client.info("commandstats")
        ignored = ("cmdstat_info", "cmdstat_script|load", "cmdstat_eval")
        commands = {name: row["calls"] for name, row in stats.items()}
        commands.pop("cmdstat_set", None)  # with INFO: once a second (_history), not once a call
        return sum(calls for name, calls in commands.items() if not name.startswith(ignored))

    before = calls()
    act()
    return calls() - before


@pytest.fixture
def own_clock() -> Clock:
    return Clock()


@pytest.fixture
def own_queue(own_client: redis.Redis, queue_name: str, own_clock: Clock) -> Queue:
    """Its scripts are loaded, its stream is there, and its clock stands.

    Once a second a reserve looks whether the server is still the same, and a queue now and then how
    many partitions it has: commands more.
    """
    queue = Queue(own_client, queue_name, partition=0, clock=own_clock)
    warm = insert(queue, 3)
    queue.complete_chunks(tokens_of(take(queue, 1)))
    queue.cancel_submission(warm)
    queue.retry_submission(warm)
    queue.cancel_submission(warm)
    return queue


@pytest.mark.parametrize("chunks", [10, 1_000_000])
def test_inserting_costs_the_same_for_ten_chunks_and_for_a_million(
    own_client: redis.Redis, own_queue: Queue, chunks: int
) -> None:
    """Chunks that were never reserved are a single integer."""
    cost = commands_in(own_client, lambda: insert(own_queue, chunks))

    expected = commands_in(own_client, lambda: insert(own_queue, 1))
    assert expected == cost
    assert cost < 40


@pytest.mark.parametrize("chunks", [10, 1_000_000])
def test_cancelling_costs_the_same_for_ten_chunks_and_for_a_million(
    own_client: redis.Redis, own_queue: Queue, chunks: int
) -> None:
    """This also holds with reserved, delayed and released chunks."""
    small, large = insert(own_queue, 1), insert(own_queue, chunks)
    tokens = tokens_of(take(own_queue, 10, strategy=Newest()))
    own_queue.release_chunks(tokens[:3])
    own_queue.release_chunks(tokens[3:6], delay_ms=60_000)

    cost = commands_in(own_client, lambda: own_queue.cancel_submission(large))

    assert commands_in(own_client, lambda: own_queue.cancel_submission(small)) == cost
    assert cost < 22


@pytest.mark.parametrize("chunks", [10, 1_000_000])
def test_retrying_costs_the_same_for_ten_chunks_and_for_a_million(
    own_client: redis.Redis, own_queue: Queue, chunks: int
) -> None:
    """Chunks are not restored one by one."""
    small, large = insert(own_queue, 1), insert(own_queue, chunks)
    own_queue.cancel_submission(large)
    own_queue.cancel_submission(small)

    cost = commands_in(own_client, lambda: own_queue.retry_submission(large))

    assert commands_in(own_client, lambda: own_queue.retry_submission(small)) == cost


@pytest.mark.parametrize("strategy", [Oldest(), Newest(), Random()])
def test_reserving_costs_the_same_among_one_submission_and_among_a_thousand(
    own_client: redis.Redis, own_queue: Queue, strategy: Oldest | Newest | Random
) -> None:
    """No strategy looks at each of them."""
    for _ in range(3):
        insert(own_queue, 1_000)
    among_few = commands_in(own_client, lambda: take(own_queue, 1, strategy=strategy))
    for _ in range(1_000):
        insert(own_queue, 1_000)

    among_many = commands_in(own_client, lambda: take(own_queue, 1, strategy=strategy))

    assert among_few == among_many


def test_a_long_submission_in_redis_is_as_small_as_a_short_one(
    own_client: redis.Redis, own_queue: Queue
) -> None:
    """No key lists its chunks."""
    small, large = insert(own_queue, 10), insert(own_queue, 1_000_000)

    def bytes_of(id_: object) -> int:
        keys: Any = list(
            own_client.scan_iter(match=f"{base_key(own_queue.name)}sub:{id_}*", count=10_000)
        )
        return sum(own_client.memory_usage(key) or 0 for key in keys)

    assert abs(bytes_of(large) - bytes_of(small)) < 64


@pytest.mark.parametrize(
    "text",
    [
        "Highest(priority, PreferDistinct(customer, Oldest))",
        "MaxSimultaneous(priority, 1000, PreferDistinct(customer, Newest))",
    ],
)
def test_a_composition_stops_looking_where_nothing_can_be_better(
    own_client: redis.Redis, own_queue: Queue, text: str
) -> None:
    """Each of 256 candidates would be a command and more."""
    for number in range(300):
        insert(own_queue, 2, strategic_metadata={"priority": number % 2, "customer": number})
    strategy = parse_strategy(text)
    take(own_queue, 3, strategy=strategy)

    cost = commands_in(own_client, lambda: take(own_queue, 1, strategy=strategy))

    assert cost < 80


@pytest.mark.parametrize(
    "text",
    [
        "Oldest",
        "Highest(priority, Oldest)",
        "SelectOnly(priority, 1, Oldest)",
        "MaxSimultaneous(priority, 1000, Oldest)",
        "RateLimit(priority, 1000000, 1000000, Oldest)",
    ],
)
def test_a_chunk_more_in_a_batch_costs_a_command_to_reserve_and_one_to_complete(
    own_client: redis.Redis, own_queue: Queue, text: str
) -> None:
    """Its entry is added and its bit is set; everything else happens once per call."""
    insert(own_queue, 10_000, strategic_metadata={"priority": 1})
    strategy = parse_strategy(text)
    own_queue.complete_chunks(tokens_of(take(own_queue, 1, strategy=strategy)))

    def cost_of(chunks: int) -> tuple[int, int]:
        held: list[Any] = []
        to_reserve = commands_in(
            own_client, lambda: held.extend(take(own_queue, chunks, strategy=strategy))
        )
        return to_reserve, commands_in(
            own_client, lambda: own_queue.complete_chunks(tokens_of(held))
        )

    few, many = cost_of(100), cost_of(200)

    assert (100, 100) == (many[0] - few[0], many[1] - few[1])


def test_a_chunk_more_of_another_value_costs_a_few_commands(
    own_client: redis.Redis, own_queue: Queue
) -> None:
    """Each is of another submission and another group, whose place in the indexes changes."""
    for customer in range(200):
        insert(own_queue, 10, strategic_metadata={"customer": customer})
    strategy = parse_strategy("PreferDistinct(customer, Oldest)")

    def cost_of(chunks: int) -> int:
        def act() -> None:
            own_queue.complete_chunks(tokens_of(take(own_queue, chunks, strategy=strategy)))

        return commands_in(own_client, act)

    few, many = cost_of(50), cost_of(100)

    assert many - few <= 15 * 50


MANY_PAIRS = {f"key-{n:02}": 0 for n in range(64)}
EACH_ITS_OWN = parse_strategy("PreferDistinct(key-00, Oldest)")


def tagged(queue: Queue, submissions: int, chunks: int = 10) -> list[SubmissionId]:
    """Insert submissions, each with values of its own for as many keys as possible."""
    return [
        insert(queue, chunks, strategic_metadata=dict.fromkeys(MANY_PAIRS, value))
        for value in range(submissions)
    ]


def held(queue: Queue, chunks: int, worker: str = "w1") -> list[Token]:
    tokens: list[Token] = []
    while len(tokens) < chunks:
        tokens += tokens_of(take(queue, chunks - len(tokens), worker=worker, strategy=EACH_ITS_OWN))
    return tokens


ONE_SCRIPT = 4_000
"""Commands of one script at most, by the work after which it stops."""


@pytest.mark.parametrize("chunks_each", [1, 10])
def test_a_reserve_of_many_pairs_of_metadata_is_cut(
    own_client: redis.Redis, own_queue: Queue, chunks_each: int
) -> None:
    """Its answer says so, and the caller asks again at once."""
    tagged(own_queue, 60, chunks_each)
    reserved: list[Reserved] = []

    def act() -> None:
        reserved.append(own_queue.reserve_chunks("w1", limit=60, strategy=EACH_ITS_OWN))

    assert commands_in(own_client, act) < ONE_SCRIPT
    assert 1 <= len(reserved[0].chunks) < 60
    assert reserved[0].is_cut


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_reports_of_many_pairs_of_metadata_take_several_scripts(
    own_client: redis.Redis, own_queue: Queue, *, is_cancelled: bool
) -> None:
    """Each answers the first of its reports; the queue answers all, in their order."""
    ids = tagged(own_queue, 60)
    tokens = held(own_queue, 60)
    if is_cancelled:
        for id_ in ids:
            own_queue.cancel_submission(id_)
    first: list[CompleteOutcome] = []

    def act() -> None:
        answered = own_queue.run(commands.complete_chunks(tokens))
        first.extend(answered)

    assert commands_in(own_client, act) < ONE_SCRIPT
    assert 1 <= len(first) < 60
    rest = own_queue.complete_chunks([*tokens[len(first) :], tokens[0]])
    expected = [Dropped(id_) if is_cancelled else Completed(id_, chunks_left=9) for id_ in ids]
    assert [*first, *rest] == [*expected, Lost()]


@pytest.mark.parametrize("delay_ms", [0, 60_000])
def test_releases_of_many_pairs_of_metadata_take_several_scripts(
    own_client: redis.Redis, own_queue: Queue, delay_ms: int
) -> None:
    """So that no other client waits for all of them."""
    ids = tagged(own_queue, 60)
    tokens = held(own_queue, 60)
    first: list[ReleaseOutcome] = []

    def act() -> None:
        answered = own_queue.run(commands.release_chunks(tokens, delay_ms=delay_ms))
        first.extend(answered)

    assert commands_in(own_client, act) < ONE_SCRIPT
    assert 1 <= len(first) < 60
    rest = own_queue.release_chunks(tokens[len(first) :], delay_ms=delay_ms)
    assert [*first, *rest] == [Released(id_) for id_ in ids]
    assert own_queue.count_queue().chunks_in_hand == 0


def test_sweeps_of_many_pairs_of_metadata_take_several_scripts(
    own_client: redis.Redis, own_queue: Queue
) -> None:
    """Each says that there is more."""
    tagged(own_queue, 60)
    held(own_queue, 60)
    own_queue.heartbeat("w1", timeout_ms=0)
    swept: list[Swept | None] = []

    def act() -> None:
        swept.append(own_queue.reclaim_dead("sweeper"))

    assert commands_in(own_client, act) < ONE_SCRIPT
    while (last := swept[-1]) is not None and last.next_from is not None:
        act()
    assert sum(one.chunks for one in swept if one is not None) == 60
    assert len(swept) > 3
    assert "w1" not in {worker.name for worker in own_queue.list_workers()}


def test_forgetting_submissions_with_many_pairs_takes_several_scripts(
    own_client: redis.Redis, own_queue: Queue, own_clock: Clock
) -> None:
    """The prefixes come with each answer."""
    for id_ in tagged(own_queue, 100):
        own_queue.cancel_submission(id_)
    own_clock.advance(24 * 3600 * 1000)

    assert commands_in(own_client, own_queue.forget_submissions) < ONE_SCRIPT
    assert own_queue.forget_submissions().submissions > 0
