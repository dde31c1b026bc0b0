"""Check that limits are never exceeded with many processes at the same time.

    python benchmarks/limits.py                       # both, some 40 s
    python benchmarks/limits.py --seconds 10
    python benchmarks/limits.py --burst 1             # loses tokens: exit code 1

MaxSimultaneous: --processes processes reserve and complete --chunks chunks under
MaxSimultaneous(api, 5). Between the answer of its reserve and its report each process adds its
chunks to a plain Redis counter by INCRBY. The highest value that any process gets is the highest
number of chunks in progress, counted independently of the strategy. RateLimit: a quarter as many
processes reserve under RateLimit(api, 100, 10) for --seconds, all starting at the same instant. The
full bucket at the start adds 10. A bucket of 1 would lose the tokens that arise before a process
asks for them.

The exit code is 1 if more than 5 chunks were in progress at the same time, a chunk was not
completed, or the rate is further than 5 % from 100 a second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Strategy
from opsqueue.testing.embedded import EmbeddedServer
from report import Report

MAX, PER_SECOND = 5, 100
IN_HAND_KEY, COMPLETED_KEY = "bench:in-hand", "bench:completed"
HIGHEST_KEY = "bench:highest"  # a list of the highest count that each process got
GIVE_UP_AFTER_S = 300


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--burst", type=int, default=10, help="of the rate limit")
    chosen = parser.parse_args()

    report = Report("limits", options=vars(chosen))
    rated = max(2, chosen.processes // 4)

    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        client.close()
        result = {
            **in_hand_at_once(server.url, chosen.processes, chosen.chunks),
            **let_through(server.url, rated, chosen.seconds, chosen.burst),
        }
    expected = PER_SECOND * chosen.seconds
    table = report.table(
        {
            "limit": "`{limit}`",
            "processes": "{processes}",
            "chunks completed": "{completed:,}",
            "time": "{seconds:.1f} s",
            "what was kept": "{kept}",
        }
    )
    table.add(
        {
            "limit": f"MaxSimultaneous(api, {MAX})",
            "processes": chosen.processes,
            "completed": result["completed"],
            "seconds": result["max_seconds"],
            "kept": f"never more than {result['highest_in_hand']} in hand",
        }
    )
    table.add(
        {
            "limit": f"RateLimit(api, {PER_SECOND}, {chosen.burst})",
            "processes": rated,
            "completed": result["let_through"],
            "seconds": chosen.seconds,
            "kept": f"{result['let_through'] / expected:.1%} of {expected:,.0f}",
        }
    )
    is_kept = (
        result["highest_in_hand"] <= MAX
        and result["completed"] == chosen.chunks
        and abs(result["let_through"] - expected) <= 0.05 * expected
    )
    report.facts = {**result, "is_kept": is_kept}
    report.say("kept" if is_kept else "NOT KEPT")
    report.save()
    return 0 if is_kept else 1


def in_hand_at_once(url: str, processes: int, chunks: int) -> dict[str, Any]:
    """Complete chunks with all processes under the same limit, timed when all have started."""
    client = connect(url)
    # Several submissions with one value, since the limit applies to the value.
    for number in range(10):
        share = chunks // 10 + (number < chunks % 10)
        Queue(client, "max").insert_submission(
            NewSubmission(
                prefix=fresh_prefix("max"), chunks_total=share, strategic_metadata={"api": 1}
            )
        )
    seconds = run_together(partial(work_on_max, url, chunks), processes)
    answer = {
        "completed": Queue(client, "max").count_queue().stats.get("chunks_completed", 0),
        "highest_in_hand": max(map(int, client.lrange(HIGHEST_KEY, 0, -1))),
        "max_seconds": seconds,
    }
    client.close()
    return answer


def work_on_max(url: str, chunks: int, name: str, all_up: Barrier) -> None:
    client = connect(url)
    queue = Queue(client, "max")
    highest = 0
    strategy = Strategy.MaxSimultaneous("api", MAX)
    all_up.wait()
    until = time.monotonic() + GIVE_UP_AFTER_S
    while time.monotonic() < until and int(client.get(COMPLETED_KEY) or 0) < chunks:
        reserved = queue.reserve_chunks(name, limit=3, strategy=strategy)
        if not reserved.chunks:
            queue.wait_for_wake(reserved.wake_id, block_ms=100)
            continue
        highest = max(highest, client.incrby(IN_HAND_KEY, len(reserved.chunks)))
        time.sleep(0.001)  # so that others try meanwhile
        client.decrby(IN_HAND_KEY, len(reserved.chunks))
        outcomes = queue.complete_chunks([chunk.token for chunk in reserved.chunks])
        client.incrby(COMPLETED_KEY, len(outcomes))
    client.rpush(HIGHEST_KEY, highest)
    client.close()


def let_through(url: str, processes: int, seconds: float, burst: int) -> dict[str, Any]:
    """Count the chunks that a rate limit allows."""
    client = connect(url)
    queue = Queue(client, "rate")
    queue.insert_submission(
        NewSubmission(
            prefix=fresh_prefix(queue.name), chunks_total=1_000_000, strategic_metadata={"api": 1}
        )
    )
    run_together(partial(work_on_rate, url, seconds, burst), processes)
    answer = {"let_through": queue.count_queue().stats.get("chunks_completed", 0)}
    client.close()
    return answer


def work_on_rate(url: str, seconds: float, burst: int, name: str, all_up: Barrier) -> None:
    client = connect(url)
    queue = Queue(client, "rate")
    strategy = Strategy.RateLimit("api", PER_SECOND, burst)
    all_up.wait()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        reserved = queue.reserve_chunks(name, limit=10, strategy=strategy)
        if reserved.chunks:
            queue.complete_chunks([chunk.token for chunk in reserved.chunks])
        else:
            time.sleep(min(reserved.next_due_in_ms or 1, 10) / 1000)
    client.close()


def run_together(work: Callable[[str, Barrier], None], processes: int) -> float:
    """Run `work` in many processes, each with a name; return the seconds since all had started."""
    context = multiprocessing.get_context("forkserver")
    all_up = context.Barrier(processes + 1, timeout=GIVE_UP_AFTER_S)
    workers = [
        context.Process(target=work, args=(f"worker-{number}", all_up))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    all_up.wait()
    began = time.monotonic()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process failed: its message is above")
    return time.monotonic() - began


if __name__ == "__main__":
    raise SystemExit(main())
