"""Real processes: started here, observed by their output, ended by pid."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.store import open_store

APPS = Path(__file__).parent / "apps"
WITHIN_S = 60.0


class Process:
    """A program of opsqueue whose output lines can be awaited."""

    def __init__(self, command: list[str], *, cwd: Path, environment: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, text: str) -> str:
        """Return the next line that has the text; lines read before are ignored."""
        deadline = time.monotonic() + WITHIN_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._new.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            if text in line:
                return line
        pytest.fail(f"no line with {text!r} in:\n{self.output}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        """Read all output and return the exit code."""
        code = self.popen.wait(WITHIN_S)
        self._reader.join(WITHIN_S)
        return code

    def end(self) -> None:
        """End all of its processes in any case."""
        if self.popen.poll() is None:
            family = [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]
            for process in family:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
        self.popen.wait(WITHIN_S)


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Process]:
    """Run `python -m MODULE ARGUMENTS…` for longer than a test."""
    process = Process([sys.executable, "-m", *arguments], cwd=APPS, environment=environment)
    try:
        yield process
    finally:
        process.end()


Start = Callable[..., Process]
ProducerOf = Callable[..., ProducerClient]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -m MODULE ARGUMENTS…`, or another program; ended after the test."""
    started: list[Process] = []

    def start_process(
        *arguments: str, cwd: Path = APPS, program: str = "", **environment: str
    ) -> Process:
        command = [program] if program else [sys.executable, "-m"]
        process = Process([*command, *arguments], cwd=cwd, environment=environment)
        started.append(process)
        return process

    yield start_process
    for process in started:
        process.end()


@pytest.fixture
def start_worker(start: Start, redis_url: str, store_url: str, queue_name: str) -> Start:
    """Start a worker of the test's own queue, of `apps/tasks.py` or another, until it is ready."""

    def start_ready(*arguments: str, app: str = "tasks:app", **environment: str) -> Process:
        worker = start(
            *("opsqueue_worker", app, "--concurrency", "2", *arguments),
            OPSQUEUE_REDIS_URL=environment.pop("OPSQUEUE_REDIS_URL", redis_url),
            OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
            TEST_QUEUE=queue_name,
            **environment,
        )
        worker.wait_for_line("ready")
        return worker

    return start_ready


@pytest.fixture(scope="module")
def module_store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{tmp_path_factory.mktemp('store')}?durable=false"


@pytest.fixture(scope="module")
def module_api(redis_url: str, module_store_url: str) -> Iterator[Process]:
    """Run an API for all tests of a module, which use different queues."""
    with running(
        *("opsqueue_api", "--port", "0"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=module_store_url,
    ) as api:
        yield api


@pytest.fixture(scope="module")
def module_api_url(module_api: Process) -> str:
    """Its address."""
    return module_api.wait_for_line("ready on ").rpartition(" ")[2]


@pytest.fixture
def producer_of(real_client: redis.Redis, store_url: str, queue_name: str) -> ProducerOf:
    """A producer of the test's queue, or of one with a suffix."""

    def make(suffix: str = "", **settings: Any) -> ProducerClient:
        api = RedisBackend(real_client)
        store = open_store(f"{store_url}?durable=false")
        return ProducerClient.over(api, store, queue=queue_name + suffix, **settings)

    return make


def kill(pid: int) -> None:
    """SIGKILL, as the kernel's out-of-memory killer sends it."""
    os.kill(pid, signal.SIGKILL)
