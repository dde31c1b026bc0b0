"""The cost of a durable insert, measured with the same inserts under each durability.

    python benchmarks/durability.py [--rounds 7] [--producers 1 16] [--server /path/redis-server]

Each row uses a separate server with its folder on the disk of --folder (use a real disk: /tmp may
be memory), and a replica if it needs one. Producers are threads that insert small submissions of
two chunks one after another, directly into Redis. Rows take turns of a second, and the median rate
of the rounds counts. The last column is the rate relative to the first row.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.connection import connect
from opsqueue.queue.durability import Durability, check_durability
from opsqueue.queue.queue import Queue
from opsqueue.testing import embedded
from opsqueue.testing.embedded import EmbeddedServer
from report import Report


@dataclass(frozen=True)
class Case:
    durability: Durability
    policy: str
    has_replica: bool = False


CASES = (
    Case(Durability.NONE, "everysec"),
    Case(Durability.NONE, "everysec", has_replica=True),
    Case(Durability.NONE, "always"),
    Case(Durability.FSYNC, "always"),
    Case(Durability.FSYNC, "everysec"),
    Case(Durability.REPLICA, "everysec", has_replica=True),
)


class Producer(threading.Thread):
    """A thread that inserts until it is stopped and records the duration of each insert."""

    def __init__(self, queue: Queue, number: int, stop: threading.Event) -> None:
        super().__init__()
        self._queue = queue
        self._number = number
        self._stop_now = stop
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self._stop_now.is_set():
            new = NewSubmission(
                prefix=fresh_prefix(self._queue.name),
                chunks_total=2,
                inline=(b"[1,2,3]", b"[4,5,6]"),
            )
            began = time.perf_counter()
            self._queue.insert_submission(new, idempotency_key=f"{self._number}-{began}")
            self.seconds.append(time.perf_counter() - began)


def started(case: Case, folder: Path, servers: ExitStack) -> str:
    """Start the case's server, and its replica if it has one; return the server's URL."""
    arguments: tuple[str, ...] = ("--appendfsync", case.policy)
    primary = servers.enter_context(EmbeddedServer(folder / "primary", arguments=arguments))
    client = connect(primary.url)
    if case.has_replica:
        arguments += ("--replicaof", "127.0.0.1", str(primary.port))
        servers.enter_context(EmbeddedServer(folder / "replica", arguments=arguments))
        while client.info("replication").get("slave0", {}).get("state") != "online":
            time.sleep(0.05)
    if warnings := check_durability(client, case.durability, url=primary.url):
        raise InvalidArgumentError(warnings[0])
    client.close()
    return primary.url


def measure(
    url: str, durability: Durability, producers: int, seconds: float
) -> tuple[list[float], float]:
    """Insert for some seconds; return the duration of each insert, and of all together."""
    client = connect(url, max_connections=producers + 1)
    queue = Queue(client, f"q{time.time_ns()}", durability=durability)
    queue.insert_submission(
        NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=1)
    )  # loads the script
    stop = threading.Event()
    threads = [Producer(queue, number, stop) for number in range(producers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    # Includes the last insert of each producer, which may take as long as the round.
    in_all = time.perf_counter() - began
    client.close()
    return [second for thread in threads for second in thread.seconds], in_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1, help="of each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--producers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--server", help="in place of the embedded one")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    options = parser.parse_args()
    report = Report("durability", options=vars(options))
    if options.server:
        embedded.binary = lambda: options.server
    base = Path(tempfile.mkdtemp(dir=options.folder))
    urls: dict[Case, str] = {}
    rates: defaultdict[tuple[Case, int], list[float]] = defaultdict(list)
    taken: defaultdict[tuple[Case, int], list[float]] = defaultdict(list)
    try:
        with ExitStack() as servers:
            for number, case in enumerate(CASES):
                with suppress(InvalidArgumentError):
                    urls[case] = started(case, base / str(number), servers)
            client = connect(urls[CASES[0]])
            report.say_where(client)
            client.close()
            # Cases take turns, so that other load on the machine affects all of them.
            for _, producers, case in product(range(options.rounds), options.producers, urls):
                seconds, in_all = measure(urls[case], case.durability, producers, options.seconds)
                rates[case, producers].append(len(seconds) / in_all)
                taken[case, producers] += seconds
    finally:
        shutil.rmtree(base, ignore_errors=True)
    table = report.table(
        {
            "durability": "`{durability}`",
            "appendfsync": "{policy}",
            "replica": "{replica}",
            "producers": "{producers}",
            "inserts a second": "{rate:,.0f}",
            "median": "{median_ms:.2f} ms",
            "p99": "{p99_ms:.2f} ms",
            "rate beside the first": "{ratio:.2f}",
        }
    )
    for producers, case in product(options.producers, urls):
        ordered = sorted(taken[case, producers])
        rate = median(rates[case, producers])
        table.add(
            {
                "durability": case.durability.value,
                "policy": case.policy,
                "replica": "yes" if case.has_replica else "no",
                "producers": producers,
                "rate": rate,
                "median_ms": median(ordered) * 1000,
                "p99_ms": ordered[len(ordered) * 99 // 100] * 1000,
                "ratio": rate / median(rates[CASES[0], producers]),
            }
        )
    for case in CASES:
        if case not in urls:
            report.say(
                f"`{case.durability}` with {case.policy} is refused: this server does not keep it"
            )
    report.save()


if __name__ == "__main__":
    main()
