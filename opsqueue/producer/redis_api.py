"""Redis as a producer's back end, for tools and tests that do without the HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Final

from opsqueue.model.answers import Counts
from opsqueue.model.version import __version__
from opsqueue.producer.backends import ProducerQueue
from opsqueue.queue.cluster import Client
from opsqueue.queue.durability import Durability
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import each_readable, queue_names

_QUEUES_KEPT: Final = 1_000


class RedisBackend:
    """A back end that reads and writes Redis directly.

    Args:
        client: from `opsqueue.queue.connection.connect`, or of fakeredis; it is not closed here.
        queue_of: returns the queue of a name; `Queue` by default.
        durability: what each insert waits for, see `opsqueue.queue.durability.check_durability`.
    """

    def __init__(
        self,
        client: Client,
        *,
        queue_of: Callable[[str], ProducerQueue] | None = None,
        durability: Durability = Durability.NONE,
    ) -> None:
        """Make no connection yet."""
        self._queue_names = partial(queue_names, client)
        # Cached, since each new object registers the queue again with its first insert.
        make = queue_of or partial(Queue, client, durability=durability)
        self._queue_of = lru_cache(_QUEUES_KEPT)(make)
        self.store_id = ""

    def queue(self, name: str, /) -> ProducerQueue:
        """Return a queue; raises InvalidArgumentError for a name that can't be one."""
        return self._queue_of(name)

    def queues(self) -> Mapping[str, Counts]:
        """Count what each queue holds, by name."""
        return dict(each_readable(self._queue_names(), lambda n: self.queue(n).count_queue()))

    def version(self) -> str:
        """Return the version of this package."""
        return __version__

    def close(self) -> None:
        """Do nothing: the caller closes the client."""
