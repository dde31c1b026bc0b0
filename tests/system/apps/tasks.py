"""Handlers that do what an operation says, for tests with real processes.

The queue's name comes from the test, so that tests share a server and never a queue. Files in the
folder of an operation tell the test what happened, and tell the handler to go on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from opsqueue import Chunk, Opsqueue

app = Opsqueue()


@app.operation_handler(os.environ.get("TEST_QUEUE", "tasks"))
def act(operation: Any, chunk: Chunk) -> Any:
    """A number: the next one. A list: an action and its arguments."""
    if isinstance(operation, int):
        return operation + 1
    action, *arguments = operation
    return {
        "raise": raise_error,
        "object": lambda _: object(),
        "kill": kill_myself,
        "exit": lambda _: sys.exit(3),
        "wait": lambda folder: wait_for(Path(folder), chunk),
        "pid": lambda _: os.getpid(),
        "log": lambda path: log_run(Path(path), chunk),
    }[action](*arguments or [""])


def raise_error(text: str) -> None:
    message = f"no luck with {text}"
    raise ValueError(message)


def kill_myself(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(folder: Path, chunk: Chunk) -> str:
    """Say that it runs, by a file; return when the test has made the file `go`."""
    (folder / f"started-{chunk.chunk_index}-{chunk.attempt}-{os.getpid()}").touch()
    while not (folder / "go").exists():
        if chunk.is_void():
            (folder / f"void-{chunk.chunk_index}").touch()
            return "void"
        time.sleep(0.01)
    return "went"


def log_run(path: Path, chunk: Chunk) -> int:
    """Append a line a run: who ran which chunk, and when; takes a little time."""
    with path.open("a") as log:
        log.write(f"{chunk.chunk_index} {chunk.attempt} {os.getpid()}\n")
    time.sleep(0.02)
    return chunk.chunk_index
