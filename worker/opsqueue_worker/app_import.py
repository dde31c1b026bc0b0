"""Import of the app, which may change the process that it is imported into.

Many programs set a default timeout for sockets, change the folder, install signal handlers or
configure logging when they are imported. The worker's parent process only reads the app's
handlers, so there everything is restored. In the processes that run handlers the app's settings
hold, except for what our own part of the process needs: its signals, its log and descriptors 0 to
2.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from opsqueue.exceptions import HandlerError
from opsqueue.handlers.app import Opsqueue, load_app
from opsqueue.model.process import EndsForkedChildren
from opsqueue.tracing.logs import keep_logging

_STANDARD_STREAMS = (0, 1, 2)


def import_app(path: str) -> Opsqueue:
    """Import the app of a process that runs its handlers.

    Raises:
        HandlerError: the app can't be imported, or it replaces threads or sockets.
    """
    _current_folder()
    # The app may change the folder, and handlers may import modules later.
    sys.path[:] = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 no resolving
    signals = _signal_handlers()
    with EndsForkedChildren(), _kept_streams():
        app = load_app(path)
    _restore_signal_handlers({number: signals[number] for number in _OURS if number in signals})
    keep_logging()
    check_not_green(f"app {path!r}")
    return app


_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
"""Signals by which a worker is told what to do."""


def import_app_unchanged(path: str) -> Opsqueue:
    """Import the app, and restore the settings of the process that the import has changed.

    Raises:
        HandlerError: see `import_app`.
    """
    with EndsForkedChildren(), _unchanged_process(), _kept_streams():
        app = load_app(path)
    keep_logging()
    check_not_green(f"app {path!r}")
    return app


def check_not_green(what: str) -> None:
    """Check that gevent or eventlet has not replaced what this process waits with.

    Greenlets never run beside a handler that computes, so reports and the messages of the parent
    would wait for handlers; and a connection would belong to the thread that opened it.

    Raises:
        HandlerError: one of them has.
    """
    waiting = (_thread.start_new_thread, socket.socket, select.select, subprocess.Popen, os.fork)
    for one in waiting:
        library = one.__module__.partition(".")[0]
        if library in ("gevent", "eventlet"):
            message = (
                f"{what}: {library} has replaced {one.__name__}, and a worker needs real threads "
                "and sockets. Patch only where 'opsqueue_worker' is not in sys.modules; for "
                "handlers that wait, use --pool thread or --pool async"
            )
            raise HandlerError(message)


@contextmanager
def _kept_streams() -> Iterator[None]:
    """Restore descriptors 0 to 2, whether the app has closed them or opened others there."""
    keep_standard_streams()
    kept = {fd: _high_copy(fd) for fd in _STANDARD_STREAMS}
    try:
        yield
    finally:
        for fd, copy in kept.items():
            with suppress(OSError):  # the app has closed all descriptors
                os.dup2(copy, fd)
                os.close(copy)
        keep_standard_streams()


@contextmanager
def _unchanged_process() -> Iterator[None]:
    folder = _current_folder()
    timeout = socket.getdefaulttimeout()
    streams = sys.stdin, sys.stdout, sys.stderr
    hooks = sys.excepthook, threading.excepthook
    limits = {kind: resource.getrlimit(kind) for kind in _LIMITS}
    umask = os.umask(0)
    os.umask(umask)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signals = _signal_handlers()
    try:
        yield
    finally:
        with suppress(OSError):  # it was removed
            os.chdir(folder)
        socket.setdefaulttimeout(timeout)
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.excepthook, threading.excepthook = hooks
        for kind, limit in limits.items():
            with suppress(OSError, ValueError):  # the hard limit was lowered: for good
                resource.setrlimit(kind, limit)
        os.umask(umask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _restore_signal_handlers(signals)


def _current_folder() -> Path:
    """Return the current folder, where the app's module is looked for.

    Raises:
        HandlerError: there is none.
    """
    try:
        return Path.cwd()
    except OSError as exc:
        message = f"the current folder can't be used: {exc.strerror}; run it in another one"
        raise HandlerError(message) from exc


_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)


def keep_standard_streams() -> None:
    """Open descriptors 0 to 2 again if something has closed them.

    Otherwise the next file or connection would get their numbers, and what a handler prints would
    be written there.
    """
    for fd in _STANDARD_STREAMS:
        if not _is_open(fd):
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)  # noqa: FBT003 it takes no names


def own_stderr() -> TextIO:
    """Return another file for standard error, which an app can neither close nor replace."""
    keep_standard_streams()
    return os.fdopen(_high_copy(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def out_of_reach(fd: int) -> int:
    """Move a descriptor to a high number, and return that.

    Programs close or write to low numbers that they take for their own.
    """
    moved = _high_copy(fd)
    os.close(fd)
    return moved


def _high_copy(fd: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = 256 if soft == resource.RLIM_INFINITY else min(256, soft // 2)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _signal_handlers() -> dict[int, object]:
    found: dict[int, object] = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if handler is not None:  # else it was not installed from Python
            found[number] = handler
    return found


def _restore_signal_handlers(handlers: dict[int, object]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler:
            with suppress(OSError, ValueError):
                signal.signal(number, handler)  # type: ignore[arg-type]
