"""Redis as a consumer's back end."""

from __future__ import annotations

from contextlib import ExitStack

from opsqueue.consumer.held import Connected
from opsqueue.model.names import checked_worker
from opsqueue.queue import connection
from opsqueue.queue.queue import Queue
from opsqueue.queue.store_identity import identify_store
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import ObjectStore


def connected(
    url: str,
    queue: str,
    worker: str,
    *,
    timeout_ms: int | None,
    store: ObjectStore,
    resources: ExitStack,
) -> Connected:
    """Connect a worker to its queue, with a sweeper; `resources` closes the connections."""
    checked_worker(worker)
    client = connection.connect(url, max_connections=8)
    resources.callback(client.close)
    on = Queue(client, queue)
    sweeper = Sweeper(lambda: [on], client=client, sweeper=worker, store=store)

    def check() -> None:
        connection.check(client, url=url)
        identify_store(client, store)

    return Connected(
        on,
        url=connection.masked(url),
        check=check,
        sweeper=sweeper,
        on_due=lambda: sweeper.sweep_soon(on),
        timeout_ms=timeout_ms,
    )
