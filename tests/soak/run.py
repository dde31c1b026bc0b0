"""The soak: load and kills for some time, then idle; nothing new may be left over.

It uses real processes: a server, an API of two processes, two workers and a store in a folder.
Producers over HTTP are in this process. A short load comes first, so that everything that is
created once (connections, buffers, a queue's own keys) exists at the start.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import httpx
import psutil
import redis

from opsqueue.exceptions import (
    ConnectionTroubleError,
    SubmissionFailedError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
)
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import Backoff
from opsqueue.producer import ProducerClient
from opsqueue.queue.connection import server_client
from opsqueue.testing.embedded import EmbeddedServer
from tests.system.conftest import Process
from tests.waiting import until

QUEUE: Final = "soak"
APPS: Final = Path(__file__).parent / "apps"
RETENTION_S: Final = 1
PRODUCERS: Final = 3
KILL_EVERY_S: Final = 3.0
REST_WITHIN_S: Final = 90.0
"""Retention, sweeps of some seconds each, and the expiry of rate limits' buckets."""
_MEMORY_SLACK: Final = 1.25
_MEMORY_SLACK_BYTES: Final = 24 * 1024**2
"""Allowed growth of a process since its start: what an allocator keeps."""
_OWN_KEYS: Final = (f"{base_key(QUEUE)}idem:", f"{base_key(QUEUE)}forgotten:")
_LONGEST_KEPT_MS: Final = 600_000


@dataclass(frozen=True)
class Rest:
    """The resources in use while nothing happens."""

    keys: frozenset[str]
    """Of Redis, without those of idempotency keys, which expire."""
    buckets: int
    store_files: tuple[str, ...]
    temporary_files: int
    processes: int
    descriptors: dict[str, int]
    """By program, of all its processes together."""
    memory_bytes: dict[str, int]


@dataclass
class Soak:
    """The programs under load."""

    folder: Path
    client: redis.Redis
    api: Process
    api_url: str
    workers: list[Process]
    start_worker: Callable[[], Process]
    submissions: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def load(self, seconds: float, *, has_kills: bool) -> None:
        """Submit, cancel, fail, disconnect and kill for a while, and see that results are right."""
        until_s = time.monotonic() + seconds
        producers = [
            threading.Thread(target=self._produce, args=(number, until_s))
            for number in range(PRODUCERS)
        ]
        for producer in producers:
            producer.start()
        while has_kills and time.monotonic() + KILL_EVERY_S < until_s:
            # A producer ends at until_s, or before because of an error: then no more is killed.
            producers[0].join(KILL_EVERY_S)
            if not producers[0].is_alive():
                break
            self._kill_something()
        for producer in producers:
            producer.join()

    def _produce(self, number: int, until_s: float) -> None:
        chance = random.Random(number)
        store_url = f"file://{self.store}?durable=false"
        with ProducerClient(self.api_url, store_url, queue=QUEUE) as producer:
            for turn in count():
                if time.monotonic() >= until_s:
                    return
                try:
                    self._submit(producer, chance, number * 10_000_000 + turn)
                except ConnectionTroubleError as exc:
                    self.wrong.append(f"a producer met: {exc}")
                    return
                self.submissions += 1

    def _submit(self, producer: ProducerClient, chance: random.Random, customer: int) -> None:
        operations = [chance.randrange(1_000) for _ in range(chance.randrange(1, 20))]
        kind = chance.choice(["done", "done", "stored", "failed", "cancelled", "left"])
        if kind == "failed":
            operations[-1] = -1
        if kind == "stored":
            operations = ["x" * 300_000]  # type: ignore[list-item]  # more than goes into Redis
        id_ = producer.insert_submission(
            operations,
            chunk_size=5,
            max_attempts=2,
            backoff=Backoff(first_ms=10, max_ms=10),
            retention=RETENTION_S,
            strategic_metadata={"customer": customer},
            delete_inputs_at_completion=kind == "stored",
        )
        with suppress(SubmissionNotFoundError):  # its retention is short
            match kind:
                case "done" | "stored":
                    results = list(producer.blocking_stream_completed_submission(id_))
                    if results != [operation * 2 for operation in operations]:
                        self.wrong.append(f"submission {id_} has other results")
                case "failed":
                    with suppress(SubmissionFailedError):
                        list(producer.blocking_stream_completed_submission(id_))
                        self.wrong.append(f"submission {id_} did not fail")
                case "cancelled":
                    with suppress(SubmissionNotCancellableError):
                        producer.cancel_submission(id_)
                case _:
                    # Somebody follows it, and hangs up.
                    path = f"/v1/queues/{QUEUE}/submissions/{id_}/events"
                    with (
                        suppress(httpx.HTTPError),
                        httpx.stream("GET", self.api_url + path, timeout=0.2) as response,
                    ):
                        next(response.iter_bytes(1), None)

    def _kill_something(self) -> None:
        kind = random.choice(["worker", "child", "api"])
        worker = random.randrange(len(self.workers))
        if kind == "worker":
            self.workers[worker].end()
            self.workers[worker] = self.start_worker()
            return
        parent = self.api if kind == "api" else self.workers[worker]
        if children := psutil.Process(parent.pid).children():
            with suppress(psutil.NoSuchProcess):
                children[0].send_signal(signal.SIGKILL)

    def _programs(self) -> dict[str, psutil.Process]:
        named = {f"worker {n}": worker for n, worker in enumerate(self.workers)} | {"api": self.api}
        return {name: psutil.Process(process.pid) for name, process in named.items()}

    def look(self) -> Rest:
        """Measure the resources in use."""
        families = {
            name: [process, *process.children(recursive=True)]
            for name, process in self._programs().items()
        }
        keys = {key.decode() for key in self.client.scan_iter(count=1_000)}
        buckets = f"{base_key(QUEUE)}full_at:customer"
        return Rest(
            keys=frozenset(key for key in keys if not key.startswith(_OWN_KEYS)) - {buckets},
            buckets=self.client.hlen(buckets),
            store_files=tuple(sorted(str(path) for path in self.store.rglob("*"))),
            temporary_files=sum(1 for _ in (self.folder / "tmp").rglob("*")),
            processes=sum(len(family) for family in families.values()),
            descriptors={
                name: sum(one.num_fds() for one in family) for name, family in families.items()
            },
            memory_bytes={
                name: sum(one.memory_info().rss for one in family)
                for name, family in families.items()
            },
        )

    def rest(self, before: Rest | None = None) -> list[str]:
        """Wait until nothing new is left over; return the remaining resources after a timeout."""
        left: list[str] = []

        def is_at_rest() -> bool:
            left[:] = self._left(before)
            return not left

        with suppress(AssertionError):  # what is left says more
            until(is_at_rest, within_s=REST_WITHIN_S, every_s=0.5)
        return left

    def _left(self, before: Rest | None) -> list[str]:
        try:
            now = self.look()
        except psutil.NoSuchProcess:
            return ["a process has just ended"]
        # The store's own marker stays.
        left = [f"file {path}" for path in now.store_files if not path.endswith("store-id")]
        left += self._long_keys()
        if before is None:
            # The first time: nothing of any submission.
            prefixes = (
                "sub:",
                "meta:",
                "pairs:",
                "garbage",
                "expiring",
                "submissions:",
                "prefixes",
            )
            bases = tuple(base_key(QUEUE) + prefix for prefix in prefixes)
            return left + [f"key {key}" for key in sorted(now.keys) if key.startswith(bases)]
        left += [f"{now.buckets} buckets of rate limits"] if now.buckets else []
        left += [f"key {key}" for key in sorted(now.keys - before.keys)]
        for what in ("temporary_files", "processes"):
            if getattr(now, what) > getattr(before, what):
                left.append(f"{what}: {getattr(before, what)}, then {getattr(now, what)}")
        for name, number in now.descriptors.items():
            # A connection or two come and go with each process's pool.
            if number > before.descriptors[name] + 12:
                left.append(f"descriptors of {name}: {before.descriptors[name]}, then {number}")
        for name, number in now.memory_bytes.items():
            if number > before.memory_bytes[name] * _MEMORY_SLACK + _MEMORY_SLACK_BYTES:
                left.append(f"bytes of {name}: {before.memory_bytes[name]:,}, then {number:,}")
        return left

    def _long_keys(self) -> Iterator[str]:
        for front in _OWN_KEYS:
            for key in self.client.scan_iter(f"{front}*", count=1_000):
                left_ms = self.client.pttl(key)
                if left_ms == -1 or left_ms > _LONGEST_KEPT_MS:
                    yield f"key {key.decode()} for {left_ms:,} ms"


@contextmanager
def staged(folder: Path) -> Iterator[Soak]:
    """Start everything; end all of it afterwards."""
    for name in ("store", "tmp", "redis"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder / "redis", is_durable=False))
        client = server_client(server.url)
        stack.callback(client.close)
        environment = {
            "OPSQUEUE_REDIS_URL": server.url,
            "OPSQUEUE_STORE_URL": f"file://{folder / 'store'}?durable=false",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

        def start(*arguments: str) -> Process:
            command = [sys.executable, "-m", *arguments]
            process = Process(command, cwd=APPS, environment=environment)
            stack.callback(process.end)
            return process

        def start_worker() -> Process:
            worker = start(
                *("opsqueue_worker", "doubling:app", "--concurrency", "2"),
                *("--heartbeat-interval", "0.5", "--heartbeat-timeout", "2"),
            )
            worker.wait_for_line("ready")
            return worker

        api = start("opsqueue_api", "--port", "0", "--workers", "2")
        url = api.wait_for_line("ready on ").rpartition(" ")[2]
        workers = [start_worker(), start_worker()]
        yield Soak(
            folder=folder,
            client=client,
            api=api,
            api_url=url,
            workers=workers,
            start_worker=start_worker,
        )


def soak(folder: Path, *, seconds: float, say: Callable[[str], None]) -> list[str]:
    """Produce load, wait, and return errors and remaining resources."""
    with staged(folder) as stage:
        stage.load(min(5.0, seconds / 2), has_kills=False)
        if left := stage.rest():
            return [*stage.wrong, *left]
        before = stage.look()
        say(f"after {stage.submissions:,} submissions: {before}")
        stage.load(seconds, has_kills=True)
        left = stage.rest(before)
        say(f"after {stage.submissions:,} submissions: {stage.look()}")
        return [*stage.wrong, *left]
