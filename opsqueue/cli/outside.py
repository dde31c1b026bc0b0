"""What commands on Redis and the object store share: options, and errors as exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from opsqueue.connection import connect
from opsqueue.exceptions import ConnectionTroubleError, IncorrectUsageError
from opsqueue.queue import Queue

redis_url_option = click.option(
    "--redis-url",
    envvar="OPSQUEUE_REDIS_URL",
    show_envvar=True,
    default="redis://127.0.0.1:6379/0",
    show_default=True,
    help="Where the queues are.",
)
store_url_option = click.option(
    "--store-url",
    envvar="OPSQUEUE_STORE_URL",
    show_envvar=True,
    required=True,
    help="file:///folder, s3://bucket/prefix or gs://bucket/prefix, as workers have.",
)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into a line and an exit code: 2 for wrong usage, 3 for no answer."""
    try:
        yield
    except IncorrectUsageError as exc:
        click.echo(f"Error: {exc}", err=True)
        sys.exit(2)
    except ConnectionTroubleError as exc:
        click.echo(f"Error: {exc}", err=True)
        sys.exit(3)


@contextmanager
def opened_queue(name: str, redis_url: str) -> Iterator[Queue]:
    """Give a queue; errors become a line and an exit code."""
    with exit_codes():
        client = connect(redis_url)
        try:
            yield Queue(client, name)
        finally:
            client.close()
