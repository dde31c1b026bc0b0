"""Results of a completed submission as NDJSON: a line an operation, in order, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import falcon
import msgspec

from opsqueue.codec import open_codec
from opsqueue.contents import check_completed, results_by_chunk
from opsqueue.exceptions import EncodingError, InvalidArgumentError, OpsqueueError
from opsqueue.store import ObjectStore
from opsqueue.submission import Submission
from opsqueue.wire import ProblemType
from opsqueue_api.problem import Problem, ProblemError, problem_of
from opsqueue_api.queues import QueueOf
from opsqueue_api.submissions import checked_id

MEDIA_TYPE: Final = "application/x-ndjson"
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Results:
    """`.../submissions/{submission_id}/results`."""

    queue_of: QueueOf
    store: ObjectStore

    def on_get(
        self, _req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Stream the results, with memory for the chunks read ahead.

        The first chunk is read before the answer begins, so that most of what can go wrong is
        answered as a problem. What goes wrong later cuts the stream off: the client sees that the
        chunked body has no end.
        """
        submission = self.queue_of(queue).get_submission(checked_id(submission_id))
        try:
            check_completed(submission)
        except OpsqueueError as exc:
            raise ProblemError(problem_of(exc, submission=submission)) from exc
        lines = self._lines_by_chunk(submission)
        try:
            first = next(lines, b"")
        except EncodingError as exc:
            raise _not_json(submission, str(exc)) from exc
        resp.content_type = MEDIA_TYPE
        resp.stream = _joined(first, lines)

    def _lines_by_chunk(self, submission: Submission) -> Iterator[bytes]:
        try:
            codec = open_codec(submission.codec)
        except InvalidArgumentError as exc:
            # pickle, which would run anybody's code here, or a codec of the users' own.
            message = f"they are encoded by {submission.codec!r}, which the API does not read"
            raise EncodingError(message) from exc
        for results in results_by_chunk(self.store, submission, codec=codec):
            yield b"".join(_line(result) for result in results)


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    # A generator and not itertools.chain: the server closes it when the client goes away, and with
    # it what reads ahead.
    yield first
    yield from rest


def _line(result: object) -> bytes:
    try:
        return _ENCODER.encode(result) + b"\n"
    # What can't be a key, what nests too deep, lone surrogates: each has an exception of its own.
    except Exception as exc:
        kind = type(result).__qualname__
        message = f"one of them, a {kind}, has no JSON form ({type(exc).__name__}: {exc})"
        raise EncodingError(message) from exc


def _not_json(submission: Submission, why: str) -> ProblemError:
    detail = (
        f"the results of submission {submission.id} can't be given as JSON: {why}; "
        "read them with the ProducerClient"
    )
    return ProblemError(Problem(ProblemType.RESULTS_NOT_JSON, detail))
