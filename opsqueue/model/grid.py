"""A submission's chunks as a picture shows them: in cells, with what is in progress.

No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opsqueue.model.submission import Submission, SubmissionId, SubmissionState

MAX_CELLS: Final = 2_000
MAX_LISTED: Final = 100
"""Chunks in hand, delayed and retried that a grid names."""

MAX_PAGE: Final = 1_000
"""Chunks in hand, or delayed, that one reading looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Counts of chunks by cell. `state` is the submission's at that instant."""

    state: SubmissionState
    chunks_total: int
    done: tuple[int, ...]
    """Empty once the submission has completed: all are done then."""
    errors: tuple[int, ...]
    """Of those done, the ones with operations that failed; empty: none has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInHand:
    """A chunk that a worker holds."""

    submission_id: SubmissionId
    index: int
    attempt: int
    worker: str
    reserved_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedChunk:
    """A chunk that waits for its next attempt."""

    index: int
    attempts_used: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class RetriedChunk:
    """A chunk that has used attempts and is not done."""

    index: int
    attempts_used: int


@dataclass(frozen=True, slots=True)
class HandPage:
    """A page of chunks in hand, the oldest first; `next_from` None: the last one."""

    chunks: tuple[ChunkInHand, ...]
    next_from: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delayed:
    """What a submission has waiting for another attempt. `is_partial`: there may be more."""

    chunks: tuple[DelayedChunk, ...]
    is_partial: bool
    retried: tuple[RetriedChunk, ...]
    retried_total: int


@dataclass(frozen=True, slots=True)
class Cell:
    """How many chunks of a cell are what; those in no count are free, or dropped at the end."""

    done: int
    in_hand: int
    delayed: int
    failed: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A submission's chunks, cell by cell, and the first of those that are under way."""

    submission: Submission
    chunks_per_cell: int
    cells: tuple[Cell, ...]
    in_hand: tuple[ChunkInHand, ...]
    delayed: tuple[DelayedChunk, ...]
    retried: tuple[RetriedChunk, ...]
    retried_total: int
    is_partial: bool
    """The queue has more in hand, or delayed, than was looked through."""
