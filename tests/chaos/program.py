"""A program of the fault suite: started, watched and ended by its pid; its lines go to a file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from opsqueue.model.process import die_with_parent

_READY_WITHIN_S: Final = 60.0
_UNREACHABLE: Final = 3
"""Exit code of a program that can't reach Redis, the store or the API at its start."""
_GONE_WITHIN_S: Final = 5.0
_START_FAILED: Final = "a child process ended during its start"


class Program:
    """A process that is restarted when it ends, as by a supervisor.

    Args:
        name: as faults and logs name it.
        command: what to run.
        folder: where its log is written.
        environment: added to ours.
    """

    def __init__(
        self, name: str, command: list[str], *, folder: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._starts_at: float | None = None
        self._killed: set[int] = set()
        self._asked: set[tuple[int, signal.Signals]] = set()
        self._child_was_killed = False
        self._former: set[psutil.Process] = set()
        """Processes that a kill or a signal has met; they, too, must end."""

    def start(self) -> None:
        """Start the process without waiting; call it on the main thread (see `die_with_parent`)."""
        pid = os.getpid()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(pid),  # noqa: PLW1509 touches no locks
            )
        self._starts_at = None
        self._child_was_killed = False

    def kill_child(self, child: psutil.Process) -> None:
        """Kill a child; a worker that is just starting gives up then."""
        self._child_was_killed = True
        with suppress(psutil.NoSuchProcess):
            child.kill()

    def restart_with(self, option: str, value: str) -> None:
        """Change an option from the next start on."""
        at = self._command.index(option)
        self._command[at + 1] = value

    def wait_for_line(self, text: str) -> str:
        """Return the first line of the log that has the text."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline and self.is_alive:
            for line in self.log.read_text(errors="replace").splitlines():
                if text in line:
                    return line
            time.sleep(0.02)
        message = f"{self.name} does not say {text!r}:\n{self.end_of_log()}"
        raise RuntimeError(message)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[psutil.Process]:
        """Return the processes that it started, oldest first, without zombies."""
        try:
            children = psutil.Process(self.pid).children()
            return [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
        except psutil.NoSuchProcess:
            return []

    def family(self) -> list[psutil.Process]:
        """Return the process and all its descendants."""
        try:
            process = psutil.Process(self.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, *, start_after_s: float) -> frozenset[int]:
        """Kill the process itself; its descendants must end by themselves.

        Returns the pids of all of them.
        """
        assert self._process is not None
        if not self.is_alive:
            return frozenset({-1})
        family = self.family()
        self._former.update(family)
        self._killed.add(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._starts_at = time.monotonic() + start_after_s
        return frozenset(process.pid for process in family)

    def ask(self, number: signal.Signals) -> frozenset[int]:
        """Send a signal that it handles. Return its pid and its children's."""
        assert self._process is not None
        if not self.is_alive:
            return frozenset({-1})
        family = self.family()
        self._former.update(family)
        self._asked.add((self.pid, number))
        os.kill(self.pid, number)
        return frozenset(process.pid for process in family)

    def left_behind(self) -> str | None:
        """Describe the processes that outlived their parent or their replacement."""
        former = self._former - set(self.family())
        psutil.wait_procs(former, timeout=_GONE_WITHIN_S)
        pids = sorted(one.pid for one in former if _lives(one))
        return f"{self.name} left processes behind: {pids}" if pids else None

    def supervise(self) -> str | None:
        """Restart it if it ended and it is time; report an end without a cause."""
        if self.is_alive or self._process is None:
            return None
        surprise = None
        if self._starts_at is None:
            code = self._process.returncode
            self._starts_at = time.monotonic() + 0.5
            if not (
                self._process.pid in self._killed
                or self._was_asked_for(code)
                or code == _UNREACHABLE
                or (self._child_was_killed and _START_FAILED in self.end_of_log(1))
            ):
                surprise = f"{self.name} ended by itself with {code}:\n{self.end_of_log()}"
        if time.monotonic() >= self._starts_at:
            self.start()
        return surprise

    def _was_asked_for(self, code: int) -> bool:
        assert self._process is not None
        asked = {number for pid, number in self._asked if pid == self._process.pid}
        # A worker that is not ready yet has no answer, and just ends.
        return -code in asked or (code == 0 and bool(asked - {signal.SIGHUP}))

    def end_of_log(self, lines: int = 8) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "no log"

    def end(self) -> None:
        """End all of its processes."""
        if self._process is None:
            return
        for process in self._former | set(self.family()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
