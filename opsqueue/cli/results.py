"""`opsqueue results` and `opsqueue errors`: what came of the operations, as lines of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import msgspec

from opsqueue.cli.connections import with_api, with_store
from opsqueue.cli.lines import STANDARD, check_writable, replaced
from opsqueue.cli.names import find_submission, optional_queue, submission_argument
from opsqueue.cli.progress import follow
from opsqueue.contents.chunks import ErrorMode, check_completed
from opsqueue.exceptions import EncodingError, OpsqueueError
from opsqueue.http.result_lines import result_line
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
    help="A file, which appears when it is whole; - is standard output.",
)
errors_option = click.option(
    "--errors",
    type=click.Choice(["raise", "yield", "skip"]),
    default="raise",
    show_default=True,
    help="Where operations failed: refuse, make every line an object with `result` or `error`, or "
    "leave them out.",
)


@click.command(epilog=_RESULTS_EPILOG)
@submission_argument
@optional_queue
@click.option("--wait", is_flag=True, help="Until it has ended, showing progress.")
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
    output: Path | None,
    errors: ErrorMode,
) -> None:
    """Write the results of submission ID as lines of JSON, in the order of the operations.

    What JSON does not have is changed: bytes become base64. NaN and infinities are refused.
    """
    output = output or STANDARD
    check_writable(output)
    submission = find_submission(api, submission_id, queue)
    if wait:
        submission = follow(api, submission)
    write_results(
        ProducerClient.over(api, store, queue=submission.queue), submission, output, errors
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

    Where its handler collects them (on_error="collect"), also of a submission in progress. What
    made a whole submission fail is shown by `opsqueue show`.
    """
    output = output or STANDARD
    check_writable(output)
    submission = find_submission(api, submission_id, queue)
    producer = ProducerClient.over(api, store, queue=submission.queue)
    found = producer.iter_errors(submission.id)
    with replaced(output) as stream:
        for failed in found:
            stream.write(msgspec.json.encode(failed) + b"\n")


def write_results(
    producer: ProducerClient, submission: Submission, output: Path, errors: ErrorMode
) -> None:
    """Write a line an operation.

    Raises:
        OpsqueueError: operations failed and `errors` is "raise"; nothing was written.
        SubmissionFailedError and what else says that there are no results.
    """
    check_completed(submission)
    if errors == "raise" and submission.operations_failed:
        message = (
            f"{submission.operations_failed:,} of {submission.operations_total:,} operations of "
            f"submission {submission.id} failed: --errors skip leaves them out, --errors yield "
            "makes each line an object with `result` or `error`, `opsqueue errors` lists them"
        )
        raise OpsqueueError(message)
    found = producer.try_stream_completed_submission(submission.id, errors=errors)
    with replaced(output) as stream:
        for result in found:
            stream.write(_line(result, submission, tells_apart=errors == "yield"))


def _line(result: object, submission: Submission, *, tells_apart: bool) -> bytes:
    try:
        return result_line(result, tells_apart=tells_apart, has_null_for_nan=False)
    except EncodingError as exc:
        message = (
            f"the results of submission {submission.id} can't be given as JSON: {exc}; "
            "read them with the ProducerClient"
        )
        raise EncodingError(message) from exc
