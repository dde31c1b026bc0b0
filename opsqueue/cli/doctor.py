"""`opsqueue doctor`: checks that everything opsqueue needs works, and says what to do if not."""

from __future__ import annotations

from typing import Final

import click
from rich.text import Text

from opsqueue import config
from opsqueue.cli.checks import Level, check_everything
from opsqueue.cli.connections import as_json, with_urls
from opsqueue.cli.group import EXIT_FAILED, EXIT_UNREACHABLE
from opsqueue.cli.orphans import orphans as list_orphans
from opsqueue.cli.tables import console, print_json, text_of
from opsqueue.queue.durability import Durability

_SIGNS: Final = {
    Level.GOOD: ("✓", "green"),
    Level.WARNING: ("!", "yellow"),
    Level.PROBLEM: ("✗", "red"),
    Level.UNREACHABLE: ("✗", "red"),
}
_EPILOG: Final = """
\b
Examples:
  opsqueue doctor
  opsqueue doctor --redis-url redis://redis:6379/0 --store-url s3://bucket/prefix
  opsqueue doctor --orphans                     list uploads that were never submitted
  opsqueue doctor --orphans --older-than 7d --delete
  opsqueue doctor --json | jq -r '.findings[] | select(.level != "good") | .help'

\b
Exit codes: 0 all good or only warnings (!), 1 a problem (✗), 3 something can't be reached
or used.
"""


@click.command(epilog=_EPILOG)
@click.option("--orphans", is_flag=True, help="Only list uploads that belong to no submission.")
@click.option(
    "--older-than",
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="With --orphans: minimum age of the uploads that are listed.",
)
@click.option("--delete", is_flag=True, help="With --orphans: delete them after asking.")
@click.option("-y", "--yes", is_flag=True, help="With --delete: do not ask.")
@config.DURABILITY(
    help="The --durability of the API. It is reported as a problem if the server can't keep it."
)
@as_json
@with_urls
@click.pass_context
def doctor(  # noqa: PLR0913 its options
    context: click.Context,
    *,
    api_url: str | None,
    token: str | None,
    redis_url: str | None,
    store_url: str | None,
    as_json: bool,
    durability: str,
    orphans: bool,
    older_than: str,
    delete: bool,
    yes: bool,
) -> None:
    """Check Redis, the object store, the API and the queues, and say what to do.

    Redis and the API are looked for at their default addresses unless they are given. The check
    writes a small object to the store and deletes it.
    """
    if orphans:
        if store_url is None:
            message = "--orphans looks into the object store: give --store-url"
            raise click.UsageError(message)
        context.invoke(
            list_orphans,
            older_than=older_than,
            delete=delete,
            yes=yes,
            queues=(),
            redis_url=redis_url or config.REDIS_URL.default,
            store_url=store_url,
        )
        return
    if delete or yes:
        message = "--delete and --yes need --orphans"
        raise click.UsageError(message)
    findings = []
    screen = console()
    for finding in check_everything(
        api_url=api_url,
        token=token,
        redis_url=redis_url,
        store_url=store_url,
        durability=Durability(durability),
    ):
        findings.append(finding)
        if not as_json:
            sign, style = _SIGNS[finding.level]
            screen.print(
                Text(f"{sign} ", style=style) + text_of(f"{finding.check}: {finding.text}")
            )
            if finding.help:
                screen.print(text_of(f"  → {finding.help}"))
    if as_json:
        print_json({"findings": findings})
    levels = {finding.level for finding in findings}
    if Level.UNREACHABLE in levels:
        context.exit(EXIT_UNREACHABLE)
    if Level.PROBLEM in levels:
        context.exit(EXIT_FAILED)
