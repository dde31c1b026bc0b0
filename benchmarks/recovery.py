"""The time until work continues after a child, a worker or the server was killed.

    python benchmarks/recovery.py
    python benchmarks/recovery.py --rounds 3 --heartbeat-timeout 30

Handlers log when they start. They take 20 ms, and every tenth takes a second: a child is killed
while such a handler runs. The clock is the machine's monotonic clock, which all processes share.
The results are medians and maxima of --rounds each:

child     a worker with one child: until another child runs a chunk; until the dead child's chunk
          runs again (its attempt is used, so it waits for its back-off, 0.5 to 1 s)
worker    one of two: until the other one runs its chunk again. That takes the time after which a
          silent worker counts as dead, --heartbeat-timeout (30 s by default), and up to a second
          until the next sweep.
server    with an append-only file: until it answers again, and from then until a chunk is counted
          as completed
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opsqueue.handlers.app import Opsqueue
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue.testing.embedded import EmbeddedServer
from report import Report, Table

QUEUE, LOG = "recovery", "OPSQUEUE_BENCH_LOG"
GIVE_UP_AFTER_S = 120
app = Opsqueue()


@app.operation_handler(QUEUE)
def work(number: int) -> int:
    with Path(os.environ[LOG]).open("a") as log:
        log.write(f"{time.monotonic()} {os.getpid()} {number}\n")
    time.sleep(1 if is_long(number) else 0.02)
    return number


def is_long(number: int) -> bool:
    return number % 10 == 5


@dataclass(frozen=True)
class Run:
    """The start of a handler, as logged."""

    at: float
    pid: int
    number: int


class Bench:
    """A server, a log of handlers, and more work than can be done."""

    def __init__(self, folder: Path, server: EmbeddedServer, heartbeat_timeout_s: float) -> None:
        self.server = server
        self._log = folder / "runs"
        self._log.touch()
        self._store_url = f"file://{folder}/store?durable=false"
        self._timeout_s = heartbeat_timeout_s
        self._next = 0

    def add_work(self) -> None:
        """Insert two minutes of work with new numbers; small, so that no store is needed."""
        client = connect(self.server.url)
        api, store = RedisBackend(client), open_store(self._store_url)
        ProducerClient.over(api, store, queue=QUEUE).insert_submission(
            range(self._next, self._next + 1_000), chunk_size=1
        )
        self._next += 1_000
        client.close()

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "opsqueue_worker", "recovery:app", "-c", "1"),
                *("--heartbeat-interval", "1", "--heartbeat-timeout", str(self._timeout_s)),
                *("--strategy", "Oldest", "--log-level", "ERROR"),
            ],
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "OPSQUEUE_REDIS_URL": self.server.url,
                "OPSQUEUE_STORE_URL": self._store_url,
                LOG: str(self._log),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None  # noqa: S101 it was asked for
            for line in process.stderr:
                if line == "ready\n":
                    break
            else:
                raise SystemExit("the worker ended instead of being ready")
            yield process
        finally:
            process.terminate()
            process.wait()

    def runs(self) -> list[Run]:
        lines = self._log.read_text().splitlines(keepends=True)
        rows = [line.split() for line in lines if line.endswith("\n")]
        return [Run(float(at), int(pid), int(number)) for at, pid, number in rows]

    def first(self, wanted: Callable[[Run], bool]) -> Run:
        """Wait until a matching handler has started."""
        deadline = time.monotonic() + GIVE_UP_AFTER_S
        while time.monotonic() < deadline:
            for run in self.runs():
                if wanted(run):
                    return run
            time.sleep(0.002)
        raise SystemExit(f"nothing of the kind ran within {GIVE_UP_AFTER_S} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--heartbeat-timeout", type=float, default=5, help="seconds")
    chosen = parser.parse_args()

    report = Report("recovery", options=vars(chosen))
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder) / "redis") as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        client.close()
        bench = Bench(Path(folder), server, chosen.heartbeat_timeout)
        table = report.table(
            {
                "killed": "{killed}",
                "until": "{until}",
                "median": "{median_s:.2f} s",
                "longest": "{longest_s:.2f} s",
                "rounds": "{rounds}",
            }
        )
        children_killed(bench, chosen.rounds, table)
        workers_killed(bench, chosen.rounds, chosen.heartbeat_timeout, table)
        servers_killed(bench, chosen.rounds, table)
    report.save()


def children_killed(bench: Bench, rounds: int, table: Table) -> None:
    other, again = [], []
    with bench.worker():
        for _ in range(rounds):
            bench.add_work()
            killed = long_run_after(bench, time.monotonic())
            os.kill(killed.pid, signal.SIGKILL)
            at = time.monotonic()
            other.append(first_of_others(bench, killed).at - at)
            again.append(rerun_of(bench, killed).at - at)
    add(table, "a child", "another one runs a chunk", other)
    add(table, "a child", "its chunk is run again", again)


def workers_killed(bench: Bench, rounds: int, timeout_s: float, table: Table) -> None:
    again = []
    with bench.worker():
        for _ in range(rounds):
            bench.add_work()
            run_after(bench, time.monotonic())  # the one that stays is at work
            known = {run.pid for run in bench.runs()}
            with bench.worker() as doomed:
                killed = long_run_after(bench, time.monotonic(), known)
                doomed.kill()
                at = time.monotonic()
                again.append(rerun_of(bench, killed).at - at)
    add(table, f"a worker, dead after {timeout_s:g} s", "its chunk is run again", again)


def long_run_after(bench: Bench, at: float, others: Collection[int] = ()) -> Run:
    return bench.first(lambda run: run.at > at and is_long(run.number) and run.pid not in others)


def run_after(bench: Bench, at: float) -> Run:
    return bench.first(lambda run: run.at > at and not is_long(run.number))


def first_of_others(bench: Bench, killed: Run) -> Run:
    return bench.first(lambda run: run.at > killed.at and run.pid != killed.pid)


def rerun_of(bench: Bench, killed: Run) -> Run:
    return bench.first(lambda run: run.number == killed.number and run.at > killed.at)


def servers_killed(bench: Bench, rounds: int, table: Table) -> None:
    ready, counted = [], []
    with bench.worker():
        for _ in range(rounds):
            bench.add_work()
            run_after(bench, time.monotonic())
            bench.server.kill()
            at = time.monotonic()
            bench.server.start()
            back_at = time.monotonic()
            ready.append(back_at - at)
            client = connect(bench.server.url)
            queue = Queue(client, QUEUE)
            before = queue.count_queue().stats.get("chunks_completed", 0)
            while queue.count_queue().stats.get("chunks_completed", 0) == before:
                if time.monotonic() > back_at + GIVE_UP_AFTER_S:
                    raise SystemExit("nothing is completed after the restart")
                time.sleep(0.002)
            counted.append(time.monotonic() - back_at)
            client.close()
    add(table, "the server, restarted", "it answers again", ready)
    add(table, "the server, restarted", "from then on, a chunk is completed", counted)


def add(table: Table, killed: str, until: str, times_s: list[float]) -> None:
    table.add(
        {
            "killed": killed,
            "until": until,
            "median_s": statistics.median(times_s),
            "longest_s": max(times_s),
            "rounds": len(times_s),
            "times_s": times_s,
        }
    )


if __name__ == "__main__":
    main()
