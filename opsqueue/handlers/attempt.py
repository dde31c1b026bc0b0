"""Tasks and calls in threads that a handler's call has started in this process.

When an attempt fails, what it has started ends with it: tasks are cancelled, waiting calls are not
begun, and both are awaited. Otherwise they would go on beside the next attempt. What does not end
makes the process unfit for further chunks. After a success nothing is ended: a handler may leave
something running on purpose.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, Token
from typing import Any, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from opsqueue.handlers.soft_limit import Interrupt
from opsqueue.model.process import EndsForkedChildren

ENDS_WITHIN_S: Final = 5.0
"""Time that tasks and threads of a failed attempt have to end."""

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
_current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


class Attempt:
    """Knows what is started inside its `with` block, also by what was started there."""

    def __init__(self) -> None:
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._calls: dict[Future[Any], tuple[Threads, Interrupt]] = {}

    def __enter__(self) -> Self:
        self._token: Token[Attempt | None] = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Add a task."""
        self._tasks.add(task)

    def add_call(self, future: Future[Any], threads: Threads, interrupt: Interrupt) -> None:
        """Add a call in a thread."""
        self._calls[future] = threads, interrupt
        future.add_done_callback(lambda future: self._calls.pop(future, None))

    def stop_ready(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Cancel awaited tasks that are about to run, if one of its tasks is what the loop runs.

        Tasks that wait for others go on, and learn of what happens from those. Call it from a
        signal handler, which has interrupted the loop.

        Returns:
            Whether one of its tasks is running.
        """
        running = asyncio.current_task(loop)
        if running is None or running not in self._tasks:
            return False
        for task in list(self._tasks):
            is_waiting = getattr(task, "_fut_waiter", None) is not None
            if task is not running and not is_waiting and _is_awaited(task):
                task.cancel()
        return True

    async def end(self, limit: type[BaseException] | None) -> str:
        """End what is left of the attempt after it failed, from its loop.

        Args:
            limit: raised in the calls that run in threads, if the attempt exceeded its limit.

        Returns:
            Why this process should be replaced, or "".
        """
        deadline = time.monotonic() + ENDS_WITHIN_S
        has_unawaited = False
        while (tasks := self._tasks_left()) and time.monotonic() < deadline:
            has_unawaited = has_unawaited or not all(map(_is_awaited, tasks))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=max(0.0, deadline - time.monotonic()))
        if calls := self._stop_calls(limit):
            ended = asyncio.gather(*map(asyncio.wrap_future, calls), return_exceptions=True)
            await asyncio.wait([ended], timeout=max(0.0, deadline - time.monotonic()))
        if reason := self._reason(len(tasks)):
            return reason
        # They may belong to a client that the handler keeps for further chunks.
        return "it left tasks that nothing awaited, which were cancelled" if has_unawaited else ""

    def end_calls(self, limit: type[BaseException] | None, within_s: float) -> str:
        """Do the same for an attempt without a loop."""
        concurrent.futures.wait(self._stop_calls(limit), timeout=within_s)
        return self._reason(0)

    def leave_calls(self) -> str:
        """Leave calls that still run after the attempt has succeeded.

        A handler that has given up waiting for a call in a thread can't end the call. In time such
        calls would hold all threads.

        Returns:
            Why this process should be replaced, or "".
        """
        for future, (threads, _) in list(self._calls.items()):
            threads.outliving.add(future)
            future.add_done_callback(threads.outliving.discard)
            if 2 * len(threads.outliving) > threads.size:
                return "more than half of its threads run calls of chunks that have ended"
        return ""

    def _tasks_left(self) -> list[asyncio.Task[Any]]:
        current = asyncio.current_task()
        return [task for task in self._tasks if task is not current and not task.done()]

    def _stop_calls(self, limit: type[BaseException] | None) -> list[Future[Any]]:
        running = []
        for future, (_, interrupt) in list(self._calls.items()):
            if not future.cancel():
                running.append(future)
                if limit is not None:
                    interrupt.fire(limit)
        return running

    def _reason(self, tasks: int) -> str:
        threads = len([future for future in list(self._calls) if not future.done()])
        parts = [f"{n} {what}" for n, what in ((tasks, "tasks"), (threads, "threads")) if n]
        if not parts:
            return ""
        return f"{' and '.join(parts)} of it did not end within {ENDS_WITHIN_S:g} s"


def _is_awaited(task: asyncio.Task[Any]) -> bool:
    """Return whether the task is one of asyncio.gather, say, rather than one in the background."""
    for callback, _context in getattr(task, "_callbacks", None) or ():
        module = getattr(callback, "__module__", None) or ""
        if isinstance(getattr(callback, "__self__", None), asyncio.Task) or module.startswith(
            "asyncio."
        ):
            return True
    return False


class Threads(ThreadPoolExecutor):
    """Threads whose calls belong to the attempt that submits them."""

    def __init__(self, size: int | None = None, *, name: str) -> None:
        super().__init__(size, thread_name_prefix=name)
        self.size = self._max_workers
        self.outliving: set[Future[Any]] = set()
        """Calls of attempts that have ended."""

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """See `ThreadPoolExecutor`."""
        interrupt = Interrupt()

        def call() -> Result:
            # A forked child has no other thread, and would wait in its pool for ever.
            with EndsForkedChildren(), interrupt:
                return fn(*args, **kwargs)

        future = super().submit(call)
        if (attempt := _current.get()) is not None:
            attempt.add_call(future, self, interrupt)
        return future


def watch_loop(loop: asyncio.AbstractEventLoop, threads: int | None = None) -> None:
    """Record in the current attempt each task and call in a thread that is started on a loop.

    Args:
        loop: the loop.
        threads: the number of threads beside it; None: Python's default.
    """
    loop.set_default_executor(Threads(threads, name="slot"))
    loop.set_task_factory(_create_task)  # type: ignore[arg-type]  # its protocol fixes the options


def _create_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Result],
    **options: Any,  # noqa: ANN401 those of asyncio.Task
) -> asyncio.Task[Result]:
    task = asyncio.Task(coroutine, loop=loop, **options)
    context: Context | None = options.get("context")
    attempt = _current.get() if context is None else context.get(_current)
    if attempt is not None:
        attempt.add_task(task)
    return task


def close_runner(runner: asyncio.Runner) -> None:
    """Cancel what is left on its loop and close it, unless a task refuses to end.

    Threads beside the loop are not waited for.
    """
    loop = runner.get_loop()

    async def end() -> bool:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        return not tasks or not (await asyncio.wait(tasks, timeout=ENDS_WITHIN_S))[1]

    if loop.run_until_complete(end()):
        # Closing waits for the threads of the loop's executor, and this one has none.
        loop.set_default_executor(Threads(1, name="none"))
        runner.close()
