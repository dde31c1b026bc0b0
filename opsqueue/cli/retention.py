"""`opsqueue retention`: for how long a queue keeps submissions that have ended."""

from __future__ import annotations

import click

from opsqueue.cli.outside import opened_queue, redis_url_option
from opsqueue.duration import as_text, milliseconds, parse_duration
from opsqueue.submission import DEFAULT_RETENTION_MS

_EPILOG = """
\b
Examples:
  opsqueue retention set emails 7d     for submissions that end from now on
  opsqueue retention set emails 1h30m
  opsqueue retention show emails
  opsqueue retention remove emails     a day again
"""


@click.group(epilog=_EPILOG)
def retention() -> None:
    """Set for how long ended submissions and their results are kept.

    Holds for submissions that their producers gave no retention of their own. Workers delete what
    is over; while none runs, nothing is deleted.
    """


@retention.command("set")
@click.argument("queue")
@click.argument("duration")
@redis_url_option
def set_(*, queue: str, duration: str, redis_url: str) -> None:
    """Keep ended submissions of QUEUE for DURATION, such as 24h or 7d."""
    with opened_queue(queue, redis_url) as on:
        on.set_retention(milliseconds(parse_duration(duration)))


@retention.command()
@click.argument("queue")
@redis_url_option
def remove(*, queue: str, redis_url: str) -> None:
    """Keep ended submissions of QUEUE for a day, as without a setting."""
    with opened_queue(queue, redis_url) as on:
        on.set_retention(None)


@retention.command()
@click.argument("queue")
@redis_url_option
def show(*, queue: str, redis_url: str) -> None:
    """Print for how long ended submissions of QUEUE are kept."""
    with opened_queue(queue, redis_url) as on:
        ms = on.get_retention()
        click.echo(f"{as_text(DEFAULT_RETENTION_MS)} (default)" if ms is None else as_text(ms))
