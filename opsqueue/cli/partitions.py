"""`opsqueue partitions`: over how many slots of a cluster a queue's submissions are spread."""

from __future__ import annotations

import click

from opsqueue.cli.connections import with_redis
from opsqueue.cluster import Client
from opsqueue.partitioned import PartitionedQueue

_EPILOG = """
\b
Examples:
  opsqueue partitions show emails
  opsqueue partitions set emails 4
"""


@click.group(epilog=_EPILOG)
def partitions() -> None:
    """Spread a queue that outgrows one Redis over several slots of a cluster.

    Submissions from then on go to any of the partitions; workers and APIs that run serve the new
    ones within some seconds. Strategies and limits hold within a partition: a limit of 10 is 10 in
    each. There can only be more of them, never fewer.
    """


@partitions.command("set")
@click.argument("queue")
@click.argument("number", type=int)
@with_redis
def set_(*, queue: str, number: int, client: Client) -> None:
    """Spread the submissions of QUEUE over NUMBER partitions, 1 to 100."""
    PartitionedQueue(client, queue).set_partitions(number)


@partitions.command()
@click.argument("queue")
@with_redis
def show(*, queue: str, client: Client) -> None:
    """Print how many partitions QUEUE has."""
    click.echo(PartitionedQueue(client, queue).get_partitions()[-1])
