"""The `opsqueue` command: a group, and a module for each of its commands."""

from __future__ import annotations

import click

from opsqueue import __version__
from opsqueue.cli.demo import demo
from opsqueue.cli.dev import dev
from opsqueue.cli.limits import limits
from opsqueue.cli.orphans import orphans
from opsqueue.cli.retention import retention

_EPILOG = """
\b
Examples:
  opsqueue demo                    a real batch on this machine, in under a minute
  opsqueue dev tasks:app           server, API and workers for your app, until Ctrl-C
  opsqueue limits set emails api --max 10
  opsqueue retention set emails 7d
  opsqueue orphans                 uploads that were never handed in

\b
The other programs: opsqueue-worker runs an app's handlers, opsqueue-api serves the HTTP API.
"""


@click.group(
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "OPSQUEUE", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="opsqueue %(version)s")
def main() -> None:
    """Work with opsqueue: a distributed parallel map for heavy loads."""


main.add_command(demo)
main.add_command(dev)
main.add_command(limits)
main.add_command(orphans)
main.add_command(retention)
