"""The identity of a store: its marker has a random id, which Redis stores under the store's URL.

So an unmounted disk or an emptied bucket is seen as an unavailable store, and not as a store
without inputs. The I/O is that of the store and of Redis.
"""

from __future__ import annotations

from opsqueue.queue.cluster import Client
from opsqueue.queue.script import known_store_id, remember_store_id
from opsqueue.store import ObjectStore
from opsqueue.store.base import check_store_id, make_store_id


def identify_store(client: Client, store: ObjectStore) -> None:
    """Make sure that a store has the id that Redis has for its URL, and remember the id.

    A store that is unknown to Redis gets a marker, unless it has one. Nothing is written otherwise.
    A memory store belongs to one process and has no marker.

    Raises:
        StoreUnavailableError: the marker is missing or different, or the store does not answer.
        FormatTooNewError: a newer version has raised its format.
        RedisUnavailableError: Redis does not answer.
    """
    if store.url.startswith("memory:"):
        return
    known = known_store_id(client, store.url)
    if not known:
        known = remember_store_id(client, store.url, make_store_id(store))
    store.store_id = known
    check_store_id(store, known)


def expect_known_store(client: Client, store: ObjectStore) -> None:
    """Do the same as `identify_store`, but create no marker in a store unknown to Redis.

    Use it for programs that only read a store, or that restore what Redis has lost.
    """
    known = known_store_id(client, store.url)
    store.store_id = known
    check_store_id(store, known)
