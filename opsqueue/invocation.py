"""How a handler is called: plain or async, one operation at a time or several at once.

No I/O of its own. What a handler raises comes out as it is; with several operations at once it is
the first one's that raised, and the others are given up. Where a handler collects errors, an
OperationError stands in the place of a result, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

from opsqueue.app import Chunk, Handler
from opsqueue.chunk import MAX_ERROR_CHARACTERS, OperationError
from opsqueue.exceptions import EncodingError, SoftTimeLimitExceeded
from opsqueue.process import EndsForkedChildren, renew_in_children

Result = TypeVar("Result")

_OF_THE_CHUNK: Final = (SoftTimeLimitExceeded, MemoryError, KeyboardInterrupt, SystemExit)
"""Not an operation's own errors. (A cancellation is: of a part of it, such as by a timeout.)"""


class Invoker:
    """Calls handlers; for one thread at a time, whose event loop and threads it keeps."""

    def __init__(self) -> None:
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: a child would stop its parent's loop from hearing threads."""
        self._runner: asyncio.Runner | None = None
        self._threads: dict[int, ThreadPoolExecutor] = {}

    def call(self, handler: Handler, operations: list[object], chunk: Chunk) -> Sequence[object]:
        """Call from plain code; `async def` handlers run on a loop that is kept.

        Raises:
            EncodingError: it did not return a list with a result for each operation.
        """
        if handler.is_async:
            if self._runner is None:
                self._runner = asyncio.Runner()
            # Else a runner keeps the context of its first call: that chunk's log fields and trace.
            running = self.call_async(handler, operations, chunk)
            return self._runner.run(running, context=copy_context())
        extra = _extra(handler, chunk)
        if handler.kind == "chunk":
            return _checked(handler, handler.function(operations, **extra), operations, chunk)
        if handler.concurrency == 1 or len(operations) < 2:
            call = _operation_call(handler, chunk)
            return [call(operation) for operation in operations]
        return self._call_in_threads(handler, operations, _operation_call(handler, chunk))

    async def call_async(
        self, handler: Handler, operations: list[object], chunk: Chunk
    ) -> Sequence[object]:
        """Call from a loop; plain handlers run in a thread beside it."""
        if not handler.is_async:
            return await in_thread(self.call, handler, operations, chunk)
        extra = _extra(handler, chunk)
        if handler.kind == "chunk":
            given = await handler.function(operations, **extra)
            return _checked(handler, given, operations, chunk)
        results: list[object] = [None] * len(operations)
        waiting = iter(enumerate(operations))

        async def work() -> None:
            for index, operation in waiting:
                try:
                    results[index] = await handler.function(operation, **extra)
                except (SystemExit, KeyboardInterrupt) as exc:
                    # A task that raises these ends its loop, and so every other chunk on it.
                    message = f"the handler raised {type(exc).__name__}: {exc}"
                    raise RuntimeError(message) from exc
                except Exception as exc:
                    # A handler that turns its cancellation into an error of its own is cancelled.
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    results[index] = _collected(exc, handler, chunk)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(handler.concurrency, len(operations))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return results

    def close(self) -> None:
        """Let go of loop and threads."""
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
            # Each in a copy of the context: the handler's logging knows its chunk in there, too.
            threads.submit(copy_context().run, _called, call, operation)
            for operation in operations
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _called(call: Callable[[object], object], operation: object) -> object:
    # Here: a forked child has one thread, and would wait in its pool for ever.
    with EndsForkedChildren():
        return call(operation)


async def in_thread(call: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401 as given
    """Call in a thread beside the loop, which goes on meanwhile."""

    def run() -> Result:
        try:
            with EndsForkedChildren():
                return call(*arguments)
        except StopIteration as exc:
            # asyncio's futures can't hold it: until Python 3.12 whoever awaits waits for ever.
            message = "the handler raised StopIteration"
            raise RuntimeError(message) from exc

    return await asyncio.to_thread(run)


def frames_from_handler(error: BaseException, handler: Handler) -> TracebackType | None:
    """Leave our own frames out of a traceback: the user's begin at the handler.

    Where its code is not among them (a callable object, a function wrapped by a decorator), they
    begin behind ours.
    """
    frame = error.__traceback__
    code = getattr(handler.function, "__code__", None)
    while frame is not None and frame.tb_frame.f_code is not code:
        frame = frame.tb_next
    if frame is not None:
        return frame
    frame = error.__traceback__
    while frame is not None and _is_ours(frame):
        frame = frame.tb_next
    return frame


def _is_ours(frame: TracebackType) -> bool:
    package = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
    return package in ("opsqueue", "opsqueue_worker")


def _operation_call(handler: Handler, chunk: Chunk) -> Callable[[object], object]:
    """Give what calls a plain handler with one operation."""
    call = partial(handler.function, **_extra(handler, chunk))
    if not handler.collects:
        return call

    def collect(operation: object) -> object:
        try:
            return call(operation)
        except Exception as exc:  # noqa: BLE001 what must not be collected is raised again
            return _collected(exc, handler, chunk)

    return collect


def _collected(error: BaseException, handler: Handler, chunk: Chunk) -> OperationError:
    """Give the record of an operation's error, or raise the error where it is none of these."""
    if not (handler.collects and _is_collectable(error)) or chunk.is_void():
        raise error
    found = error.with_traceback(frames_from_handler(error, handler))
    return OperationError.of(found, max_characters=MAX_ERROR_CHARACTERS)


def _is_collectable(error: BaseException) -> bool:
    """Tell an operation's own error from what would befall the others as well.

    A time limit, say, may also have been turned into another error on its way.
    """
    if not isinstance(error, Exception):
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
    return True


def _extra(handler: Handler, chunk: Chunk) -> dict[str, Any]:
    return {"chunk": chunk} if handler.takes_chunk else {}


def _checked(
    handler: Handler, results: object, operations: list[object], chunk: Chunk
) -> Sequence[object]:
    if not isinstance(results, list | tuple):
        message = (
            f"handler {handler.name} returned {type(results).__name__}: a chunk handler returns a "
            f"list with a result for each of its {len(operations):,} operations"
        )
        raise EncodingError(message)
    if len(results) != len(operations):
        message = (
            f"handler {handler.name} returned {len(results):,} results for "
            f"{len(operations):,} operations: return one for each, in their order"
        )
        raise EncodingError(message)
    if not handler.collects:
        return results
    return [
        _collected(result, handler, chunk) if isinstance(result, BaseException) else result
        for result in results
    ]
