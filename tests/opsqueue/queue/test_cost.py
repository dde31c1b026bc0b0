"""The cost of a transition, in commands, does not grow with the submission."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from opsqueue.model.names import base_key
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
def own_queue(own_client: redis.Redis, queue_name: str) -> Queue:
    """Its scripts are loaded, its stream is there, and its clock stands.

    Once a second a reserve looks whether the server is still the same, and a queue now and then how
    many partitions it has: commands more.
    """
    queue = Queue(own_client, queue_name, partition=0, clock=Clock())
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
    commands = commands_in(own_client, lambda: insert(own_queue, chunks))

    expected = commands_in(own_client, lambda: insert(own_queue, 1))
    assert expected == commands
    assert commands < 40


@pytest.mark.parametrize("chunks", [10, 1_000_000])
def test_cancelling_costs_the_same_for_ten_chunks_and_for_a_million(
    own_client: redis.Redis, own_queue: Queue, chunks: int
) -> None:
    """This also holds with reserved, delayed and released chunks."""
    small, large = insert(own_queue, 1), insert(own_queue, chunks)
    tokens = tokens_of(take(own_queue, 10, strategy=Newest()))
    own_queue.release_chunks(tokens[:3])
    own_queue.release_chunks(tokens[3:6], delay_ms=60_000)

    commands = commands_in(own_client, lambda: own_queue.cancel_submission(large))

    assert commands_in(own_client, lambda: own_queue.cancel_submission(small)) == commands
    assert commands < 22


@pytest.mark.parametrize("chunks", [10, 1_000_000])
def test_retrying_costs_the_same_for_ten_chunks_and_for_a_million(
    own_client: redis.Redis, own_queue: Queue, chunks: int
) -> None:
    """Chunks are not restored one by one."""
    small, large = insert(own_queue, 1), insert(own_queue, chunks)
    own_queue.cancel_submission(large)
    own_queue.cancel_submission(small)

    commands = commands_in(own_client, lambda: own_queue.retry_submission(large))

    assert commands_in(own_client, lambda: own_queue.retry_submission(small)) == commands


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

    commands = commands_in(own_client, lambda: take(own_queue, 1, strategy=strategy))

    assert commands < 80


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
