"""N operations `x -> x + 1` through API, Redis, store and workers, with checked results.

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --operations 100000 --chunk-size 100
    python benchmarks/end_to_end.py --kill         # SIGKILL to a worker in the middle
    python benchmarks/end_to_end.py --operations 100000000 --name hundred_million --not-durable

The time includes everything: cutting, encoding and uploading, the handlers, reading the results in
order. Each result is compared as it arrives, so nothing here grows with their number. Memory is the
peak of each process (VmHWM, including this one), the server's own peak, and the bytes of all stored
objects.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import redis

from opsqueue.cli.local_stack import LocalStack
from opsqueue.producer import ProducerClient
from opsqueue.queue.connection import connect
from report import Report, peak_mib

EXAMPLES = Path(__file__).parent.parent / "examples"
MIB = 2**20


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--operations", type=int, default=1_000_000)
    options.add_argument("--chunk-size", type=int, default=1_000)
    options.add_argument("--workers", type=int, default=2, help="worker processes, a child each")
    options.add_argument("--kill", action="store_true", help="kill a worker in the middle")
    options.add_argument("--not-durable", action="store_true", help="no fsync of stored objects")
    options.add_argument("--name", default="end_to_end", help="of the file of results")
    chosen = options.parse_args()

    report = Report(chosen.name, options=vars(chosen))
    os.chdir(EXAMPLES)
    worker_options = (
        ["--heartbeat-interval", "1", "--heartbeat-timeout", "5"] if chosen.kill else []
    )
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        LocalStack(
            Path(folder),
            "increment:app",
            api_port=0,
            concurrency=1,
            workers=chosen.workers,
            worker_options=worker_options,
            say=lambda _part, _line: None,
            log_level="WARNING",
            store_options="?durable=false" if chosen.not_durable else "",
        ) as stack,
        ProducerClient(stack.api_url, stack.store_url, queue="numbers") as producer,
    ):
        client = connect(stack.redis_url)
        report.say_where(client)
        began = time.monotonic()
        submission_id = producer.insert_submission(
            range(chosen.operations), chunk_size=chosen.chunk_size
        )
        inserted = time.monotonic()
        if chosen.kill:
            kill_in_the_middle(stack, producer, submission_id)
        status = producer.wait_for_submission(submission_id)
        completed = time.monotonic()
        expected = 1
        for result in producer.try_stream_completed_submission(submission_id):
            if result != expected:
                raise SystemExit(f"result {expected - 1} is {result}, not {expected}")
            expected += 1
        if expected != chosen.operations + 1:
            raise SystemExit(f"{expected - 1:,} results for {chosen.operations:,} operations")
        ended = time.monotonic()
        memory = memory_of(stack, client, chosen.workers)
        client.close()

    report.facts = {
        "operations": chosen.operations,
        "chunks": status.chunks_total,
        "total_s": ended - began,
        "operations_a_second": chosen.operations / (ended - began),
    }
    report.say(
        f"\n{chosen.operations:,} operations in {status.chunks_total:,} chunks, {chosen.workers} "
        "worker processes: complete and in order"
    )
    steps = report.table(
        {"step": "{step}", "time": "{took_s:.2f} s", "operations a second": "{rate:,.0f}"}
    )
    for step, took_s in (
        ("upload and insert", inserted - began),
        ("work", completed - inserted),
        ("read results", ended - completed),
        ("in all", ended - began),
    ):
        steps.add({"step": step, "took_s": took_s, "rate": chosen.operations / took_s})
    table = report.table({"memory": "{what}", "at most": "{mib:,.0f} MiB"})
    for what, mib in memory:
        table.add({"what": what, "mib": mib})
    report.save()


def memory_of(stack: LocalStack, client: redis.Redis, workers: int) -> list[tuple[str, float]]:
    """Return the peaks of all processes, then of Redis's data and of the store."""
    names = ["api", *("worker" if n == 1 else f"worker-{n}" for n in range(1, workers + 1))]
    rows = [("the producer and reader", peak_mib())]
    for name in names:
        pid = stack.pid_of(name)
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            continue  # killed by --kill
        rows.append((name, peak_mib(pid)))
        children = psutil.Process(pid).children(recursive=True)
        rows += [(f"{name}'s child", peak_mib(child.pid)) for child in children]
    info = client.info()
    rows.append(("the server's process", peak_mib(info["process_id"])))
    rows.append(("data in Redis (used_memory_peak)", info["used_memory_peak"] / MIB))
    folder = urlsplit(stack.store_url).path
    files = (entry for entry in Path(folder).rglob("*") if entry.is_file())
    rows.append(
        ("objects in the store, inputs and outputs", sum(f.stat().st_size for f in files) / MIB)
    )
    return rows


def kill_in_the_middle(stack: LocalStack, producer: ProducerClient, submission_id: int) -> None:
    """Kill one of the workers with SIGKILL when a fifth is done."""
    while True:
        status = producer.get_submission(submission_id)
        if status is None:
            raise SystemExit("the submission is gone")
        if status.chunks_done >= status.chunks_total // 5:
            break
        time.sleep(0.01)
    os.kill(stack.pid_of("worker"), signal.SIGKILL)
    print(f"killed a worker with {status.chunks_done:,} of {status.chunks_total:,} chunks done")


if __name__ == "__main__":
    main()
