"""`opsqueue limits`: changes the limits of strategies while everything runs."""

from __future__ import annotations

import click

from opsqueue.cli.connections import as_json, with_redis
from opsqueue.cli.group import HelpGroup
from opsqueue.cli.names import note_new
from opsqueue.cli.tables import pairs_text, print_json, say, tell
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.answers import Limit
from opsqueue.model.names import meta_key_text, parse_meta_key
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.strategy import MOST_IN_HAND

_EPILOG = """
\b
Examples:
  opsqueue limits set emails api --max 10                 at most 10 reserved chunks of each value
  opsqueue limits set emails api --value 7 --max 2        at most 2 of value 7
  opsqueue limits set emails api --per-second 100 --burst 20
  opsqueue limits list emails
  opsqueue limits remove emails api --value 7             the number in the strategy holds again

KEY may be any text. A KEY that begins with a hyphen needs `--` in front of it. A KEY that begins
with a double quote is read as a JSON string.
"""

_key = click.argument("key", callback=lambda _context, _parameter, text: parse_meta_key(text))
_value = click.option(
    "--value", type=int, help="Set the limit for this value of KEY only.  [default: all values]"
)


@click.group(cls=HelpGroup, epilog=_EPILOG)
def limits() -> None:
    """Set the limits of MaxSimultaneous and RateLimit, for every worker's next reservation.

    The limits replace the numbers in the strategies of all workers. Without such a strategy they
    have no effect.
    """


@limits.command("set")
@click.argument("queue")
@_key
@_value
@click.option(
    "--max",
    "maximum",
    type=click.IntRange(1, MOST_IN_HAND),
    envvar="OPSQUEUE_LIMITS_SET_MAX",
    help="Maximum number of reserved chunks, for MaxSimultaneous.",
)
@click.option(
    "--per-second", type=float, help="Tokens for each second, for RateLimit. Needs --burst."
)
@click.option("--burst", type=int, help="Number of tokens that a bucket holds.")
@with_redis
def set_(
    *,
    client: Client,
    queue: str,
    key: str,
    value: int | None,
    maximum: int | None,
    per_second: float | None,
    burst: int | None,
) -> None:
    """Set limits of QUEUE for a KEY of its strategic metadata."""
    if (per_second is None) != (burst is None):
        message = "--per-second and --burst need each other: a bucket has a rate and a capacity"
        raise InvalidArgumentError(message)
    note_new(client, queue)
    on = Queue(client, queue)
    on.set_limit(key, value=value, max=maximum, per_second=per_second, burst=burst)
    for limit in on.list_limits():
        if (limit.meta_key, limit.value) == (key, value):
            say(f"queue {queue}: {_text_of(limit)}")


@limits.command()
@click.argument("queue")
@_key
@_value
@with_redis
def remove(*, client: Client, queue: str, key: str, value: int | None) -> None:
    """Remove limits of QUEUE, so that the numbers in the strategies hold again."""
    on = Queue(client, queue)
    is_there = any((limit.meta_key, limit.value) == (key, value) for limit in on.list_limits())
    on.remove_limit(key, value=value)
    whose = _whose(key, value)
    say(f"queue {queue}: {whose}  {'the limit is removed' if is_there else 'had no limit set'}")


@limits.command("list")
@click.argument("queue")
@as_json
@with_redis
def list_(*, client: Client, queue: str, as_json: bool) -> None:
    """List the limits of QUEUE."""
    found = Queue(client, queue).list_limits()
    if as_json:
        print_json({"queue": queue, "limits": found})
        return
    for limit in found:
        tell(_text_of(limit))


def _whose(key: str, value: int | None) -> str:
    return meta_key_text(key) if value is None else pairs_text({key: value})


def _text_of(limit: Limit) -> str:
    whose = _whose(limit.meta_key, limit.value)
    if limit.max is not None:
        return f"{whose}  at most {limit.max:,} reserved chunks"
    return f"{whose}  {limit.per_second:g} a second, burst {limit.burst:,}"
