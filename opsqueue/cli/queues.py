"""`opsqueue queues`, `workers`, `pause`, `resume`: lists, and stopping and resuming queues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import click
from click.core import ParameterSource
from rich.table import Table
from rich.text import Text

from opsqueue.cli.connections import as_json, with_api, with_redis
from opsqueue.cli.durations import short
from opsqueue.cli.group import HelpGroup
from opsqueue.cli.names import (
    QueueName,
    UnknownQueueError,
    check_is_known,
    new_option,
    queue_argument,
)
from opsqueue.cli.tables import age, console, print_json, say, table
from opsqueue.http.bodies import QueuesBody, WorkersBody
from opsqueue.model.answers import MAX_WORKERS, Counts, WorkerSeen
from opsqueue.model.checks import counted
from opsqueue.model.submission import SubmissionState
from opsqueue.producer.backends import Backend
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names

_SILENT_MS: Final = 15_000
"""A worker sends a heartbeat every few seconds; a longer silence is shown in red."""

_EPILOG: Final = """
\b
Examples:
  opsqueue queues
  opsqueue queues delete old
  opsqueue queues --json | jq -r '.queues[] | select(.workers == 0) | .queue'
"""


@click.group(cls=HelpGroup, epilog=_EPILOG, invoke_without_command=True)
@as_json
@with_api
def queues(*, api: Backend, as_json: bool) -> None:
    """Show all queues with their backlog, rate and workers."""
    context = click.get_current_context()
    if (subcommand := context.invoked_subcommand) is not None:
        # Options of the group would be ignored: the subcommand has its own.
        for option in context.command.params:
            if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
                message = f"{option.opts[0]} must follow {subcommand}"
                raise click.UsageError(message)
        return
    found = api.queues()
    if as_json:
        print_json(QueuesBody(queues=[found[name] for name in sorted(found)]))
        return
    console().print(queues_table(found))
    if not found:
        say("there are no queues yet: a queue begins with its first submission or worker")


@queues.command()
@queue_argument
@with_redis
def delete(*, client: Client, queue: str) -> None:
    """Delete QUEUE: its name, settings and totals.

    This is refused while the queue has a submission, objects to be deleted or a live worker.
    """
    if queue not in (names := queue_names(client)):
        raise UnknownQueueError(queue, names)
    Queue(client, queue).delete_queue()
    say(f"queue {queue} is deleted")


def queues_table(found: Mapping[str, Counts]) -> Table:
    """Return a table of queues, those with work first."""
    numbers = ("submissions", "chunks left", "reserved", "delayed", "operations/s", "workers")
    rows = table("queue", *numbers, "", right=numbers)
    for name in sorted(found, key=lambda name: (not backlog_of(found[name]), name)):
        counts = found[name]
        rows.add_row(
            name,
            f"{counts.submissions[SubmissionState.IN_PROGRESS]:,}",
            f"{backlog_of(counts):,}",
            f"{counts.chunks_in_hand:,}",
            f"{counts.chunks_delayed:,}",
            f"{counts.operations_per_second:,.1f}",
            f"{counts.workers:,}",
            _remark(counts),
        )
    return rows


def backlog_of(counts: Counts) -> int:
    """Return the number of chunks of submissions in progress that are not done."""
    return max(0, counts.stats.get("backlog_chunks", 0))


def _remark(counts: Counts) -> Text:
    if counts.is_paused:
        return Text("paused", style="yellow")
    if counts.workers == 0 and counts.submissions[SubmissionState.IN_PROGRESS]:
        return Text("no worker", style="red")
    return Text("")


@click.command()
@click.argument("queue", type=QueueName(), required=False)
@as_json
@with_api
def workers(*, api: Backend, queue: str | None, as_json: bool) -> None:
    """Show the workers of QUEUE or of all queues, with the chunks that they hold."""
    if queue is None:
        found = {name: list(api.queue(name).list_workers()) for name in api.queues()}
    else:
        check_is_known(api, queue)
        found = {queue: list(api.queue(queue).list_workers())}
    if as_json:
        print_json({"queues": {name: WorkersBody.of(seen) for name, seen in sorted(found.items())}})
        return
    console().print(workers_table(found))
    for line in cut_lists(found):
        say(line)
    problems = {
        worker.name: problem
        for _, worker in _by_queue(found)
        if (problem := worker.info.get("problem"))
    }
    for name, problem in problems.items():
        say(f"worker {name}: {problem}")
    if not any(found.values()):
        say(f"no worker{f' serves {queue}' if queue else ''}: is opsqueue-worker running?")


def cut_lists(found: Mapping[str, list[WorkerSeen]]) -> list[str]:
    """Return a line for each queue that may have more workers than a list has."""
    return [
        f"queue {queue}: only the {MAX_WORKERS:,} workers that were seen last are listed"
        for queue, workers in sorted(found.items())
        if len(workers) >= MAX_WORKERS
    ]


def workers_table(found: Mapping[str, list[WorkerSeen]]) -> Table:
    """Return a table of workers, by queue."""
    rows = table(
        *("worker", "queue", "reserved", "oldest", "host", "pid", "pool", "slots", "version", "up"),
        *("last seen", "children"),
        right=("reserved", "oldest", "pid", "slots"),
    )
    for queue, worker in _by_queue(found):
        info = worker.info
        silent = Text(f"{short(worker.seen_ms_ago / 1000)} ago")
        if worker.seen_ms_ago > _SILENT_MS:
            silent.stylize("red")
        rows.add_row(
            worker.name,
            queue,
            f"{worker.chunks_in_hand:,}",
            "" if worker.oldest_ms is None else short(worker.oldest_ms / 1000),
            *(str(info.get(key, "")) for key in ("host", "pid", "pool", "concurrency", "version")),
            _up(info.get("started_at")),
            silent,
            _children(info),
        )
    return rows


def _children(info: Mapping[str, object]) -> Text:
    """Return how many of a worker's children are ready; consumers report none."""
    if "children_ready" not in info:
        return Text("")
    ready = f"{info['children_ready']} of {info.get('children_wanted')}"
    return Text(ready, style="red" if info.get("problem") else "")


def _by_queue(found: Mapping[str, list[WorkerSeen]]) -> Iterator[tuple[str, WorkerSeen]]:
    for queue in sorted(found):
        for worker in sorted(found[queue], key=lambda worker: worker.name):
            yield queue, worker


def _up(started_at_ms: object) -> str:
    if not isinstance(started_at_ms, int):
        return ""
    return age(datetime.fromtimestamp(started_at_ms / 1000, tz=UTC))


@click.command()
@queue_argument
@new_option
@as_json
@with_api
def pause(*, api: Backend, queue: str, is_new: bool, as_json: bool) -> None:
    """Stop handing out chunks of QUEUE until `resume`.

    Chunks that are reserved already are finished.
    """
    if not is_new:
        check_is_known(api, queue)
    api.queue(queue).pause_queue()
    _tell(api, queue, as_json=as_json)


@click.command()
@queue_argument
@as_json
@with_api
def resume(*, api: Backend, queue: str, as_json: bool) -> None:
    """Resume QUEUE: its chunks can be reserved again."""
    check_is_known(api, queue)
    api.queue(queue).resume_queue()
    _tell(api, queue, as_json=as_json)


def _tell(api: Backend, queue: str, *, as_json: bool) -> None:
    counts = api.queue(queue).count_queue()
    if as_json:
        print_json(counts)
        return
    left = f"{counted(backlog_of(counts), 'chunk')} left, {counts.chunks_in_hand:,} reserved"
    say(f"queue {queue} is {'paused' if counts.is_paused else 'running'}: {left}")
