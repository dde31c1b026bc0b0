"""Chunks of very different durations share the children of one worker, and two workers.

    python benchmarks/uneven.py

Each row is one submission; its chunks sleep, so that two cores suffice. `ideal` is what the slots
need at least: the sum of the durations divided by the slots, or the longest chunk.

- one long: a chunk of 2 s first, then 200 of 10 ms.
- exponential: 400 chunks, exponentially distributed with a mean of 50 ms.
- after tiny ones: 2,000 chunks that take no time on another queue, then 60 of 200 ms; a second
  worker starts to take chunks when the first has begun.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opsqueue import Opsqueue
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.store import open_store
from opsqueue.testing.embedded import EmbeddedServer
from report import Report

app = Opsqueue()


@app.operation_handler("tiny")
def tiny(number: int) -> int:
    return number


@app.operation_handler("uneven")
def uneven(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=2, help="of each worker")
    parser.add_argument("--prefetch", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all durations")
    chosen = parser.parse_args()
    os.chdir(Path(__file__).parent)  # workers find this file as a module

    report = Report("uneven", options=vars(chosen))
    randoms = random.Random(7)  # noqa: S311 durations
    scale = chosen.scale
    runs: dict[str, tuple[list[float], int]] = {
        "one long": ([2.0 * scale, *[0.01 * scale] * 200], 1),
        "exponential": ([randoms.expovariate(1 / (0.05 * scale)) for _ in range(400)], 1),
        "after tiny ones": ([0.2 * scale] * 60, 2),
    }
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder) / "redis", is_durable=False) as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        table = report.table(
            {
                "chunks": "{name}",
                "workers": "{workers}",
                "ideal": "{ideal_s:.2f} s",
                "all done": "{all_s:.2f} s",
                "ratio to ideal": "{ratio:.2f}",
            }
        )
        store_url = f"file://{folder}/store?durable=false"
        for name, (durations, workers) in runs.items():
            with started(server.url, store_url, chosen, 1):
                producers = [
                    ProducerClient.over(
                        RedisBackend(client), open_store(store_url), queue=queue, inline_bytes=0
                    )
                    for queue in ("tiny", "uneven")
                ]
                if workers > 1:
                    list(producers[0].run_submission(range(2_000), chunk_size=1))
                else:
                    list(producers[0].run_submission(range(10), chunk_size=1))
                with started(server.url, store_url, chosen, workers - 1):
                    row = measure(producers[1], durations, chosen.slots * workers)
                    table.add({"name": name, "workers": workers, **row})
        client.close()
    report.save()


@contextmanager
def started(
    redis_url: str, store_url: str, chosen: argparse.Namespace, number: int
) -> Iterator[None]:
    """Run workers that are ready."""
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "opsqueue_worker", "uneven:app", "--log-level", "WARNING"),
                *("-c", str(chosen.slots), "--prefetch", chosen.prefetch),
            ],
            env={**os.environ, "OPSQUEUE_REDIS_URL": redis_url, "OPSQUEUE_STORE_URL": store_url},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    try:
        for worker in workers:
            assert worker.stderr is not None  # noqa: S101 it was asked for
            for line in worker.stderr:
                if line == "ready\n":
                    break
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


def measure(producer: ProducerClient, durations: list[float], slots: int) -> dict[str, Any]:
    submission_id = producer.insert_submission(durations, chunk_size=1)
    began = time.monotonic()
    producer.wait_for_submission(submission_id)
    passed_s = time.monotonic() - began
    ideal_s = max(sum(durations) / slots, *durations)
    return {"ideal_s": ideal_s, "all_s": passed_s, "ratio": passed_s / ideal_s}


if __name__ == "__main__":
    main()
