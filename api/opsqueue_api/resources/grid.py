"""A submission's chunks as a grid, and a queue's reservations, for dashboards.

The grid is assembled from a bounded number of bounded readings, so it is not a snapshot of a single
instant: a chunk that moved in between may be counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import falcon
from msgspec import Struct

from opsqueue.model.grid import (
    MAX_CELLS,
    MAX_LISTED,
    MAX_PAGE,
    Cell,
    ChunkInHand,
    FailedChunk,
    Grid,
)
from opsqueue.model.submission import Submission
from opsqueue.queue.commands import MAX_DELAYED
from opsqueue.queue.queue import Queue
from opsqueue_api.http.operation import integer_parameter, operation
from opsqueue_api.http.parameters import checked_id, integer, write
from opsqueue_api.resources.queues import QueueOf

MIN_CELLS: Final = 100
"""Fewer cells would make Redis count more chunks at once. Small submissions still have fewer."""
_PAGES: Final = 10
_BITMAP_BYTES: Final = 1024 * 1024
"""Bytes of each bitmap in one reading: eight million chunks, counted in under a millisecond."""


class ReservationsBody(Struct, frozen=True, kw_only=True):
    """Reserved chunks, oldest first."""

    reservations: tuple[ChunkInHand, ...]


@dataclass(frozen=True, slots=True)
class SubmissionChunks:
    """`.../submissions/{submission_id}/chunks`."""

    queue_of: QueueOf

    @operation(
        integer_parameter(
            "cells", "Maximum number of cells.", least=MIN_CELLS, most=MAX_CELLS, default=1_000
        ),
        answers=Grid,
    )
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Return a submission's chunks as a grid of done, reserved, delayed and failed ones.

        A cell is one chunk, or a multiple of eight if there are more chunks than `cells`.
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
        integer_parameter(
            "limit", "Maximum number of chunks.", least=1, most=MAX_PAGE, default=100
        ),
        answers=ReservationsBody,
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """List the reserved chunks and their workers, oldest first."""
        limit = integer(req, "limit", default=100, least=1, most=MAX_PAGE)
        page = self.queue_of(queue).list_reservations(limit=limit)
        write(resp, ReservationsBody(reservations=page.chunks))


def chunk_grid(on: Queue, submission: Submission, *, cells: int) -> Grid:
    """Return the grid of a submission's chunks.

    Args:
        on: the submission's queue.
        submission: the submission's current status.
        cells: maximum number of cells, at most MAX_CELLS.

    Raises:
        SubmissionNotFoundError: the submission was forgotten meanwhile.
    """
    total = submission.chunks_total
    # A cell is one chunk, or whole bytes of the bitmap, so that Redis can count them.
    per_cell = 1 if total <= cells else 8 * -(-total // (8 * cells))
    done, errors = _counts(on, submission, per_cell)
    in_hand, is_cut = _chunks_in_hand(on, submission)
    delayed = on.list_delayed(submission.id, limit=MAX_DELAYED)
    failure = submission.last_failure if submission.chunks_failed else None
    failed = []
    if failure is not None:
        failed.append(
            FailedChunk(index=failure.chunk_index, attempt=failure.attempt, at=failure.at)
        )
    held_of = _tally((chunk.index for chunk in in_hand), per_cell, len(done))
    delayed_of = _tally((chunk.index for chunk in delayed.chunks), per_cell, len(done))
    failed_of = _tally((chunk.index for chunk in failed), per_cell, len(done))
    retried = sorted(delayed.retried, key=lambda chunk: (-chunk.attempts_used, chunk.index))
    return Grid(
        state=submission.state,
        chunks_total=submission.chunks_total,
        chunks_per_cell=per_cell,
        cells=tuple(map(Cell, done, held_of, delayed_of, failed_of, errors)),
        in_hand=in_hand[:MAX_LISTED],
        delayed=delayed.chunks[:MAX_LISTED],
        failed=tuple(failed),
        retried=tuple(retried[:MAX_LISTED]),
        retried_total=delayed.retried_total,
        is_partial=is_cut or delayed.is_partial,
    )


def _counts(on: Queue, submission: Submission, per_cell: int) -> tuple[list[int], list[int]]:
    """Count the chunks of each cell that are done, and those that have errors."""
    total = submission.chunks_total
    cells = -(-total // per_cell)
    at_once = max(1, min(MAX_CELLS, 8 * _BITMAP_BYTES // per_cell))
    done: list[int] = []
    errors: list[int] = []
    for first in range(0, cells, at_once):
        counted = on.count_cells(
            submission.id, chunks_per_cell=per_cell, first_cell=first, limit=at_once
        )
        end = min(cells, first + at_once)
        all_of = [min(per_cell, total - cell * per_cell) for cell in range(first, end)]
        done += counted.done or all_of
        errors += counted.errors or [0] * len(all_of)
    return done, errors


def _chunks_in_hand(on: Queue, submission: Submission) -> tuple[tuple[ChunkInHand, ...], bool]:
    """Return a submission's reserved chunks, and whether there may be more of them."""
    found: list[ChunkInHand] = []
    next_from: str | None = None
    for _ in range(_PAGES):
        page = on.list_reservations(submission.id, from_=next_from)
        found += page.chunks
        next_from = page.next_from
        if next_from is None or len(found) >= submission.chunks_in_hand:
            return tuple(found), False
    return tuple(found), True


def _tally(indexes: Iterable[int], per_cell: int, cells: int) -> list[int]:
    counts = [0] * cells
    for index in indexes:
        if index // per_cell < cells:
            counts[index // per_cell] += 1
    return counts
