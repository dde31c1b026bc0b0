"""The soft time limit: SoftTimeLimitExceeded in the middle of a running handler.

How it gets there depends on what the handler's thread does: plain code on the main thread is
interrupted by an alarm, plain code on another thread by an exception that is set from outside, and
a coroutine by a cancellation. These are classes rather than generators with @contextmanager, since
those set attributes of an exception that passes, which its class may refuse.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType, TracebackType
from typing import Final, Self

from opsqueue.exceptions import SoftTimeLimitExceeded

_LOOK_AGAIN_S: Final = 0.05
"""Time between two alarms, if the first one met no code of the handler."""


def in_plain_code(seconds: float | None) -> AbstractContextManager[Callable[[], None]]:
    """Limit what this thread does inside the block.

    The block gets a function that raises SoftTimeLimitExceeded if that was raised before: a handler
    that has caught it for one operation shall not begin another one.
    """
    if seconds is None:
        return nullcontext(lambda: None)
    if threading.current_thread() is threading.main_thread():
        return _Alarm(seconds, lambda: True)
    return _Timed(seconds)


class Interrupt:
    """Raises an exception in the thread that entered it, and only while it is inside.

    It is raised when the thread next runs Python code: a blocking call is not interrupted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = 0
        self._is_inside = False
        self._is_set = False

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        self._is_inside = True
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_inside = False
            if self._is_set:
                _set_exception(self._thread, None)  # no effect if it has been raised already

    @property
    def has_fired(self) -> bool:
        """True if it was raised, or is about to be."""
        return self._is_set

    def fire(self, error: type[BaseException]) -> None:
        """Raise it, from another thread; an exception can't be set from outside, only its class."""
        with self._lock:
            if self._is_inside:
                self._is_set = True
                _set_exception(self._thread, error)


def _set_exception(thread: int, error: type[BaseException] | None) -> None:
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


class _Timed:
    """Interrupts a thread other than the main one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._interrupt = Interrupt()
        self._timer = threading.Timer(seconds, self._interrupt.fire, [expired(seconds)])
        self._timer.daemon = True

    def __enter__(self) -> Callable[[], None]:
        self._timer.start()
        self._interrupt.__enter__()
        return self._check

    def _check(self) -> None:
        if self._interrupt.has_fired:
            raise SoftTimeLimitExceeded(_message(self._seconds))

    def __exit__(self, *_: object) -> None:
        self._interrupt.__exit__()
        self._timer.cancel()


class _Alarm:
    """Raises it on the main thread by the alarm signal, which also ends a blocking call.

    Args:
        seconds: the limit.
        is_met: returns True if the handler's code is what the alarm has interrupted. It is asked
            again and again until then.
        left_s: what is left of the limit; None: all of it.
    """

    def __init__(
        self, seconds: float, is_met: Callable[[], bool], left_s: float | None = None
    ) -> None:
        self._seconds = seconds
        self._left_s = seconds if left_s is None else left_s
        self._is_met = is_met
        self._is_inside = False
        self._has_raised = False

    def __enter__(self) -> Callable[[], None]:
        self._is_inside = True
        self._handler_before = signal.signal(signal.SIGALRM, self._expire)
        self._began = time.monotonic()
        self._timer_before = signal.setitimer(signal.ITIMER_REAL, self._left_s, _LOOK_AGAIN_S)
        return self._check

    def _check(self) -> None:
        if self._has_raised:
            raise SoftTimeLimitExceeded(_message(self._seconds))

    def __exit__(self, *_: object) -> None:
        self.stop()
        left_s, interval_s = self._timer_before
        if left_s:  # of a timer outside, such as that of a test's runner
            left_s = max(0.001, left_s - (time.monotonic() - self._began))
        signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)
        signal.signal(signal.SIGALRM, self._handler_before or signal.SIG_DFL)

    def stop(self) -> None:
        """Raise nothing from now on."""
        self._is_inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _expire(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_inside and self._is_met():
            self.stop()
            self._has_raised = True
            raise SoftTimeLimitExceeded(_message(self._seconds))


class OnLoop:
    """Cancels the current task, which its coroutine sees as CancelledError; raises it at the end.

    A coroutine that does not let the loop run is not reached that way. On the main thread `alarm`
    raises it in such a coroutine.

    Args:
        seconds: the limit.
        began: the time on the monotonic clock from which on the limit counts; None: now.
    """

    def __init__(self, seconds: float | None, began: float | None = None) -> None:
        self._seconds = seconds
        self._began = time.monotonic() if began is None else began
        self._timer: asyncio.TimerHandle | None = None
        self._alarm: _Alarm | None = None
        self._has_cancelled = False
        self._has_raised = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if self._seconds is not None and task is not None:
            self._task, self._cancelled_before = task, task.cancelling()
            self._timer = asyncio.get_running_loop().call_later(self._left_s(), self._cancel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._take_timer()
        is_ours = self._has_raised
        if self._has_cancelled:
            is_ours = self._task.uncancel() <= self._cancelled_before
        if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise SoftTimeLimitExceeded(_message(self._seconds)) from error

    def _cancel(self) -> None:
        self._timer = None
        self._has_cancelled = True
        self._task.cancel()
        if self._alarm is not None:
            self._alarm.stop()

    def _take_timer(self) -> bool:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return timer is not None

    def alarm(self, stop: Callable[[], bool]) -> AbstractContextManager[object]:
        """Raise it in a coroutine that does not let the loop run, if this is the main thread.

        Enter it around the run of the loop.

        Args:
            stop: returns True if the loop is running a task of the handler, after it has cancelled
                those that would run next, which may block the loop as well.
        """
        if self._seconds is None or threading.current_thread() is not threading.main_thread():
            return nullcontext()

        def is_met() -> bool:
            # False if the timer was faster: then the task is cancelled.
            if self._timer is None or not stop():
                return False
            self._has_raised = self._take_timer()
            return self._has_raised

        self._alarm = _Alarm(self._seconds, is_met, self._left_s())
        return self._alarm

    def _left_s(self) -> float:
        passed_s = time.monotonic() - self._began
        return max(0.001, (self._seconds or 0.0) - passed_s)  # an alarm after 0 s would be none


def expired(seconds: float | None) -> type[SoftTimeLimitExceeded]:
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
