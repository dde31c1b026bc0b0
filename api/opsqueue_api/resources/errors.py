"""Errors of single operations of finished chunks as NDJSON, and the chunks that have errors."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import falcon
import msgspec

from opsqueue.contents.chunks import all_pages, errors_by_chunk
from opsqueue.contents.inline import reader_of
from opsqueue.http.bodies import ProblemType
from opsqueue.model.answers import ErrorChunks
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.new_submission import MAX_CHUNKS
from opsqueue.store import ObjectStore
from opsqueue_api.http.operation import NDJSON, Content, integer_parameter, operation
from opsqueue_api.http.parameters import checked_id, integer, write
from opsqueue_api.http.streams import begun, joined
from opsqueue_api.resources.queues import QueueOf

_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Errors:
    """`.../submissions/{submission_id}/errors`: a line for each operation that failed."""

    queue_of: QueueOf
    store: ObjectStore

    @operation(
        answers={200: Content(OperationFailed, NDJSON, "A line for each error, in order.")},
        problems=(ProblemType.RESULTS_GONE, ProblemType.INVALID_ARGUMENT),
    )
    def on_get(
        self, _req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Stream the errors of operations, in any state of the submission and with any codec.

        As with results, most failures happen before the answer begins.
        """
        on = self.queue_of(queue)
        submission = on.get_submission(checked_id(submission_id))

        def lines_by_chunk() -> Generator[bytes]:
            indexes = all_pages(
                lambda first_index: on.chunks_with_errors(submission.id, first_index=first_index)
            )
            reader = reader_of(submission, self.store, on.inline_contents)
            for errors in errors_by_chunk(reader, submission, indexes):
                lines = (_ENCODER.encode(error) + b"\n" for error in errors)
                yield from joined(lines)

        resp.content_type = NDJSON
        resp.stream = begun(lines_by_chunk())


@dataclass(frozen=True, slots=True)
class ErrorsChunks:
    """`.../submissions/{submission_id}/errors/chunks`: for clients that read the store."""

    queue_of: QueueOf

    @operation(
        integer_parameter("from", "The first chunk.", least=0, most=MAX_CHUNKS, default=0),
        answers=ErrorChunks,
    )
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """List a page of the chunks that have errors, beginning at the index `?from=`."""
        first_index = integer(req, "from", default=0, least=0, most=MAX_CHUNKS)
        page = self.queue_of(queue).chunks_with_errors(
            checked_id(submission_id), first_index=first_index
        )
        write(resp, page)
