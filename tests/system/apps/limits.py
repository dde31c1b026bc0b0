"""Handlers that leave something behind, or behave as none should: an operation says how."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opsqueue import Opsqueue

app = Opsqueue()
queue = os.environ["TEST_QUEUE"]


@app.operation_handler(queue)
@app.operation_handler(f"{queue}-limited", time_limit=1.0)
def act(operation: Any) -> Any:
    """Return ten times a number; perform the action of a list and its arguments."""
    if isinstance(operation, int):
        return operation * 10
    action, *arguments = operation
    return ACTIONS[action](*arguments)


@app.operation_handler(f"{queue}-async")
async def act_later(operation: Any) -> Any:
    """Do the same in a coroutine, some of it in a task of its own."""
    if operation == "pid":
        return os.getpid()
    if operation[0] == "task":
        return await asyncio.create_task(act_later(operation[1:]))
    return act(operation)


@app.operation_handler(f"{queue}-threads", soft_time_limit=0.3, concurrency=2)
def hang_or_work(number: int) -> int:
    """Hang in a call without a timeout if the number is negative."""
    if number < 0:
        threading.Event().wait(3_600)
    return number * 10


def start_programs(folder: str, ending: str) -> None:
    """Start three programs: in the handler's group, in a group of its own, and in a session."""
    path = Path(folder)
    for name, options in (
        ("group", {}),
        ("own group", {"process_group": 0}),
        ("own session", {"start_new_session": True}),
    ):
        program = subprocess.Popen(["sleep", "600"], **options)
        (path / name).write_text(str(program.pid))
    if ending == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "hang":
        threading.Event().wait(3_600)


def leave_thread() -> int:
    """Leave a thread that is no daemon, and return the process."""
    threading.Thread(target=time.sleep, args=(3_600,), name="left").start()
    return os.getpid()


def hang_at_exit() -> int:
    atexit.register(time.sleep, 3_600)
    return os.getpid()


def hang() -> None:
    sys.stdout.write("hanging\n")
    sys.stdout.flush()
    threading.Event().wait(3_600)


def fork(ending: str) -> str:
    """Fork, and let the child end in one of the ways that don't end a process at once."""
    pid = os.forkpty()[0] if ending == "forkpty" else os.fork()
    if pid == 0:
        if ending == "fork":
            fork("return")
        if ending == "exit":
            sys.exit(0)
        if ending == "raise":
            raise Unprintable
        return "from the fork"
    os.waitpid(pid, 0)
    return f"after {ending}"


def fork_in_multiprocessing() -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


class Unprintable(BaseException):
    """Ends the program wherever it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)

    def __str__(self) -> str:
        raise KeyboardInterrupt


def fail(error: str) -> None:
    errors: dict[str, BaseException] = {
        "unprintable": Unprintable("told"),
        "generator": GeneratorExit("told"),
        "exit": SystemExit("told"),
        "interrupt": KeyboardInterrupt("told"),
        "syntax": SyntaxError("told", ("template.txt", 3, "7", "{{ x")),  # type: ignore[arg-type]
        "surrogate": ValueError("told \udc80"),
    }
    raise errors[error]


ACTIONS: dict[str, Callable[..., Any]] = {
    "start": start_programs,
    "leave_thread": leave_thread,
    "hang_at_exit": hang_at_exit,
    "hang": hang,
    "fork": fork,
    "multiprocessing": fork_in_multiprocessing,
    "fail": fail,
    "pid": os.getpid,
}


@app.on_worker_start
def fork_at_start() -> None:
    """Fork a helper that comes back from the hook, as one that has forgotten os._exit does."""
    if "TEST_FORK_AT_START" in os.environ and (pid := os.fork()) != 0:
        os.waitpid(pid, 0)


@app.on_worker_stop
def hang_at_stop() -> None:
    if "TEST_HANG_AT_STOP" in os.environ:
        threading.Event().wait(3_600)
