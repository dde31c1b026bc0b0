"""The whole system on this machine: an embedded server, the API and a worker, each a process.

`opsqueue dev` and `opsqueue demo` start it. It is stopped in the order that loses nothing: the
worker first, the server last.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from opsqueue.exceptions import ConnectionTroubleError
from opsqueue.model.process import die_with_parent
from opsqueue.testing.embedded import EmbeddedServer

_READY_WITHIN_S: Final = 120.0
Say = Callable[[str, str], None]
"""A function that is called with the name of a part and a line of its output."""


class PartEndedError(ConnectionTroubleError):
    """A part of the stack ended by itself."""


@dataclass(slots=True)
class _Part:
    """A process whose lines are passed on."""

    name: str
    process: subprocess.Popen[str]
    ready: threading.Event = field(default_factory=threading.Event)
    last_lines: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None


class LocalStack:
    """A server, an API and workers; `with`, on the main thread, starts and ends them.

    Args:
        folder: the folder of the data.
        app: "module:name".
        api_port: the API's port; 0 chooses a free one, see `api_url`.
        concurrency: the number of children of each worker.
        say: called with each line that a part prints.
        log_level: the log level of workers and API.
        workers: the number of workers.
        worker_options: more options for `opsqueue-worker`.
        store_options: appended to the store's URL, such as "?durable=false".
    """

    def __init__(  # noqa: PLR0913 the options of each part
        self,
        folder: Path,
        app: str,
        *,
        api_port: int,
        concurrency: int,
        say: Say,
        log_level: str = "INFO",
        workers: int = 1,
        worker_options: Sequence[str] = (),
        store_options: str = "",
    ) -> None:
        self._server = EmbeddedServer(folder / "redis")
        self._app = app
        self._api_port = api_port
        self._concurrency = concurrency
        self._say = say
        self._log_level = log_level
        self._workers = workers
        self._worker_options = worker_options
        self._parts: list[_Part] = []
        self._ended: queue.SimpleQueue[_Part] = queue.SimpleQueue()
        self.store_url = f"file://{(folder / 'store').resolve()}{store_options}"
        self.api_url = ""

    @property
    def redis_url(self) -> str:
        """The URL of the embedded server."""
        return self._server.url

    def start(self) -> None:
        """Start all parts, and wait until each has printed that it is ready.

        Raises:
            PartEndedError: one of them ended; the message has its last lines.
        """
        self._server.start()
        try:
            for number in range(1, self._workers + 1):
                self._start_part(
                    "worker" if number == 1 else f"worker-{number}",
                    "opsqueue_worker",
                    self._app,
                    *("--concurrency", str(self._concurrency)),
                    *("--log-level", self._log_level),
                    *self._worker_options,
                )
            self._start_part(
                "api",
                "opsqueue_api",
                *("--port", str(self._api_port)),
                *("--log-level", self._log_level.lower()),
            )
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _start_part(self, name: str, module: str, *arguments: str) -> None:
        pid = os.getpid()
        # Settings of a real deployment, such as the API's tokens, are not for this one.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OPSQUEUE_")}
        environment = {
            **inherited,
            "OPSQUEUE_REDIS_URL": self._server.url,
            "OPSQUEUE_STORE_URL": self.store_url,
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(  # noqa: S603 our own modules
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Its own session, so that Ctrl-C reaches this process alone, which ends the parts in
            # order.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(pid),  # noqa: PLW1509 touches no locks
        )
        part = _Part(name, process)
        part.reader = threading.Thread(target=self._pass_on, args=(part,), daemon=True)
        part.reader.start()
        self._parts.append(part)

    def _pass_on(self, part: _Part) -> None:
        if part.process.stdout is None:
            message = "the part was started without a pipe"
            raise AssertionError(message)
        for raw in part.process.stdout:
            line = raw.rstrip("\n")
            part.last_lines = [*part.last_lines[-9:], line]
            self._say(part.name, line)
            if line == "ready" or line.startswith("ready on "):
                if part.name == "api":
                    self.api_url = line.removeprefix("ready on ")
                part.ready.set()
        part.process.wait()
        self._ended.put(part)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        for part in self._parts:
            while not part.ready.wait(0.05):
                self.check()
                if time.monotonic() > deadline:
                    message = f"{part.name} was not ready within {_READY_WITHIN_S:g} s"
                    raise PartEndedError(message)

    def pid_of(self, name: str) -> int:
        """Return the process id of a part: "api", "worker", "worker-2", ..."""
        return next(part.process.pid for part in self._parts if part.name == name)

    def check(self) -> None:
        """Raise PartEndedError if a part or the server has ended by itself."""
        if not self._server.is_running:
            message = (
                "the embedded Redis ended by itself. What it had written is kept, and the next "
                f"start goes on with it; its log is in {self._server.folder}"
            )
            raise PartEndedError(message)
        try:
            part = self._ended.get_nowait()
        except queue.Empty:
            return
        lines = "\n".join(f"  {line}" for line in part.last_lines) or "  it printed nothing"
        message = f"{part.name} ended with exit code {part.process.returncode}:\n{lines}"
        raise PartEndedError(message)

    def hurry(self) -> None:
        """Make workers that are stopping release running chunks instead of finishing them."""
        for part in self._parts:
            if part.name.startswith("worker") and part.process.poll() is None:
                part.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End workers, API and server, in this order, each after its current work."""
        for part in self._parts:
            if part.process.poll() is None:
                part.process.send_signal(signal.SIGTERM)
            try:
                part.process.wait(timeout=70)
            except subprocess.TimeoutExpired:
                part.process.kill()
                part.process.wait()
            if part.reader is not None:
                part.reader.join(timeout=5)
        self._parts.clear()
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
