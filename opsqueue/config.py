"""Parts that programs share: options, each declared once, and their standard streams.

Each option is a value. Calling it returns the decorator for a command; arguments of the call
replace what differs there, such as the help text. Options of a single program are declared in its
own `cli` module.
"""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from opsqueue.contents import json_lines
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.checks import printable
from opsqueue.model.durations import milliseconds, parse_duration
from opsqueue.model.new_submission import BUILT_IN, MAX_ATTEMPTS, Defaults
from opsqueue.model.version import __version__
from opsqueue.queue.commands import DEFAULT_TIMEOUT_MS
from opsqueue.queue.durability import Durability
from opsqueue.tracing.logs import LogFormat

Command = TypeVar("Command", bound=Callable[..., Any])


class Duration(click.ParamType[timedelta]):
    """`90s`, `15m`, `1h30m`, `1.5d`, `3w`."""

    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        """Parse the text."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value))
        except InvalidArgumentError as exc:
            self.fail(str(exc), param, ctx)


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: its affinity, and its cgroup's limit of CPU time.

    A limit of 1.5 cores counts as 2. `root` is where /proc and /sys are.
    """
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    limits = [count, *(math.ceil(limit) for limit in _cpu_limits(root))]
    return max(1, min(limits))


def _cpu_limits(root: Path) -> Iterator[float]:
    """Yield the limits, in cores, of this process's cgroup and of those above it."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no Linux, or a sandbox
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        # In a container the path may be that of the host. Then only the root exists here.
        names = [name for name in path.split("/") if name not in ("", "..")]
        for depth in range(len(names) + 1):
            folder = base.joinpath(*names[:depth])
            with suppress(OSError, ValueError):  # no limit: no file, "max" or -1
                texts = [(folder / name).read_text(encoding="ascii") for name in files]
                quota, period = (int(number) for number in " ".join(texts).split())
                if quota > 0 and period > 0:
                    yield quota / period


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
    help="URL of the Redis that holds the queues: redis://, rediss://, unix://, "
    "redis+sentinel:// or redis+cluster://.",
)
STORE_URL: Final = Option(
    names=("--store-url",),
    variable="OPSQUEUE_STORE_URL",
    metavar="URL",
    help="URL of the object store that holds the chunks: file:///folder, s3://bucket/prefix or "
    "gs://bucket/prefix. Producers, workers and the API must use the same one.",
)
DURABILITY: Final = Option(
    names=("--durability",),
    variable="OPSQUEUE_DURABILITY",
    default=Durability.NONE.value,
    check=click.Choice([one.value for one in Durability]),
    help="What an answered insert survives: with fsync a power loss of Redis's machine, with "
    "replica the loss of that machine. The API refuses to start if the server can't keep the "
    "promise. While no replica can be reached, inserts are answered with 503.",
)
PORT: Final = Option(
    names=("-p", "--port"),
    default=3999,
    check=click.IntRange(0, 65_535),
    help="Port that the API listens on. 0 chooses a free port and prints it.",
)
CONCURRENCY: Final = Option(
    names=("-c", "--concurrency"),
    default=usable_cores(),
    show_default="cores that it may use",
    check=click.IntRange(1, 10_000),
    help="Number of chunks that run at the same time. The default is the number of cores, within "
    "the process's CPU affinity and the CPU limit of its container.",
)
HEARTBEAT_TIMEOUT: Final = Option(
    names=("--heartbeat-timeout",),
    default=DEFAULT_TIMEOUT_MS / 1000,
    check=click.FloatRange(0.1),
    help="Seconds without a heartbeat after which a worker or consumer counts as dead.",
)
MAX_LINE_BYTES: Final = Option(
    names=("--max-line-bytes",),
    default=json_lines.MAX_LINE_BYTES,
    check=click.IntRange(1, 1 << 30),
    help="Maximum size of a line of NDJSON in bytes. Each line is an operation.",
)
LOG_LEVEL: Final = Option(
    names=("-l", "--log-level"),
    default="info",
    check=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="Lowest level of the lines that are logged.",
)
LOG_FORMAT: Final = Option(
    names=("--log-format",),
    default="plain",
    check=click.Choice(get_args(LogFormat)),
    help="Format of the log: plain text, or a JSON object on each line.",
)


DEFAULT_MAX_ATTEMPTS: Final = Option(
    names=("--default-max-attempts",),
    variable="OPSQUEUE_DEFAULT_MAX_ATTEMPTS",
    show_default=str(BUILT_IN.max_attempts),
    check=click.IntRange(1, MAX_ATTEMPTS),
    help="Maximum number of attempts of each chunk, if neither the insert nor its queue "
    "(`opsqueue defaults`) has one. The next three options are defaults in the same way.",
)
DEFAULT_BACKOFF: Final = Option(
    names=("--default-backoff",),
    variable="OPSQUEUE_DEFAULT_BACKOFF",
    show_default="1s",
    check=Duration(),
    metavar="DURATION",
    help="Time before a chunk's second attempt. It doubles with each attempt.",
)
DEFAULT_MAX_BACKOFF: Final = Option(
    names=("--default-max-backoff",),
    variable="OPSQUEUE_DEFAULT_MAX_BACKOFF",
    show_default="1m",
    check=Duration(),
    metavar="DURATION",
    help="Maximum time between two attempts.",
)
DEFAULT_RETENTION: Final = Option(
    names=("--default-retention",),
    variable="OPSQUEUE_DEFAULT_RETENTION",
    show_default="1d",
    check=Duration(),
    metavar="DURATION",
    help="How long a submission is kept after its end.",
)


def with_default_options(command: Command) -> Command:
    """Add the options that `default_options` reads, which an API and a rebuild share."""
    options = (DEFAULT_MAX_ATTEMPTS, DEFAULT_BACKOFF, DEFAULT_MAX_BACKOFF, DEFAULT_RETENTION)
    for option in reversed(options):
        command = option()(command)
    return command


def default_options(options: dict[str, Any]) -> Defaults:
    """Remove the options of `with_default_options` from a command's options, and return them.

    Raises:
        click.UsageError: no submission can have these options.
    """
    names = ("max_attempts", "backoff", "max_backoff", "retention")
    try:
        return defaults_of(*(options.pop(f"default_{name}") for name in names))
    except InvalidArgumentError as exc:
        message = f"--default-… (OPSQUEUE_DEFAULT_…): {exc}"
        raise click.UsageError(message) from exc


def defaults_of(
    max_attempts: int | None,
    backoff: timedelta | None,
    max_backoff: timedelta | None,
    retention: timedelta | None,
) -> Defaults:
    """Return the default options of submissions from the options of a program.

    Raises:
        InvalidArgumentError: no submission can have these options.
    """
    backoff_ms, max_backoff_ms, retention_ms = (
        None if duration is None else milliseconds(duration)
        for duration in (backoff, max_backoff, retention)
    )
    return Defaults(
        max_attempts=max_attempts,
        backoff_first_ms=backoff_ms,
        backoff_max_ms=max_backoff_ms,
        retention_ms=retention_ms,
    )


def version_option(program: str) -> Callable[[Command], Command]:
    """Return the decorator for `--version`, which every program prints in the same form.

    It reads no variable: a deployment may well use OPSQUEUE_VERSION for something of its own.
    """
    return click.version_option(
        __version__,
        message=f"{program} %(version)s",
        help="Print the version and exit.",
        allow_from_autoenv=False,
    )


def name_variables(command: click.Command) -> None:
    """Show the variable of every option in the help of a command and of those below it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.allow_from_autoenv:
            parameter.show_envvar = True
    if isinstance(command, click.Group):
        for below in command.commands.values():
            name_variables(below)


class Program(click.Command):
    """A program that runs until it is stopped; its output need not be read."""

    def make_context(self, *args: Any, **attributes: Any) -> click.Context:  # noqa: ANN401 click's own
        """Parse the command line, which prints --help and --version."""
        with standard_streams(drops_output=True):
            return super().make_context(*args, **attributes)


def say(line: str) -> None:
    """Print a line to stderr; a failure to do so does not end the program."""
    with suppress(OSError):
        click.echo(printable(line), err=True)


@contextmanager
def standard_streams(*, drops_output: bool = False) -> Iterator[None]:
    """Turn errors of the standard streams into a line and an exit code, not a traceback.

    Streams that the caller has closed are replaced, so that no connection gets their descriptors.
    Using a replaced stream raises OSError, except that output to stderr is dropped, and output to
    stdout, too, with `drops_output`.
    """
    # Python sets closed streams to None.
    if sys.stdin is None:
        sys.stdin = os.fdopen(_null(os.O_WRONLY), encoding="utf-8")
    if sys.stdout is None:
        how = os.O_WRONLY if drops_output else os.O_RDONLY
        sys.stdout = os.fdopen(_null(how), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(_null(os.O_WRONLY), "w", encoding="utf-8")
    try:
        try:
            yield
        finally:
            # Flush here: when the interpreter ends, an error would be a traceback.
            sys.stdout.flush()
    except OSError as exc:
        _drop_output()
        if exc.errno != errno.EPIPE:  # the reader has closed the pipe, like `head`
            say(f"Error: can't read or write: {exc.strerror or exc}")
        raise click.exceptions.Exit(1) from None


def _null(how: int) -> int:
    descriptor = os.open(os.devnull, how)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 os has no name for it
    return descriptor


def _drop_output() -> None:
    """Drop output that can't be written; the interpreter would try it again at its end."""
    with suppress(OSError, ValueError):  # no file, as in tests
        descriptor = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
