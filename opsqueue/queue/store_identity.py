"""Which store a deployment uses: its marker has a random id, and Redis remembers it by the URL.

So a disk that is not mounted, or a bucket that somebody emptied, is a store that is away, and not
one without inputs. The I/O is that of the store and of Redis.
"""

from __future__ import annotations

from opsqueue.queue.cluster import Client
from opsqueue.queue.script import known_store_id, remember_store_id
from opsqueue.store import ObjectStore
from opsqueue.store.base import check_store_id, make_store_id


def identify_store(client: Client, store: ObjectStore) -> None:
    """Make sure that a store is the one that Redis knows by its URL; from then on it stays that.

    A store that Redis does not know is given a marker, unless it has one. Only then is anything
    written. A memory store is each process's own, and has none.

    Raises:
        StoreUnavailableError: it has no marker, or another one, or does not answer.
        FormatTooNewError: a newer version has raised its format.
        RedisUnavailableError.
    """
    if store.url.startswith("memory:"):
        return
    known = known_store_id(client, store.url)
    if not known:
        known = remember_store_id(client, store.url, make_store_id(store))
    store.store_id = known
    check_store_id(store, known)


def expect_known_store(client: Client, store: ObjectStore) -> None:
    """Do what `identify_store` does, but give no marker to a store that Redis does not know.

    For what only looks at a store, or restores what Redis has lost.
    """
    known = known_store_id(client, store.url)
    store.store_id = known
    check_store_id(store, known)
