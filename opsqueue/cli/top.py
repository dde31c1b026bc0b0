"""`opsqueue top`: shows queues, submissions and workers live."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from opsqueue.cli.connections import with_api
from opsqueue.cli.durations import short
from opsqueue.cli.names import QueueName, UnknownQueueError
from opsqueue.cli.queues import backlog_of, cut_lists, queues_table, workers_table
from opsqueue.cli.tables import bar, console, fraction, table, text_of
from opsqueue.exceptions import ConnectionTroubleError
from opsqueue.model.answers import Counts, WorkerSeen
from opsqueue.model.checks import counted
from opsqueue.model.rate import Pace
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.producer.backends import Backend

_LOOKED_INTO: Final = 10
"""The number of queues whose submissions and workers are read: those with the largest backlog."""

_SUBMISSIONS: Final = 20
_LEAVE: Final = ("q", "Q")
Pressed = Callable[[float], str]
"""A function that waits for a key for some seconds and returns it, or ''."""

_IN_PROGRESS: Final = SubmissionFilter(state=SubmissionState.IN_PROGRESS)
_EPILOG: Final = """
\b
Examples:
  opsqueue top
  opsqueue top emails --interval 5
  opsqueue top --once                 one frame, for a pipe or a report
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """The data read at one instant."""

    at: datetime
    queues: Mapping[str, Counts]
    submissions: tuple[Submission, ...]
    """Those in progress, the oldest of each queue first."""
    workers: Mapping[str, list[WorkerSeen]]


@dataclass(slots=True)
class Paces:
    """The pace of each submission, measured from frame to frame."""

    _by_id: dict[tuple[str, SubmissionId], Pace] = field(default_factory=dict)

    def add(self, frame: Frame) -> None:
        """Add a frame, and forget submissions that are not in it."""
        now_s = frame.at.timestamp()
        kept = {}
        for one in frame.submissions:
            key = one.queue, one.id
            kept[key] = self._by_id.get(key) or Pace(one.created_at.timestamp(), 0)
            kept[key].add(now_s, one.operations_done)
        self._by_id = kept

    def of(self, submission: Submission) -> Pace:
        """Return the pace of a submission in the last frame."""
        return self._by_id[submission.queue, submission.id]


@click.command(epilog=_EPILOG)
@click.argument("queue", type=QueueName(), required=False)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two frames.",
)
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@with_api
def top(*, api: Backend, queue: str | None, interval: float, once: bool) -> None:
    """Watch the backlog, rate and time left of QUEUE or of all queues.

    Press q to leave.
    """
    paces = Paces()
    frame = read_frame(api, queue)
    paces.add(frame)
    if once:
        console().print(render(frame, paces))
        return
    if not sys.stdout.isatty():
        message = "standard output is not a terminal: --once prints one frame"
        raise click.UsageError(message)
    try:
        _watch(api, queue, interval, frame, paces)
    except KeyboardInterrupt:  # the same as q
        return


def _watch(api: Backend, queue: str | None, interval: float, frame: Frame, paces: Paces) -> None:
    screen = console()
    with _keys() as pressed, Live(console=screen, screen=True, auto_refresh=False) as live:
        error = ""
        while True:
            live.update(render(frame, paces, error=error, height=screen.height), refresh=True)
            if pressed(interval) in _LEAVE:
                return
            try:
                frame = read_frame(api, queue)
            except ConnectionTroubleError as exc:
                # Go on, so that the next frames show when it works again.
                error = f"{exc} (shown is what was {frame.at.astimezone():%H:%M:%S})"
            else:
                error = ""
                paces.add(frame)


@contextmanager
def _keys() -> Iterator[Pressed]:
    """Switch the terminal to unbuffered keys, and restore it afterwards."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield _wait_for_key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _wait_for_key(timeout_s: float) -> str:
    # Not from sys.stdin: select does not see its buffer.
    number = sys.stdin.fileno()
    ready, _, _ = select.select([number], [], [], timeout_s)
    return os.read(number, 1).decode(errors="replace") if ready else ""


def _sleep(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""


def read_frame(api: Backend, queue: str | None) -> Frame:
    """Read everything that a frame shows, with a bounded number of requests.

    Raises:
        UnknownQueueError: there is no queue of that name.
    """
    if queue is None:
        queues = api.queues()
    else:
        queues = {name: counts for name, counts in api.queues().items() if name == queue}
        if not queues:
            raise UnknownQueueError(queue, sorted(api.queues()))
    busiest = sorted(queues, key=lambda name: (-backlog_of(queues[name]), name))[:_LOOKED_INTO]
    submissions: list[Submission] = []
    for name in busiest:
        if queues[name].submissions[SubmissionState.IN_PROGRESS]:
            page = api.queue(name).list_submissions(
                _IN_PROGRESS, order="oldest", limit=_SUBMISSIONS
            )
            submissions += page.submissions
    return Frame(
        at=datetime.now(UTC),
        queues=queues,
        submissions=tuple(submissions),
        workers={
            name: list(api.queue(name).list_workers()) if queues[name].workers else []
            for name in busiest
        },
    )


def render(
    frame: Frame, paces: Paces, *, error: str = "", height: int | None = None
) -> RenderableType:
    """Return a frame as text; with a height, only as many submissions as there is room for."""
    parts: list[RenderableType] = [_title(frame)]
    if error:
        parts.append(text_of(error, "bold red"))
    parts += [Text(""), queues_table(frame.queues), Text("")]
    workers = sum(len(seen) for seen in frame.workers.values())
    room = _SUBMISSIONS
    if height is not None:
        room = max(3, min(room, height - len(frame.queues) - min(workers, 10) - 8))
    if frame.submissions:
        parts += [_submissions_table(frame, paces, room), Text("")]
        hidden = _hidden(frame, room)
        if hidden:
            parts += [Text(f"and {hidden:,} more in progress", style="dim"), Text("")]
    if workers:
        parts.append(workers_table(frame.workers))
        parts += [Text(line, style="dim") for line in cut_lists(frame.workers)]
    return Group(*parts)


def _title(frame: Frame) -> Text:
    rate = sum(counts.operations_per_second for counts in frame.queues.values())
    left = sum(backlog_of(counts) for counts in frame.queues.values())
    return Text(
        f"opsqueue top  {frame.at.astimezone():%H:%M:%S}  {counted(len(frame.queues), 'queue')}, "
        f"{counted(left, 'chunk')} left, {rate:,.1f} operations a second  (q leaves)",
        style="bold",
    )


def _hidden(frame: Frame, room: int) -> int:
    known = sum(c.submissions[SubmissionState.IN_PROGRESS] for c in frame.queues.values())
    return max(0, known - min(room, len(frame.submissions)))


def _submissions_table(frame: Frame, paces: Paces, room: int) -> Table:
    numbers = ("chunks", "reserved", "operations/s", "left")
    rows = table("submission", "queue", "progress", *numbers, right=numbers)
    for one in frame.submissions[:room]:
        pace = paces.of(one)
        left_s = pace.left_s(one.operations_total - one.operations_done)
        rows.add_row(
            str(one.id),
            one.queue,
            bar(one),
            fraction(one.chunks_done, one.chunks_total),
            f"{one.chunks_in_hand:,}",
            f"{pace.per_second:,.1f}",
            "" if left_s is None else short(left_s),
        )
    return rows
