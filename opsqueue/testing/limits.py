"""Slots in which `local` runs handlers, in the caller's thread or in one of their own; time limits.

A worker kills a child at a handler's time limit. Here the handler gets a KilledError, which is no
Exception: a handler that catches even that, or is in a call of C code that no signal interrupts,
goes on. In a thread of its own it is then left behind.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from types import FrameType
from typing import Final, Generic, Self, TypeVar

from opsqueue.handlers.callables import is_in_loop
from opsqueue.handlers.invoke import Invoker
from opsqueue.handlers.observe import KilledError
from opsqueue.handlers.soft_limit import Interrupt

Result = TypeVar("Result")
_ALARM: Final = signal.SIGVTALRM
"""Not SIGALRM, which soft time limits and pytest-timeout use."""


class Slot:
    """A slot for one chunk at a time: its invoker, which keeps a loop, and its thread, if any."""

    def __init__(self) -> None:
        self.invoker = Invoker()
        self._thread: _Thread | None = None

    def run(self, function: Callable[[], Result], *, limit_s: float | None) -> Result:
        """Call a function in this thread, if it is the main one and no loop runs in it.

        Otherwise call it in a thread of the slot's own, which can be left behind: in another
        thread, such as one of a producer's asynchronous methods, no signal ends a call that blocks.

        Raises:
            TimeoutError: the limit has passed. The slot can only be closed.
            KilledError: the limit of a handler that waits for this call has passed. Likewise.
        """
        if _is_free():
            try:
                with _Limit(limit_s) as limit:
                    result = function()
            except KilledError:
                if _is_outer_over():
                    raise
                raise TimeoutError from None  # it arrived just behind the handler
            if _is_outer_over():
                raise KilledError
            if limit.has_passed:
                raise TimeoutError
            return result
        if self._thread is None:
            self._thread = _Thread()
        return self._thread.run(function, limit_s=limit_s)

    def close(self) -> None:
        """Close the loop and end the threads; a handler that goes on in one is not waited for."""
        if self._thread is None and not _is_free():
            self._thread = _Thread()
        if self._thread is None:
            self.invoker.close()
        else:
            self._thread.close(self.invoker.close)


class _Thread:
    """A thread that calls functions, one at a time."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_left = False
        self._thread = threading.Thread(target=self._run, name="opsqueue-local", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Result], *, limit_s: float | None) -> Result:
        """Call a function in the context of the caller; see `Slot.run`."""
        call = _Call(function)
        self._calls.put(call)
        try:
            return call.future.result(limit_s)
        except BaseException:
            call.future.cancel()  # in case that it has not begun
            if not call.future.done():  # the limit, or Ctrl-C in the thread that waits
                self._is_left = True
                call.interrupt.fire(KilledError)
            raise

    def close(self, last: Callable[[], None]) -> None:
        """Make a last call and end; don't wait for that if the limit has passed."""
        self._calls.put(last)
        self._calls.put(None)
        if not self._is_left:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class _Call(Generic[Result]):
    """A function with the caller's context, and what comes of it."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._context = copy_context()
        self.interrupt = Interrupt()
        self.future: Future[Result] = Future()

    def __call__(self) -> None:
        try:
            with self.interrupt:
                if not self.future.set_running_or_notify_cancel():
                    return
                result = self._context.run(self._function)
        except BaseException as exc:  # noqa: BLE001 raised in the thread that waits
            self.future.set_exception(exc)
        else:
            self.future.set_result(result)


def _is_free() -> bool:
    return threading.current_thread() is threading.main_thread() and not is_in_loop()


_entered: Final[list[_Limit]] = []
"""The limits of the main thread: that of a handler, then that of one that it waits for, and so on.
"""


def _is_outer_over() -> bool:
    return any(limit.has_passed for limit in _entered)


class _Limit:
    """Raises KilledError in the main thread after some seconds."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._is_inside = False
        self.has_passed = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._before = signal.signal(_ALARM, self._raise)
            self._timer = threading.Timer(self._seconds, self._expire)
            self._timer.daemon = True
            self._is_inside = True
            _entered.append(self)
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_inside = False
        if self._seconds is not None:
            self._timer.cancel()
            _entered.remove(self)
            with self._lock:  # a signal that is on its way would end the process once this is over
                signal.signal(_ALARM, self._before or signal.SIG_DFL)

    def _expire(self) -> None:
        with self._lock:
            if self._is_inside:
                self.has_passed = True
                # A signal, since it also ends a call that blocks.
                signal.pthread_kill(threading.main_thread().ident or 0, _ALARM)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        # The limit may be that of an outer handler.
        if self._is_inside or _is_outer_over():
            raise KilledError
