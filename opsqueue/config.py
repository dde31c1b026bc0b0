"""Options that several programs share: names, variable, default, check and help text.

Each option is a value. Calling it returns the decorator for a command; arguments of the call
replace what differs there, such as the help text. Options of a single program are declared in its
own `cli` module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

import click

from opsqueue.contents import json_lines
from opsqueue.queue.commands import DEFAULT_TIMEOUT_MS
from opsqueue.queue.durability import Durability
from opsqueue.tracing.logs import LogFormat

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of several programs."""

    names: tuple[str, ...]
    variable: str | None = None
    """The same for all programs; None: each program has its own, like OPSQUEUE_API_LOG_LEVEL."""
    default: Any = None
    show_default: bool | str = True
    check: click.ParamType[Any] | None = None
    metavar: str | None = None
    help: str | None = None

    def __call__(self, *names: str, **own: Any) -> Callable[[Command], Command]:  # noqa: ANN401 click's
        """Return the decorator that adds the option to a command.

        Args:
            names: additional names for this command.
            own: arguments of `click.option` that replace the shared ones; None removes one.
        """
        shared = {
            "envvar": self.variable,
            "default": self.default,
            "show_default": self.show_default,
            "type": self.check,
            "metavar": self.metavar,
            "help": self.help,
        }
        given = {name: value for name, value in {**shared, **own}.items() if value is not None}
        return click.option(*self.names, *names, **given)


REDIS_URL: Final = Option(
    names=("--redis-url",),
    variable="OPSQUEUE_REDIS_URL",
    default="redis://127.0.0.1:6379/0",
    metavar="URL",
    help="Where the queues are: redis://, rediss://, unix://, redis+sentinel:// or "
    "redis+cluster://.",
)
STORE_URL: Final = Option(
    names=("--store-url",),
    variable="OPSQUEUE_STORE_URL",
    metavar="URL",
    help="Where the chunks are: file:///folder, s3://bucket/prefix or gs://bucket/prefix, the same "
    "for producers, workers and API.",
)
DURABILITY: Final = Option(
    names=("--durability",),
    variable="OPSQUEUE_DURABILITY",
    default=Durability.NONE.value,
    check=click.Choice([one.value for one in Durability]),
    help="What an answered insert survives: fsync, power loss of Redis's machine; replica, loss of "
    "that machine. Refused where the server never keeps it; while no replica is in reach, inserts "
    "are answered 503.",
)
PORT: Final = Option(
    names=("-p", "--port"),
    default=3999,
    check=click.IntRange(0, 65_535),
    help="Of the API; 0 takes a free one and names it.",
)
CONCURRENCY: Final = Option(
    names=("-c", "--concurrency"),
    default=os.cpu_count() or 1,
    show_default="cores",
    check=click.IntRange(1, 10_000),
    help="Chunks that run at a time.",
)
HEARTBEAT_TIMEOUT: Final = Option(
    names=("--heartbeat-timeout",),
    default=DEFAULT_TIMEOUT_MS / 1000,
    check=click.FloatRange(0.1),
    help="Seconds of silence after which a worker or consumer counts as dead.",
)
MAX_LINE_BYTES: Final = Option(
    names=("--max-line-bytes",),
    default=json_lines.MAX_LINE_BYTES,
    check=click.IntRange(1, 1 << 30),
    help="Of a line of NDJSON, which is an operation.",
)
LOG_LEVEL: Final = Option(
    names=("-l", "--log-level"),
    default="info",
    check=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
)
LOG_FORMAT: Final = Option(
    names=("--log-format",), default="plain", check=click.Choice(get_args(LogFormat))
)


def name_variables(command: click.Command) -> None:
    """Show the variable of every option in the help of a command and of those below it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.allow_from_autoenv:
            parameter.show_envvar = True
    if isinstance(command, click.Group):
        for below in command.commands.values():
            name_variables(below)
