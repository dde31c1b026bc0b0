"""Parallel access to many objects with bounded memory: threads hide a store's latency.

Threads are used instead of asyncio, since boto3 and google-cloud-storage are synchronous and
release the GIL while they wait. The store does the I/O.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.process import Origin
from opsqueue.store.base import HasAtHand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opsqueue.store.base import ObjectStore, Readable

Item = TypeVar("Item")

DEFAULT_AT_ONCE = 16


def get_many(
    store: Readable, keys: Iterable[str], *, at_once: int = DEFAULT_AT_ONCE
) -> Iterator[bytes]:
    """Yield the objects of `keys` in their order, reading ahead.

    `keys` is consumed lazily, in the caller's thread: at most `at_once` objects are in flight or
    waiting to be yielded. Nothing is read before the first object is requested.

    Raises:
        OpsqueueError: the store's, at the object's position; objects read ahead are discarded.

    """
    _check_at_once(at_once)
    return _read_ahead(store, keys, at_once)


def _read_ahead(store: Readable, keys: Iterable[str], at_once: int) -> Iterator[bytes]:
    ahead: deque[Future[bytes] | bytes] = deque()
    # A hop to a thread and back takes longer than all other work on a tiny chunk.
    at_hand = store.at_hand if isinstance(store, HasAtHand) else lambda _: None
    with ThreadPoolExecutor(at_once, thread_name_prefix="opsqueue-get") as pool:
        try:
            for key in keys:
                here = at_hand(key)
                # In the caller's context, so that spans of the store's client join its trace.
                ahead.append(here or pool.submit(copy_context().run, store.get, key))
                if len(ahead) >= at_once:
                    yield _awaited(ahead.popleft())
            while ahead:
                yield _awaited(ahead.popleft())
        finally:
            for coming in ahead:
                if isinstance(coming, Future):
                    coming.cancel()


def _awaited(coming: Future[bytes] | bytes) -> bytes:
    return coming if isinstance(coming, bytes) else coming.result()


def create_many(
    store: ObjectStore, items: Iterable[tuple[str, bytes]], *, at_once: int = DEFAULT_AT_ONCE
) -> int:
    """Create the objects of (key, data) pairs, in no particular order; return the number of pairs.

    `items` is consumed lazily, in the caller's thread: at most `at_once` items are in memory.
    Keys that were already taken count too; their first objects are kept.

    Raises:
        OpsqueueError: the error of the first upload that failed; no more items are consumed.
        BaseException: any exception that `items` raises, unchanged. In both cases the uploads in
            flight have ended when it is raised.

    """
    return for_each(lambda item: store.create(*item), items, at_once=at_once)


def for_each(
    call: Callable[[Item], object], items: Iterable[Item], *, at_once: int = DEFAULT_AT_ONCE
) -> int:
    """Call a function with each item, `at_once` calls at a time; return the number of items.

    Items are consumed lazily and errors are raised as by `create_many`.
    """
    _check_at_once(at_once)
    count = 0
    # Not `wait` on the running futures: it would look at each of them for each item.
    free = threading.Semaphore(at_once)
    failures: list[BaseException] = []

    def run(item: Item) -> None:
        try:
            call(item)
        except BaseException as exc:  # noqa: BLE001 raised below
            failures.append(exc)
        finally:
            free.release()

    following = iter(items)
    origin = Origin()
    # Leaving the pool's block waits for the calls in flight, even on an error.
    with ThreadPoolExecutor(at_once, thread_name_prefix="opsqueue-each") as pool:
        while True:
            free.acquire()
            if failures:
                break
            try:
                item = next(following)
            except StopIteration:
                break
            # Otherwise an iterable that forks would wait in the child for threads that don't exist.
            origin.check("what is stored or deleted here", "end the child that `items` has forked")
            pool.submit(copy_context().run, run, item)
            count += 1
    if failures:
        raise failures[0]
    return count


def _check_at_once(at_once: int) -> None:
    if at_once < 1:
        message = f"at_once is {at_once}: it counts objects, give 1 or more"
        raise InvalidArgumentError(message)
