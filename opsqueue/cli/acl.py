"""`opsqueue acl`: prints the line of an ACL file for a Redis user with minimal rights."""

from __future__ import annotations

from typing import get_args

import click

from opsqueue import config
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue.acl import FSYNC_EXPOSES, Role, user_line
from opsqueue.queue.durability import Durability

_EPILOG = """
\b
Examples:
  opsqueue acl api >> users.acl       for opsqueue-api, producers and commands on Redis itself
  opsqueue acl worker --user crawler  for opsqueue-worker and consumers on Redis itself
  opsqueue acl api --durability fsync for an API with --durability fsync: may read all settings

The line is one of an ACL file (redis.conf: aclfile). To try it: ACL SETUSER in place of `user`.
"""


@click.command(epilog=_EPILOG)
@click.argument("role", type=click.Choice(get_args(Role)))
@click.option("--user", help="Name of the user.  [default: opsqueue-ROLE]")
@config.DURABILITY(
    envvar=None,  # not the API's variable: it must not give a worker's user more rights
    help="The --durability of the API. Only fsync needs more rights: the user may then read all "
    "settings of the server, its passwords included.",
)
def acl(*, role: Role, user: str | None, durability: str) -> None:
    """Print the line of an ACL file that defines a Redis user for ROLE.

    Replace CHANGE-ME by a password.
    """
    chosen = Durability(durability)
    name = f"opsqueue-{role}" if user is None else user
    try:
        line = user_line(role, name=name, password="CHANGE-ME", durability=chosen)  # noqa: S106 to be replaced
    except InvalidArgumentError as exc:
        raise click.UsageError(str(exc)) from exc
    if chosen is Durability.FSYNC:
        # On stderr, not into the file: an ACL file can't have comments.
        click.echo(f"# {FSYNC_EXPOSES}", err=True)
    click.echo(line)
