"""The memory of a producer that submits a generator of millions of operations.

    python benchmarks/memory.py
    python benchmarks/memory.py --cap-mib 192
    python benchmarks/memory.py --as-list          # a list instead of the generator: MemoryError

A separate process inserts each number of operations, through the API with an embedded server and a
folder, under a limit that the kernel enforces (`ulimit -d`: all writable memory, including the
stacks of upload threads, used or not). The peak is the memory that was really used (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsqueue.cli.local_stack import LocalStack
from opsqueue.producer import ProducerClient
from report import Report, peak_mib

EXAMPLES = Path(__file__).parent.parent / "examples"
MIB = 2**20


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--operations", type=int, nargs="+", default=[500_000, 5_000_000])
    options.add_argument("--chunk-size", type=int, default=1_000)
    options.add_argument("--text-bytes", type=int, default=100, help="of each operation")
    options.add_argument("--cap-mib", type=int, default=256)
    options.add_argument("--as-list", action="store_true", help="make all operations first")
    options.add_argument("--into", nargs=2, metavar=("API", "STORE"), help="insert into these")
    chosen = options.parse_args()
    if chosen.into:
        for count in chosen.operations:
            print(json.dumps(insert(count, chosen)))
        return

    report = Report("memory", options=vars(chosen))
    report.say_where()
    report.say(f"cap {chosen.cap_mib} MiB")
    table = report.table(
        {
            "operations": "{operations:,}",
            "peak": "{peak_mib:.0f} MiB",
            "before the first one": "{before_mib:.0f} MiB",
            "time": "{took_s:.1f} s",
        }
    )
    os.chdir(EXAMPLES)
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        LocalStack(
            Path(folder),
            "increment:app",
            api_port=0,
            concurrency=1,
            workers=0,
            say=lambda _part, _line: None,
            log_level="WARNING",
        ) as stack,
    ):
        for count in chosen.operations:
            command = [
                *(sys.executable, __file__, "--into", stack.api_url, stack.store_url),
                *("--operations", str(count), "--chunk-size", str(chosen.chunk_size)),
                *("--text-bytes", str(chosen.text_bytes), "--cap-mib", str(chosen.cap_mib)),
                *(["--as-list"] if chosen.as_list else []),
            ]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
            if done.returncode:
                raise SystemExit(done.returncode)
            table.add(json.loads(done.stdout))
    report.save()


def insert(count: int, chosen: argparse.Namespace) -> dict[str, float]:
    """Insert under the limit; return the row."""
    cap = chosen.cap_mib * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    before_mib = peak_mib()
    began = time.monotonic()
    operations: Any = generated(count, "x" * chosen.text_bytes)
    with ProducerClient(*chosen.into, queue="memory") as producer:
        submission_id = producer.insert_submission(
            list(operations) if chosen.as_list else operations, chunk_size=chosen.chunk_size
        )
        took_s = time.monotonic() - began
        accepted = producer.get_submission(submission_id).operations_total
    if accepted != count:
        raise SystemExit(f"{accepted:,} operations are there, not {count:,}")
    return {
        "operations": count,
        "peak_mib": peak_mib(),
        "before_mib": before_mib,
        "took_s": took_s,
    }


def generated(count: int, text: str) -> Iterator[dict[str, object]]:
    for number in range(count):
        yield {"number": number, "text": f"{text}{number}"}


if __name__ == "__main__":
    main()
