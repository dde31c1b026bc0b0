"""`opsqueue defaults`: options of submissions whose inserts do not give them, for each queue.

The older `opsqueue retention` sets the retention alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import click
from msgspec.structs import asdict

from opsqueue.cli.connections import as_json, with_redis
from opsqueue.cli.group import HelpGroup
from opsqueue.cli.names import note_new
from opsqueue.cli.tables import print_json, say, tell
from opsqueue.config import Duration, defaults_of
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.durations import as_text, milliseconds, parse_duration
from opsqueue.model.new_submission import BUILT_IN, MAX_ATTEMPTS, Defaults
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: Final = {
    "max_attempts": "--max-attempts",
    "backoff_first_ms": "--backoff",
    "backoff_max_ms": "--max-backoff",
    "retention_ms": "--retention",
}
_EPILOG = """
\b
Examples:
  opsqueue defaults set emails --max-attempts 3 --backoff 5s --max-backoff 10m
  opsqueue defaults set emails --retention 7d          change the retention only
  opsqueue defaults show emails
  opsqueue defaults remove emails --retention          use the API's retention, else a day
  opsqueue defaults remove emails                      remove all defaults of the queue
"""
_RETENTION_EPILOG = """
\b
Examples:
  opsqueue retention set emails 7d     for submissions that are inserted from now on
  opsqueue retention set emails 1h30m
  opsqueue retention show emails
  opsqueue retention remove emails     use the API's retention, else a day
"""


def options_with_defaults(otherwise: str = "") -> Callable[[Command], Command]:
    """Return the decorator for the options that a queue may have defaults of.

    Args:
        otherwise: what holds where they are not given, in front of the built-in value; "": they
            change nothing then.
    """
    texts = texts_of(BUILT_IN)

    def shown(name: str) -> str | bool:
        return f"{otherwise} {texts[name]}" if otherwise else False

    options = (
        click.option(
            "--max-attempts",
            type=click.IntRange(1, MAX_ATTEMPTS),
            show_default=shown("max_attempts"),
            help="Maximum number of attempts of each chunk.",
        ),
        click.option(
            "--backoff",
            type=Duration(),
            metavar="DURATION",
            show_default=shown("backoff_first_ms"),
            help="Time before a chunk's second attempt. It doubles with each attempt, and half of "
            "it is jitter.",
        ),
        click.option(
            "--max-backoff",
            type=Duration(),
            metavar="DURATION",
            show_default=shown("backoff_max_ms"),
            help="Maximum time between two attempts.",
        ),
        click.option(
            "--retention",
            type=Duration(),
            metavar="DURATION",
            show_default=shown("retention_ms"),
            help="How long a submission is kept after its end, such as 12h or 7d.",
        ),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def texts_of(defaults: Defaults) -> dict[str, str]:
    """Write those that are set as the options take them."""
    return {
        name: as_text(value) if name.endswith("_ms") else str(value)
        for name, value in asdict(defaults).items()
        if value is not None
    }


@click.group(cls=HelpGroup, epilog=_EPILOG)
def defaults() -> None:
    """Set the options of submissions whose producers do not give them.

    An insert's own option comes first, then the queue's default, then the API's
    (OPSQUEUE_DEFAULT_MAX_ATTEMPTS and so on), then the built-in value. A default is read when a
    submission is inserted, and later changes don't affect that submission. If --backoff and
    --max-backoff come from different places and don't fit, the one that comes first is used for
    both.
    """


@defaults.command("set")
@click.argument("queue")
@options_with_defaults()
@with_redis
def set_(
    *,
    client: Client,
    queue: str,
    max_attempts: int | None,
    backoff: timedelta | None,
    max_backoff: timedelta | None,
    retention: timedelta | None,
) -> None:
    """Set defaults of QUEUE, and leave those that are not given as they are."""
    given = defaults_of(max_attempts, backoff, max_backoff, retention)
    changes = {name: value for name, value in asdict(given).items() if value is not None}
    if not changes:
        message = f"nothing to set: give some of {', '.join(_OPTIONS.values())}"
        raise InvalidArgumentError(message)
    note_new(client, queue)
    Queue(client, queue).set_defaults(changes)
    texts = texts_of(given)
    what = ", ".join(f"{_OPTIONS[name].removeprefix('--')} {texts[name]}" for name in changes)
    say(f"queue {queue}: {what} for submissions that are inserted from now on")


@defaults.command()
@click.argument("queue")
@click.option(
    "--max-attempts",
    is_flag=True,
    envvar="OPSQUEUE_DEFAULTS_REMOVE_MAX_ATTEMPTS",
    help="Remove the default number of attempts.",
)
@click.option("--backoff", is_flag=True, help="Remove the default time before a second attempt.")
@click.option(
    "--max-backoff", is_flag=True, help="Remove the default maximum time between two attempts."
)
@click.option("--retention", is_flag=True, help="Remove the default retention.")
@with_redis
def remove(
    *,
    client: Client,
    queue: str,
    max_attempts: bool,
    backoff: bool,
    max_backoff: bool,
    retention: bool,
) -> None:
    """Remove defaults of QUEUE: those that the options name, or all without an option."""
    named = dict(zip(_OPTIONS, (max_attempts, backoff, max_backoff, retention), strict=True))
    names = [name for name, is_named in named.items() if is_named] or list(_OPTIONS)
    Queue(client, queue).set_defaults(dict.fromkeys(names))


@defaults.command()
@click.argument("queue")
@as_json
@with_redis
def show(*, client: Client, queue: str, as_json: bool) -> None:
    """Print the defaults of QUEUE, and the built-in values of the options without one.

    An API may replace the built-in values by defaults of its own, which are not shown here.
    """
    found = Queue(client, queue).get_defaults()
    if as_json:
        print_json({"queue": queue, "defaults": found})
        return
    own = texts_of(found)
    for name, text in texts_of(found.over(BUILT_IN)).items():
        tell(
            f"{_OPTIONS[name].removeprefix('--'):<12}  {text}{'' if name in own else ' (built in)'}"
        )


@click.group(cls=HelpGroup, epilog=_RETENTION_EPILOG)
def retention() -> None:
    """Set for how long ended submissions and their results are kept.

    This is the same as `opsqueue defaults` with --retention. The setting holds for submissions that
    are inserted from then on, and whose producers give no retention. Workers and APIs delete
    submissions after their retention. While none of them runs, nothing is deleted.
    """


@retention.command("set")
@click.argument("queue")
@click.argument("duration")
@with_redis
def set_retention(*, queue: str, duration: str, client: Client) -> None:
    """Keep ended submissions of QUEUE for DURATION, such as 24h or 7d."""
    kept_ms = milliseconds(parse_duration(duration))
    note_new(client, queue)
    Queue(client, queue).set_defaults({"retention_ms": kept_ms})
    say(f"queue {queue} keeps submissions that are inserted from now on for {as_text(kept_ms)}")


@retention.command("remove")
@click.argument("queue")
@with_redis
def remove_retention(*, queue: str, client: Client) -> None:
    """Remove the setting of QUEUE, so that the API's retention holds, else a day."""
    Queue(client, queue).set_defaults({"retention_ms": None})


@retention.command("show")
@click.argument("queue")
@with_redis
def show_retention(*, queue: str, client: Client) -> None:
    """Print for how long ended submissions of QUEUE are kept."""
    own = texts_of(Queue(client, queue).get_defaults())
    click.echo(own.get("retention_ms", f"{texts_of(BUILT_IN)['retention_ms']} (default)"))
