"""`opsqueue rebuild`: restores submissions that Redis has lost from the object store."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from opsqueue import config
from opsqueue.cli.connections import with_redis
from opsqueue.cli.tables import tell
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.checks import counted
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.queue.rebuild import Rebuilt, queues_in, rebuild
from opsqueue.queue.script import ping
from opsqueue.queue.store_identity import expect_known_store
from opsqueue.store import ObjectStore, open_store
from opsqueue.store.base import check_format

_PROGRESS_S = 5.0
_EPILOG = """
\b
Examples:
  opsqueue rebuild --store s3://bucket/prefix --dry-run    look; nothing is changed
  opsqueue rebuild --store s3://bucket/prefix --queue emails
"""


@click.command("rebuild", epilog=_EPILOG)
@config.STORE_URL("--store", "store_url", required=True)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    help="Restore this queue only. May be repeated.  [default: all queues that the store has "
    "folders of]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be inserted, and change nothing.")
@config.with_default_options
@with_redis
def rebuild_(
    *,
    client: Client,
    store_url: str,
    queues: Sequence[str],
    dry_run: bool,
    **options: Any,  # noqa: ANN401 click has checked each
) -> None:
    """Insert submissions that were lost with Redis again, from what the store has of them.

    Chunks whose output is stored are done, the others run. Each submission gets a new id. The
    command leaves submissions that Redis has alone, so it may be repeated.

    The store does not have, so these are lost with Redis: small submissions, whose chunks were in
    Redis (up to 256 KiB); ids, used attempts and failures; the limits, defaults, pause and number
    of partitions of each queue. Set those first, and give the API's own defaults to this command,
    too. Submissions that had failed or were cancelled, and uploads whose insert never came, run
    again: cancel them.

    Exit codes: 0 done, 1 some were skipped, 2 the command line is wrong, 3 no answer.
    """
    defaults = config.default_options(options)
    ping(client)
    with closing(open_store(store_url)) as store:
        tell(f"store   {store.url}")
        check_format(store)
        expect_known_store(client, store)
        names = _checked(store, queues)
        restored = [Queue(client, name, defaults=defaults) for name in names]
        outcomes = [_rebuild(store, queue, is_dry_run=dry_run) for queue in restored]
    if any(rebuilt for rebuilt, _ in outcomes):
        tell("small submissions, whose chunks were in Redis, are lost: the store has none")
    sys.exit(1 if any(skipped for _, skipped in outcomes) else 0)


def _checked(store: ObjectStore, queues: Sequence[str]) -> Sequence[str]:
    """Return the queues to restore: the given ones, which the store must have, or all."""
    there = queues_in(store)
    if not there:
        message = (
            f"{store.url} has no submissions: is this the store URL that workers and API use? "
            "Small submissions (up to 256 KiB) are in no store"
        )
        raise InvalidArgumentError(message)
    for name in queues:
        # A folder that does not tell `Jobs` from `jobs` lists one of them, and has both.
        if name not in there and not any(True for _ in store.list_folders(name)):
            message = f"{store.url} has no queue {name}: it has {', '.join(there)}"
            raise InvalidArgumentError(message)
    return queues or there


def _rebuild(store: ObjectStore, queue: Queue, *, is_dry_run: bool) -> tuple[int, int]:
    """Print the outcome for each submission, then the totals; return both: rebuilt and skipped."""
    rebuilt = skipped = 0
    progress = _Progress(queue.name)
    for outcome in rebuild(store, queue, is_dry_run=is_dry_run, on_progress=progress):
        if isinstance(outcome, Rebuilt):
            rebuilt += 1
            id_ = outcome.submission_id or "would be inserted"
            failed = outcome.operations_failed
            tell(
                f"{outcome.prefix}  {id_}  "
                f"{outcome.chunks_done:,} of {counted(outcome.chunks_total, 'chunk')} done"
                + (f"  {counted(failed, 'operation')} failed" if failed else "")
            )
        else:
            skipped += 1
            tell(f"{outcome.prefix}  skipped: {outcome.reason}")
    would = "would be " if is_dry_run else ""
    tell(f"queue {queue.name}: {rebuilt:,} {would}inserted again, {skipped:,} skipped")
    return rebuilt, skipped


class _Progress:
    """Prints the progress of a queue on stderr every few seconds."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._said_at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said_at >= _PROGRESS_S:
            self._said_at = now
            text = f"queue {self._queue}: read {done:,} of {counted(total, 'submission')}"
            click.echo(text, err=True)
