"""`opsqueue submit`: submits a file of operations and prints an id, or waits for the results."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from opsqueue import config
from opsqueue.cli.connections import as_json, durability_option, with_api, with_store
from opsqueue.cli.defaults import options_with_defaults
from opsqueue.cli.lines import STANDARD, check_writable, opened, operations_of
from opsqueue.cli.names import QueueName
from opsqueue.cli.progress import ended_text, follow, reading, warn_if_nobody_works
from opsqueue.cli.results import errors_option, output_option, write_results
from opsqueue.cli.tables import print_json, say
from opsqueue.contents.chunks import ErrorMode, check_completed
from opsqueue.exceptions import InvalidArgumentError, SubmissionNotConfirmedError
from opsqueue.model.names import parse_meta_key
from opsqueue.model.new_submission import DEFAULT_CODEC
from opsqueue.producer import Backoff, ProducerClient
from opsqueue.producer.backends import Backend
from opsqueue.store import ObjectStore
from opsqueue.tracing.export import export_spans

_EPILOG: Final = """
\b
Examples:
  opsqueue submit emails addresses.jsonl --chunk-size 100
  opsqueue submit crawl urls.jsonl -c 50 --backoff 10s --max-backoff 10m --retention 7d
  zcat big.jsonl.gz | opsqueue submit emails - --chunk-size 1000 --meta customer=7
  opsqueue submit emails in.jsonl --chunk-size 100 --wait --output out.jsonl
  id=$(opsqueue submit emails in.jsonl --chunk-size 100) && opsqueue show "$id"

\b
Exit codes: 0 submitted (with --wait: completed), 1 failed or cancelled, 2 usage or input,
3 API, Redis or store unreachable, 130 interrupted: with --wait the submission goes on.
"""


class Pair(click.ParamType[tuple[str, int]]):
    """`key=7`: the key as it is, or in double quotes as JSON; the last equals sign divides."""

    name = "key=int"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        """Parse a pair."""
        if isinstance(value, tuple):
            return value
        # From the right: the value is an integer, and a key may have an equals sign.
        key, _, number = str(value).rpartition("=")
        try:
            pair = key, int(number)
        except ValueError:
            pair = "", 0
        if not pair[0]:
            self.fail(f"{value!r}: give key=7, where the value is an integer", param, ctx)
        try:
            return parse_meta_key(key), pair[1]
        except InvalidArgumentError as exc:
            self.fail(str(exc), param, ctx)


class CountOrShare(click.ParamType[float]):
    """`100` is a count, `1%` and `0.01` are shares."""

    name = "count or share"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Parse a count or a share; the submission checks its bounds."""
        text = str(value)
        try:
            if text.endswith("%"):
                return float(text[:-1]) / 100
            return float(text) if "." in text else int(text)
        except ValueError:
            self.fail(f"{text!r}: give a count such as 100, or a share such as 1%", param, ctx)


def as_pairs(
    _context: click.Context, _parameter: click.Parameter, pairs: tuple[tuple[str, int], ...]
) -> dict[str, int]:
    """Return the pairs as a dict, or raise BadParameter if a key is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        message = "a key is given twice"
        raise click.BadParameter(message)
    return found


meta_option = click.option(
    "--meta",
    type=Pair(),
    multiple=True,
    callback=as_pairs,
    help="Strategic metadata, which strategies and look-ups read. May be repeated. The key may be "
    "any text, and the last equals sign ends it. A key that begins with a double quote is read as "
    "a JSON string.",
)


@click.command(epilog=_EPILOG)
@click.argument("queue", type=QueueName())
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "-c",
    "--chunk-size",
    type=click.IntRange(1),
    required=True,
    help="Number of operations in each chunk. A chunk should take about a second.",
)
@click.option(
    "--wait", is_flag=True, help="Wait until the submission has ended, and show progress."
)
@output_option
@errors_option
@meta_option
@click.option("--metadata", metavar="TEXT", help="Text for the handler, which gets its bytes.")
@click.option(
    "--max-failed-operations",
    type=CountOrShare(),
    metavar="N|N%",
    help="The submission fails if more operations than this fail. For handlers that collect "
    "errors.",
)
@options_with_defaults("the queue's or the API's, else")
@click.option(
    "--delete-inputs",
    is_flag=True,
    help="Delete the inputs when the submission has completed. `retry --only failed` needs them.",
)
@click.option(
    "--idempotency-key",
    metavar="TEXT",
    help="Repeated submits with the same key give the same submission for a day. With other "
    "options they are refused.",
)
@click.option(
    "--codec",
    default=DEFAULT_CODEC,
    show_default=True,
    help="Codec of the stored chunks: msgpack, json or cbor, each also with +zstd.",
)
@config.MAX_LINE_BYTES()
@as_json
@durability_option
@with_store
@with_api
def submit(  # noqa: PLR0913 its options
    *,
    api: Backend,
    store: ObjectStore,
    queue: str,
    file: Path,
    chunk_size: int,
    wait: bool,
    output: Path | None,
    errors: ErrorMode | None,
    meta: dict[str, int],
    metadata: str | None,
    max_attempts: int | None,
    max_failed_operations: float | None,
    backoff: timedelta | None,
    max_backoff: timedelta | None,
    retention: timedelta | None,
    delete_inputs: bool,
    idempotency_key: str | None,
    codec: str,
    max_line_bytes: int,
    as_json: bool,
) -> None:
    """Submit the operations in FILE, which has a JSON value on each line.

    FILE is UTF-8, and - is standard input. A byte order mark and blank lines are skipped. A line
    that is not one JSON value, such as NaN or 1e400, is an error, and nothing is submitted.

    The submission's id is printed on standard output, and everything else on standard error.
    --output also waits, and writes the results as lines of JSON, in order.
    """
    given = config.defaults_of(max_attempts, backoff, max_backoff, retention)
    if output is not None:
        check_writable(output)
    if output == STANDARD and as_json:
        message = "--json and --output - both write to standard output: leave out one of them"
        raise click.UsageError(message)

    def say_id(submission_id: int) -> None:
        if not as_json:
            click.echo(str(submission_id), err=output == STANDARD)

    export_spans("opsqueue")
    producer = ProducerClient.over(api, store, queue=queue, codec=codec)
    with (
        opened(file) as stream,
        reading(stream, operations_of(stream, file, limit_bytes=max_line_bytes)) as operations,
    ):
        try:
            submission_id = producer.insert_submission(
                operations,
                chunk_size=chunk_size,
                strategic_metadata=meta,
                metadata=None if metadata is None else metadata.encode(),
                max_attempts=max_attempts,
                max_failed_operations=max_failed_operations,
                backoff=Backoff(first_ms=given.backoff_first_ms, max_ms=given.backoff_max_ms),
                retention=retention,
                delete_inputs_at_completion=delete_inputs,
                idempotency_key=idempotency_key,
            )
        except SubmissionNotConfirmedError as exc:
            # It is inserted, so print its id for scripts.
            say_id(exc.submission_id)
            raise
    # Before the wait, so that a reader of the pipe has it, whatever happens afterwards.
    say_id(submission_id)
    submission = api.queue(queue).get_submission(submission_id)
    if wait or output is not None:
        submission = follow(api, submission)
        say(ended_text(submission))
    else:
        warn_if_nobody_works(api, submission)
    if as_json:
        print_json(submission)
    if output is not None:
        write_results(producer, submission, output, errors)
    elif wait:
        check_completed(submission)
