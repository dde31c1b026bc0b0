"""The `opsqueue-worker` command: reads options and environment, runs a worker, sets exit codes."""

from __future__ import annotations

import logging
import re
import signal
import sys
from typing import Any, Final, get_args

import click

from opsqueue import config
from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.exceptions import (
    ConnectionTroubleError,
    FormatTooNewError,
    IncorrectUsageError,
    InvalidArgumentError,
)
from opsqueue.strategy import AnyStrategy, parse_strategy
from opsqueue.tracing.logs import log_to
from opsqueue_worker.app_import import (
    check_not_green,
    import_app,
    import_app_unchanged,
    own_stderr,
)
from opsqueue_worker.check import check_worker
from opsqueue_worker.logs import set_up_logging
from opsqueue_worker.output import Output
from opsqueue_worker.pool import PoolKind
from opsqueue_worker.pool.pool import NotStartedError
from opsqueue_worker.settings import WorkerSettings
from opsqueue_worker.worker import Worker

_EPILOG = """
\b
Examples:
  opsqueue-worker tasks:app
  opsqueue-worker tasks:app -c 8 -Q images,emails
  opsqueue-worker tasks:app --pool async -c 50          for async def handlers that call an API
  opsqueue-worker tasks:app --pool solo                 for debugging: breakpoints work
  opsqueue-worker tasks:app --strategy "PreferDistinct(customer, Oldest)"
  opsqueue-worker tasks:app --burst                     work until the queues are empty, then exit
  opsqueue-worker tasks:app --redis-url redis://cache:6379/0 --store-url s3://bucket/opsqueue

\b
Signals:
  TERM, INT (Ctrl-C)  finish the chunks that run, release the others, then exit; a second one
                      releases all of them at once
  QUIT                release all chunks at once, then exit
  HUP                 start a child process with the new code; if it starts, replace the others,
                      each after the chunk that it runs
  USR1                print the stack of every thread to stderr
\b
Exit codes:
  0  the worker stopped as it was asked to
  1  an unexpected error, or with --check: no worker is alive, or its children don't start
  2  an option is wrong, or the app can't be loaded
  3  Redis or the store can't be reached
\b
Environment: each option has a variable, which is named beside it. The SDKs of object stores and
of OpenTelemetry read theirs (AWS_..., GOOGLE_..., OTEL_...).
"""

_DEFAULTS: Final = WorkerSettings(app="", redis_url="", store_url="")
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class _Memory(click.ParamType[int]):
    """A size such as 512MB."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse a size and return it in bytes."""
        match = re.fullmatch(r"(\d+)\s*([KMG]?)B?", str(value).strip(), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a size: write it like 512MB or 2GB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


class _Prefetch(click.ParamType[int | None]):
    """`auto`, or a number of chunks."""

    name = "auto|N"

    def convert(
        self, value: str | int | None, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Parse the number; None stands for `auto`."""
        if value is None or value == "auto":
            return None
        if not str(value).isdigit() or int(value) > 1_000:
            self.fail(f"{value!r}: use auto or a number from 0 to 1000", param, ctx)
        return int(value)


class _Strategy(click.ParamType[AnyStrategy]):
    """The text form of a strategy."""

    name = "strategy"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> AnyStrategy:
        """Parse the strategy."""
        try:
            return parse_strategy(value)
        except InvalidArgumentError as exc:
            self.fail(str(exc), param, ctx)


@click.command(
    cls=config.Program,
    epilog=_EPILOG,
    context_settings={
        "auto_envvar_prefix": "OPSQUEUE_WORKER",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "-P",
    "--pool",
    type=click.Choice(get_args(PoolKind)),
    default=_DEFAULTS.pool,
    help="Where handlers run: process, in child processes; thread, in threads of one child, for "
    "handlers that wait; async, on the event loop of one child, for async def handlers; solo, in "
    "this process, for debugging.",
)
@config.CONCURRENCY()
@click.option(
    "-Q",
    "--queues",
    default="",
    show_default=False,
    metavar="A,B",
    help="Serve only these queues.  [default: every queue that the app has a handler for]",
)
@click.option(
    "--prefetch",
    type=_Prefetch(),
    default="auto",
    help="Number of chunks reserved ahead for each chunk that runs. auto reserves about 100 ms of "
    "work by the durations of each queue's chunks, at most 64, and none if a chunk takes more than "
    "1 s.",
)
@config.REDIS_URL()
@config.STORE_URL(help=f"{config.STORE_URL.help}  [required]")
@click.option(
    "--strategy",
    type=_Strategy(),
    help='Strategy that chooses the next chunk, such as "PreferDistinct(customer, Oldest)".  '
    "[default: the handler's]",
)
@click.option(
    "--max-chunks-per-child",
    type=click.IntRange(1),
    help="Replace a child process after it has run this many chunks.  [default: never]",
)
@click.option(
    "--max-memory-per-child",
    type=_Memory(),
    help="Replace a child process that has used this much memory, such as 512MB.  [default: never]",
)
@click.option(
    "--max-chunk-bytes",
    type=click.IntRange(1_024, MAX_CHUNK_BYTES),
    default=_DEFAULTS.max_chunk_bytes,
    help="Maximum size of a chunk's operations in bytes, before compression. The attempt of a "
    "larger chunk fails.",
)
@click.option(
    "--heartbeat-interval",
    type=click.FloatRange(0.1, 600),
    default=_DEFAULTS.heartbeat_interval_s,
    help="Seconds between two heartbeats.",
)
@config.HEARTBEAT_TIMEOUT(
    type=click.FloatRange(0.5, 3600),
    help="Seconds without a heartbeat after which other workers take this worker for dead.",
)
@click.option(
    "--redis-timeout",
    # Reads wait for 5 s, and their answers take some time.
    type=click.FloatRange(6, 600),
    default=_DEFAULTS.redis_timeout_s,
    help="Seconds without an answer after which a connection to Redis is closed.",
)
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0, 86_400),
    default=_DEFAULTS.shutdown_timeout_s,
    help="Seconds that running chunks have to finish when the worker stops.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65_535),
    help="Serve Prometheus metrics on this port. 0 chooses a free port.  [default: none]",
)
@click.option(
    "--metrics-host",
    default=_DEFAULTS.metrics_host,
    help="Address that the metrics are served on. Use 0.0.0.0 in a container. No token is asked "
    "for.",
)
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option(
    "--reload", is_flag=True, help="Replace the child processes when source files change."
)
@click.option(
    "--check",
    is_flag=True,
    help="Run no chunks, and don't import the app. Exit with 0 if a worker of the app on this host "
    "is alive and its children start, else with 1.",
)
@config.LOG_LEVEL()
@config.LOG_FORMAT()
@config.version_option("opsqueue-worker")
def main(**options: Any) -> None:  # noqa: ANN401 click has checked each
    """Run the handlers of an app.

    MODULE:APP names the app: tasks:app is the variable `app` in tasks.py.
    """
    try:
        # Before anything else: the kernel drops signals to process 1 of a container that it has
        # no handler for.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        code = _run(options)
    except _ToldToStopError:
        code = 0
    sys.exit(code)


config.name_variables(main)


class _ToldToStopError(BaseException):
    """A signal arrived before the worker has installed its own handlers; it holds no chunks yet.

    It is not a SystemExit: an app that raises SystemExit during its import gets its own message.
    """


def _stop(_number: int, _frame: object) -> None:
    raise _ToldToStopError


def _run(options: dict[str, Any]) -> int:
    """Run or check a worker and return the exit code; errors are printed."""
    output = None
    try:
        settings = _settings_of(options)
        if options["check"]:
            return _check(settings)
        check_not_green("opsqueue-worker")
        set_up_logging(settings.log_level, settings.log_format, own_stderr())
        if settings.pool == "solo":
            # Everything runs in this process, and so do breakpoints, which need the terminal.
            app = import_app(settings.app)
        else:
            app = import_app_unchanged(settings.app)
            # It has threads, so it comes after the check of what the app has replaced.
            output = Output()
            log_to(sys.stderr)
        worker = Worker(settings, app, say=config.say, output=output)
        worker.check()
        return worker.run()
    except IncorrectUsageError as exc:
        logging.getLogger("opsqueue.worker").debug("the cause", exc_info=exc.__cause__)
        config.say(f"Error: {exc}")
        return 2
    except NotStartedError as exc:
        config.say(f"Error: {exc}")
        return 2 if exc.is_usage else 1
    except (ConnectionTroubleError, FormatTooNewError) as exc:
        config.say(f"Error: {exc}")
        return 3
    finally:
        if output is not None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            output.close()


def _settings_of(options: dict[str, Any]) -> WorkerSettings:
    if not options["store_url"] and not options["check"]:
        message = (
            "no store: pass --store-url or set OPSQUEUE_STORE_URL, like file:///var/lib/opsqueue; "
            "it must be the store that producers and the API use"
        )
        raise IncorrectUsageError(message)
    if options["heartbeat_timeout"] < 2 * options["heartbeat_interval"]:
        message = (
            f"--heartbeat-timeout {options['heartbeat_timeout']:g} is less than twice "
            f"--heartbeat-interval {options['heartbeat_interval']:g}: a healthy worker would count "
            "as dead when one heartbeat is late"
        )
        raise IncorrectUsageError(message)
    is_solo = options["pool"] == "solo"
    if options["reload"] and is_solo:
        message = "--reload replaces children, and --pool solo has none: leave one of the two out"
        raise IncorrectUsageError(message)
    return WorkerSettings(
        app=options["app"],
        redis_url=options["redis_url"],
        store_url=options["store_url"] or "",
        queues=tuple(name.strip() for name in options["queues"].split(",") if name.strip()),
        strategy=options["strategy"],
        pool=options["pool"],
        concurrency=1 if is_solo else options["concurrency"],
        prefetch=options["prefetch"],
        max_chunks_per_child=options["max_chunks_per_child"],
        max_memory_per_child_bytes=options["max_memory_per_child"],
        max_chunk_bytes=options["max_chunk_bytes"],
        heartbeat_interval_s=options["heartbeat_interval"],
        heartbeat_timeout_s=options["heartbeat_timeout"],
        redis_timeout_s=options["redis_timeout"],
        shutdown_timeout_s=options["shutdown_timeout"],
        metrics_port=options["metrics_port"],
        metrics_host=options["metrics_host"],
        is_burst=options["burst"],
        is_reloading=options["reload"],
        log_level=options["log_level"],
        log_format=options["log_format"],
    )


def _check(settings: WorkerSettings) -> int:
    missing = check_worker(settings)
    if missing is None:
        return 0
    config.say(f"Error: {missing}")
    return 1
