"""A submission's chunks as a picture: in cells, with the chunks that are in progress.

No I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec import Struct, field

from opsqueue.model.submission import SubmissionId, SubmissionState

MAX_CELLS: Final = 2_000
MAX_LISTED: Final = 100
"""The largest number of reserved, delayed and retried chunks that a grid lists."""

MAX_PAGE: Final = 1_000
"""The largest number of reserved or delayed chunks that one request reads."""


class Cells(Struct, frozen=True, kw_only=True):
    """Counts of chunks by cell. `state` is the submission's at that instant."""

    state: SubmissionState
    chunks_total: int
    done: tuple[int, ...]
    """Empty once the submission has completed: then all are done."""
    errors: tuple[int, ...]
    """Counts of the done chunks that have operations that failed; empty: none has."""


class ChunkInHand(Struct, frozen=True, kw_only=True):
    """A chunk that a worker holds; `attempt` is the number of this one."""

    submission_id: SubmissionId
    index: int
    attempt: int
    worker: str
    reserved_at: datetime
    expires_at: datetime


class DelayedChunk(Struct, frozen=True, kw_only=True):
    """A chunk that waits for its next attempt; `attempt` is the number of attempts used.

    `is_suspect`: it waits for a worker that holds nothing else, since its last one died, and not
    until `due_at`.
    """

    index: int
    attempts_used: int = field(name="attempt")
    due_at: datetime
    is_suspect: bool = False


class RetriedChunk(Struct, frozen=True):
    """A chunk that has used attempts and is not done."""

    index: int
    attempts_used: int = field(name="attempts")


class HandPage(Struct, frozen=True):
    """A page of reserved chunks, the oldest first; `next_from` None: this was the last page."""

    chunks: tuple[ChunkInHand, ...]
    next_from: str | None


class Delayed(Struct, frozen=True, kw_only=True):
    """The chunks of a submission that wait for another attempt. `is_partial`: there may be more."""

    chunks: tuple[DelayedChunk, ...]
    is_partial: bool
    retried: tuple[RetriedChunk, ...]
    retried_total: int


class Cell(Struct, frozen=True):
    """Counts of a cell's chunks by state. Other chunks are free, or dropped after the end.

    `errors` counts chunks among those done that have operations that failed.
    """

    done: int
    in_hand: int
    delayed: int
    failed: int
    errors: int


class FailedChunk(Struct, frozen=True, kw_only=True):
    """The chunk whose last attempt failed, and with it the submission."""

    index: int
    attempt: int
    at: datetime


class Grid(Struct, frozen=True, kw_only=True):
    """A submission's chunks, `chunks_per_cell` in a cell, and the first 100 of those in progress.

    `is_partial`: the queue has more reserved or delayed chunks than were read.
    """

    state: SubmissionState
    chunks_total: int
    chunks_per_cell: int
    cells: tuple[Cell, ...]
    in_hand: tuple[ChunkInHand, ...]
    delayed: tuple[DelayedChunk, ...]
    failed: tuple[FailedChunk, ...]
    retried: tuple[RetriedChunk, ...]
    retried_total: int
    is_partial: bool
