"""A submission's progress, at once or when there is more of it."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from opsqueue.model.answers import Progress
from opsqueue.model.new_submission import MAX_CHUNKS
from opsqueue_api.http.long_polls import MAX_WAIT_S, WAIT_SLICE_MS, LongPolls
from opsqueue_api.http.operation import WAIT, integer_parameter, operation
from opsqueue_api.http.parameters import checked_id, integer, number, optional_integer, write
from opsqueue_api.resources.queues import QueueOf


@dataclass(frozen=True, slots=True)
class SubmissionProgress:
    """`.../submissions/{submission_id}/progress`."""

    queue_of: QueueOf
    long_polls: LongPolls

    @operation(
        integer_parameter(
            "from", "The first chunk of the answer.", least=0, most=MAX_CHUNKS, default=0
        ),
        integer_parameter(
            "seen",
            "Wait until the number of done chunks differs from this.",
            least=0,
            most=MAX_CHUNKS,
        ),
        WAIT,
        answers=Progress,
    )
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Return a submission's counts, and which chunks from `from` on are done.

        `wait=SECONDS` waits until chunk `from` is done or the submission has ended. With
        `seen=CHUNKS_DONE` it waits until the number of done chunks differs from that.
        """
        start = integer(req, "from", default=0, least=0, most=MAX_CHUNKS)
        seen = optional_integer(req, "seen", least=0, most=MAX_CHUNKS)
        wait_s = number(req, "wait", default=0, least=0, most=MAX_WAIT_S)
        on, id_ = self.queue_of(queue), checked_id(submission_id)
        with self.long_polls.room_for(wait_s) as granted_s:
            progress = on.wait_for_progress(
                id_,
                start,
                seen=seen,
                wait_s=granted_s,
                slice_ms=WAIT_SLICE_MS,
                is_stopping=self.long_polls.is_stopping,
            )
        write(resp, progress)
