"""`opsqueue retention`: for how long a queue keeps submissions that have ended."""

from __future__ import annotations

import click

from opsqueue.cli.connections import with_redis
from opsqueue.cli.group import HelpGroup
from opsqueue.cli.names import note_new
from opsqueue.cli.tables import say
from opsqueue.model.durations import as_text, milliseconds, parse_duration
from opsqueue.model.new_submission import DEFAULT_RETENTION_MS
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue

_EPILOG = """
\b
Examples:
  opsqueue retention set emails 7d     for submissions that end from now on
  opsqueue retention set emails 1h30m
  opsqueue retention show emails
  opsqueue retention remove emails     a day again
"""


@click.group(cls=HelpGroup, epilog=_EPILOG)
def retention() -> None:
    """Set for how long ended submissions and their results are kept.

    The setting holds for submissions whose producers gave no retention. Workers and APIs delete
    submissions after their retention. While none of them runs, nothing is deleted.
    """


@retention.command("set")
@click.argument("queue")
@click.argument("duration")
@with_redis
def set_(*, queue: str, duration: str, client: Client) -> None:
    """Keep ended submissions of QUEUE for DURATION, such as 24h or 7d."""
    kept_ms = milliseconds(parse_duration(duration))
    note_new(client, queue)
    Queue(client, queue).set_retention(kept_ms)
    say(f"queue {queue} keeps submissions that end from now on for {as_text(kept_ms)}")


@retention.command()
@click.argument("queue")
@with_redis
def remove(*, queue: str, client: Client) -> None:
    """Remove the setting of QUEUE, so that ended submissions are kept for a day."""
    Queue(client, queue).set_retention(None)


@retention.command()
@click.argument("queue")
@with_redis
def show(*, queue: str, client: Client) -> None:
    """Print for how long ended submissions of QUEUE are kept."""
    ms = Queue(client, queue).get_retention()
    click.echo(f"{as_text(DEFAULT_RETENTION_MS)} (default)" if ms is None else as_text(ms))
