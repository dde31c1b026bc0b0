"""`opsqueue orphans`: finds uploads that were never submitted, and deletes them on request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

import click

from opsqueue.cli.connections import with_redis_and_store_urls
from opsqueue.cli.tables import tell
from opsqueue.model.checks import counted
from opsqueue.model.durations import parse_duration
from opsqueue.queue.connection import connect, masked
from opsqueue.queue.orphans import Orphan, delete_orphans, find_orphans
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names
from opsqueue.queue.store_identity import expect_known_store
from opsqueue.store import ObjectStore, open_store
from opsqueue.store.base import check_format

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_EPILOG = """
\b
Examples:
  opsqueue orphans                              list them; nothing is changed
  opsqueue orphans --older-than 7d --delete     ask, then delete them
  opsqueue orphans --queue old-name --delete --yes
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--older-than",
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="Minimum age of the uploads, such as 24h or 7d. Uploads that stored something since are "
    "left out.",
)
@click.option("--delete", is_flag=True, help="Delete them after asking.")
@click.option("-y", "--yes", is_flag=True, help="Delete without asking.")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    help="Look at this queue only, even if Redis does not know it. May be repeated.  [default: all "
    "queues that Redis knows]",
)
@with_redis_and_store_urls
def orphans(
    *,
    older_than: str,
    delete: bool,
    yes: bool,
    queues: Sequence[str],
    redis_url: str,
    store_url: str,
) -> None:
    """List uploads that belong to no submission because their producer died before the insert.

    The objects of submissions, ended ones included, and uploads in progress are never touched. If
    other Redis servers use the same folder or bucket, their submissions are unknown here: give each
    server a store URL with a prefix of its own.

    Exit codes: 0 nothing is left, 1 there are orphans, 2 the command line is wrong, 3 no answer.
    """
    age = parse_duration(older_than)
    is_left = check_orphans(
        redis_url, store_url, age=age, delete=delete, is_asked=not yes, queues=queues
    )
    sys.exit(1 if is_left else 0)


def check_orphans(
    redis_url: str,
    store_url: str,
    *,
    age: timedelta,
    delete: bool = False,
    is_asked: bool = True,
    queues: Sequence[str] = (),
) -> bool:
    """Print the orphans and delete them if requested; return whether any are left.

    Raises:
        OpsqueueError: the errors of Redis and the store.
    """
    with (
        closing(open_store(store_url)) as store,
        closing(connect(redis_url)) as client,
    ):
        check_format(store)
        expect_known_store(client, store)
        names = list(queues) or queue_names(client)
        is_left = False
        tell(f"redis   {masked(redis_url)}\nstore   {store.url}")
        for name in names:
            found = _list(store, Queue(client, name), datetime.now(UTC) - age)
            if found and not (delete and _delete(store, Queue(client, name), found, is_asked)):
                is_left = True
        is_whole = bool(queues) or not _name_unknown(store, names)
    if not is_left:
        tell("no orphans" if is_whole else "no orphans in the queues that Redis knows")
    return is_left


def _list(store: ObjectStore, queue: Queue, older_than: datetime) -> list[Orphan]:
    # Print a line for each orphan as it is found. Little is kept of each.
    found = []
    for orphan in find_orphans(store, queue, older_than=older_than):
        found.append(orphan)
        tell(
            f"{orphan.prefix}  since {orphan.began_at:%Y-%m-%d %H:%M} UTC  "
            f"{counted(orphan.objects, 'object')}  {_size(orphan.size_bytes)}"
        )
    if found:
        were = "was" if len(found) == 1 else "were"
        tell(
            f"{counted(len(found), 'upload')} of queue {queue.name} {were} never submitted: "
            f"{counted(sum(orphan.objects for orphan in found), 'object')}, "
            f"{_size(sum(orphan.size_bytes for orphan in found))}"
        )
    return found


def _delete(store: ObjectStore, queue: Queue, found: Sequence[Orphan], is_asked: bool) -> bool:  # noqa: FBT001 the option's value
    if is_asked and not click.confirm("delete them?"):
        return False
    deleted = sum(1 for _ in delete_orphans(store, queue, (orphan.prefix for orphan in found)))
    tell(f"deleted {deleted:,}")
    if deleted < len(found):
        tell(f"left {len(found) - deleted:,}, which were submitted meanwhile")
    return True


def _name_unknown(store: ObjectStore, names: Sequence[str]) -> bool:
    unknown = sorted(set(store.list_folders("")) - set(names))
    if unknown:
        shown = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        tell(f"not checked, since Redis knows no such queue: {shown} (--queue)")
    return bool(unknown)


def _size(size_bytes: int) -> str:
    if size_bytes < 1024:
        return counted(size_bytes, "byte")
    size, unit = size_bytes / 1024, 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:,.1f} {_UNITS[unit]}"
