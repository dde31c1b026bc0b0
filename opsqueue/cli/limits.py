"""`opsqueue limits`: the limits of strategies, changed while everything runs."""

from __future__ import annotations

import click

from opsqueue.cli.outside import opened_queue, redis_url_option

_EPILOG = """
\b
Examples:
  opsqueue limits set emails api --max 10                 at most 10 chunks in hand a value
  opsqueue limits set emails api --value 7 --max 2        of value 7 only 2
  opsqueue limits set emails api --per-second 100 --burst 20
  opsqueue limits list emails
  opsqueue limits remove emails api --value 7             the strategy's own number again
"""

_value = click.option("--value", type=int, help="Only for this value of KEY.  [default: for all]")


@click.group(epilog=_EPILOG)
def limits() -> None:
    """Set the limits of MaxSimultaneous and RateLimit, for every worker's next reservation.

    They take the place of the numbers that workers' strategies have; without such a strategy they
    do nothing.
    """


@limits.command("set")
@click.argument("queue")
@click.argument("key")
@_value
@click.option("--max", "maximum", type=int, help="Chunks in hand at most, for MaxSimultaneous.")
@click.option("--per-second", type=float, help="Tokens that come, for RateLimit; with --burst.")
@click.option("--burst", type=int, help="Tokens that a bucket holds.")
@redis_url_option
def set_(
    *,
    queue: str,
    key: str,
    value: int | None,
    maximum: int | None,
    per_second: float | None,
    burst: int | None,
    redis_url: str,
) -> None:
    """Set limits of QUEUE by KEY of strategic metadata."""
    with opened_queue(queue, redis_url) as on:
        on.set_limit(key, value=value, max=maximum, per_second=per_second, burst=burst)


@limits.command()
@click.argument("queue")
@click.argument("key")
@_value
@redis_url_option
def remove(*, queue: str, key: str, value: int | None, redis_url: str) -> None:
    """Let the strategies' own numbers hold again."""
    with opened_queue(queue, redis_url) as on:
        on.remove_limit(key, value=value)


@limits.command("list")
@click.argument("queue")
@redis_url_option
def list_(*, queue: str, redis_url: str) -> None:
    """List the limits that are set."""
    with opened_queue(queue, redis_url) as on:
        for limit in on.list_limits():
            whose = limit.meta_key if limit.value is None else f"{limit.meta_key}={limit.value}"
            if limit.max is not None:
                click.echo(f"{whose}  at most {limit.max:,} chunks in hand")
            else:
                click.echo(f"{whose}  {limit.per_second:g} a second, burst {limit.burst:,}")
