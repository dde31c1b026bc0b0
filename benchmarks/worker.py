"""The worker's own cost per chunk, with a no-op handler, a file store and a local server.

    python benchmarks/worker.py                       # the whole table, some minutes
    python benchmarks/worker.py --pools process --slots 1 --prefetch auto

For each row a fresh worker is ready and idle, then a submission is inserted with one operation per
chunk. `wall` is the time until it is completed and `cpu` the CPU time of the worker's processes,
both per chunk; `wall` times slots is a slot's time for a chunk whose handler does nothing. The best
of --rounds counts. The store does not sync to disk here: benchmarks/README.md shows what that adds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.store import open_store
from opsqueue.testing.embedded import EmbeddedServer
from report import Report

EXAMPLES = Path(__file__).parent.parent / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pools", nargs="+", default=["process", "thread", "async", "solo"])
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--prefetch", nargs="+", default=["0", "1", "4", "auto"])
    parser.add_argument("--durable", action="store_true", help="sync each output to disk")
    chosen = parser.parse_args()

    report = Report("worker", options=vars(chosen))
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder) / "redis", is_durable=False) as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        client.close()
        table = report.table(
            {
                "pool": "{pool}",
                "slots": "{slots}",
                "prefetch": "{prefetch}",
                "wall a chunk": "{wall_ms:.2f} ms",
                "cpu a chunk": "{cpu_ms:.2f} ms",
            }
        )
        for pool in chosen.pools:
            for slots in chosen.slots if pool != "solo" else [1]:
                for prefetch in chosen.prefetch:
                    table.add(measure(server, Path(folder), chosen, pool, slots, prefetch))
    report.save()


def measure(
    server: EmbeddedServer,
    folder: Path,
    chosen: argparse.Namespace,
    pool: str,
    slots: int,
    prefetch: str,
) -> dict[str, Any]:
    store_url = f"file://{folder}/store" + ("" if chosen.durable else "?durable=false")
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "opsqueue_worker", "increment:app", "--pool", pool),
            *("-c", str(slots), "--prefetch", prefetch, "--log-level", "WARNING"),
        ],
        cwd=EXAMPLES,
        env={**os.environ, "OPSQUEUE_REDIS_URL": server.url, "OPSQUEUE_STORE_URL": store_url},
        stderr=subprocess.PIPE,
        text=True,
    )
    client = connect(server.url)
    producer = ProducerClient.over(RedisBackend(client), open_store(store_url), queue="numbers")
    best: dict[str, Any] = {}
    try:
        assert worker.stderr is not None  # noqa: S101 it was asked for
        for line in worker.stderr:
            if line == "ready\n":
                break
        list(producer.run_submission(range(50), chunk_size=1))  # everything is loaded
        for _ in range(chosen.rounds):
            cpu_before = cpu_of(worker.pid)
            submission_id = producer.insert_submission(range(chosen.chunks), chunk_size=1)
            began = time.monotonic()
            producer.wait_for_submission(submission_id)
            wall_ms = (time.monotonic() - began) * 1000 / chosen.chunks
            cpu_ms = (cpu_of(worker.pid) - cpu_before) * 1000 / chosen.chunks
            if not best or wall_ms < best["wall_ms"]:
                best = {
                    "pool": pool,
                    "slots": slots,
                    "prefetch": prefetch,
                    "wall_ms": wall_ms,
                    "cpu_ms": cpu_ms,
                }
    finally:
        worker.terminate()
        worker.wait()
        client.close()
    return best


def cpu_of(pid: int) -> float:
    family = [psutil.Process(pid), *psutil.Process(pid).children()]
    return sum(sum(process.cpu_times()[:2]) for process in family)


if __name__ == "__main__":
    main()
