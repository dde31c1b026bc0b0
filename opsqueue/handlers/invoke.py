"""Calling handlers: plain or async, one operation at a time or several at once.

There is no I/O here. Exceptions of a handler are raised unchanged. If several operations run at
once, the first exception is raised, and the other operations are abandoned. If a handler collects
errors, an OperationError takes the place of a result, and the other operations go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from opsqueue.handlers import observe
from opsqueue.handlers.app import Chunk, Handler
from opsqueue.handlers.callables import function_of, is_in_loop
from opsqueue.model.chunk import MAX_ERROR_CHARACTERS, ChunkFailure, OperationError, text_of
from opsqueue.model.process import EndsForkedChildren, renew_in_children

Result = TypeVar("Result")

_OF_THE_CHUNK: Final = (SoftTimeLimitExceeded, MemoryError, KeyboardInterrupt, SystemExit)
"""Errors of the whole chunk, even if they are only the cause of an operation's error.

A CancelledError is an operation's own: a timeout, for instance, has cancelled a part of it. If a
time limit cancels the chunk itself, nothing is collected any more.
"""

_OF_AN_OPERATION: Final = (Exception, asyncio.CancelledError)
_MAY_BE_COLLECTED: Final = (*_OF_AN_OPERATION, BaseExceptionGroup)
"""The exceptions that are caught; `_collected` checks them and raises most groups again."""


class Invoker:
    """Calls handlers, in one thread at a time, for which it keeps an event loop and threads."""

    def __init__(self) -> None:
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: a child would break the wake-ups of its parent's loop."""
        self._runner: asyncio.Runner | None = None
        self._threads: dict[int, ThreadPoolExecutor] = {}

    def call(self, handler: Handler, operations: list[object], chunk: Chunk) -> Sequence[object]:
        """Call a handler from plain code; `async def` handlers run on a loop that is kept.

        Returns a result for each operation. A raw callback's value, which should be bytes, is
        returned unchecked.

        Raises:
            EncodingError: the handler did not return a list with a result for each operation.
        """
        if handler.is_async:
            return self._run_on_loop(self.call_async(handler, operations, chunk))
        returned = self._call_plain(handler, operations, chunk)
        if _is_unfinished(handler, returned):
            return self._await(handler, returned, operations, chunk)
        if handler.kind == "chunk":
            return _checked(handler, returned, operations, chunk)
        results: Sequence[object] = returned
        return results

    def _call_plain(self, handler: Handler, operations: list[object], chunk: Chunk) -> Any:  # noqa: ANN401 a user's value
        if handler.kind == "raw":
            return handler.function(chunk)
        if handler.kind == "chunk":
            return _call_of(handler, chunk)(operations)
        call = _operation_call(handler, chunk)
        numbered: Iterable[Any] = enumerate(operations) if handler.collects else operations
        if handler.concurrency == 1 or len(operations) < 2:
            return [call(operation) for operation in numbered]
        return self._call_in_threads(handler, list(numbered), call)

    def _await(
        self,
        handler: Handler,
        returned: Any,  # noqa: ANN401 a user's value
        operations: list[object],
        chunk: Chunk,
    ) -> Sequence[object]:
        """Await what a plain function returned, such as the wrapper of an `async def` one."""
        if handler.kind != "operation":
            awaiting = replace(handler, function=lambda *_, **__: returned, is_async=True)
            return self.call(awaiting, operations, chunk)
        awaiting = replace(handler, function=_own_result, is_async=True, takes_chunk=False)
        begun: list[object] = [*map(_Begun, operations, returned)]
        try:
            return self.call(awaiting, begun, chunk)
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
        if handler.kind == "raw":
            output: Sequence[object] = await _in_own_task(handler.function(chunk))
            return output
        call = _call_of(handler, chunk)
        if handler.kind == "chunk":
            results = await _in_own_task(call(operations))
            if observe.observes_errors(handler):
                # A hook that waits must not hold up the other chunks on the loop.
                return await in_thread(_checked, handler, results, operations, chunk)
            return _checked(handler, results, operations, chunk)
        return await _OperationTasks(handler, call, operations, chunk).run()

    def _run_on_loop(self, running: Coroutine[Any, Any, Result]) -> Result:
        if is_in_loop():
            running.close()
            message = (
                "the function is a coroutine's, which needs a loop of its own, and this thread has "
                "a running one: call it in another thread, such as by `await asyncio.to_thread(…)`"
            )
            raise IncorrectUsageError(message)
        if self._runner is None:
            self._runner = asyncio.Runner()
        # Otherwise the runner keeps the context of its first call, with the log fields and
        # trace of that chunk.
        return self._runner.run(running, context=copy_context())

    def close(self) -> None:
        """Close the loop and end the threads."""
        if self._runner is not None:
            self._runner.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def _call_in_threads(
        self, handler: Handler, operations: list[object], call: Callable[[object], object]
    ) -> list[object]:
        threads = self._threads.get(handler.concurrency)
        if threads is None:
            threads = ThreadPoolExecutor(handler.concurrency, thread_name_prefix="operation")
            self._threads[handler.concurrency] = threads
        futures = [
            # Each in a copy of the context, so that the handler's logs have the chunk's fields.
            threads.submit(copy_context().run, _called, call, operation)
            for operation in operations
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


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
            return await call
        except (SystemExit, KeyboardInterrupt) as exc:
            # If a task raised these, its loop would end, and with it every other chunk on it.
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
            raise first.error if isinstance(first, _OwnCancellationError) else first
        return self._results

    async def _work(self) -> None:
        task = _current_task()
        for index, operation in self._waiting:
            try:
                result = await self._call(operation)
                if task.cancelling():
                    await self._survive(task)
            except (SystemExit, KeyboardInterrupt) as exc:
                # If a task raised these, its loop would end, and with it every other chunk on it.
                message = f"the handler raised {type(exc).__name__}: {exc}"
                raise RuntimeError(message) from exc
            except _MAY_BE_COLLECTED as exc:
                result = await self._error(exc, task)
                if observe.observes_errors(self._handler):
                    # A hook that waits must not hold up the other operations on the loop.
                    await in_thread(
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
        if self._chunk_ends():
            raise error
        try:
            return _collected(error, self._handler, self._chunk)
        except asyncio.CancelledError as own:
            # A task group assumes that it has cancelled a cancelled task itself.
            raise _OwnCancellationError(own) from None

    def _chunk_ends(self) -> bool:
        """Return whether a time limit or another operation's error cancels the whole group.

        Both cancel the parent, too. The operation's task alone does not show whether they or the
        handler itself has cancelled it.
        """
        return self._parent.cancelling() > self._cancelled_before


class _OwnCancellationError(Exception):
    """Carries a CancelledError that the operation itself caused out of a task group."""

    def __init__(self, error: asyncio.CancelledError) -> None:
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


def _called(call: Callable[[object], object], operation: object) -> object:
    # In this thread: a forked child has no other thread, and would wait in its pool for ever.
    with EndsForkedChildren():
        return call(operation)


async def in_thread(call: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401 as given
    """Call a function in a thread, while the loop goes on."""

    def run() -> Result:
        try:
            with EndsForkedChildren():
                return call(*arguments)
        except StopIteration as exc:
            # asyncio's futures can't hold it: until Python 3.12 their awaiter waits for ever.
            message = "the handler raised StopIteration"
            raise RuntimeError(message) from exc

    return await asyncio.to_thread(run)


def failure_of(error: BaseException, handler: Handler) -> ChunkFailure:
    """Return the description of an error, without the frames of opsqueue. Never raises."""
    if isinstance(error, EncodingError | InvalidArgumentError):
        # The message has everything, and every frame is one of opsqueue.
        return ChunkFailure(type=type(error).__name__, message=text_of(error))
    _cut(error, _frames_from_handler(error, handler) or error.__traceback__)
    return ChunkFailure.of(error)


def _cut(error: BaseException, frames: TracebackType | None) -> None:
    # Not the error's own method, which its class may override.
    BaseException.with_traceback(error, frames)


def _frames_from_handler(error: BaseException, handler: Handler) -> TracebackType | None:
    """Return the part of a traceback that begins at the handler.

    If the handler's code is not in it (a builtin, a function wrapped by a decorator), the part
    after the frames of opsqueue and of the loop that it runs is returned.
    """
    frame = error.__traceback__
    code = getattr(function_of(handler.function), "__code__", None)
    while frame is not None and frame.tb_frame.f_code is not code:
        frame = frame.tb_next
    found = frame
    frame = found or error.__traceback__
    while frame is not None and _is_ours(frame):
        frame = frame.tb_next
    return frame or found  # all are ours where the handler is, such as the demo's


def _is_ours(frame: TracebackType) -> bool:
    package = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
    return package in ("opsqueue", "opsqueue_worker", "asyncio")


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
        except _MAY_BE_COLLECTED as exc:
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
    following: list[BaseException | None] = [error]
    while following:
        exc = following.pop()
        if exc is None or id(exc) in seen:
            continue
        if isinstance(exc, _OF_THE_CHUNK):
            return False
        seen.add(id(exc))
        following += [exc.__cause__, exc.__context__]
        if isinstance(exc, BaseExceptionGroup):
            following += exc.exceptions
    return True


def _is_of_operation(error: BaseException) -> bool:
    """Return whether it is an error, and not an exception that ends a program (GeneratorExit)."""
    following: list[BaseException] = [error]
    while following:  # not by recursion: groups can be nested by the thousand
        exc = following.pop()
        if isinstance(exc, BaseExceptionGroup):
            following += exc.exceptions
        elif not isinstance(exc, _OF_AN_OPERATION):
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
        if not isinstance(result, BaseException):
            outcomes.append(result)
            continue
        outcomes.append(_collected(result, handler, chunk))
        observe.operation_failed(handler, result, chunk, index, operations[index])
    return outcomes
