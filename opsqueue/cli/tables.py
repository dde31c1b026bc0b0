"""What people read on a terminal or in a pipe: consoles, tables, JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from opsqueue.cli.durations import short
from opsqueue.http.json_form import encode
from opsqueue.model.checks import printable, printable_json
from opsqueue.model.names import meta_key_text
from opsqueue.model.submission import Submission, SubmissionState

_PIPE_WIDTH: Final = 1_000
"""In a pipe nothing is cut off: whoever reads it splits lines."""

STYLES: Final = {
    SubmissionState.IN_PROGRESS: "cyan",
    SubmissionState.COMPLETED: "green",
    SubmissionState.FAILED: "red",
    SubmissionState.CANCELLED: "yellow",
}


def console(*, stderr: bool = False) -> Console:
    """Make a console of one of the streams."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


class _Table(Table):
    """A table whose cells can't act on the terminal, whoever wrote them."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:  # noqa: ANN401 rich's
        """Add a row; texts are escaped."""
        escaped = [
            printable(cell, is_line=True) if isinstance(cell, str) else cell for cell in cells
        ]
        super().add_row(*escaped, **options)


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """Make a table without lines, so that pipes can read it, too; see `_Table`."""
    made = _Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return made


def print_json(body: Any) -> None:  # noqa: ANN401 whatever has a JSON form
    """Print one JSON document."""
    click.echo(printable_json(msgspec.json.format(encode(body), indent=2).decode()))


def say(line: str) -> None:
    """Tell people, not scripts."""
    click.echo(printable(line), err=True)


def tell(line: str) -> None:
    """Print a line of an answer on standard output."""
    click.echo(printable(line))


def text_of(text: str, style: str = "") -> Text:
    """Return a text that others may have written, to be drawn."""
    return Text(printable(text), style=style)


def state_text(state: SubmissionState) -> Text:
    """Give a state in its colour."""
    return Text(state.value.replace("_", " "), style=STYLES[state])


def fraction(done: int, total: int) -> str:
    """Give `3 of 7`."""
    return f"{done:,} of {total:,}"


def bar(submission: Submission, width: int = 20) -> ProgressBar:
    """Draw how many chunks are done."""
    total = max(1, submission.chunks_total)
    done = submission.chunks_done if submission.chunks_total else 1
    return ProgressBar(total=total, completed=done, width=width)


def age(at: datetime, now: datetime | None = None) -> str:
    """Give how long ago an instant was."""
    return short(max(0.0, ((now or datetime.now(UTC)) - at).total_seconds()))


def pairs_text(pairs: Mapping[str, int]) -> str:
    """Give strategic metadata as it is given, `key=7 other=8`."""
    return " ".join(f"{meta_key_text(key)}={value}" for key, value in sorted(pairs.items()))
