"""`opsqueue demo`: runs a real batch with a real server, API and worker, and checks its results."""

from __future__ import annotations

import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from opsqueue import config
from opsqueue.cli.demo_app import QUEUE, Findings, count
from opsqueue.cli.local_stack import LocalStack
from opsqueue.exceptions import OpsqueueError
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient

_CHUNK_SIZE = 20


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums over all files."""

    files: int
    lines: int
    functions: int
    classes: int
    unparsable: int


@click.command()
@config.CONCURRENCY()
@click.option(
    "--files", type=click.IntRange(1), default=None, help="Number of files to take.  [default: all]"
)
@click.option("-v", "--verbose", is_flag=True, help="Show what the API and the worker print.")
def demo(*, concurrency: int, files: int | None, verbose: bool) -> None:
    """Count functions, classes and lines of every file of Python's standard library.

    Starts a server, the API and a worker in a temporary folder. Submits each file as an
    operation, shows progress, compares the totals with those of a plain loop, and leaves nothing
    behind.
    """
    console = Console(highlight=False)
    # SIGTERM ends it like Ctrl-C, through every `with`, so that no process is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def say(part: str, line: str) -> None:
        if verbose:
            console.print(f"[dim]{part:>6} | [/dim]{line}", markup=True, soft_wrap=True)

    try:
        with (
            tempfile.TemporaryDirectory(prefix="opsqueue-demo-") as folder,
            LocalStack(
                Path(folder),
                "opsqueue.cli.demo_app:app",
                api_port=0,
                concurrency=concurrency,
                say=say,
                log_level="WARNING",
            ) as stack,
        ):
            console.print(
                f"api     {stack.api_url}\nredis   {stack.redis_url}\nstore   {stack.store_url}"
            )
            findings, seconds = _run_batch(stack, console, files)
        totals = _totals_of(findings)
        _print_findings(console, findings, totals, seconds)
        console.print("checking against a plain loop in this process ...")
        began = time.monotonic()
        expected = _totals_of(count(file) for file in islice(_files(), files))
    except KeyboardInterrupt:
        console.print("stopped; nothing was left running")
        sys.exit(130)
    except OpsqueueError as exc:
        console.print(f"Error: {exc}", markup=False)
        sys.exit(1)
    console.print(f"the loop took {time.monotonic() - began:.1f} s on one core")
    if totals != expected:
        console.print(f"totals differ: the loop found {expected}, the batch {totals}")
        sys.exit(1)
    console.print("totals match")


def _files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every Python file of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield str(path.relative_to(root)), path.read_bytes()


def _run_batch(
    stack: LocalStack, console: Console, files: int | None
) -> tuple[list[Findings], float]:
    with ProducerClient(stack.api_url, stack.store_url, queue=QUEUE) as producer:
        began = time.monotonic()
        submission_id = producer.insert_submission(islice(_files(), files), chunk_size=_CHUNK_SIZE)
        console.print(f"submitted {submission_id} in {time.monotonic() - began:.1f} s")
        _show_progress(producer, submission_id, stack, console)
        findings: list[Findings] = list(producer.try_stream_completed_submission(submission_id))
        return findings, time.monotonic() - began


def _show_progress(
    producer: ProducerClient, submission_id: SubmissionId, stack: LocalStack, console: Console
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("parsing")
        while True:
            submission = _status(producer, submission_id)
            progress.update(
                bar, total=submission.operations_total, completed=submission.operations_done
            )
            if submission.state is not SubmissionState.IN_PROGRESS:
                return
            stack.check()
            time.sleep(0.2)


def _status(producer: ProducerClient, submission_id: SubmissionId) -> Submission:
    submission = producer.get_submission(submission_id)
    if submission is None:
        message = f"submission {submission_id} is gone"
        raise OpsqueueError(message)
    return submission


def _totals_of(findings: Iterable[Findings]) -> Totals:
    files = lines = functions = classes = unparsable = 0
    for found in findings:
        files += 1
        lines += found["lines"]
        functions += found["functions"]
        classes += found["classes"]
        unparsable += found["error"] is not None
    return Totals(files, lines, functions, classes, unparsable)


def _print_findings(
    console: Console, findings: list[Findings], totals: Totals, seconds: float
) -> None:
    table = Table(title="the ten largest modules", title_justify="left")
    for name in ("module", "lines", "functions", "classes"):
        table.add_column(name, justify="left" if name == "module" else "right")
    for found in sorted(findings, key=lambda f: f["lines"], reverse=True)[:10]:
        numbers = (found["lines"], found["functions"], found["classes"])
        table.add_row(found["name"], *(f"{number:,}" for number in numbers))
    console.print(table)
    bad = [f"{f['name']} ({f['error']})" for f in findings if f["error"] is not None]
    for line in chain(bad[:3], [f"... and {len(bad) - 3} more"] if len(bad) > 3 else []):
        console.print(f"does not parse: {line}", markup=False, soft_wrap=True)
    console.print(
        f"{totals.files:,} files, {totals.lines:,} lines, {totals.functions:,} functions, "
        f"{totals.classes:,} classes, {totals.unparsable} files that do not parse",
        soft_wrap=True,
    )
    console.print(f"{seconds:.1f} s, {totals.files / seconds:,.0f} files a second")
