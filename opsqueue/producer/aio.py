"""Methods that block, as coroutines: each is written once, and runs in a thread.

    class Client:
        def count(self) -> int: ...
        async_count = in_thread(count)

The event loop is never blocked: what blocks is in threads of the client's own, so that it can't use
up those of `asyncio.to_thread`. Whoever waits does so turn by turn: waiting for many submissions at
once needs no thread for each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import update_wrapper
from itertools import chain
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar

from opsqueue.exceptions import OpsqueueError
from opsqueue.model.process import Origin, renew_in_children
from opsqueue.producer.insert import check_is_operations

Owner = TypeVar("Owner", bound="HasThreads")
P = ParamSpec("P")
T = TypeVar("T")

_THREADS: Final = 32


class Threads:
    """A client's threads: some for calls and uploads, as many for what waits."""

    def __init__(self) -> None:
        """Start none yet."""
        self._origin = Origin()
        self._awaited: set[asyncio.Future[Any]] = set()
        self._make_pools()
        renew_in_children(self)

    def _make_pools(self) -> None:
        self._for_calls = ThreadPoolExecutor(_THREADS, thread_name_prefix="opsqueue-call")
        self._for_waits = ThreadPoolExecutor(_THREADS, thread_name_prefix="opsqueue-wait")
        self._waiting: set[object] = set()

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`. What waits for a thread of the parent's gets an error."""
        self._make_pools()
        error = _other_process("an asynchronous call", self._origin)
        self._origin = Origin()
        awaited, self._awaited = self._awaited, set()
        for future in awaited:
            with suppress(
                RuntimeError, asyncio.InvalidStateError
            ):  # its loop is closed; it is done
                future.set_exception(error)

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function in a thread."""
        return await self._run(self._for_calls, function)

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 the function's
        # In the caller's context, which has its trace.
        future = asyncio.wrap_future(pool.submit(copy_context().run, function, *args))
        awaited = self._awaited
        awaited.add(future)
        try:
            return await future
        finally:
            awaited.discard(future)

    async def wait(self, turn: Callable[[float], T | None], *, turn_s: float) -> T:
        """Call a function that waits until it gives something, in a thread, turn by turn.

        Args:
            turn: waits for at most the given seconds; None: nothing yet.
            turn_s: a turn's seconds, where fewer wait than there are threads.
        """
        me, waiting = object(), self._waiting
        waiting.add(me)
        try:
            while True:
                fair_s = turn_s * min(1.0, _THREADS / len(waiting))
                found = await self._run(self._for_waits, turn, fair_s)
                if found is not None:
                    return found
        finally:
            waiting.discard(me)

    def close(self) -> None:
        """Let the threads end with what they do now."""
        self._for_calls.shutdown(wait=False, cancel_futures=True)
        self._for_waits.shutdown(wait=False, cancel_futures=True)


class HasThreads(Protocol):
    """What the functions below need of a class."""

    @property
    def threads(self) -> Threads:
        """Its threads."""


class Interrupted(BaseException):
    """Raised in a thread whose caller was cancelled, where it asks for the next operation.

    No Exception: nothing on the way shall take it for a failure that it can go on after.
    """


class Batched(Generic[T]):
    """An iterator over items that come in batches; asynchronous code takes them by the batch.

    An empty batch says only that nothing has come yet.
    """

    def __init__(self, batches: Generator[Iterable[T], None, None]) -> None:
        """Take nothing yet."""
        self._batches = batches
        self._current: Iterator[T] = iter(())
        self._error: Exception | None = None
        self._origin = Origin()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: the threads that read ahead are the parent's."""
        self._current, self._error = iter(()), _other_process("an iterator", self._origin)
        self._batches = _raising(self._error)

    def __iter__(self) -> Iterator[T]:
        """Give an iterator that shares its place with this one, and is many times as fast."""
        return chain.from_iterable(self._iterators())

    def _iterators(self) -> Iterator[Iterator[T]]:
        given = None
        while True:
            # Not the one that was given: another iterator of ours has gone on meanwhile.
            if given is self._current:
                batch = next(self._batches, None)
                if batch is None:
                    return
                self._current = iter(batch)
            given = self._current
            yield given

    def __next__(self) -> T:
        while True:
            for item in self._current:
                return item
            self._current = iter(next(self._batches))

    def next_batch(self) -> list[T] | None:
        """Give what is left of a batch, or the next one; None at the end.

        Raises what the iterator would, behind the items that come before it.
        """
        if self._error is not None:
            raise self._error
        items: list[T] = []
        try:
            items += self._current
            if not items:
                batch = next(self._batches, None)
                if batch is None:
                    return None
                # One by one: list.extend of what raises in the middle keeps nothing.
                for item in batch:
                    items.append(item)
        except Exception as exc:
            if not items:
                raise
            self._error = exc
        return items

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()


def _other_process(what: str, origin: Origin) -> OpsqueueError:
    return origin.error(what, "call the client's method again in the child")


def _raising(error: Exception) -> Generator[Any, None, None]:
    raise error
    yield


def in_thread(
    method: Callable[Concatenate[Owner, P], T],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]:
    """Give the coroutine function of a method that blocks."""

    async def run(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.threads.call(lambda: method(self, *args, **kwargs))

    update_wrapper(run, method)
    return run


def fed_in_thread(
    method: Callable[Concatenate[Owner, Iterable[Any], P], T],
) -> Callable[Concatenate[Owner, Iterable[Any] | AsyncIterable[Any], P], Coroutine[Any, Any, T]]:
    """Do what `in_thread` does, for a method that consumes an iterable of operations.

    An asynchronous iterable is consumed on the event loop, a plain one in the thread. When the
    caller is cancelled, the thread stops at the next item: it sees `Interrupted` there.
    """

    async def run(
        self: Owner, items: Iterable[Any] | AsyncIterable[Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # Here: what the method gets is an iterator, which says nothing of what it iterates over.
        check_is_operations(items)
        is_cancelled = threading.Event()
        feed = _feed(items, asyncio.get_running_loop(), is_cancelled)
        try:
            return await self.threads.call(lambda: method(self, feed, *args, **kwargs))
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    update_wrapper(run, method)
    return run


def streamed(
    method: Callable[Concatenate[Owner, P], Batched[T]],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, AsyncIterator[T]]]:
    """Give the coroutine function of a method that gives an iterator: it gives an async one."""

    async def run(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        items = await self.threads.call(lambda: method(self, *args, **kwargs))
        return each(items, self.threads)

    update_wrapper(run, method)
    return run


async def each(items: Batched[T], threads: Threads) -> AsyncIterator[T]:
    """Give the items of batches that are taken in a thread."""
    try:
        while (batch := await threads.call(items.next_batch)) is not None:
            for item in batch:
                yield item
    finally:
        # Not awaited when the loop ends meanwhile: then nobody reads ahead any more.
        await asyncio.shield(threads.call(items.close))


def _feed(
    items: Iterable[Any] | AsyncIterable[Any],
    loop: asyncio.AbstractEventLoop,
    is_cancelled: threading.Event,
) -> Iterator[Any]:
    plain = items if isinstance(items, Iterable) else _pulled(items, loop, is_cancelled)
    for item in plain:
        if is_cancelled.is_set():
            raise Interrupted
        yield item


def _pulled(
    items: AsyncIterable[Any], loop: asyncio.AbstractEventLoop, is_cancelled: threading.Event
) -> Iterator[Any]:
    iterator = aiter(items)
    end = object()

    async def following() -> Any:  # noqa: ANN401 whatever the user iterates over
        return await anext(iterator, end)

    while True:
        coming = asyncio.run_coroutine_threadsafe(following(), loop)
        while True:
            try:
                item = coming.result(timeout=1)
                break
            except TimeoutError:
                if coming.done():
                    raise  # the iterable's own
                if is_cancelled.is_set():
                    coming.cancel()
                    raise Interrupted from None
        if item is end:
            return
        yield item
