"""Handlers that do what an operation says, for tests with real processes.

The queue's name comes from the test, so that tests share a server and never a queue. Files in an
operation's folder report events to the test and let the handler continue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import SoftTimeLimitExceeded
from opsqueue.handlers import execute as execution

app = Opsqueue()


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks"))
def act(operation: Any, chunk: Chunk) -> Any:
    """Return the next number for a number; perform the action of a list and its arguments."""
    if isinstance(operation, int):
        return operation + 1
    action, *arguments = operation
    actions: dict[str, Callable[..., Any]] = {
        "raise": raise_error,
        "raise_once": lambda path: (
            log_run(Path(path), chunk) if chunk.attempt > 1 else raise_error("")
        ),
        "object": lambda _: object(),
        "kill": kill_myself,
        "kill_worker": lambda _: kill_worker(),
        "die_once": lambda path: die_once(Path(path)),
        "exit": lambda _: sys.exit(3),
        "wait": lambda folder: wait_for(Path(folder), chunk),
        "print": print_much,
        "pid": lambda _: os.getpid(),
        "log": lambda path: log_run(Path(path), chunk),
        "terminate": start_and_terminate,
        "fork": lambda path: fork_and_die(Path(path)),
        "break": lambda _: break_saving() if chunk.attempt == 1 else "whole",
    }
    return actions[action](*arguments or [""])


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks") + "-collecting", on_error="collect")
def add_one(number: int) -> int:
    """Fail only this operation if it is not a number."""
    return number + 1


def print_much(characters: int) -> int:
    """Print to both streams, as a chatty library does."""
    for stream in (sys.stdout, sys.stderr):
        for _ in range(characters // 100):
            print("x" * 99, file=stream)
    return characters


def raise_error(text: str) -> None:
    message = f"no luck with {text}"
    raise ValueError(message)


def break_saving() -> None:
    """Put a defect into this process, in the threads that store outputs."""

    def broken(*_: Any, **__: Any) -> None:
        message = "a defect for a test"
        raise AssertionError(message)

    vars(execution)["save"] = broken


def kill_myself(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_worker() -> None:
    """End the whole worker, as a machine without memory does, and wait for it."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def die_once(path: Path) -> str:
    """Die the first time."""
    if not path.exists():
        path.touch()
        kill_myself("")
    return "survived"


def start_and_terminate(_: str) -> int:
    """Return the exit code of a program that was terminated."""
    program = "import time; print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        return process.wait(20)


def fork_and_die(path: Path) -> None:
    """Die, and leave a process behind that has the same files open."""
    pid = os.fork()
    if pid == 0:
        os.setsid()  # otherwise it would be killed with this process
        time.sleep(60)
        os._exit(0)
    path.write_text(str(pid))
    kill_myself("")


def wait_for(folder: Path, chunk: Chunk) -> str:
    """Create a file, and return when the test has created the file `go`."""
    (folder / f"started-{chunk.chunk_index}-{chunk.attempt}-{os.getpid()}").touch()
    while not (folder / "go").exists():
        if chunk.is_void():
            (folder / f"void-{chunk.chunk_index}").touch()
            return "void"
        time.sleep(0.01)
    return "went"


def log_run(path: Path, chunk: Chunk) -> int:
    """Append a line with the process, chunk and time of the run; takes a little time."""
    with path.open("a") as log:
        log.write(f"{chunk.chunk_index} {chunk.attempt} {os.getpid()}\n")
    time.sleep(0.02)
    return chunk.chunk_index


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks") + "-limited", time_limit=1.0)
def sleep_limited(seconds: float) -> float:
    """Run too long, to be killed."""
    time.sleep(seconds)
    return seconds


@app.operation_handler(
    os.environ.get("TEST_QUEUE", "tasks") + "-soft", time_limit=30.0, soft_time_limit=0.3
)
def sleep_softly(seconds: float) -> str:
    """Run too long, and clean up on the soft time limit."""
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "tidied up"
    return "in time"


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks") + "-threads", concurrency=8)
def meet_in_threads(folder: str) -> str:
    """Return once eight of them run at the same time."""
    return meet(Path(folder), f"{os.getpid()}-{threading.get_ident()}", 8)


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks") + "-async", concurrency=8)
async def meet_in_tasks(folder: str) -> str:
    """Return once 16 of them run at the same time: eight of each of two chunks."""
    mine = Path(folder) / f"{os.getpid()}-{id(asyncio.current_task())}"
    mine.touch()
    while len(list(mine.parent.iterdir())) < 16:  # noqa: ASYNC110 of other processes, too
        await asyncio.sleep(0.01)
    return "met"


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks") + "-hooks")
def tell_started(_: object) -> list[str]:
    """Return the object that the start hook created."""
    logging.getLogger("tasks").warning("a line of the handler's own")
    return started


started: list[str] = []


@app.on_worker_start
def note_start() -> None:
    """Create something expensive, once per process."""
    started.append(f"started {os.getpid()}")


@app.on_worker_stop
def note_stop() -> None:
    """Leave a trace of the end."""
    if folder := os.environ.get("TEST_STOPPED"):
        (Path(folder) / f"stopped-{os.getpid()}").touch()


def meet(folder: Path, name: str, count: int) -> str:
    """Wait until that many have arrived."""
    (folder / name).touch()
    deadline = time.monotonic() + 20
    while len(list(folder.iterdir())) < count:
        if time.monotonic() > deadline:
            message = f"{len(list(folder.iterdir()))} of {count} came"
            raise TimeoutError(message)
        time.sleep(0.01)
    return "met"
