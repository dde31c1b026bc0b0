"""`opsqueue doctor`: whether everything that opsqueue needs is there, and what to do if not."""

from __future__ import annotations

from typing import Final

import click
from rich.text import Text

from opsqueue.cli.checks import Level, check_everything
from opsqueue.cli.connections import as_json, with_urls
from opsqueue.cli.group import EXIT_FAILED, EXIT_UNREACHABLE
from opsqueue.cli.tables import console, print_json

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
  opsqueue doctor --json | jq -r '.findings[] | select(.level != "good") | .help'

\b
Exit codes: 0 all good or only warnings (!), 1 a problem (✗), 3 something can't be reached
or used.
"""


@click.command(epilog=_EPILOG)
@as_json
@with_urls
@click.pass_context
def doctor(
    context: click.Context,
    *,
    api_url: str | None,
    token: str | None,
    redis_url: str | None,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Check Redis, the object store, the API and the queues, and say what to do.

    What is not given is looked for at its default address. Writes and deletes a small object.
    """
    findings = []
    screen = console()
    for finding in check_everything(
        api_url=api_url, token=token, redis_url=redis_url, store_url=store_url
    ):
        findings.append(finding)
        if not as_json:
            sign, style = _SIGNS[finding.level]
            screen.print(Text(f"{sign} ", style=style) + Text(f"{finding.check}: {finding.text}"))
            if finding.help:
                screen.print(Text(f"  → {finding.help}"))
    if as_json:
        print_json({"findings": findings})
    levels = {finding.level for finding in findings}
    if Level.UNREACHABLE in levels:
        context.exit(EXIT_UNREACHABLE)
    if Level.PROBLEM in levels:
        context.exit(EXIT_FAILED)
