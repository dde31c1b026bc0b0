"""Progress on stderr: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from opsqueue.cli.durations import short
from opsqueue.cli.names import near_names
from opsqueue.cli.tables import console, fraction, say
from opsqueue.model.rate import Pace
from opsqueue.model.submission import Submission, SubmissionState
from opsqueue.producer.backends import Backend

LINE_EVERY_S: Final = 10.0
_POLL_S: Final = 1.0
_WARN_AFTER_S: Final = 5.0
"""The wait after which a warning is printed if the queue has no worker."""

_LOOK_EVERY_S: Final = 0.1
"""The time between two looks at the position in a file."""


class Display:
    """A bar followed by a text on a terminal; otherwise only the text, line by line.

    Args:
        title: shown in front.
    """

    def __init__(self, title: str) -> None:
        """Show nothing yet."""
        self._title = title
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
                console=console(stderr=True),
                transient=True,
            )
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            self._progress.add_task(self._title, total=None, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int, total: int | None, text: str) -> None:
        """Show the progress; None: the total is not known."""
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=done, total=total, text=text)
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            say(f"{self._title}: {text}")


@contextmanager
def reading(stream: BinaryIO, operations: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Yield operations, and show how much of their file is read and stored meanwhile."""
    total_bytes = _size_of(stream)
    with Display("storing") as display:
        yield _counted(stream, operations, total_bytes, display)


def _counted(
    stream: BinaryIO, operations: Iterable[Any], total_bytes: int | None, display: Display
) -> Iterator[Any]:
    began = shown_at = time.monotonic()
    pace = Pace(began, 0)
    read = 0
    for count, operation in enumerate(operations, start=1):
        yield operation
        now = time.monotonic()
        if now - shown_at < _LOOK_EVERY_S:
            continue
        shown_at = now
        pace.add(now, count)
        text = f"{count:,} operations, {pace.per_second:,.0f} a second"
        if total_bytes:
            # Estimated by the share of bytes, since the number of lines is not known.
            read = min(total_bytes, stream.tell())
            left_s = (now - began) / read * (total_bytes - read) if read else None
            text += _left(left_s)
        display.show(read, total_bytes, text)


def _size_of(stream: BinaryIO) -> int | None:
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # not a file, such as standard input in tests
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def follow(api: Backend, submission: Submission) -> Submission:
    """Show a submission's progress until it has ended, and return it; survives API restarts.

    Raises:
        SubmissionNotFoundError: it was cleaned up meanwhile.
        KeyboardInterrupt: after a message that the submission goes on.
    """
    began = time.monotonic()
    pace = Pace(began, submission.operations_done)
    is_warned = False
    try:
        with Display(str(submission.id)) as display:
            while submission.state is SubmissionState.IN_PROGRESS:
                asked_at = time.monotonic()
                submission = api.queue(submission.queue).wait_for_end(submission.id, wait_s=_POLL_S)
                now = time.monotonic()
                pace.add(now, submission.operations_done)
                display.show(
                    submission.chunks_done,
                    submission.chunks_total,
                    _progress_text(submission, pace),
                )
                if not is_warned and now - began > _WARN_AFTER_S:
                    is_warned = True
                    warn_if_nobody_works(api, submission)
                if submission.state is SubmissionState.IN_PROGRESS:
                    # The API answers early if it has no room for waits, or is stopping: don't spin.
                    time.sleep(max(0.0, _POLL_S / 2 - (now - asked_at)))
    except KeyboardInterrupt:
        name = f"{submission.id} -q {submission.queue}"
        say(
            f"submission {submission.id} goes on:\n"
            f"  opsqueue show {name} --wait       follows it again\n"
            f"  opsqueue results {name} --wait    prints its results\n"
            f"  opsqueue cancel {name}            cancels it"
        )
        raise
    return submission


def warn_if_nobody_works(api: Backend, submission: Submission) -> None:
    """Print why nothing happens if the queue is paused or has no worker."""
    queue = submission.queue
    if submission.state is not SubmissionState.IN_PROGRESS:
        return
    counts = api.queue(queue).count_queue()
    if counts.is_paused:
        say(f"queue {queue} is paused: `opsqueue resume {queue}` resumes it")
    elif counts.workers == 0:
        near = near_names(api, queue)
        hint = f"did you mean {' or '.join(near)}?" if near else "is opsqueue-worker running?"
        say(f"no worker serves queue {queue}: {hint}")


def _progress_text(submission: Submission, pace: Pace) -> str:
    left = submission.operations_total - submission.operations_done
    return (
        f"{fraction(submission.chunks_done, submission.chunks_total)} chunks, "
        f"{pace.per_second:,.1f} operations a second{_left(pace.left_s(left))}"
    )


def _left(left_s: float | None) -> str:
    return "" if left_s is None else f", {short(left_s)} left"


def ended_text(submission: Submission) -> str:
    """Return the sentence that reports a submission's end."""
    text = f"submission {submission.id} {submission.state.value.replace('_', ' ')}"
    if submission.ended_at is not None:
        took_s = (submission.ended_at - submission.created_at).total_seconds()
        text += f" after {short(took_s)}"
    text += f": {fraction(submission.operations_done, submission.operations_total)} operations"
    if submission.operations_failed:
        text += f", {submission.operations_failed:,} of them with an error"
    return text
