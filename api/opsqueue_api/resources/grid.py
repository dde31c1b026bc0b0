"""A submission's chunks as a grid, and the chunks in hand of a queue: what dashboards draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import falcon
from msgspec import Struct

from opsqueue.model.grid import MAX_CELLS, MAX_PAGE, ChunkInHand, Grid
from opsqueue.queue.grid import chunk_grid
from opsqueue_api.http.operation import integer_parameter, operation
from opsqueue_api.http.parameters import checked_id, integer, write
from opsqueue_api.resources.queues import QueueOf

MIN_CELLS: Final = 100
"""Fewer would make Redis count more chunks at once; small submissions have fewer all the same."""


class ReservationsBody(Struct, frozen=True, kw_only=True):
    """Chunks in hand, the oldest first."""

    reservations: tuple[ChunkInHand, ...]


@dataclass(frozen=True, slots=True)
class SubmissionChunks:
    """`.../submissions/{submission_id}/chunks`."""

    queue_of: QueueOf

    @operation(
        integer_parameter(
            "cells", "Cells at most.", least=MIN_CELLS, most=MAX_CELLS, default=1_000
        ),
        answers=Grid,
    )
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Give a submission's chunks as a grid: what is done, in hand, delayed, failed.

        A cell is a chunk, or a multiple of eight where there are more than `cells`.
        """
        cells = integer(req, "cells", default=1_000, least=MIN_CELLS, most=MAX_CELLS)
        on = self.queue_of(queue)
        submission = on.get_submission(checked_id(submission_id))
        write(resp, chunk_grid(on, submission, cells=cells))


@dataclass(frozen=True, slots=True)
class Reservations:
    """`/v1/queues/{queue}/reservations`."""

    queue_of: QueueOf

    @operation(
        integer_parameter("limit", "Chunks at most.", least=1, most=MAX_PAGE, default=100),
        answers=ReservationsBody,
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """List the chunks in hand with who holds them, the oldest first."""
        limit = integer(req, "limit", default=100, least=1, most=MAX_PAGE)
        page = self.queue_of(queue).list_reservations(limit=limit)
        write(resp, ReservationsBody(reservations=page.chunks))
