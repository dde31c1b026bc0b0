"""One reserve under each strategy, by the number of ready submissions; and the memory they take.

    python benchmarks/strategies.py                     # 30, 3,000 and 300,000 submissions
    python benchmarks/strategies.py --sizes 30 30000

Every submission has one chunk left to give at least, a customer (a third as many customers as
submissions) and a priority (of 10). A row has the median and the 99th percentile of --reserves
reserves of one chunk, seen by the client; after each ten, untimed, these are released.
The last column is the median against that of the smallest size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from opsqueue.connection import connect
from opsqueue.embedded import EmbeddedServer
from opsqueue.queue import Queue
from opsqueue.strategy import parse_strategy
from opsqueue.submission import NewSubmission

STRATEGIES = (
    "Oldest",
    "Newest",
    "Random",
    "PreferDistinct(customer, Oldest)",
    "PreferDistinct(customer, Newest)",
    "PreferDistinct(customer, Random)",
    "SelectOnly(priority, 3, Oldest)",
    "Highest(priority, Oldest)",
    "Lowest(priority, Newest)",
    "MaxSimultaneous(customer, 2, Oldest)",
    "RateLimit(customer, 10, 10, Oldest)",
    "OrElse(SelectOnly(priority, 99), Oldest)",
    "Highest(priority, PreferDistinct(customer, Oldest))",
    "MaxSimultaneous(priority, 1000, PreferDistinct(customer, Oldest))",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 3_000, 300_000])
    parser.add_argument("--reserves", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    chosen = parser.parse_args()

    rows: list[dict[str, Any]] = []
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        client = connect(server.url)
        print(f"server {client.info('server')['redis_version']} (compatible version)")
        print("| strategy | submissions | median | p99 | ratio |\n|---|---|---|---|---|")
        smallest: dict[str, float] = {}
        for size in chosen.sizes:
            queue, memory = fill(client, size)
            for text in STRATEGIES:
                times = measure(queue, text, chosen.reserves)
                median = statistics.median(times)
                smallest.setdefault(text, median)
                row = {
                    "strategy": text,
                    "submissions": size,
                    "median_ms": median,
                    "p99_ms": statistics.quantiles(times, n=100)[98],
                    "ratio": median / smallest[text],
                }
                rows.append(row)
                print(
                    f"| `{text}` | {size:,} | {median:.3f} ms | {row['p99_ms']:.3f} ms "
                    f"| {row['ratio']:.2f} |",
                    flush=True,
                )
            print(f"{size:,} submissions: {memory / size:,.0f} bytes each", flush=True)
        client.close()
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


def fill(client: redis.Redis, size: int) -> tuple[Queue, int]:
    client.flushall()
    before = client.info("memory")["used_memory"]
    queue = Queue(client, "bench")
    for number in range(size):
        queue.insert_submission(
            NewSubmission(
                prefix=f"p{number}",
                chunks_total=1_000,
                strategic_metadata={
                    "customer": number % max(1, size // 3),
                    "priority": number % 10,
                },
            )
        )
    return queue, client.info("memory")["used_memory"] - before


def measure(queue: Queue, text: str, reserves: int) -> list[float]:
    strategy = parse_strategy(text)
    tokens, times = [], []
    for number in range(reserves):
        began = time.perf_counter()
        reserved = queue.reserve_chunks("bench", strategy=strategy)
        times.append((time.perf_counter() - began) * 1000)
        tokens += [chunk.token for chunk in reserved.chunks]
        if number % 10 == 9:
            queue.release_chunks(tokens)
            tokens.clear()
    return times


if __name__ == "__main__":
    main()
