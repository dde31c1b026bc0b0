"""`opsqueue list`, `show`, `cancel`, `retry`: the state of submissions, and changing it."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import click

from opsqueue.cli.connections import (
    as_json,
    durability_option,
    with_api,
    with_optional_store,
)
from opsqueue.cli.durations import short
from opsqueue.cli.names import (
    check_is_known,
    find_submission,
    optional_queue,
    queue_argument,
    submission_argument,
)
from opsqueue.cli.progress import follow
from opsqueue.cli.submit import CountOrShare, meta_option
from opsqueue.cli.tables import (
    age,
    bar,
    console,
    fraction,
    pairs_text,
    print_json,
    say,
    state_text,
    table,
    text_of,
)
from opsqueue.config import Duration
from opsqueue.contents.chunks import began_at, check_completed
from opsqueue.model.answers import Counts, SubmissionPage
from opsqueue.model.checks import counted
from opsqueue.model.durations import as_text
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.backends import Backend, Order
from opsqueue.store import open_store

_PAGE: Final = 100
_STATES: Final = [state.value for state in SubmissionState]
_LIST_EPILOG: Final = """
\b
Examples:
  opsqueue list emails --state failed --since 2h
  opsqueue list emails --meta customer=7 --json | jq -r '.submissions[].id'
"""
_SHOW_EPILOG: Final = """
\b
Examples:
  opsqueue show 1795000000000000000
  opsqueue show 1795000000000000000 -q emails --wait && echo completed

\b
Exit codes: 0 shown (with --wait: completed), with --wait 1 failed or cancelled, 2 usage,
3 unreachable.
"""
_RETRY_EPILOG: Final = """
\b
Examples:
  opsqueue retry 1795000000000000000
  new=$(opsqueue retry 1795000000000000000 --only failed) && opsqueue show "$new" --wait

\b
Exit codes: 0 it is in progress again, or the new one is; 1 it had not failed, or is in progress;
2 there is none, or no operation of it failed; 3 unreachable.
"""


@click.command("list", epilog=_LIST_EPILOG)
@queue_argument
@click.option(
    "-s",
    "--state",
    type=click.Choice(_STATES),
    help="Only submissions in this state.  [default: any]",
)
@meta_option
@click.option(
    "--since",
    type=Duration(),
    metavar="AGE",
    help="Only submissions that are not older, such as 90s, 2h or 3w.",
)
@click.option("--until", type=Duration(), metavar="AGE", help="Only submissions that are older.")
@click.option(
    "--order",
    type=click.Choice(["newest", "oldest"]),
    default="newest",
    show_default=True,
    help="Which submissions come first.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Maximum number of submissions.",
)
@as_json
@with_api
def list_(  # noqa: PLR0913 its options
    *,
    api: Backend,
    queue: str,
    state: str | None,
    meta: dict[str, int],
    since: timedelta | None,
    until: timedelta | None,
    order: Order,
    limit: int,
    as_json: bool,
) -> None:
    """List the submissions of QUEUE."""
    wanted = SubmissionFilter(
        state=SubmissionState(state) if state else None,
        strategic_metadata=meta,
        created_from=_instant_before(since),
        created_until=_instant_before(until),
    )
    found, has_more = _first(api, queue, wanted, order, limit)
    if not found:
        check_is_known(api, queue)
    if as_json:
        print_json(SubmissionPage(submissions=tuple(found)))
        return
    listed = table("id", "state", "chunks", "operations", "age", "took", "metadata", right=_NUMBERS)
    for one in found:
        listed.add_row(
            str(one.id),
            state_text(one.state),
            fraction(one.chunks_done, one.chunks_total),
            f"{one.operations_total:,}",
            age(one.created_at),
            _took(one),
            pairs_text(one.strategic_metadata),
        )
    console().print(listed)
    if has_more:
        say(f"there are more than these {limit:,}: --limit shows them")
    elif not found:
        say(f"no submission of {queue} matches")


_NUMBERS: Final = ("chunks", "operations", "age", "took")


def _instant_before(span: timedelta | None) -> datetime | None:
    if span is None:
        return None
    try:
        return datetime.now(UTC) - span
    except OverflowError:
        return datetime.fromtimestamp(0, tz=UTC)


def _first(
    api: Backend, queue: str, wanted: SubmissionFilter, order: Order, limit: int
) -> tuple[list[Submission], bool]:
    """Return the first matching submissions, and whether there are more."""
    found: list[Submission] = []
    after: SubmissionId | None = None
    while True:
        page_limit = min(_PAGE, limit + 1 - len(found))
        page = api.queue(queue).list_submissions(wanted, after=after, order=order, limit=page_limit)
        found += page.submissions
        if page.next in (None, after) or len(found) > limit:
            return found[:limit], len(found) > limit
        after = page.next


def _took(submission: Submission) -> str:
    if submission.ended_at is None:
        return ""
    return short((submission.ended_at - submission.created_at).total_seconds())


@click.command(epilog=_SHOW_EPILOG)
@submission_argument
@optional_queue
@click.option(
    "--wait", is_flag=True, help="Wait until the submission has ended, and show progress."
)
@as_json
@with_api
def show(
    *, api: Backend, submission_id: SubmissionId, queue: str | None, wait: bool, as_json: bool
) -> None:
    """Show the progress, rate and failures of submission ID."""
    submission = find_submission(api, submission_id, queue)
    if wait:
        submission = follow(api, submission)
    if as_json:
        print_json(submission)
    else:
        is_running = submission.state is SubmissionState.IN_PROGRESS
        _print(submission, api.queue(submission.queue).count_queue() if is_running else None)
    if wait:
        check_completed(submission)


def _print(one: Submission, counts: Counts | None) -> None:
    now = datetime.now(UTC)
    running_s = ((one.ended_at or now) - one.created_at).total_seconds()
    rate = one.operations_done / running_s if running_s > 0 else 0.0
    rows = table("", "")
    rows.show_header = False
    rows.add_row("submission", str(one.id))
    rows.add_row("queue", one.queue if counts is None else _queue(one.queue, counts))
    rows.add_row("state", state_text(one.state))
    rows.add_row("progress", bar(one, width=40))
    rows.add_row("chunks", _chunks(one))
    rows.add_row("operations", _operations(one))
    rows.add_row("created", f"{_local(one.created_at)}, {age(one.created_at, now)} ago")
    if one.ended_at is not None:
        rows.add_row("ended", f"{_local(one.ended_at)}, after {short(running_s)}")
    rows.add_row("rate", f"{rate:,.1f} operations a second since it was created")
    if one.state is SubmissionState.IN_PROGRESS and rate:
        left = one.operations_total - one.operations_done
        rows.add_row("remaining", f"{short(left / rate)} at this rate")
    rows.add_row("attempts", f"at most {one.max_attempts:,} a chunk{_waits(one.backoff)}")
    if one.retention_ms is not None:
        rows.add_row("kept", f"for {as_text(one.retention_ms)} after its end")
    rows.add_row("contents", f"{one.prefix} ({one.codec})")
    if one.strategic_metadata:
        rows.add_row("metadata", pairs_text(one.strategic_metadata))
    screen = console()
    screen.print(rows)
    if one.last_failure is not None:
        failure = one.last_failure
        what = "failed" if one.failure else "last failed attempt"
        where = (
            f"{what}: chunk {failure.chunk_index:,}, attempt {failure.attempt:,}, "
            f"{_local(failure.at)}"
        )
        screen.print(text_of(f"\n{where}", style="red" if one.failure else "yellow"))
        screen.print(text_of(failure.text), soft_wrap=True)

    if one.release_reason is not None and one.state is SubmissionState.IN_PROGRESS:
        when = "" if one.released_at is None else f" {_local(one.released_at)}"
        screen.print(text_of(f"\nlast released{when}:", style="yellow"))
        screen.print(text_of(one.release_reason), soft_wrap=True)


def _waits(backoff: Backoff) -> str:
    first_ms, max_ms = backoff.first_ms or 0, backoff.max_ms or 0
    if not max_ms:
        return ", without a wait"
    return f", {as_text(first_ms)} to {as_text(max_ms)} between them"


def _queue(name: str, counts: Counts) -> str:
    """Return a queue's name with the reasons why chunks may wait."""
    parts = ["paused"] if counts.is_paused else []
    if not counts.workers:
        parts.append("no worker")
    if counts.chunks_delayed:
        parts.append(f"{counted(counts.chunks_delayed, 'chunk')} in back-off")
    return f"{name}: {', '.join(parts)}" if parts else name


def _chunks(one: Submission) -> str:
    parts = [f"{fraction(one.chunks_done, one.chunks_total)} done"]
    if one.chunks_in_hand:
        parts.append(f"{one.chunks_in_hand:,} reserved")
    if one.chunks_failed:
        parts.append(f"{one.chunks_failed:,} failed")
    if one.chunks_dropped:
        parts.append(f"{one.chunks_dropped:,} dropped")
    return ", ".join(parts) + f"; {counted(one.chunk_size, 'operation')} each"


def _operations(one: Submission) -> str:
    text = f"{fraction(one.operations_done, one.operations_total)} done"
    if one.operations_failed:
        text += f", {one.operations_failed:,} with an error (`opsqueue errors {one.id}`)"
    return text


def _local(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


@click.command()
@submission_argument
@optional_queue
@as_json
@with_api
def cancel(*, api: Backend, submission_id: SubmissionId, queue: str | None, as_json: bool) -> None:
    """Cancel submission ID; finished chunks stay finished.

    Exit codes: 0 cancelled, 1 it had ended already, 2 there is no such submission, 3 unreachable.
    """
    found = find_submission(api, submission_id, queue)
    _tell(api.queue(found.queue).cancel_submission(found.id), as_json=as_json)


@click.command(epilog=_RETRY_EPILOG)
@submission_argument
@optional_queue
@click.option(
    "--only",
    type=click.Choice(["failed"]),
    help="Submit the operations that have an error as a new submission, and print its id.",
)
@click.option(
    "--max-failed-operations",
    type=CountOrShare(),
    metavar="N|N%",
    help="The new submission fails if more operations than this fail.  [default: no limit]",
)
@as_json
@durability_option
@with_optional_store
@with_api
def retry(
    *,
    api: Backend,
    store_url: str | None,
    submission_id: SubmissionId,
    queue: str | None,
    only: Literal["failed"] | None,
    max_failed_operations: float | None,
    as_json: bool,
) -> None:
    """Retry the failed or cancelled submission ID; finished chunks stay finished.

    All other chunks run again, with all of their attempts, and without waiting. With --only failed
    the submission, which may be a completed one, stays as it is, and its failed operations are
    submitted as a new submission. This happens once: what fails in the new submission is retried by
    its own ID.
    """
    found = find_submission(api, submission_id, queue)
    if only is None:
        if max_failed_operations is not None:
            message = "--max-failed-operations needs --only failed"
            raise click.UsageError(message)
        _tell(api.queue(found.queue).retry_submission(found.id), as_json=as_json)
        return
    if store_url is None:
        message = (
            "--only failed reads the operations from the object store: give --store-url or set "
            "OPSQUEUE_STORE_URL to the one that workers and producers use"
        )
        raise click.UsageError(message)
    started_ms = time.time_ns() // 1_000_000
    with closing(open_store(store_url)) as store:
        producer = ProducerClient.over(api, store, queue=found.queue)
        new_id = producer.retry_submission(
            found.id, only=only, max_failed_operations=max_failed_operations
        )
    new = api.queue(found.queue).get_submission(new_id)
    if as_json:
        print_json(new)
        return
    click.echo(str(new_id))
    operations, began = counted(new.operations_total, "operation"), began_at(new.prefix)
    if began is not None and began.timestamp() * 1000 < started_ms:
        state = new.state.value.replace("_", " ")
        say(
            f"these {operations} of {found.id} were submitted before, as {new_id}, which is "
            f"{state}; to retry what fails in that one: opsqueue retry {new_id} --only failed"
        )
    else:
        say(f"submitted {operations} of {found.id} again")


def _tell(submission: Submission, *, as_json: bool) -> None:
    if as_json:
        print_json(submission)
    else:
        state = submission.state.value.replace("_", " ")
        chunks = fraction(submission.chunks_done, submission.chunks_total)
        say(f"submission {submission.id} is {state}, {chunks} chunks done")
