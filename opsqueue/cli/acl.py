"""`opsqueue acl`: a ready line for Redis that makes a user with no more rights than are needed."""

from __future__ import annotations

from typing import get_args

import click

from opsqueue.acl import Role, user_line

_EPILOG = """
\b
Examples:
  opsqueue acl api >> users.acl       for opsqueue-api, producers and commands on Redis itself
  opsqueue acl worker --user crawler  for opsqueue-worker and consumers on Redis itself

The line is one of an ACL file (redis.conf: aclfile). To try it: ACL SETUSER in place of `user`.
"""


@click.command(epilog=_EPILOG)
@click.argument("role", type=click.Choice(get_args(Role)))
@click.option("--user", help="Its name.  [default: opsqueue-ROLE]")
def acl(*, role: Role, user: str | None) -> None:
    """Print the line that makes a Redis user for ROLE; put a password in the place of CHANGE-ME."""
    click.echo(user_line(role, name=user or f"opsqueue-{role}", password="CHANGE-ME"))  # noqa: S106 to be replaced
