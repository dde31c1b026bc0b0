"""A submission's chunks as a grid, and the chunks in hand of a queue: what dashboards draw."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import falcon
from msgspec import Struct

from opsqueue.model.grid import MAX_CELLS, MAX_PAGE, Cell, ChunkInHand, Grid
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.grid import chunk_grid
from opsqueue_api.http.operation import integer_parameter, operation
from opsqueue_api.http.parameters import checked_id, integer, write
from opsqueue_api.resources.queues import QueueOf

MIN_CELLS: Final = 100
"""Fewer would make Redis count more chunks at once; small submissions have fewer all the same."""


class CellBody(Struct, frozen=True, kw_only=True):
    """How many chunks of a cell are what. The others are free, or dropped once it has ended.

    Those with `errors` of operations are among those done.
    """

    done: int
    in_hand: int
    delayed: int
    failed: int
    errors: int

    @classmethod
    def of(cls, cell: Cell) -> CellBody:
        """Put a cell on the wire."""
        return cls(
            done=cell.done,
            in_hand=cell.in_hand,
            delayed=cell.delayed,
            failed=cell.failed,
            errors=cell.errors,
        )


class InHandBody(Struct, frozen=True, kw_only=True):
    """A chunk that a worker holds; `attempt` is the number of this one."""

    submission_id: str
    index: int
    attempt: int
    worker: str
    reserved_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, chunk: ChunkInHand) -> InHandBody:
        """Put a chunk on the wire."""
        return cls(
            submission_id=str(chunk.submission_id),
            index=chunk.index,
            attempt=chunk.attempt,
            worker=chunk.worker,
            reserved_at=chunk.reserved_at,
            expires_at=chunk.expires_at,
        )


class DelayedBody(Struct, frozen=True, kw_only=True):
    """A chunk that waits for its next attempt; `attempt` is the number of those used."""

    index: int
    attempt: int
    due_at: datetime


class FailedBody(Struct, frozen=True, kw_only=True):
    """The chunk whose last attempt failed, and the submission with it."""

    index: int
    attempt: int
    at: datetime


class RetriedBody(Struct, frozen=True, kw_only=True):
    """A chunk that has used attempts and is not done."""

    index: int
    attempts: int


class ChunksBody(Struct, frozen=True, kw_only=True):
    """A submission's chunks, `chunks_per_cell` a cell, and the first 100 of those under way.

    `is_partial`: the queue has more chunks in hand or delayed than were looked through.
    """

    state: SubmissionState
    chunks_total: int
    chunks_per_cell: int
    cells: list[CellBody]
    in_hand: list[InHandBody]
    delayed: list[DelayedBody]
    failed: list[FailedBody]
    retried: list[RetriedBody]
    retried_total: int
    is_partial: bool

    @classmethod
    def of(cls, grid: Grid) -> ChunksBody:
        """Put a grid on the wire."""
        failure = grid.submission.last_failure if grid.submission.chunks_failed else None
        return cls(
            state=grid.submission.state,
            chunks_total=grid.submission.chunks_total,
            chunks_per_cell=grid.chunks_per_cell,
            cells=[CellBody.of(cell) for cell in grid.cells],
            in_hand=[InHandBody.of(chunk) for chunk in grid.in_hand],
            delayed=[
                DelayedBody(index=chunk.index, attempt=chunk.attempts_used, due_at=chunk.due_at)
                for chunk in grid.delayed
            ],
            failed=[
                FailedBody(index=found.chunk_index, attempt=found.attempt, at=found.at)
                for found in ([] if failure is None else [failure])
            ],
            retried=[
                RetriedBody(index=chunk.index, attempts=chunk.attempts_used)
                for chunk in grid.retried
            ],
            retried_total=grid.retried_total,
            is_partial=grid.is_partial,
        )


class ReservationsBody(Struct, frozen=True, kw_only=True):
    """Chunks in hand, the oldest first."""

    reservations: list[InHandBody]


@dataclass(frozen=True, slots=True)
class SubmissionChunks:
    """`.../submissions/{submission_id}/chunks`."""

    queue_of: QueueOf

    @operation(
        integer_parameter(
            "cells", "Cells at most.", least=MIN_CELLS, most=MAX_CELLS, default=1_000
        ),
        answers=ChunksBody,
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
        write(resp, ChunksBody.of(chunk_grid(on, submission, cells=cells)))


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
        found = [InHandBody.of(chunk) for chunk in page.chunks]
        write(resp, ReservationsBody(reservations=found))
