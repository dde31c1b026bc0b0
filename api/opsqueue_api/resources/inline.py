"""The encoded contents that a small submission has in Redis, for opsqueue's client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import falcon

from opsqueue.contents.inline import Kind
from opsqueue.http.bodies import InlineBody
from opsqueue.model.new_submission import INLINE_CHUNKS
from opsqueue_api.http.operation import integer_parameter, operation
from opsqueue_api.http.parameters import checked_id, integer, write
from opsqueue_api.resources.queues import QueueOf

_INDEX: Final = integer_parameter(
    "index", "Return only this chunk.", least=0, most=INLINE_CHUNKS - 1
)


@dataclass(frozen=True, slots=True)
class InlineInputs:
    """`.../submissions/{submission_id}/inline-inputs`."""

    queue_of: QueueOf

    @operation(_INDEX, answers=InlineBody)
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Return the inputs that are kept in Redis, of all chunks or of one.

        A submission's inputs are either all in Redis or all in the store.
        """
        write(resp, _contents(self.queue_of, req, queue, submission_id, "inputs"))


@dataclass(frozen=True, slots=True)
class InlineOutputs:
    """`.../submissions/{submission_id}/inline-outputs`."""

    queue_of: QueueOf

    @operation(_INDEX, answers=InlineBody)
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Return the outputs that are kept in Redis, of all chunks or of one.

        Larger outputs are in the store.
        """
        write(resp, _contents(self.queue_of, req, queue, submission_id, "outputs"))


def _contents(
    queue_of: QueueOf, req: falcon.Request, queue: str, submission_id: str, kind: Kind
) -> InlineBody:
    on, id_ = queue_of(queue), checked_id(submission_id)
    index = None
    if req.get_param("index") is not None:
        index = integer(req, "index", default=0, least=0, most=INLINE_CHUNKS - 1)
    return InlineBody(chunks=on.inline_contents(id_, kind, index))
