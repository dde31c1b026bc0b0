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
  opsqueue defaults set emails --retention 7d          the others stay
  opsqueue defaults show emails
  opsqueue defaults remove emails --retention          as the API has it, else built in
  opsqueue defaults remove emails                      all of them
"""
_RETENTION_EPILOG = """
\b
Examples:
  opsqueue retention set emails 7d     for submissions that are inserted from now on
  opsqueue retention set emails 1h30m
  opsqueue retention show emails
  opsqueue retention remove emails     a day again
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
            help="Of each chunk.",
        ),
        click.option(
            "--backoff",
            type=Duration(),
            metavar="DURATION",
            show_default=shown("backoff_first_ms"),
            help="Before a chunk's second attempt; doubles with each, half of it jitter.",
        ),
        click.option(
            "--max-backoff",
            type=Duration(),
            metavar="DURATION",
            show_default=shown("backoff_max_ms"),
            help="It grows no further.",
        ),
        click.option(
            "--retention",
            type=Duration(),
            metavar="DURATION",
            show_default=shown("retention_ms"),
            help="Kept so long after its end, like 12h or 7d.",
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


@click.group(epilog=_EPILOG)
def defaults() -> None:
    """Set the options of submissions whose producers do not give them.

    They count when a submission is inserted: later changes don't touch it. An insert's own option
    comes first, then the queue's default, then the API's (OPSQUEUE_DEFAULT_MAX_ATTEMPTS and so on),
    then the built-in one. Of two back-offs from different places that don't fit each other, the one
    that comes first stays, and the other one becomes the same.
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
    """Set defaults of QUEUE; those that are not given stay."""
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
@click.option("--max-attempts", is_flag=True, envvar="OPSQUEUE_DEFAULTS_REMOVE_MAX_ATTEMPTS")
@click.option("--backoff", is_flag=True)
@click.option("--max-backoff", is_flag=True)
@click.option("--retention", is_flag=True)
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
    """Remove the defaults of QUEUE that are named; without a name, all of them."""
    named = dict(zip(_OPTIONS, (max_attempts, backoff, max_backoff, retention), strict=True))
    names = [name for name, is_named in named.items() if is_named] or list(_OPTIONS)
    Queue(client, queue).set_defaults(dict.fromkeys(names))


@defaults.command()
@click.argument("queue")
@as_json
@with_redis
def show(*, client: Client, queue: str, as_json: bool) -> None:
    """Print the defaults of QUEUE; of those that it has none of, the built-in ones.

    An API may have others in place of the built-in ones, which only its own settings tell.
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


@click.group(epilog=_RETENTION_EPILOG)
def retention() -> None:
    """Set for how long ended submissions and their results are kept.

    The same as `opsqueue defaults` with --retention. Holds for submissions that their producers
    give no retention of their own, and that are inserted from then on. Workers delete what is over;
    while none runs, nothing is deleted.
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
    """Keep ended submissions of QUEUE for a day, as without a setting."""
    Queue(client, queue).set_defaults({"retention_ms": None})


@retention.command("show")
@click.argument("queue")
@with_redis
def show_retention(*, queue: str, client: Client) -> None:
    """Print for how long ended submissions of QUEUE are kept."""
    own = texts_of(Queue(client, queue).get_defaults())
    click.echo(own.get("retention_ms", f"{texts_of(BUILT_IN)['retention_ms']} (default)"))
