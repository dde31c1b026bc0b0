"""The cost of idle workers, by their queues and by their number, and what an insert wakes.

    python benchmarks/scale_idle.py queues
    python benchmarks/scale_idle.py queues --root ../another-checkout
    python benchmarks/scale_idle.py workers
    python benchmarks/scale_idle.py wake

`queues`: a real worker that serves so many queues. Idle: its CPU time and the server's, as shares
of a core, its threads, and its connections to the server. Then one of its queues gets chunks of
one tiny operation each: chunks a second, and CPU time of the worker's parent for each.

`workers`: so many workers of one queue that have nothing to do. They are simulated: this process
sends what each would send (a heartbeat in each interval, and the question of its sweeper whether
anything is due), and subscribes to what each would watch.

`wake`: so many of these workers sleep, and a submission of 1 or 100 chunks comes. Each that hears a
message reserves two chunks (with few sleepers as many as are needed). Reserves: how many they send.
Taken: the time from the insert until the last chunk is reserved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue import commands
from opsqueue.queue.connection import server_client
from opsqueue.queue.due import DueIndex
from opsqueue.queue.queue import Queue, run_together, wake_channel
from opsqueue.store import open_store
from opsqueue.strategy import Random
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue_worker.intake.heartbeat import interval_of_many_s
from report import Report, main_thread_cpu_s

SETTLE_S = 12.0
IDLE_S = 20.0
CHUNKS = 8_000
STRATEGY = Random()
INFO = b'{"host":"a-host-name","pid":12345,"version":"1.2.3","slots":16,"codecs":["json","cbor"]}'
ROOT = Path(__file__).parents[1]
OF_QUEUES = {
    "queues": "{queues:,}",
    "worker idle": "{worker:.1%}",
    "server idle": "{server:.2%}",
    "threads": "{threads}",
    "connections": "{connections}",
    "chunks a second": "{per_s:,.0f}",
    "parent's CPU for each": "{cpu_us:.0f} us",
}
OF_WORKERS = {
    "idle workers": "{workers:,}",
    "calls a second": "{calls:,.0f}",
    "server": "{server:.2%}",
}
OF_WAKES = {
    "sleepers": "{sleepers:,}",
    "chunks": "{chunks:,}",
    "reserves": "{reserves:,.0f}",
    "taken after": "{taken_ms:,.0f} ms",
}
APP = """
from opsqueue import Opsqueue
app = Opsqueue()
def same(value): return value
for number in range({queues}):
    app.operation_handler(f"queue-{{number}}")(same)
"""


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def running_worker(
    server: EmbeddedServer, folder: Path, *, queues: int, root: Path
) -> Iterator[int]:
    (folder / "app.py").write_text(APP.format(queues=queues))
    paths = [root, root / "worker", root / "api", folder]
    process = subprocess.Popen(
        [sys.executable, "-m", "opsqueue_worker", "app:app", "-c", "1", "--log-level", "error"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OPSQUEUE_REDIS_URL": server.url,
            "OPSQUEUE_STORE_URL": f"file://{folder}/store?durable=false",
        },
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 it was asked for
        if not any(line.strip() == "ready" for line in process.stdout):
            raise SystemExit("the worker ended instead of being ready")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def of_queues(queues: int, *, root: Path) -> dict[str, float]:
    """Return a row for a worker of so many queues."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedServer(Path(name) / "redis") as embedded,
        running_worker(embedded, Path(name), queues=queues, root=root) as pid,
    ):
        worker, server = psutil.Process(pid), psutil.Process(embedded.pid)
        time.sleep(SETTLE_S)
        before, began = (cpu_s(worker), cpu_s(server)), time.monotonic()
        time.sleep(IDLE_S)
        idle_s = time.monotonic() - began
        idle = [
            (now - was) / idle_s
            for now, was in zip(map(cpu_s, (worker, server)), before, strict=True)
        ]
        connections = [
            c for c in worker.net_connections() if c.raddr and c.raddr.port == embedded.port
        ]
        threads = worker.num_threads()
        store = open_store(f"file://{name}/store?durable=false")
        client = server_client(embedded.url)
        producer = ProducerClient.over(RedisBackend(client), store, queue=f"queue-{queues - 1}")
        began, was = time.monotonic(), cpu_s(worker)
        producer.wait_for_submission(producer.insert_submission(range(CHUNKS), chunk_size=1))
        took_s, used_s = time.monotonic() - began, cpu_s(worker) - was
        client.close()
    return {
        "queues": queues,
        "worker": idle[0],
        "server": idle[1],
        "threads": threads,
        "connections": len(connections),
        "per_s": CHUNKS / took_s,
        "cpu_us": 1e6 * used_s / CHUNKS,
    }


def of_workers(workers: int) -> dict[str, float]:
    """Return a row for so many idle workers of one queue."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "redis") as embedded:
        client = server_client(embedded.url)
        queue, index = Queue(client, "idle", partition=0), DueIndex(client)
        names = [f"worker-{number}" for number in range(workers)]
        with ExitStack() as stack:
            for one in names:
                stack.enter_context(queue.watch(wake_channel(one, STRATEGY), lambda: None))
                queue.reserve_chunks(one, strategy=STRATEGY, sleeps=True)
            interval_s = max(5.0, interval_of_many_s(workers, commands.DEFAULT_TIMEOUT_MS / 1000))
            asks_s = min(max(workers / 50, 1.0), 30.0)
            before, began, calls = main_thread_cpu_s(client), time.monotonic(), 0
            beats = asked = 0
            while (passed_s := time.monotonic() - began) < IDLE_S:
                due = int(passed_s / interval_s * workers) - beats
                batch = [names[(beats + number) % workers] for number in range(min(due, 50))]
                run_together([(queue, beat(one)) for one in batch])
                beats += len(batch)
                while asked < passed_s / asks_s * workers:
                    index.take(names[asked % workers], sweeps_all=False, swept={}, limit=50)
                    asked += 1
                time.sleep(0.01)
            calls = beats + asked
            took_s = time.monotonic() - began
            server = (main_thread_cpu_s(client) - before) / took_s
        client.close()
    return {"workers": workers, "calls": calls / took_s, "server": server}


def beat(worker: str) -> commands.Command[Any]:
    return commands.heartbeat(
        worker,
        partition=0,
        tokens=[],
        begun=[],
        info=INFO,
        unknown_ms=30_000,
        timeout_ms=commands.DEFAULT_TIMEOUT_MS,
        sleeps_in=STRATEGY,
    )


def of_wakes(sleepers: int, chunks: int, *, rounds: int) -> dict[str, float]:
    """Return a row for so many sleepers and chunks; the median of some rounds."""
    reserves, taken_ms = [], []
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "redis") as embedded:
        client = server_client(embedded.url)
        queue = Queue(client, "idle", partition=0)
        woken: SimpleQueue[str] = SimpleQueue()
        with ExitStack() as stack:
            names = [f"worker-{number}" for number in range(sleepers)]
            for one in names:
                channel = wake_channel(one, STRATEGY)
                stack.enter_context(queue.watch(channel, lambda one=one: woken.put(one)))  # type: ignore[misc]
            for _ in range(rounds):
                one_round = Round(queue, woken, chunks, limit=max(2, -(-chunks // sleepers)))
                for one in names:
                    queue.reserve_chunks(one, strategy=STRATEGY, sleeps=True)
                while not woken.empty():
                    woken.get()  # of the subscription
                counted, took_s = one_round.run()
                reserves.append(counted)
                taken_ms.append(1000 * took_s)
        client.close()
    return {
        "sleepers": sleepers,
        "chunks": chunks,
        "reserves": statistics.median(reserves),
        "taken_ms": statistics.median(taken_ms),
    }


class Round:
    """One submission, and the workers that it wakes.

    Args:
        queue: the queue.
        woken: gets the name of each worker that hears a message.
        chunks: the chunks of the submission.
        limit: how many chunks each worker reserves.
    """

    THREADS = 4
    SILENCE_S = 0.5

    def __init__(self, queue: Queue, woken: SimpleQueue[str], chunks: int, *, limit: int) -> None:
        self._queue = queue
        self._woken = woken
        self._left, self._limit = chunks, limit
        self._new = NewSubmission(
            prefix=fresh_prefix(queue.name), chunks_total=chunks, chunk_size=1
        )
        self._lock = threading.Lock()
        self._reserves = 0
        self._taken_at = 0.0

    def run(self) -> tuple[int, float]:
        """Return the reserves that were sent, and the seconds until all chunks were taken."""
        threads = [threading.Thread(target=self._work) for _ in range(self.THREADS)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        id_ = self._queue.insert_submission(self._new).id
        for thread in threads:
            thread.join()
        if self._left:
            raise SystemExit(f"{self._left} chunks were not taken")
        self._queue.cancel_submission(id_)
        return self._reserves, self._taken_at - began

    def _work(self) -> None:
        while True:
            try:
                worker = self._woken.get(timeout=self.SILENCE_S)
            except Empty:  # nobody is woken any more
                return
            found = self._queue.reserve_chunks(
                worker, limit=self._limit, strategy=STRATEGY, sleeps=True
            ).chunks
            with self._lock:
                self._reserves += 1
                self._left -= len(found)
                if found:
                    self._taken_at = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["queues", "workers", "wake"])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout of the worker")
    parser.add_argument("--queues", type=int, nargs="+", default=[1, 300, 600])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--sleepers", type=int, nargs="+", default=[10, 500, 1_000])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    report = Report(f"scale_idle_{chosen.what}", options={**vars(chosen), "root": chosen.root.name})
    report.say_where()
    if chosen.what == "queues":
        table = report.table(OF_QUEUES)
        for queues in chosen.queues:
            table.add(of_queues(queues, root=chosen.root.resolve()))
    elif chosen.what == "workers":
        table = report.table(OF_WORKERS)
        for workers in chosen.workers:
            table.add(of_workers(workers))
    else:
        table = report.table(OF_WAKES)
        for sleepers in chosen.sleepers:
            for chunks in (1, 100):
                table.add(of_wakes(sleepers, chunks, rounds=chosen.rounds))
    report.save()


if __name__ == "__main__":
    main()
