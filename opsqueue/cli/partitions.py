"""`opsqueue partitions`: spreads a queue's submissions over several slots of a cluster."""

from __future__ import annotations

import click

from opsqueue.cli.connections import with_redis
from opsqueue.cli.group import HelpGroup
from opsqueue.cli.names import UnknownQueueError, new_option
from opsqueue.cli.tables import console, say, table, tell
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.checks import counted
from opsqueue.model.names import meta_key_text, parse_meta_key
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import ask_slot_map, queue_names
from opsqueue.queue.spread import crowding, places_of

_EPILOG = """
\b
Examples:
  opsqueue partitions show emails
  opsqueue partitions set emails 4
  opsqueue partitions set emails 4 --by customer
"""


@click.group(cls=HelpGroup, epilog=_EPILOG)
def partitions() -> None:
    """Spread a queue that outgrows one Redis over several slots of a cluster.

    New submissions go to any of the partitions. Each new partition is placed on a master with the
    fewest of them. Running workers and APIs serve new partitions within some seconds. Strategies
    and limits hold within a partition: a limit of 10 is 10 in each. The number of partitions can
    only grow.
    """


@partitions.command("set")
@click.argument("queue")
@click.argument("number", type=int)
@click.option(
    "--by",
    metavar="KEY",
    help="From now on, submissions with the same value of this strategic metadata, such as "
    "customer, go to the same partition.",
)
@new_option
@with_redis
def set_(*, queue: str, number: int, by: str | None, is_new: bool, client: Client) -> None:
    """Spread the submissions of QUEUE over NUMBER partitions, 1 to 100.

    The number can only grow. On a cluster, and with --by, this raises the queue's format to 3:
    upgrade all programs first.
    """
    names = queue_names(client)
    if queue not in names and not is_new:
        hint = "give --new if the name is right, since this can't be undone"
        message = f"{UnknownQueueError(queue, names)}; {hint}"
        raise InvalidArgumentError(message)
    Queue(client, queue).set_partitions(number, by="" if by is None else parse_meta_key(by))
    say(f"queue {queue} has {counted(number, 'partition')}")


@partitions.command()
@click.argument("queue")
@with_redis
def show(*, queue: str, client: Client) -> None:
    """Print how many partitions QUEUE has, and on a cluster where they are.

    A warning is printed if several share a master, and another master has fewer.
    """
    found, masters = Queue(client, queue).get_partitions(), ask_slot_map(client)
    number = found.numbers[-1]
    click.echo(number)
    if found.by:
        tell(f"by {meta_key_text(found.by)}")
    if not masters:
        return
    places = places_of(queue, found.tags, number, masters)
    shown = table("PARTITION", "MASTER", "SLOT", right=("SLOT",))
    for place in places:
        shown.add_row(place.partition, place.master or "-", str(place.slot))
    console().print(shown)
    if warning := crowding(places, masters):
        say(f"warning: {warning}")
