"""`opsqueue results` and `opsqueue errors`: write results and errors as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import click
import msgspec

from opsqueue.cli.connections import with_api, with_store
from opsqueue.cli.lines import STANDARD, check_writable, json_line, replaced
from opsqueue.cli.names import find_submission, optional_queue, submission_argument
from opsqueue.cli.progress import follow
from opsqueue.contents.chunks import ErrorMode, check_completed
from opsqueue.exceptions import EncodingError, OpsqueueError
from opsqueue.http.result_lines import indexed_line, result_line
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.producer.backends import Backend
from opsqueue.store import ObjectStore

_RESULTS_EPILOG: Final = """
\b
Examples:
  opsqueue results 1795000000000000000 > results.jsonl
  opsqueue results 1795000000000000000 --wait --output results.jsonl
  opsqueue results 1795000000000000000 --errors yield | jq -c 'select(.error)'
  opsqueue results 1795000000000000000 --partial | jq -c 'select(.result) | [.index, .result]'

\b
Exit codes: 0 all written, 1 failed, cancelled or not completed yet, 2 usage, 3 unreachable.
"""
_ERRORS_EPILOG: Final = """
\b
Examples:
  opsqueue errors 1795000000000000000 | jq -r '"\\(.index) \\(.type): \\(.message)"'
  opsqueue errors 1795000000000000000 | wc -l
"""

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File to write to, which appears when it is complete. - is standard output.",
)
errors_option = click.option(
    "--errors",
    type=click.Choice(["raise", "yield", "skip"]),
    help="What to do if operations failed: raise refuses, yield makes every line an object with "
    "`result` or `error`, skip leaves failed operations out.  [default: raise; with --partial: "
    "yield]",
)


@click.command(epilog=_RESULTS_EPILOG)
@submission_argument
@optional_queue
@click.option(
    "--wait", is_flag=True, help="Wait until the submission has ended, and show progress."
)
@click.option(
    "--partial",
    "is_partial",
    is_flag=True,
    help="Write the results of finished chunks, whatever the submission's state. Every line is an "
    "object with the operation's `index`, and `result` or `error`.",
)
@output_option
@errors_option
@with_store
@with_api
def results(
    *,
    api: Backend,
    store: ObjectStore,
    submission_id: SubmissionId,
    queue: str | None,
    wait: bool,
    is_partial: bool,
    output: Path | None,
    errors: ErrorMode | None,
) -> None:
    """Write the results of submission ID as lines of JSON, in the order of the operations.

    Bytes become base64, since JSON has no bytes. NaN and infinities are refused.
    """
    output = output or STANDARD
    check_writable(output)
    submission = find_submission(api, submission_id, queue)
    if wait:
        submission = follow(api, submission)
    write_results(
        ProducerClient.over(api, store, queue=submission.queue),
        submission,
        output,
        errors,
        is_partial=is_partial,
    )


@click.command(epilog=_ERRORS_EPILOG)
@submission_argument
@optional_queue
@output_option
@with_store
@with_api
def errors(
    *,
    api: Backend,
    store: ObjectStore,
    submission_id: SubmissionId,
    queue: str | None,
    output: Path | None,
) -> None:
    """Write the errors of single operations of submission ID as lines of JSON, in order.

    There are such errors if the handler collects them (on_error="collect"). The submission may
    still be in progress. `opsqueue show` shows why a whole submission failed.
    """
    output = output or STANDARD
    check_writable(output)
    submission = find_submission(api, submission_id, queue)
    producer = ProducerClient.over(api, store, queue=submission.queue)
    found = producer.iter_errors(submission.id)
    with replaced(output) as stream:
        for failed in found:
            stream.write(json_line(msgspec.json.encode(failed)) + b"\n")


def write_results(
    producer: ProducerClient,
    submission: Submission,
    output: Path,
    errors: ErrorMode | None,
    *,
    is_partial: bool = False,
) -> None:
    """Write a line for each operation; with `is_partial` for those in chunks that are done.

    Raises:
        OpsqueueError: operations failed and `errors` is "raise"; nothing was written.
        SubmissionFailedError, SubmissionCancelledError, SubmissionNotCompletedYetError: there are
            no results.
    """
    errors = errors or ("yield" if is_partial else "raise")
    if not is_partial:
        check_completed(submission)
    if errors == "raise" and submission.operations_failed:
        message = (
            f"{submission.operations_failed:,} of {submission.operations_total:,} operations of "
            f"submission {submission.id} failed: --errors skip leaves them out, --errors yield "
            "makes each line an object with `result` or `error`, `opsqueue errors` lists them"
        )
        raise OpsqueueError(message)
    lines: Iterator[bytes]
    if is_partial:
        lines = (
            _line(submission, partial(indexed_line, index, result))
            for index, result in producer.partial_results(submission.id, errors=errors)
        )
    else:
        tells_apart = errors == "yield"
        lines = (
            _line(submission, partial(result_line, result, tells_apart=tells_apart))
            for result in producer.try_stream_completed_submission(submission.id, errors=errors)
        )
    with replaced(output) as stream:
        for line in lines:
            stream.write(json_line(line))


class _MakesLine(Protocol):
    def __call__(self, *, has_null_for_nan: bool) -> bytes: ...


def _line(submission: Submission, make: _MakesLine) -> bytes:
    try:
        return make(has_null_for_nan=False)
    except EncodingError as exc:
        message = (
            f"the results of submission {submission.id} can't be written as JSON: {exc}; "
            "read them with the ProducerClient"
        )
        raise EncodingError(message) from exc
