"""Calling handlers: plain or async, one operation at a time or several at once.

There is no I/O here. Exceptions of a handler are raised unchanged. If several operations run at
once, the first exception is raised, and the other operations are ended first. If a handler collects
errors, an OperationError takes the place of a result, and the other operations go on.

An exception of a handler never passes through asyncio's groups or the futures of threads, which
ask it for more than its type (one that counts as false, for example, would be no exception there).
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

from opsqueue.contents.output import NO_RESULT
from opsqueue.exceptions import (
    EncodingError,
    IncorrectUsageError,
    InvalidArgumentError,
    SoftTimeLimitExceeded,
)
from opsqueue.handlers import observe, soft_limit
from opsqueue.handlers.app import Chunk, Handler
from opsqueue.handlers.attempt import ENDS_WITHIN_S, Attempt, Threads, close_runner, watch_loop
from opsqueue.handlers.callables import function_of, is_in_loop
from opsqueue.model.chunk import MAX_ERROR_CHARACTERS, ChunkFailure, OperationError
from opsqueue.model.process import EndsForkedChildren, PerProcess, renew_in_children
from opsqueue.model.raised import frames_of, is_a, members_of, name_of, related_to, text_of

Result = TypeVar("Result")

_OF_THE_CHUNK: Final = (SoftTimeLimitExceeded, MemoryError, KeyboardInterrupt, SystemExit)
"""Errors of the whole chunk, even if they are only the cause of an operation's error.

A CancelledError is an operation's own: a timeout, for instance, has cancelled a part of it. If a
time limit cancels the chunk itself, nothing is collected any more.
"""

_OF_AN_OPERATION: Final = (Exception, asyncio.CancelledError)


class Invoker:
    """Calls handlers, in one thread at a time, for which it keeps an event loop and threads.

    A handler's soft time limit is kept here, since how it reaches the handler depends on how the
    handler is called.
    """

    def __init__(self) -> None:
        self.left_over = ""
        """Why this process should run no further chunks: something of a failed attempt goes on."""
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: a child would break the wake-ups of its parent's loop."""
        self._runner: asyncio.Runner | None = None
        self._threads: dict[int, Threads] = {}

    def call(self, handler: Handler, operations: list[object], chunk: Chunk) -> Sequence[object]:
        """Call a handler from plain code; `async def` handlers run on a loop that is kept.

        Returns a result for each operation. A raw callback's value, which should be bytes, is
        returned unchecked.

        Raises:
            EncodingError: the handler did not return a list with a result for each operation.
        """
        began = time.monotonic()
        if handler.is_async:
            return self._call_on_loop(handler, operations, chunk, began)
        returned = self._call_plain(handler, operations, chunk)
        if _is_unfinished(handler, returned):
            return self._await(handler, returned, operations, chunk, began)
        if handler.kind == "chunk":
            return _checked(handler, returned, operations, chunk)
        results: Sequence[object] = returned
        return results

    def _call_plain(self, handler: Handler, operations: list[object], chunk: Chunk) -> Any:  # noqa: ANN401 a user's value
        call = _operation_call(handler, chunk) if handler.kind == "operation" else None
        if call is not None and handler.concurrency > 1 and len(operations) > 1:
            return self._call_in_threads(handler, _numbered(handler, operations), call)
        with soft_limit.in_plain_code(handler.soft_time_limit) as check_limit:
            if call is not None:
                results = []
                for operation in _numbered(handler, operations):
                    check_limit()
                    results.append(call(operation))
                return results
            if handler.kind == "raw":
                return handler.function(chunk)
            return _call_of(handler, chunk)(operations)

    def _await(
        self,
        handler: Handler,
        returned: Any,  # noqa: ANN401 a user's value
        operations: list[object],
        chunk: Chunk,
        began: float,
    ) -> Sequence[object]:
        """Await what a plain function returned, such as the wrapper of an `async def` one."""
        if handler.kind != "operation":
            awaiting = replace(handler, function=lambda *_, **__: returned, is_async=True)
            return self._call_on_loop(awaiting, operations, chunk, began)
        awaiting = replace(handler, function=_own_result, is_async=True, takes_chunk=False)
        begun: list[object] = [*map(_Begun, operations, returned)]
        try:
            return self._call_on_loop(awaiting, begun, chunk, began)
        finally:
            for result in returned:
                if isinstance(result, Coroutine):
                    result.close()  # it may not have begun, if another one failed

    async def call_async(
        self, handler: Handler, operations: list[object], chunk: Chunk
    ) -> Sequence[object]:
        """Call a handler from a loop; plain handlers run in a thread beside it."""
        if not handler.is_async:
            return await in_thread(self.call, handler, operations, chunk)
        limit = soft_limit.OnLoop(handler.soft_time_limit)
        return await self._call_as_attempt(Attempt(), limit, handler, operations, chunk)

    def close(self) -> None:
        """Close the loop and end the threads, without waiting long for what does not end."""
        if self._runner is not None:
            close_runner(self._runner)
            self._runner = None
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def _call_on_loop(
        self, handler: Handler, operations: list[object], chunk: Chunk, began: float
    ) -> Sequence[object]:
        if is_in_loop():
            message = (
                "the function is a coroutine's, which needs a loop of its own, and this thread has "
                "a running one: call it in another thread, such as by `await asyncio.to_thread(…)`"
            )
            raise IncorrectUsageError(message)
        if self._runner is None:
            self._runner = asyncio.Runner()
            watch_loop(self._runner.get_loop())
        loop, attempt = self._runner.get_loop(), Attempt()
        limit = soft_limit.OnLoop(handler.soft_time_limit, began)
        raised: list[BaseException] = []

        async def run() -> Sequence[object]:
            try:
                return await self._call_as_attempt(attempt, limit, handler, operations, chunk)
            except asyncio.CancelledError:
                raise  # the runner makes it a KeyboardInterrupt if it was Ctrl-C
            except BaseException as exc:  # noqa: BLE001 not to be looked at by the loop
                raised.append(exc)
                return []

        with limit.alarm(lambda: attempt.stop_ready(loop)):
            # Otherwise the runner keeps the context of its first call, with the log fields and
            # trace of that chunk.
            results = self._runner.run(run(), context=copy_context())
        if self.left_over:
            # The next chunk gets threads all the same, where this process can't be replaced.
            watch_loop(loop)
        if raised:
            raise raised[0]
        return results

    async def _call_as_attempt(
        self,
        attempt: Attempt,
        limit: soft_limit.OnLoop,
        handler: Handler,
        operations: list[object],
        chunk: Chunk,
    ) -> Sequence[object]:
        with attempt:
            try:
                async with limit:
                    results = await _results_of(handler, operations, chunk)
            except BaseException as exc:
                self.left_over = self.left_over or await attempt.end(_limit_of(exc, handler))
                raise
            self.left_over = self.left_over or attempt.leave_calls()
            return results

    def _call_in_threads(
        self, handler: Handler, operations: list[object], call: Callable[[object], object]
    ) -> list[object]:
        threads = self._threads.get(handler.concurrency)
        if threads is None:
            threads = Threads(handler.concurrency, name="operation")
            self._threads[handler.concurrency] = threads
        in_threads = _OperationThreads(handler, call, operations)
        try:
            return in_threads.run(threads)
        except BaseException as exc:
            # Where a worker would kill the process, nothing is waited for.
            within_s = 0.0 if is_a(exc, observe.KilledError) else ENDS_WITHIN_S
            if left := in_threads.attempt.end_calls(_limit_of(exc, handler), within_s):
                self.left_over = left
                # The next chunk gets threads all the same, where this process can't be replaced.
                del self._threads[handler.concurrency]
                threads.shutdown(wait=False, cancel_futures=True)
            if (error := in_threads.interrupted()) is not None and is_a(exc, SoftTimeLimitExceeded):
                raise error from None  # it says where the operation was
            raise


async def _results_of(handler: Handler, operations: list[object], chunk: Chunk) -> Sequence[object]:
    """Call an `async def` handler with all operations, or with each."""
    if handler.kind == "raw":
        output: Sequence[object] = await _in_own_task(handler.function(chunk))
        return output
    call = _call_of(handler, chunk)
    if handler.kind != "chunk":
        return await _OperationTasks(handler, call, operations, chunk).run()
    results = await _in_own_task(call(operations))
    if observe.observes_errors(handler):
        # A hook that waits must not hold up the other chunks on the loop.
        return await in_hook_thread(_checked, handler, results, operations, chunk)
    return _checked(handler, results, operations, chunk)


def _limit_of(error: BaseException, handler: Handler) -> type[BaseException] | None:
    """Return what to raise in the threads of an attempt that ended with this error."""
    if is_a(error, observe.KilledError):
        return observe.KilledError
    if not is_a(error, SoftTimeLimitExceeded):
        return None
    return soft_limit.expired(handler.soft_time_limit)


class _OperationThreads:
    """Calls a plain handler with each operation of a chunk, in threads."""

    def __init__(
        self, handler: Handler, call: Callable[[object], object], operations: list[object]
    ) -> None:
        self._limit_s = handler.soft_time_limit
        self._call = call
        self._operations = operations
        self._ended: queue.SimpleQueue[tuple[int, object, BaseException | None]]
        self._ended = queue.SimpleQueue()
        self._has_failed = False
        self.attempt = Attempt()

    def run(self, threads: Threads) -> list[object]:
        """Return the result of each operation, or raise the first error that ends the chunk.

        Raises:
            SoftTimeLimitExceeded: the limit has passed. It has not been raised in the threads.
        """
        results: list[object] = [NO_RESULT] * len(self._operations)
        deadline = None if self._limit_s is None else time.monotonic() + self._limit_s
        with self.attempt:
            for index, operation in enumerate(self._operations):
                # Each in a copy of the context, so that the handler's logs have the chunk's fields.
                threads.submit(copy_context().run, self._run_one, index, operation)
        for _ in results:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                index, result, error = self._ended.get(timeout=left_s)
            except queue.Empty:
                raise soft_limit.expired(self._limit_s) from None
            if error is not None:
                raise error
            results[index] = result
        return results

    def interrupted(self) -> BaseException | None:
        """Return the error of an operation that ended after the chunk had failed, if any did."""
        with suppress(queue.Empty):
            while True:
                _, _, error = self._ended.get_nowait()
                if error is not None:
                    return error
        return None

    def _run_one(self, index: int, operation: object) -> None:
        result: object = None
        error: BaseException | None = None
        try:
            if not self._has_failed:
                result = self._call(operation)
        except BaseException as exc:  # noqa: BLE001 raised in the thread that waits for it
            self._has_failed = True  # at once, for the threads that are free
            error = exc
        self._ended.put((index, result, error))


def _is_unfinished(handler: Handler, returned: Any) -> bool:  # noqa: ANN401 a user's value
    kinds = set(map(type, returned)) if handler.kind == "operation" else {type(returned)}
    return any(hasattr(kind, "__await__") for kind in kinds)


@dataclass(frozen=True, slots=True)
class _Begun(observe.Enclosed):
    """An operation, and what a plain function returned for it."""

    result: object


async def _own_result(begun: _Begun) -> object:
    return await begun.result if isinstance(begun.result, Awaitable) else begun.result


async def _in_own_task(call: Awaitable[Any]) -> Any:  # noqa: ANN401 a user's value
    """Await a handler's call in a task of its own.

    A handler can cancel the task that it runs in, and the next chunk runs in the caller's task.
    """
    raised: list[BaseException] = []

    async def run() -> object:
        try:
            with EndsForkedChildren():
                return await call
        except BaseException as exc:  # noqa: BLE001 SystemExit, say, would end the task's loop
            raised.append(exc)
            return None

    result = await asyncio.create_task(run())
    if raised:
        raise raised[0]
    return result


class _OperationTasks:
    """Calls an `async def` handler with each operation of a chunk, in tasks of a group."""

    def __init__(
        self,
        handler: Handler,
        call: Callable[[object], Coroutine[Any, Any, object]],
        operations: list[object],
        chunk: Chunk,
    ) -> None:
        self._handler = handler
        self._call = call
        self._chunk = chunk
        self._results: list[object] = [NO_RESULT] * len(operations)
        self._waiting = iter(enumerate(operations))
        self._parent = _current_task()
        # It is not 0 if an earlier group failed in the same task (CPython, until 3.13).
        self._cancelled_before = self._parent.cancelling()

    async def run(self) -> list[object]:
        """Return the result of each operation, or raise the first error that ends the chunk."""
        first: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._handler.concurrency, len(self._results))):
                    group.create_task(self._work())
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
        if first is not None:
            # Raised outside the `except`, and without `from`, so that it keeps its own cause and
            # context.
            raise first.error if isinstance(first, _OperationEndedError) else first
        return self._results

    async def _work(self) -> None:
        task = _current_task()
        with EndsForkedChildren() as forked:
            for index, operation in self._waiting:
                try:
                    result = await self._call(operation)
                    forked.check()
                    if task.cancelling():
                        await self._survive(task)
                except BaseException as exc:  # noqa: BLE001 also those that would end the loop
                    forked.check(exc)
                    result = await self._error(exc, task)
                    if observe.observes_errors(self._handler):
                        # A hook that waits must not hold up the other operations on the loop.
                        await in_hook_thread(
                            observe.operation_failed,
                            *(self._handler, exc, self._chunk, index, operation),
                        )
                self._results[index] = result

    async def _survive(self, task: asyncio.Task[Any]) -> None:
        """Continue after an operation that returned although its task was cancelled."""
        if self._chunk_ends():
            raise asyncio.CancelledError
        # If it cancelled its own task, the CancelledError is raised at the next await. That is
        # here, so that it is not raised in the next operation. As in asyncio, a task that cancels
        # itself and returns is cancelled.
        await asyncio.sleep(0)
        _uncancel(task)

    async def _error(self, error: BaseException, task: asyncio.Task[Any]) -> OperationError:
        """Return the record of an operation's error, or raise the error if it ends the chunk."""
        if task.cancelling() and not self._chunk_ends():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            _uncancel(task)
        is_cancelled = is_a(error, asyncio.CancelledError)
        if self._chunk_ends() and is_cancelled:
            raise error
        if is_a(error, SystemExit, KeyboardInterrupt):
            # Not raised as it is: it would end the loop, and with it every other chunk on it.
            message = f"the handler raised {name_of(type(error))}: {text_of(error)}"
            ended = RuntimeError(message)
            ended.__cause__ = error
            raise _OperationEndedError(ended) from None
        if self._chunk_ends():
            raise _OperationEndedError(error) from None
        try:
            return _collected(error, self._handler, self._chunk)
        except BaseException as own:  # noqa: BLE001 of any kind
            raise _OperationEndedError(own) from None

    def _chunk_ends(self) -> bool:
        """Return whether a time limit or another operation's error cancels the whole group.

        Both cancel the parent, too. The operation's task alone does not show whether they or the
        handler itself has cancelled it.
        """
        return self._parent.cancelling() > self._cancelled_before


class _OperationEndedError(Exception):
    """Carries an operation's error out of a task group.

    The group assumes that it has cancelled a cancelled task itself, raises SystemExit in the loop,
    and asks other errors for their class.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()


def _uncancel(task: asyncio.Task[Any]) -> None:
    while task.uncancel():
        pass


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        message = "an async handler is called outside of a task"
        raise AssertionError(message)
    return task


async def in_thread(
    call: Callable[..., Result],
    *arguments: Any,  # noqa: ANN401 as given
    threads: Threads | None = None,
) -> Result:
    """Call a function in one of `threads`, while the loop goes on; None: of the loop's own."""
    results: list[Result] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with EndsForkedChildren():
                results.append(call(*arguments))
        except BaseException as exc:  # noqa: BLE001 asyncio's futures can't hold StopIteration, say
            raised.append(exc)

    # In a copy of the context, so that logs have the chunk's fields.
    await asyncio.get_running_loop().run_in_executor(threads, copy_context().run, run)
    if raised:
        raise raised[0]
    return results[0]


async def in_hook_thread(call: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401 as given
    """Call what calls hooks in a thread, which handlers can't occupy, while the loop goes on."""
    return await in_thread(call, *arguments, threads=_hook_threads.get())


_hook_threads: Final = PerProcess(lambda: Threads(name="hook"))


def failure_of(error: BaseException, handler: Handler) -> ChunkFailure:
    """Return the description of an error, without the frames of opsqueue. Never raises."""
    if is_a(error, EncodingError, InvalidArgumentError):
        # The message has everything, and every frame is one of opsqueue.
        return ChunkFailure(type=name_of(type(error)), message=text_of(error))
    _cut(error, _frames_from_handler(error, handler) or frames_of(error))
    return ChunkFailure.of(error)


def _cut(error: BaseException, frames: TracebackType | None) -> None:
    # Not the error's own method, which its class may override.
    BaseException.with_traceback(error, frames)


def _frames_from_handler(error: BaseException, handler: Handler) -> TracebackType | None:
    """Return the part of a traceback that begins at the handler.

    If the handler's code is not in it (a builtin, a function wrapped by a decorator), the part
    after the frames of opsqueue and of the loop that it runs is returned.
    """
    frame = frames_of(error)
    try:
        code = getattr(function_of(handler.function), "__code__", None)
    except BaseException:  # noqa: BLE001 a callable object may raise anything
        code = None
    while frame is not None and frame.tb_frame.f_code is not code:
        frame = frame.tb_next
    found = frame
    frame = found or frames_of(error)
    while frame is not None and _is_ours(frame):
        frame = frame.tb_next
    return frame or found  # all are ours where the handler is, such as the demo's


def _is_ours(frame: TracebackType) -> bool:
    module = frame.tb_frame.f_globals.get("__name__")
    ours = ("opsqueue", "opsqueue_worker", "asyncio")
    return type(module) is str and module.partition(".")[0] in ours


def _numbered(handler: Handler, operations: list[object]) -> list[Any]:
    return list(enumerate(operations)) if handler.collects else operations


def _operation_call(handler: Handler, chunk: Chunk) -> Callable[[Any], object]:
    """Return a function that calls a plain handler with one operation.

    If the handler collects errors, it is called with the operation's place in the chunk and the
    operation, as `enumerate` yields them.
    """
    call = _call_of(handler, chunk)
    if not handler.collects:
        return call

    def collect(numbered: tuple[int, object]) -> object:
        index, operation = numbered
        try:
            return call(operation)
        except (*_OF_AN_OPERATION, BaseExceptionGroup) as exc:
            record = _collected(exc, handler, chunk)
            observe.operation_failed(handler, exc, chunk, index, operation)
            return record

    return collect


def _collected(error: BaseException, handler: Handler, chunk: Chunk) -> OperationError:
    """Return the record of an operation's error, or raise the error if it can't be collected."""
    if not (handler.collects and _is_collectable(error)) or chunk.is_revoked():
        raise error
    _cut(error, _frames_from_handler(error, handler))
    return OperationError.of(error, max_characters=MAX_ERROR_CHARACTERS)


def _is_collectable(error: BaseException) -> bool:
    """Return whether an error is an operation's own, and not one of the whole chunk.

    Causes and contexts are checked, since the exception of a time limit, for example, may have been
    replaced by another one. A CancelledError is the operation's own: this function is not called
    when the whole chunk is cancelled.
    """
    if not _is_of_operation(error):
        return False
    seen: set[int] = set()
    following = [error]
    while following:
        exc = following.pop()
        if id(exc) in seen:
            continue
        if is_a(exc, *_OF_THE_CHUNK):
            return False
        seen.add(id(exc))
        following += related_to(exc)
    return True


def _is_of_operation(error: BaseException) -> bool:
    """Return whether it is an error, and not an exception that ends a program (GeneratorExit)."""
    following = [error]
    while following:  # not by recursion: groups can be nested by the thousand
        exc = following.pop()
        if is_a(exc, BaseExceptionGroup):
            following += members_of(exc)
        elif not is_a(exc, *_OF_AN_OPERATION):
            return False
    return True


def _call_of(handler: Handler, chunk: Chunk) -> Callable[[object], Any]:
    """Return a function that calls the handler with its operations, or one, and its chunk."""
    function = handler.function
    if not handler.takes_chunk:
        return function
    if handler.is_callback:
        return lambda operations: function(operations, chunk)
    return partial(function, chunk=chunk)


def _checked(
    handler: Handler, results: object, operations: list[object], chunk: Chunk
) -> Sequence[object]:
    if not isinstance(results, Sequence) or isinstance(results, str | bytes | bytearray):
        message = (
            f"{handler.label} returned {type(results).__name__}: return a list with a result for "
            f"each of its {len(operations):,} operations"
        )
        raise EncodingError(message)
    if len(results) != len(operations):
        message = (
            f"{handler.label} returned {len(results):,} results for "
            f"{len(operations):,} operations: return one for each, in their order"
        )
        raise EncodingError(message)
    if not handler.collects:
        return results
    outcomes: list[object] = []
    for index, result in enumerate(results):
        if not is_a(result, BaseException):
            outcomes.append(result)
            continue
        outcomes.append(_collected(result, handler, chunk))
        observe.operation_failed(handler, result, chunk, index, operations[index])
    return outcomes
