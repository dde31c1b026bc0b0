"""The `opsqueue-worker` command: reads options and environment, runs a worker, gives exit codes."""

from __future__ import annotations

import logging
import os
import sys

import click

from opsqueue import __version__
from opsqueue.app import load_app
from opsqueue.exceptions import ConnectionTroubleError, IncorrectUsageError
from opsqueue_worker.logs import set_up_logging
from opsqueue_worker.settings import WorkerSettings
from opsqueue_worker.worker import Worker

_EPILOG = """
\b
Examples:
  opsqueue-worker tasks:app
  opsqueue-worker tasks:app -c 8 -Q images,emails
  opsqueue-worker tasks:app --redis-url redis://cache:6379/0 --store-url s3://bucket/opsqueue

\b
Signals: TERM or Ctrl-C finishes the chunks in hand; a second one gives them back at once.
Exit codes: 0 ended as told, 1 unexpected, 2 usage or app, 3 Redis or store not reachable.
"""


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command(epilog=_EPILOG, context_settings={"auto_envvar_prefix": "OPSQUEUE_WORKER"})
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 1024),
    default=os.cpu_count() or 1,
    show_default="cores",
    help="Child processes; each runs one chunk at a time.",
)
@click.option(
    "-Q",
    "--queues",
    default="",
    metavar="A,B",
    help="Queues to serve. [default: every queue that the app has a handler for]",
)
@click.option(
    "--prefetch",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Chunks that a child fetches ahead while it runs one.",
)
@click.option(
    "--redis-url",
    envvar="OPSQUEUE_REDIS_URL",
    show_envvar=True,
    default="redis://127.0.0.1:6379/0",
    show_default=True,
    help="Where the queues are.",
)
@click.option(
    "--store-url",
    envvar="OPSQUEUE_STORE_URL",
    show_envvar=True,
    required=True,
    help="Where the chunks are: file:///path, s3://bucket/prefix, gs://bucket/prefix.",
)
@click.option(
    "--heartbeat-interval",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    show_default=True,
    help="Seconds between signs of life.",
)
@click.option(
    "--heartbeat-timeout",
    type=click.FloatRange(0.5, 3600),
    default=30.0,
    show_default=True,
    help="Seconds without one after which a worker counts as dead.",
)
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds that chunks in hand have at the end.",
)
@click.option(
    "-l",
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
)
@click.version_option(__version__, message="opsqueue-worker %(version)s")
def main(  # noqa: PLR0913 an option each
    *,
    app: str,
    concurrency: int,
    queues: str,
    prefetch: int,
    redis_url: str,
    store_url: str,
    heartbeat_interval: float,
    heartbeat_timeout: float,
    shutdown_timeout: float,
    log_level: str,
) -> None:
    """Run the handlers of an app: MODULE:APP names it, like tasks:app for `app = …` in tasks.py."""
    set_up_logging(log_level)
    settings = WorkerSettings(
        app=app,
        redis_url=redis_url,
        store_url=store_url,
        queues=tuple(name.strip() for name in queues.split(",") if name.strip()),
        concurrency=concurrency,
        prefetch=prefetch,
        heartbeat_interval_s=heartbeat_interval,
        heartbeat_timeout_s=heartbeat_timeout,
        shutdown_timeout_s=shutdown_timeout,
        log_level=log_level,
    )
    try:
        worker = Worker(settings, load_app(app), say=_say)
        worker.check()
    except IncorrectUsageError as exc:
        if exc.__cause__ is not None:
            logging.getLogger("opsqueue.worker").debug("the cause", exc_info=exc.__cause__)
        _say(f"Error: {exc}")
        sys.exit(2)
    except ConnectionTroubleError as exc:
        _say(f"Error: {exc}")
        sys.exit(3)
    sys.exit(worker.run())
