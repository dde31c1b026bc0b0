"""N operations `x -> x + 1` through API, Redis, store and workers, results read back and checked.

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --operations 100000 --chunk-size 100
    python benchmarks/end_to_end.py --kill         # SIGKILL to a worker in the middle

Everything counts: cutting, encoding and uploading, the handlers, reading the results in order.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import tempfile
import time
from pathlib import Path

from opsqueue.cli.local_stack import LocalStack
from opsqueue.producer import ProducerClient

EXAMPLES = Path(__file__).parent.parent / "examples"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--operations", type=int, default=1_000_000)
    options.add_argument("--chunk-size", type=int, default=1_000)
    options.add_argument("--workers", type=int, default=2, help="worker processes, a child each")
    options.add_argument("--kill", action="store_true", help="kill a worker in the middle")
    options.add_argument("--not-durable", action="store_true", help="no fsync of stored objects")
    chosen = options.parse_args()

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

    total = ended - began
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    print(
        f"{chosen.operations:,} operations in {status.chunks_total:,} chunks, "
        f"{chosen.workers} worker processes: complete and in order"
    )
    print(f"upload and insert  {inserted - began:7.2f} s")
    print(f"work               {completed - inserted:7.2f} s")
    print(f"read results       {ended - completed:7.2f} s")
    print(
        f"in all             {total:7.2f} s, {chosen.operations / total:,.0f} operations a second"
    )


def kill_in_the_middle(stack: LocalStack, producer: ProducerClient, submission_id: int) -> None:
    """SIGKILL one of the workers once a fifth is done."""
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
