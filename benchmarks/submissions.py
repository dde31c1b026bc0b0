"""Inserting and cancelling by the number of chunks, and the memory of submissions in Redis.

    python benchmarks/submissions.py

It measures the state machine alone: one client, one call at a time, nothing stored. Sizes take
turns in random order, so that other load on the machine affects all of them. `in server` is the CPU
time of the server's main thread, including reading calls and sending answers.

Memory is the server's own count (used_memory without clients' buffers) before and after submissions
of each kind are inserted into a fresh server. A further row is the growth of its keys (MEMORY
USAGE) when chunks of one submission are finished.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from report import Report, main_thread_cpu_s

MILLION = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 1_000, MILLION])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--submissions", type=int, default=100_000, help="to measure memory of")
    parser.add_argument("--finished", type=int, default=100_000, help="chunks to finish")
    chosen = parser.parse_args()

    report = Report("submissions", options=vars(chosen))
    with fresh_server() as client:
        report.say_where(client)
        table = report.table(
            {
                "chunks": "{chunks:,}",
                "insert p50": "{insert_p50_ms:.2f} ms",
                "insert p99": "{insert_p99_ms:.2f} ms",
                "insert, in server": "{insert_server_us:.0f} us",
                "cancel p50": "{cancel_p50_ms:.2f} ms",
                "cancel p99": "{cancel_p99_ms:.2f} ms",
                "cancel, in server": "{cancel_server_us:.0f} us",
            }
        )
        for row in insert_and_cancel(client, chosen.sizes, chosen.rounds):
            table.add(row)
    table = report.table(
        {
            "submissions": "{submissions:,}",
            "chunks of each": "{chunks:,}",
            "bytes a submission": "{of_submission:,.0f}",
            "bytes a million chunks waiting": "{of_million:,.0f}",
        }
    )
    for size in chosen.sizes:
        with fresh_server() as client:
            table.add(memory_of(client, chosen.submissions, size))
    with fresh_server() as client:
        of_finished = memory_of_finished(client, chosen.finished)
    report.facts["bytes_a_finished_chunk"] = of_finished
    report.say(
        f"\nFinishing {chosen.finished:,} chunks of a submission of a million adds "
        f"{of_finished:.3f} bytes a chunk, until the submission is completed."
    )
    report.save()


@contextmanager
def fresh_server() -> Iterator[redis.Redis]:
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        client = connect(server.url)
        yield client
        client.close()


def insert_and_cancel(client: redis.Redis, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    queue = Queue(client, "bench")
    times: dict[int, dict[str, list[float]]] = {
        size: {"insert": [], "cancel": [], "insert_cpu": [], "cancel_cpu": []} for size in sizes
    }
    for _ in range(rounds):
        for size in random.sample(sizes, len(sizes)):
            of_size = times[size]
            new = NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=size)
            cpu_s, began = main_thread_cpu_s(client), time.perf_counter()
            id_ = queue.insert_submission(new).id
            of_size["insert"].append((time.perf_counter() - began) * 1e3)
            inserted_cpu_s, began = main_thread_cpu_s(client), time.perf_counter()
            queue.cancel_submission(id_)
            of_size["cancel"].append((time.perf_counter() - began) * 1e3)
            of_size["insert_cpu"].append((inserted_cpu_s - cpu_s) * 1e6)
            of_size["cancel_cpu"].append((main_thread_cpu_s(client) - inserted_cpu_s) * 1e6)
    rows = []
    for size, of_size in times.items():
        row: dict[str, Any] = {"chunks": size}
        for what in ("insert", "cancel"):
            percentiles = statistics.quantiles(of_size[what], n=100)
            row |= {f"{what}_p50_ms": percentiles[49], f"{what}_p99_ms": percentiles[98]}
            row[f"{what}_server_us"] = statistics.median(of_size[f"{what}_cpu"])
        rows.append(row)
    return rows


def memory_of(client: redis.Redis, submissions: int, chunks: int) -> dict[str, Any]:
    client.flushall()
    queue = Queue(client, "bench")
    # What the queue needs once, and each script, is not a submission's.
    queue.cancel_submission(
        queue.insert_submission(NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=1)).id
    )
    before = used_bytes(client)
    for _ in range(submissions):
        queue.insert_submission(NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=chunks))
    took = used_bytes(client) - before
    return {
        "submissions": submissions,
        "chunks": chunks,
        "of_submission": took / submissions,
        "of_million": took / submissions / chunks * MILLION,
    }


def memory_of_finished(client: redis.Redis, finished: int) -> float:
    queue = Queue(client, "bench")
    queue.insert_submission(NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=MILLION))
    finish(queue, 1_000)  # what the stream keeps for itself is there
    before = bytes_in_keys(client)
    finish(queue, finished)
    return (bytes_in_keys(client) - before) / finished


def bytes_in_keys(client: redis.Redis) -> int:
    """Return the memory of the keys; for so little the server's own count is too inexact."""
    return sum(int(client.memory_usage(key) or 0) for key in client.scan_iter())


def finish(queue: Queue, chunks: int) -> None:
    left = chunks
    while left:
        reserved = queue.reserve_chunks("bench", limit=min(1_000, left))
        queue.complete_chunks([chunk.token for chunk in reserved.chunks])
        left -= len(reserved.chunks)


def used_bytes(client: redis.Redis) -> int:
    memory: dict[str, int] = client.info("memory")
    return memory["used_memory"] - memory["mem_clients_normal"]


if __name__ == "__main__":
    main()
