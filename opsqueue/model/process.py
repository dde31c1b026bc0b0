"""Processes: their names, what a forked one renews, and which must not outlive their parent.

A forked child inherits sockets that its parent continues to use, locks that nothing will release in
the child, and pools whose threads don't exist. One hook of `os.register_at_fork` handles all of
this through weak references: an object that holds such things is registered with
`renew_in_children`, or keeps them in a `PerProcess`. Comparing `os.getpid()` at each use was
rejected: the hook costs nothing without forks, runs before anything else in the child, and is
correct where process ids repeat (containers).
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Generic, NoReturn, Protocol, Self, TypeVar

import msgspec

from opsqueue.model.errors import IncorrectUsageError, OtherProcessError
from opsqueue.model.raised import described, is_a

_PR_SET_PDEATHSIG: Final = 1

Value = TypeVar("Value")


class StartsAfresh(Protocol):
    """An object with something that a forked child must not share with its parent."""

    def start_afresh(self) -> None:
        """Replace everything shared. Called in the child before anything else; does no I/O."""


_renewed: Final[weakref.WeakSet[StartsAfresh]] = weakref.WeakSet()
_forks = 0


def renew_in_children(thing: StartsAfresh) -> None:
    """Call `thing.start_afresh()` in each forked child, as long as the object lives."""
    _renewed.add(thing)


def _start_afresh() -> None:
    global _forks  # noqa: PLW0603 a process's own number is global to it
    _forks += 1
    for thing in list(_renewed):
        before = dict(vars(thing))
        thing.start_afresh()
        _keep([value for name, value in before.items() if vars(thing).get(name) is not value])


def _keep(inherited: list[object]) -> None:
    """Keep replaced objects from ever being collected, even at the child's exit.

    Their finalizers would take locks that nothing releases (urllib3's pools), or change objects
    that the parent uses: a collected event loop removes itself from the epoll that both share.
    """
    if inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


os.register_at_fork(after_in_child=_start_afresh)


class PerProcess(Generic[Value]):
    """A value that each process makes for itself when it first needs it.

    A forked child neither uses nor closes the value that it inherits from its parent.

    Args:
        make: makes the value.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._is_closed = False
        self._value: Value | None = None
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `StartsAfresh`. A closed value stays closed."""
        # Reentrant: a signal handler may ask for the value while it is made.
        self._lock = threading.RLock()
        if not self._is_closed:
            self._value = None

    def get(self) -> Value:
        """Return this process's value.

        Raises:
            IncorrectUsageError: it was closed before this process needed it.
            Exception: any exception that `make` raises.
        """
        value = self._value
        if value is not None:
            return value
        with self._lock:
            if self._is_closed:
                message = "it is closed already: make a new one"
                raise IncorrectUsageError(message)
            made = self._make()
            if self._value is None:  # else another thread or a signal handler was faster
                self._value = made
            return self._value

    @property
    def made(self) -> Value | None:
        """The value of this process, if it has made one."""
        return self._value

    def close(self, close: Callable[[Value], object]) -> None:
        """Close the value if this process has made one; values of other processes stay open."""
        self._is_closed = True
        if self._value is not None:
            close(self._value)


class Origin:
    """The process in which an object was made."""

    def __init__(self) -> None:
        self._forks = _forks
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Return whether the object was made in this process, not in an ancestor of a fork."""
        return self._forks == _forks

    def check(self, what: str, help_: str) -> None:
        """Raise the error of `error` unless the object was made in this process."""
        if not self.is_here():
            raise self.error(what, help_)

    def error(self, what: str, help_: str) -> OtherProcessError:
        """Return the error to raise in a forked child.

        Args:
            what: the object that was made or begun, for the message.
            help_: what to do instead.
        """
        return OtherProcessError(what, self._pid, os.getpid(), help_)


class EndsForkedChildren:
    """Ends a child that user code has forked inside the block, when the child leaves the block.

    The child would continue as a second copy of this program, with its parent's reserved chunk.
    """

    def __enter__(self) -> Self:
        self._forks = _forks
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.check(error)

    def check(self, error: BaseException | None = None) -> None:
        """End this process, inside the block already, if it was forked there."""
        if self._forks != _forks:
            _end(error)


def _end(error: BaseException | None) -> NoReturn:
    status = 1
    try:
        if error is None:
            _say(
                f"process {os.getpid()} was forked by a handler and came back from it: it ends "
                "here; end such a process with os._exit(), or use subprocess"
            )
        elif not is_a(error, SystemExit):
            _say(described(error))
        else:
            # As the interpreter does: a number is the status, another value is printed.
            code = vars(SystemExit)["code"].__get__(error)
            if code is None or type(code) is int:
                status = code or 0
            else:
                _say(str(code))
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    finally:
        # In any case: whatever is raised above would lead the child back into this program.
        os._exit(status)


def _say(text: str) -> None:
    # The child's own end; its logging may be its parent's.
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)  # noqa: T201


def new_worker_name(role: str = "") -> str:
    """Return a name of host, process and random digits: readable, and never used before."""
    host = re.sub(r"[^\x21-\x7e]", "_", socket.gethostname())[:100]
    return f"{role}{host}-{os.getpid()}-{secrets.token_hex(3)}"


def worker_info(
    *,
    version: str,
    pool: str,
    concurrency: int,
    queues: Sequence[str],
    codecs: Sequence[str],
    started_at_ms: int | None = None,
    **more: str | int,
) -> bytes:
    """Return the JSON that a worker reports about itself: the arguments, host, pid and start.

    `started_at_ms` is Unix time; None means now. `more` are further fields: `app`, the path of the
    app; `children_ready` and `children_wanted`; `problem`, why children don't start.
    """
    return msgspec.json.encode(
        {
            "version": version,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pool": pool,
            "concurrency": concurrency,
            "queues": list(queues),
            "codecs": list(codecs),
            "started_at": started_at_ms or time.time_ns() // 1_000_000,
            **more,
        }
    )


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends; Linux only.

    Call it in the new process. On other systems it does nothing: a program that needs the same
    there watches for the end of a pipe.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        # The parent ended before the call of prctl.
        os._exit(1)
