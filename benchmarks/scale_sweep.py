"""The time until the chunk of a dead consumer is reclaimed, by the number of queue names.

    python benchmarks/scale_sweep.py
    python benchmarks/scale_sweep.py --names 10 10000 --rounds 20

Each queue has a submission in progress, and one API sweeps. In some queue a consumer reserves a
chunk with a heartbeat timeout of two seconds and is never heard of again. Reclaimed: the time from
the end of this timeout until its chunk is free, the median and the maximum of --rounds. Server:
the CPU time that the server takes while nothing happens, as a share of a core. Metrics: the time
and the size of an answer to /metrics.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.connection import server_client
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from report import Report, main_thread_cpu_s

TIMEOUT_S = 2.0
IDLE_S = 10.0
GIVE_UP_AFTER_S = 600.0
COLUMNS = {
    "queue names": "{names:,}",
    "reclaimed after": "{median_s:.1f} s",
    "at most": "{max_s:.1f} s",
    "server": "{server:.1%}",
    "/metrics": "{metrics_s:.2f} s",
    "its size": "{metrics_kib:,.0f} KiB",
}


def name_of(number: int) -> str:
    return f"queue-{number:06}"


def insert(client: redis.Redis, number: int, *, chunks: int = 100) -> Queue:
    queue = Queue(client, name_of(number))
    queue.insert_submission(
        NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=chunks, codec="json")
    )
    return queue


@contextmanager
def running_api(server: EmbeddedServer, folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "opsqueue_api", "--port", "0", "--log-level", "error"],
        env={
            **os.environ,
            "OPSQUEUE_REDIS_URL": server.url,
            "OPSQUEUE_STORE_URL": f"file://{folder}/store?durable=false",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 it was asked for
        for line in process.stdout:
            if line.startswith("ready on "):
                yield line.split()[2]
                break
        else:
            raise SystemExit("the API ended instead of being ready")
    finally:
        process.terminate()
        process.wait()


def reclaim_s(queue: Queue) -> float:
    """Return the seconds from the end of a dead consumer's timeout until its chunk is free."""
    (chunk,) = queue.reserve_chunks("dead", heartbeat_timeout_ms=int(TIMEOUT_S * 1000)).chunks
    dead_at = time.monotonic() + TIMEOUT_S
    while chunk.token in queue.get_reservations([chunk.token]):
        if time.monotonic() > dead_at + GIVE_UP_AFTER_S:
            raise SystemExit(f"not reclaimed within {GIVE_UP_AFTER_S:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - dead_at


def server_share(client: redis.Redis) -> float:
    began, before = time.monotonic(), main_thread_cpu_s(client)
    time.sleep(IDLE_S)
    return (main_thread_cpu_s(client) - before) / (time.monotonic() - began)


def measure(names: int, *, rounds: int) -> dict[str, float]:
    """Return a row of the table, on a server of its own."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "redis") as server:
        client = server_client(server.url)
        queues = [insert(client, number) for number in range(names)]
        with running_api(server, Path(name)) as url:
            chance, times = random.Random(names), []  # noqa: S311 repeatable
            for _ in range(rounds):
                time.sleep(chance.random())  # out of step with the sweeper's rounds
                times.append(reclaim_s(chance.choice(queues)))
            server_used = server_share(client)
            began = time.monotonic()
            metrics = httpx.get(f"{url}/metrics", timeout=GIVE_UP_AFTER_S)
            metrics_s = time.monotonic() - began
        client.close()
    return {
        "names": names,
        "median_s": statistics.median(times),
        "max_s": max(times),
        "server": server_used,
        "metrics_s": metrics_s,
        "metrics_kib": len(metrics.content) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--names", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    report = Report("scale_sweep", options=vars(chosen))
    report.say_where()
    table = report.table(COLUMNS)
    for names in chosen.names:
        table.add(measure(names, rounds=chosen.rounds))
    report.save()


if __name__ == "__main__":
    main()
