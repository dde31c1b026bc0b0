"""The group of all commands: sections in its help, and errors as a line and an exit code.

Errors of opsqueue end every command here, so that no command has to handle them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from opsqueue.config import standard_streams
from opsqueue.exceptions import (
    ConnectionTroubleError,
    IncorrectUsageError,
    OpsqueueError,
    SubmissionNotCompletedYetError,
)
from opsqueue.model.checks import printable

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
_MAX_SENTENCE: Final = 300


def exit_code_of(error: OpsqueueError) -> int:
    """Return the exit code for an error."""
    match error:
        case SubmissionNotCompletedYetError():
            # The call was right, and its answer will differ later.
            return EXIT_FAILED
        case IncorrectUsageError():
            return EXIT_USAGE
        case ConnectionTroubleError():
            return EXIT_UNREACHABLE
        case _:
            return EXIT_FAILED


class HelpGroup(click.Group):
    """A group whose help shows the first sentence of each command; click would cut it off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of all commands."""
        self.write_table(ctx, formatter, "Commands", self.list_commands(ctx))

    def write_table(
        self, ctx: click.Context, formatter: click.HelpFormatter, title: str, names: Sequence[str]
    ) -> None:
        """Write a table of some commands, whose column of names is as wide as for all of them."""
        width = max(len(name) for name in self.list_commands(ctx))
        with formatter.section(title):
            formatter.write_dl([(f"{name:{width}}", self._help_of(ctx, name)) for name in names])

    def _help_of(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(_MAX_SENTENCE) if command else ""


class Commands(HelpGroup):
    """A group with its commands in sections.

    Args:
        sections: the commands of each section, in their order, by its title.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 click's own
        sections: Mapping[str, Sequence[click.Command]],
        **attributes: Any,  # noqa: ANN401 click's own
    ) -> None:
        """Add the commands of all sections."""
        super().__init__(*args, **attributes)
        self._sections = {
            title: [command.name or "" for command in commands]
            for title, commands in sections.items()
        }
        for commands in sections.values():
            for command in commands:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections."""
        _ = ctx
        return [name for names in self._sections.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table for each section."""
        for title, names in self._sections.items():
            self.write_table(ctx, formatter, title, names)

    def make_context(self, *args: Any, **attributes: Any) -> click.Context:  # noqa: ANN401 click's own
        """Parse the command line, which prints --help and --version."""
        with standard_streams():
            return super().make_context(*args, **attributes)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 what a command returns
        """Run a command; its errors become a line on stderr and an exit code."""
        try:
            with standard_streams():
                return super().invoke(ctx)
        except OpsqueueError as exc:
            click.echo(printable(f"Error: {exc}"), err=True)
            ctx.exit(exit_code_of(exc))
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
