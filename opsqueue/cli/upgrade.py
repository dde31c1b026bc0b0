"""`opsqueue upgrade`: raises the format of a queue and its store once all programs can read it."""

from __future__ import annotations

from contextlib import closing

import click

from opsqueue.cli.connections import with_optional_store, with_redis
from opsqueue.cli.names import note_new
from opsqueue.cli.tables import say
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue.store.base import check_format, upgrade_store

_EPILOG = """
\b
Examples:
  opsqueue upgrade emails
  opsqueue upgrade emails --store-url s3://bucket/prefix
"""


@click.command(epilog=_EPILOG)
@click.argument("queue")
@with_optional_store
@with_redis
def upgrade(*, queue: str, store_url: str | None, client: Client) -> None:
    """Raise the format of QUEUE, and of its store if that is given, to the newest one.

    Upgrade all workers, APIs and clients first: programs that can't read the new format refuse the
    queue from then on. A format is never lowered.
    """
    note_new(client, queue)
    if store_url is not None:
        with closing(open_store(store_url)) as store:
            check_format(store)
    before, now = Queue(client, queue).upgrade_queue()
    if before == now:
        say(f"queue {queue} has format {now}, the newest that this version knows")
    else:
        say(f"queue {queue} has format {now} now; it had {before}")
    if store_url is not None:
        with closing(open_store(store_url)) as store:
            say(f"store {store.url} has format {upgrade_store(store)}")
