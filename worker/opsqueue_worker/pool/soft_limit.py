"""Context managers that raise SoftTimeLimitExceeded in a running handler, one for each pool."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

from opsqueue.exceptions import SoftTimeLimitExceeded


@contextmanager
def on_main_thread(seconds: float | None) -> Iterator[None]:
    """Raise it by the alarm signal, which also ends a blocking call."""
    if seconds is None:
        yield
        return

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise SoftTimeLimitExceeded(_message(seconds))

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def on_this_thread(seconds: float | None) -> Iterator[None]:
    """Raise it by an exception set from outside when the thread next runs Python code."""
    if seconds is None:
        yield
        return
    lock, is_over, has_fired = threading.Lock(), False, False
    thread, expired = threading.get_ident(), _expired(seconds)

    def expire() -> None:
        nonlocal has_fired
        with lock:
            if not is_over:
                has_fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(expired)
                )

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except expired:
        has_fired = False  # it has arrived
        raise
    finally:
        with lock:
            is_over = True
        timer.cancel()
        if has_fired:
            # It was set and has not been raised yet. Let it be raised here, where it is expected.
            time.sleep(0)


@asynccontextmanager
async def on_the_loop(seconds: float | None) -> AsyncIterator[None]:
    """Raise it by cancelling the task, which the handler sees as CancelledError."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            yield
    except TimeoutError as exc:
        if not timeout.expired():
            raise
        raise SoftTimeLimitExceeded(_message(seconds)) from exc


def _expired(seconds: float) -> type[SoftTimeLimitExceeded]:
    """Create a subclass that carries its message, since only a class can be set from outside.

    It may be raised anywhere, even while the `with` statement is still being entered.
    """

    class Expired(SoftTimeLimitExceeded):
        def __init__(self) -> None:
            super().__init__(_message(seconds))

    Expired.__module__ = SoftTimeLimitExceeded.__module__
    Expired.__name__ = Expired.__qualname__ = SoftTimeLimitExceeded.__name__
    return Expired


def _message(seconds: float | None) -> str:
    return f"it ran for more than its soft_time_limit of {seconds:g} s"
