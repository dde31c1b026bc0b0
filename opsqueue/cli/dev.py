"""`opsqueue dev`: runs the whole system for one app in one terminal."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from opsqueue import config
from opsqueue.cli.local_stack import LocalStack
from opsqueue.cli.tables import text_of
from opsqueue.exceptions import OpsqueueError
from opsqueue.handlers.app import load_app

_COLOURS = {"worker": "cyan", "api": "magenta", "dev": "green"}


@click.command(
    epilog="""
\b
Examples:
  opsqueue dev tasks:app
  opsqueue dev tasks:app --port 4000 -c 4 --folder /tmp/opsqueue
"""
)
@click.argument("app", metavar="MODULE:APP")
@config.PORT()
@config.CONCURRENCY()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".opsqueue"),
    show_default=True,
    help="Folder that keeps the data between runs.",
)
def dev(*, app: str, port: int, concurrency: int, folder: Path) -> None:
    """Run server, API and workers for the app MODULE:APP in this terminal, until Ctrl-C."""
    console = Console(stderr=True, highlight=False)

    def say(part: str, line: str) -> None:
        console.print(Text(f"{part:>6} | ", style=_COLOURS[part]) + Text(line), soft_wrap=True)

    is_stopping = threading.Event()
    try:
        queues = sorted(load_app(app).handlers)
        stack = LocalStack(folder, app, api_port=port, concurrency=concurrency, say=say)

        def stop(*_: object) -> None:
            if is_stopping.is_set():
                stack.hurry()
            is_stopping.set()

        # A handler, not KeyboardInterrupt, so that the parts are always stopped one by one.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        with stack:
            say("dev", f"data in {folder.resolve()}")
            say("dev", "for other terminals:")
            say("dev", f"  export OPSQUEUE_REDIS_URL={stack.redis_url}")
            say("dev", f"  export OPSQUEUE_STORE_URL={stack.store_url}")
            say("dev", "try it:")
            say(
                "dev",
                f"  curl {stack.api_url}/v1/queues/{queues[0]}/submissions "
                """--json '{"operations": [1, 2, 3], "chunk_size": 2}'""",
            )
            say("dev", "Ctrl-C ends it")
            while not is_stopping.wait(0.2):
                stack.check()
            say("dev", "stopping; press Ctrl-C again not to wait for running chunks")
    except OpsqueueError as exc:
        console.print(text_of(f"Error: {exc}", "red"))
        sys.exit(2 if isinstance(exc, TypeError) else 1)
    say("dev", "stopped")
