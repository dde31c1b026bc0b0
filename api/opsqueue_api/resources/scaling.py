"""`…/scaling`: a single number for an autoscaler such as KEDA's metrics-api scaler."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from opsqueue.http.bodies import ScalingBody
from opsqueue_api.http.operation import operation
from opsqueue_api.http.parameters import write
from opsqueue_api.resources.queues import QueueOf


@dataclass(frozen=True, slots=True)
class Scaling:
    """`/v1/queues/{queue}/scaling`."""

    queue_of: QueueOf

    @operation(answers=ScalingBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Return the number of chunks that need workers: all that have not ended.

        Delayed chunks count, since they become ready only when a worker asks. While the queue is
        paused only reserved chunks count.
        """
        counts = self.queue_of(queue).count_queue()
        value = counts.chunks_in_hand if counts.is_paused else counts.backlog_chunks
        write(resp, ScalingBody(queue=queue, value=value))
