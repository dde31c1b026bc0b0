"""Coroutines made of blocking methods: each method is written once and runs in a thread.

    class Client:
        def count(self) -> int: ...
        async_count = in_thread(count)

The event loop is never blocked. The threads are the client's own, so that blocking calls can't use
up those of `asyncio.to_thread`. Waits share the threads, each for a short turn, so that waiting for
many submissions at once does not need a thread for each.
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
    """A client's threads: one pool for calls and uploads, another as large for waits."""

    def __init__(self) -> None:
        """Create the pools; they start no thread yet."""
        self._origin = Origin()
        self._awaited: set[asyncio.Future[Any]] = set()
        self._make_pools()
        renew_in_children(self)

    def _make_pools(self) -> None:
        self._for_calls = ThreadPoolExecutor(_THREADS, thread_name_prefix="opsqueue-call")
        self._for_waits = ThreadPoolExecutor(_THREADS, thread_name_prefix="opsqueue-wait")
        self._waiting: set[object] = set()

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`. Calls that wait for a thread of the parent raise an error."""
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
        # Run in the caller's context, which holds its trace.
        future = asyncio.wrap_future(pool.submit(copy_context().run, function, *args))
        awaited = self._awaited
        awaited.add(future)
        try:
            return await future
        finally:
            awaited.discard(future)

    async def wait(self, turn: Callable[[float], T | None], *, turn_s: float) -> T:
        """Call a waiting function in a thread, turn by turn, until it returns a value.

        Args:
            turn: waits for at most the given number of seconds; returns None if there is nothing
                yet.
            turn_s: the length of a turn, while there are fewer waits than threads.
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
        """End the threads after their current calls."""
        self._for_calls.shutdown(wait=False, cancel_futures=True)
        self._for_waits.shutdown(wait=False, cancel_futures=True)


class HasThreads(Protocol):
    """A class whose methods the functions below can wrap."""

    @property
    def threads(self) -> Threads:
        """The threads in which the methods run."""


class Interrupted(BaseException):
    """Raised in a thread whose caller was cancelled, when it asks for the next operation.

    It is not an Exception, so that no handler on the way treats it as a failure to recover from.
    """


class Batched(Generic[T]):
    """An iterator over items that arrive in batches; asynchronous code reads whole batches.

    An empty batch only means that nothing has arrived yet.
    """

    def __init__(self, batches: Generator[Iterable[T], None, None]) -> None:
        """Read nothing yet."""
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
        """Return an iterator that shares its position with this one and is many times as fast."""
        return chain.from_iterable(self._iterators())

    def _iterators(self) -> Iterator[Iterator[T]]:
        given = None
        while True:
            # If they differ, another iterator of this object has gone on to the next batch.
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
        """Return the rest of the current batch, or the next one; None at the end.

        Raises the errors that the iterator would raise, after the items that precede them.
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
                # One by one: list.extend keeps nothing of an iterable that raises in the middle.
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
    """Return a coroutine function that runs a blocking method in a thread."""

    async def run(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.threads.call(lambda: method(self, *args, **kwargs))

    update_wrapper(run, method)
    return run


def fed_in_thread(
    method: Callable[Concatenate[Owner, Iterable[Any], P], T],
) -> Callable[Concatenate[Owner, Iterable[Any] | AsyncIterable[Any], P], Coroutine[Any, Any, T]]:
    """Do what `in_thread` does, for a method that consumes an iterable of operations.

    An asynchronous iterable is consumed on the event loop, a plain one in the thread. When the
    caller is cancelled, the thread stops at the next item, where `Interrupted` is raised.
    """

    async def run(
        self: Owner, items: Iterable[Any] | AsyncIterable[Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # Check it here: the method gets an iterator, which hides what it iterates over.
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
    """Return a coroutine function that returns a method's iterator as an asynchronous one."""

    async def run(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        items = await self.threads.call(lambda: method(self, *args, **kwargs))
        return each(items, self.threads)

    update_wrapper(run, method)
    return run


async def each(items: Batched[T], threads: Threads) -> AsyncIterator[T]:
    """Yield the items of batches, which are read in a thread."""
    try:
        while (batch := await threads.call(items.next_batch)) is not None:
            for item in batch:
                yield item
    finally:
        # If the loop ends meanwhile, this is not awaited: nothing reads ahead any more then.
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
