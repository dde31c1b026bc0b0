"""How a handler is called: plain or async, one operation at a time or several at once.

No I/O of its own. What a handler raises comes out as it is; with several operations at once it is
the first one's that raised, and the others are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from opsqueue.app import Chunk, Handler
from opsqueue.exceptions import EncodingError

Result = TypeVar("Result")


class Invoker:
    """Calls handlers; for one thread at a time, whose event loop and threads it keeps."""

    def __init__(self) -> None:
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
            return self._runner.run(self.call_async(handler, operations, chunk))
        extra = _extra(handler, chunk)
        if handler.kind == "chunk":
            return _checked(handler, handler.function(operations, **extra), operations)
        if handler.concurrency == 1 or len(operations) < 2:
            return [handler.function(operation, **extra) for operation in operations]
        return self._call_in_threads(handler, operations, extra)

    async def call_async(
        self, handler: Handler, operations: list[object], chunk: Chunk
    ) -> Sequence[object]:
        """Call from a loop; plain handlers run in a thread beside it."""
        if not handler.is_async:
            return await in_thread(self.call, handler, operations, chunk)
        extra = _extra(handler, chunk)
        if handler.kind == "chunk":
            return _checked(handler, await handler.function(operations, **extra), operations)
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
        self, handler: Handler, operations: list[object], extra: dict[str, Any]
    ) -> list[object]:
        threads = self._threads.get(handler.concurrency)
        if threads is None:
            threads = ThreadPoolExecutor(handler.concurrency, thread_name_prefix="operation")
            self._threads[handler.concurrency] = threads
        futures = [
            # Each in a copy of the context: the handler's logging knows its chunk in there, too.
            threads.submit(copy_context().run, partial(handler.function, operation, **extra))
            for operation in operations
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


async def in_thread(call: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401 as given
    """Call in a thread beside the loop, which goes on meanwhile."""

    def run() -> Result:
        try:
            return call(*arguments)
        except StopIteration as exc:
            # asyncio's futures can't hold it: until Python 3.12 whoever awaits waits for ever.
            message = "the handler raised StopIteration"
            raise RuntimeError(message) from exc

    return await asyncio.to_thread(run)


def _extra(handler: Handler, chunk: Chunk) -> dict[str, Any]:
    return {"chunk": chunk} if handler.takes_chunk else {}


def _checked(handler: Handler, results: object, operations: list[object]) -> Sequence[object]:
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
    return results
