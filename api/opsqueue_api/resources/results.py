"""Results of a submission as NDJSON: a line for each operation, in order, chunk by chunk.

A line is only the result, which may be any JSON value. So if operations failed, the client must
choose how they appear. `?errors=yield` makes each line an object with either `result` or `error`.

With `?partial=true` the results of done chunks are returned in any state of the submission. Each
line is then an object with the `index` of its operation.

With `?follow=true` results are streamed while the submission is still in progress. If it ends
without completing, the answer is cut off, since no line could express that; `?from_chunk=`
continues from there. A chunk has `chunk_size` lines (except the last one, and with `errors=skip`),
so a client knows the current chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import falcon

from opsqueue.contents.chunks import (
    ErrorMode,
    check_completed,
    indexed_results,
    results_by_chunk,
)
from opsqueue.contents.codec import open_codec
from opsqueue.contents.inline import reader_of
from opsqueue.exceptions import (
    ChunkTooLargeError,
    EncodingError,
    InvalidArgumentError,
    OperationFailedError,
    OpsqueueError,
)
from opsqueue.http.bodies import ProblemType
from opsqueue.http.result_lines import indexed_line, result_line
from opsqueue.model.new_submission import MAX_CHUNKS
from opsqueue.model.submission import Submission, SubmissionState
from opsqueue.producer.follow import chunks_done
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, Readable
from opsqueue_api.http.long_polls import LongPolls
from opsqueue_api.http.operation import (
    NDJSON,
    Content,
    choice_parameter,
    integer_parameter,
    operation,
)
from opsqueue_api.http.parameters import checked_id, choice, integer
from opsqueue_api.http.problem import (
    Problem,
    ProblemError,
    fields_of,
    invalid,
    problem_of,
    too_large,
)
from opsqueue_api.http.settings import Limits
from opsqueue_api.http.streams import Stream, admitted, begun, joined
from opsqueue_api.resources.follow import followed_chunks
from opsqueue_api.resources.queues import QueueOf


@dataclass(frozen=True, slots=True)
class Results:
    """`.../submissions/{submission_id}/results`."""

    queue_of: QueueOf
    store: ObjectStore
    long_polls: LongPolls
    limits: Limits

    @operation(
        choice_parameter(
            "errors", list(get_args(ErrorMode)), "How operations that failed are treated."
        ),
        choice_parameter(
            "follow", ["false", "true"], "Whether to begin before the submission has completed."
        ),
        choice_parameter(
            "partial",
            ["false", "true"],
            "Whether to return the results so far, in any state, each with its operation's "
            "`index`. The default of `errors` is then `yield`.",
        ),
        integer_parameter(
            "from_chunk", "The chunk to begin with.", least=0, most=MAX_CHUNKS, default=0
        ),
        answers={200: Content(None, NDJSON, "A line for each result, in order.")},
        problems=(
            ProblemType.SUBMISSION_NOT_COMPLETED,
            ProblemType.OPERATIONS_FAILED,
            ProblemType.RESULTS_NOT_JSON,
            ProblemType.RESULTS_GONE,
            ProblemType.TOO_LARGE,
        ),
    )
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Stream the results of a submission, in order.

        `?errors=` is `raise` (the default: operations that failed cause a problem), `yield` (each
        line is an object with `result` or `error`) or `skip` (they are left out).

        The first chunk is read before the answer begins, so that most failures are answered as
        problems. A later failure cuts the stream off: the client sees that the chunked body has no
        end.
        """
        is_partial = choice(req, "partial", ["false", "true"]) == "true"
        is_followed = choice(req, "follow", ["false", "true"]) == "true"
        if is_partial and is_followed:
            message = (
                "partial=true returns the results so far, follow=true waits for the rest: use only "
                "one of them"
            )
            raise invalid(message)
        modes = ["yield", "raise", "skip"] if is_partial else list(get_args(ErrorMode))
        errors = cast(ErrorMode, choice(req, "errors", modes))
        start = integer(req, "from_chunk", default=0, least=0, most=MAX_CHUNKS)
        on = self.queue_of(queue)
        submission = on.get_submission(checked_id(submission_id))
        is_running = submission.state is SubmissionState.IN_PROGRESS
        try:
            if not (is_partial or (is_followed and is_running)):
                check_completed(submission)
        except OpsqueueError as exc:
            raise ProblemError(problem_of(exc, submission=submission)) from exc
        if errors == "raise" and submission.operations_failed:
            raise _operations_failed(submission)
        resp.content_type = NDJSON
        if is_partial:
            done = chunks_done(on, submission.id, start=min(start, submission.chunks_total))
            resp.stream = self._begun(on, submission, errors, done, is_partial=True)
            return
        if not is_running:
            batches = [range(start, submission.chunks_total)]
            resp.stream = self._begun(on, submission, errors, batches)
            return
        with admitted(self.long_polls, req) as reader:
            followed = followed_chunks(on, submission.id, start, reader)
            resp.stream = self._begun(on, submission, errors, followed, reader.room.leave)

    def _begun(
        self,
        on: Queue,
        submission: Submission,
        errors: ErrorMode,
        batches: Iterable[Sequence[int]],
        *at_end: Callable[[], object],
        is_partial: bool = False,
    ) -> Stream:
        contents = reader_of(submission, self.store, on.inline_contents)
        try:
            lines = _lines(
                contents,
                submission,
                errors,
                batches,
                self.limits.chunk_bytes,
                is_partial=is_partial,
            )
            return begun(lines, *at_end)
        except ChunkTooLargeError as exc:
            message = f"the results of submission {submission.id}: {exc}"
            raise too_large(message) from exc
        except EncodingError as exc:
            raise _not_json(submission, str(exc)) from exc
        except OperationFailedError as exc:
            # It failed after the submission's status was read above.
            raise _operations_failed(on.get_submission(submission.id)) from exc


def _lines(
    contents: Readable,
    submission: Submission,
    errors: ErrorMode,
    batches: Iterable[Sequence[int]],
    whole_bytes: int,
    *,
    is_partial: bool,
) -> Generator[bytes]:
    try:
        codec = open_codec(submission.codec)
    except InvalidArgumentError as exc:
        # pickle, which could run arbitrary code here, or a user's own codec.
        message = f"they are encoded by {submission.codec!r}, which the API does not read"
        raise EncodingError(message) from exc
    tells_apart = errors == "yield"

    def chunks_of(indexes: Sequence[int]) -> Iterator[Iterator[bytes]]:
        if is_partial:
            for pairs in indexed_results(
                contents, submission, indexes, codec=codec, errors=errors, whole_bytes=whole_bytes
            ):
                yield (indexed_line(i, one, has_null_for_nan=True) for i, one in pairs)
            return
        for results in results_by_chunk(
            contents,
            submission,
            codec=codec,
            errors=errors,
            chunk_indexes=indexes,
            whole_bytes=whole_bytes,
        ):
            yield (
                result_line(one, tells_apart=tells_apart, has_null_for_nan=True) for one in results
            )

    for indexes in batches:
        for lines in chunks_of(indexes):
            yield from joined(lines)
        if not indexes:
            # Nothing is done yet: this sends the headers, so that the client need not wait.
            yield b""


def _operations_failed(submission: Submission) -> ProblemError:
    detail = (
        f"{submission.operations_failed:,} of {submission.operations_total:,} operations of "
        f"submission {submission.id} failed: ?errors=skip leaves them out, ?errors=yield makes "
        "each line an object with `result` or `error`, .../errors returns the errors alone"
    )
    return ProblemError(Problem(ProblemType.OPERATIONS_FAILED, detail, fields_of(submission)))


def _not_json(submission: Submission, why: str) -> ProblemError:
    detail = (
        f"the results of submission {submission.id} can't be returned as JSON: {why}; "
        "read them with the ProducerClient"
    )
    return ProblemError(Problem(ProblemType.RESULTS_NOT_JSON, detail))
