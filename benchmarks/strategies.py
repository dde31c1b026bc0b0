"""A reserve under each strategy by the number of ready submissions, and the memory they take.

    python benchmarks/strategies.py                     # 30, 3,000 and 300,000 submissions
    python benchmarks/strategies.py --sizes 30 30000

Each size is a separate queue on one embedded server. Every submission has chunks left, a customer
(a third as many customers as submissions) and a priority (of 10). The reserves of one chunk
alternate between the sizes, ten at a time in random order, so that other load on the machine
affects all of them. After each ten the chunks are released, untimed.

A row has the durations of --reserves reserves as a client sees them, and their median inside the
server (its own count of microseconds for the script). The ratios are relative to the median of the
smallest size.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.strategy import parse_strategy
from opsqueue.testing.embedded import EmbeddedServer
from report import Report

SINGLE = (
    "Oldest",
    "Newest",
    "Random",
    "SelectOnly(priority, 3, Oldest)",
    "Highest(priority, Oldest)",
    "Lowest(priority, Newest)",
    "PreferDistinct(customer, Oldest)",
    "PreferDistinct(customer, Newest)",
    "PreferDistinct(customer, Random)",
    "MaxSimultaneous(customer, 2, Oldest)",
    "RateLimit(customer, 100, 10, Oldest)",  # of the smallest size's 10 customers one has a token
    "OrElse(SelectOnly(priority, 99), Oldest)",
)
COMPOSED = (
    "Highest(priority, PreferDistinct(customer, Oldest))",
    "PreferDistinct(customer, Highest(priority, Oldest))",
    "PreferDistinct(customer, PreferDistinct(priority, Oldest))",
    "MaxSimultaneous(priority, 1000, PreferDistinct(customer, Oldest))",
    "MaxSimultaneous(priority, 1, PreferDistinct(customer, Oldest))",
    "RateLimit(priority, 10000, 10, PreferDistinct(customer, Oldest))",
)
BATCH = 10
COLUMNS = {
    "submissions": "{submissions:,}",
    "p50": "{p50_ms:.2f} ms",
    "p90": "{p90_ms:.2f} ms",
    "p99": "{p99_ms:.2f} ms",
    "server p50": "{server_p50_ms:.3f} ms",
    "ratio": "{ratio:.2f}",
    "in server": "{server_ratio:.2f}",
}


@dataclass
class Times:
    """Durations of reserves, in milliseconds."""

    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 3_000, 300_000])
    parser.add_argument("--reserves", type=int, default=300)
    chosen = parser.parse_args()

    report = Report("strategies", options=vars(chosen))
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        fill(client, 1)  # what the server needs once is not the submissions'
        queues = {}
        for size in sorted(chosen.sizes):
            queues[size], memory = fill(client, size)
            report.say(f"{size:,} submissions: {memory / size:,.0f} bytes each")
        for title, strategies in (("strategy", SINGLE), ("composition", COMPOSED)):
            table = report.table({title: "`{strategy}`", **COLUMNS})
            for text in strategies:
                for row in measure(client, queues, text, chosen.reserves):
                    table.add(row)
        client.close()
    report.save()


def fill(client: redis.Redis, size: int) -> tuple[Queue, int]:
    """Create a queue with that many ready submissions; return it and the bytes they take."""
    before = client.info("memory")["used_memory"]
    queue = Queue(client, f"bench-{size}")
    for number in range(size):
        queue.insert_submission(
            NewSubmission(
                prefix=fresh_prefix(queue.name),
                chunks_total=1_000,
                strategic_metadata={
                    "customer": number % max(1, size // 3),
                    "priority": number % 10,
                },
            )
        )
    return queue, client.info("memory")["used_memory"] - before


def measure(
    client: redis.Redis, queues: dict[int, Queue], text: str, reserves: int
) -> list[dict[str, Any]]:
    """Time reserves under a strategy on each queue, in turns; return a row for each queue."""
    times = {size: Times() for size in queues}
    for queue in queues.values():
        reserve_and_release(client, queue, text, Times())  # the server has seen the script
    for _ in range(reserves // BATCH):
        for size in random.sample(list(queues), len(queues)):
            reserve_and_release(client, queues[size], text, times[size])
    rows: list[dict[str, Any]] = []
    for size, of_size in times.items():
        percentiles = statistics.quantiles(of_size.client, n=100)
        row = {
            "strategy": text,
            "submissions": size,
            "p50_ms": percentiles[49],
            "p90_ms": percentiles[89],
            "p99_ms": percentiles[98],
            "server_p50_ms": statistics.median(of_size.server),
        }
        first = rows[0] if rows else row
        rows.append(row)
        row["ratio"] = row["p50_ms"] / first["p50_ms"]
        row["server_ratio"] = row["server_p50_ms"] / first["server_p50_ms"]
    return rows


def reserve_and_release(client: redis.Redis, queue: Queue, text: str, times: Times) -> None:
    strategy = parse_strategy(text)
    tokens = []
    before_us = script_us(client)
    for _ in range(BATCH):
        began = time.perf_counter()
        reserved = queue.reserve_chunks("bench", strategy=strategy)
        times.client.append((time.perf_counter() - began) * 1000)
        after_us = script_us(client)
        times.server.append((after_us - before_us) / 1000)
        before_us = after_us
        if not reserved.chunks:
            raise SystemExit(f"{text} found nothing in {queue.name}: the times would mean nothing")
        tokens += [chunk.token for chunk in reserved.chunks]
    queue.release_chunks(tokens)


def script_us(client: redis.Redis) -> int:
    """Return the microseconds that scripts have taken in the server."""
    stats: dict[str, dict[str, int]] = client.info("commandstats")
    return stats["cmdstat_evalsha"]["usec"]


if __name__ == "__main__":
    main()
