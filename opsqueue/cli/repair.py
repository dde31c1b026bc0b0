"""`opsqueue repair`: finds chunks that nobody holds and nobody can reserve, and frees them."""

from __future__ import annotations

import secrets
import sys
import time
from typing import Final

import click

from opsqueue.cli.connections import with_redis
from opsqueue.cli.names import UnknownQueueError, queue_argument
from opsqueue.cli.tables import say, tell
from opsqueue.model.answers import RepairStep
from opsqueue.model.checks import counted
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names
from opsqueue.queue.sweeper import repair_steps

_EPILOG = """
\b
Example:
  opsqueue repair emails
"""
_LOOK_AGAIN_S: Final = 0.5
_LINE_EVERY_S: Final = 5.0


@click.command("repair", epilog=_EPILOG)
@queue_argument
@with_redis
def repair_(*, queue: str, client: Client) -> None:
    """Free chunks of QUEUE whose reservations were removed from Redis.

    Workers and the API begin a repair by themselves when they notice such a loss. Use the command
    for a loss that nobody can notice: an entry of the reservations stream was removed and
    acknowledged, or the stream and its group were created again by hand. Chunks that a worker holds
    stay with it. The repair runs beside other work, takes about a seventh of the server's time, and
    may be repeated. If it is interrupted, workers and the API finish it.

    Exit codes: 0 done, 2 the command line is wrong, 3 no answer, 130 Ctrl-C.
    """
    names = queue_names(client)
    if queue not in names:
        raise UnknownQueueError(queue, names)
    parts = Queue(client, queue).parts_now()
    freed = 0
    for number, part in enumerate(parts):
        label = f"partition {number} of {len(parts)}: " if len(parts) > 1 else ""
        last = _repair(part, label)
        freed += last.freed
        tell(label + _described(last))
    tell(f"queue {queue}: {counted(freed, 'chunk')} freed")


def _repair(part: Queue, label: str) -> RepairStep:
    """Repair one partition completely; return its last step, which has the totals."""
    last, is_begun = RepairStep(), False
    sweeper = f"opsqueue-repair-{secrets.token_hex(8)}"
    progress = _Progress(label)
    while last.next_from is not None:
        is_busy = False
        steps = repair_steps(part, sweeper, begin=not is_begun, pause=time.sleep)
        is_begun = True
        for step in steps:
            is_busy = step.is_busy
            if not is_busy:
                last = step
                progress.show(step)
        if last.next_from is not None and not is_busy:
            # Another program took the repair over and finished it.
            break
        if is_busy:
            # Another sweeper has its turn. Its lock in Redis expires without a notification.
            time.sleep(_LOOK_AGAIN_S)
    progress.end()
    return last


class _Progress:
    """A line that is overwritten on a terminal; in a file, a line every few seconds."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_terminal = sys.stderr.isatty()
        self._said_at = time.monotonic()

    def show(self, step: RepairStep) -> None:
        now = time.monotonic()
        if now - self._said_at < (0.1 if self._is_terminal else _LINE_EVERY_S):
            return
        self._said_at = now
        if self._is_terminal:
            click.echo(f"\r{self._label}{_described(step)}\x1b[K", nl=False, err=True)
        else:
            say(self._label + _described(step))

    def end(self) -> None:
        if self._is_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)


def _described(step: RepairStep) -> str:
    return (
        f"looked at {counted(step.entries, 'reservation')} and {counted(step.chunks_seen, 'chunk')}"
        f" of {counted(step.submissions, 'submission')}; "
        f"{counted(step.lost, 'reservation')} lost, {counted(step.freed, 'chunk')} freed"
    )
