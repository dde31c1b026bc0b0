"""The time from a cluster's fail-over until clients of the dead master's queues are served again.

    python benchmarks/failover.py
    python benchmarks/failover.py --rounds 20

Three masters with a replica each, on this machine, with a node timeout of 1.5 s. A worker serves
four queues of one master, a consumer connected to Redis and one that uses the API serve one queue
each, and a program asks for the counts of a queue every 50 ms. That master is killed. The clock
starts when its replica accepts writes: nobody can be served earlier. In each round the master that
was killed comes back as a replica, and its successor is the next one to be killed.

The results are medians and maxima of --rounds. The worker's and the consumers' rows have a value
for each queue: until one more of its chunks is completed. The last row is the CPU that the worker
uses while the queues have no master, to see that it is not busy for nothing.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis
from redis.crc import key_slot

from opsqueue.consumer import ConsumerClient
from opsqueue.exceptions import OpsqueueError
from opsqueue.handlers.app import Opsqueue
from opsqueue.model.names import base_key
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import Client
from opsqueue.queue.connection import connect, server_client
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue.testing.embedded import EmbeddedServer
from report import Report
from tests.redis_sets import ClusterSet, ask, cluster

OF_WORKER, OF_CONSUMERS, ASKED = 4, 2, 1
SLOTS_A_MASTER = 16_384 // 3
GIVE_UP_AFTER_S = 60


def names() -> list[str]:
    """Return names of queues that lie on the first master."""
    candidates = (f"failover-{number}" for number in range(1_000))
    of_first = (name for name in candidates if slot_of(name) < SLOTS_A_MASTER)
    return [next(of_first) for _ in range(OF_WORKER + OF_CONSUMERS + ASKED)]


def slot_of(name: str) -> int:
    return key_slot(base_key(name).encode())


NAMES = names()
app = Opsqueue()


def work(number: int) -> int:
    time.sleep(0.005)
    return number


for _name in NAMES[:OF_WORKER]:
    app.operation_handler(_name)(work)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    report = Report("failover", options=vars(chosen))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsqueue-bench-")))
        servers = stack.enter_context(cluster(folder / "servers"))
        bench = Bench(servers, f"file://{folder}/store?durable=false")
        client = connect(servers.url)
        report.say_where(server_client(f"redis://127.0.0.1:{servers.servers[0].port}/0"))
        api_url = stack.enter_context(bench.api())
        worker = stack.enter_context(bench.worker())
        stack.enter_context(bench.consumer(servers.url, NAMES[OF_WORKER]))
        stack.enter_context(bench.consumer(api_url, NAMES[OF_WORKER + 1]))
        asking = stack.enter_context(bench.asking(NAMES[-1]))
        times: dict[str, list[float]] = {}

        def note(what: str, value: float) -> None:
            times.setdefault(what, []).append(value)

        for _ in range(chosen.rounds):
            bench.add_work(client)
            bench.wait_for_progress()
            victim = servers.master_of(base_key(NAMES[0]))
            (heir,) = bench.replicas_of(victim)
            cpu_s = cpu_of(worker)
            victim.kill()
            at = time.monotonic()
            back_at = first_write(heir.port)
            note("the replica accepts writes", back_at - at)
            note("CPU of the worker until then", cpu_of(worker) - cpu_s)
            for name, seconds in bench.served_after(heir.port, back_at).items():
                number = NAMES.index(name)
                what = "a worker" if number < OF_WORKER else "a consumer"
                note(what if number <= OF_WORKER else f"{what} over HTTP", seconds)
            note("a client", asking(back_at) - back_at)
            victim.start()
            wait(servers.is_whole)
            wait(lambda victim=victim: is_in_sync(victim.port))
        client.close()
    table = report.table(
        {
            "time": "{time}",
            "median": "{median_s:.2f} s",
            "longest": "{longest_s:.2f} s",
            "values": "{values}",
        }
    )
    for what, found in times.items():
        is_served = what.startswith("a ")
        table.add(
            {
                "time": f"from then until {what} is served" if is_served else what,
                "median_s": statistics.median(found),
                "longest_s": max(found),
                "values": len(found),
                "times_s": found,
            }
        )
    report.save()


class Bench:
    """Programs of all kinds that use a cluster."""

    def __init__(self, servers: ClusterSet, store_url: str) -> None:
        self._servers = servers
        self._store_url = store_url
        self._environment = {
            **os.environ,
            "OPSQUEUE_REDIS_URL": servers.url,
            "OPSQUEUE_STORE_URL": store_url,
        }

    def add_work(self, client: Client) -> None:
        """Insert more than can be done during a round; small, so that no store is needed."""
        api, store = RedisBackend(client), open_store(self._store_url)
        for name in NAMES[:-ASKED]:
            producer = ProducerClient.over(api, store, queue=name)
            producer.insert_submission(range(1_000), chunk_size=1)

    @contextmanager
    def _program(self, *arguments: str, ready: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=Path(__file__).parent,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None  # noqa: S101 it was asked for
            line = next((line for line in process.stderr if ready in line), None)
            if line is None:
                raise SystemExit(f"{arguments[0]} ended instead of being ready")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield process, line
        finally:
            process.terminate()
            process.wait()

    @contextmanager
    def worker(self) -> Iterator[int]:
        arguments = ("failover:app", "-c", "2", "--prefetch", "0")
        with self._program("opsqueue_worker", *arguments, ready="ready") as (process, _):
            yield process.pid

    @contextmanager
    def api(self) -> Iterator[str]:
        with self._program("opsqueue_api", "--port", "0", ready="ready on") as (_, line):
            yield line.split()[-1]

    @contextmanager
    def consumer(self, url: str, name: str) -> Iterator[None]:
        consumer = ConsumerClient(url, self._store_url, queue=name)
        thread = threading.Thread(target=consumer.run_each_op, args=(work,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            consumer.stop()
            thread.join()

    @contextmanager
    def asking(self, name: str) -> Iterator[Callable[[float], float]]:
        """Ask for the counts of a queue all the time; yield a wait for an answer after a time."""
        client, is_over, answered = connect(self._servers.url), threading.Event(), [0.0]
        queue = Queue(client, name)

        def ask_for_ever() -> None:
            while not is_over.wait(0.05):
                with suppress(OpsqueueError):
                    queue.count_queue()
                    answered.append(time.monotonic())

        def first_after(at: float) -> float:
            wait(lambda: answered[-1] > at)
            return next(one for one in answered if one > at)

        thread = threading.Thread(target=ask_for_ever, daemon=True)
        thread.start()
        yield first_after
        is_over.set()
        thread.join()
        client.close()

    def wait_for_progress(self) -> None:
        port = self._servers.master_of(base_key(NAMES[0])).port
        self.served_after(port, time.monotonic())

    def replicas_of(self, master: EmbeddedServer) -> list[EmbeddedServer]:
        return [
            server
            for server in self._servers.living()
            if ask(server.port, "INFO", "replication").get("master_port") == master.port
        ]

    def served_after(self, port: int, since: float) -> dict[str, float]:
        """Wait until each queue has one more completed chunk; return the seconds that took."""
        client = server_client(f"redis://127.0.0.1:{port}/0")
        left = {name: self._completed(client, name) for name in NAMES[:-ASKED]}
        found: dict[str, float] = {}
        deadline = time.monotonic() + GIVE_UP_AFTER_S
        while left:
            for name, before in list(left.items()):
                if self._completed(client, name) != before:
                    found[name] = time.monotonic() - since
                    del left[name]
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing is completed in {list(left)}")
            time.sleep(0.002)
        client.close()
        return found

    def _completed(self, client: redis.Redis, name: str) -> int:
        return int(client.hget(f"{base_key(name)}stats", "chunks_completed") or 0)


def first_write(port: int) -> float:
    """Return when a server accepts a write of a queue's keys, as soon as it does."""
    client = server_client(f"redis://127.0.0.1:{port}/0")
    deadline = time.monotonic() + GIVE_UP_AFTER_S
    while time.monotonic() < deadline:
        try:
            client.set(f"{base_key(NAMES[0])}probe", 1)
        except Exception:  # noqa: BLE001 whatever the replica answers until then
            time.sleep(0.002)
        else:
            client.close()
            return time.monotonic()
    raise SystemExit("no replica has become a master")


def is_in_sync(port: int) -> bool:
    with suppress(Exception):
        return bool(ask(port, "INFO", "replication").get("master_link_status") == "up")
    return False


def wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_AFTER_S
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("the cluster does not recover")
        time.sleep(0.02)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
