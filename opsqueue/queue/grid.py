"""A submission's chunks as a picture has them: cells of some chunks each, and what is under way.

Values, and what the readings of them answer. `chunk_grid` puts them together by a bounded number of
bounded readings, so it is no single instant: what moved in between may be counted in two places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotFoundError
from opsqueue.model.checks import checked_whole
from opsqueue.model.new_submission import MAX_CHUNKS
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.queue.calls import checked_limit, checked_page
from opsqueue.queue.replies import unexpected
from opsqueue.queue.script import Scripts

MAX_CELLS: Final = 2_000
MAX_LISTED: Final = 100
"""Chunks in hand, delayed and retried that a grid names."""

MAX_PAGE: Final = 1_000
"""Chunks in hand, or delayed, that one reading looks at."""

_PAGES: Final = 10
_BITMAP_BYTES: Final = 1024 * 1024
"""Of each bitmap, in one reading: some eight million chunks, counted in less than a millisecond."""


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


class GridReadings:
    """What can be asked of a queue about single chunks.

    Args:
        name: the queue's.
        scripts: that read it.
    """

    def __init__(self, name: str, scripts: Scripts) -> None:
        """Ask nothing yet."""
        self.name = name
        self._scripts = scripts

    def count_cells(
        self, submission_id: SubmissionId, *, chunks_per_cell: int, first_cell: int, limit: int
    ) -> Cells:
        """Count what is done in at most `limit` cells of as many chunks each: 1, or 8 times some.

        At most MAX_CELLS are counted.

        Raises:
            SubmissionNotFoundError.
        """
        answer = self._scripts.call(
            "count_cells",
            id=str(submission_id),
            chunks=_checked_cell(chunks_per_cell),
            first_cell=checked_whole("first_cell", first_cell, most=MAX_CHUNKS),
            limit=min(checked_limit(limit), MAX_CELLS),
        )
        match answer:
            case [b"counted", state, int(total), done, errors]:
                return Cells(
                    state=SubmissionState(state.decode()),
                    chunks_total=total,
                    done=tuple(done),
                    errors=tuple(errors),
                )
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    def list_reservations(
        self,
        submission_id: SubmissionId | None = None,
        *,
        from_: str | None = None,
        limit: int = MAX_PAGE,
    ) -> HandPage:
        """List the chunks in hand, of one submission or of all, the oldest first.

        Args:
            submission_id: None: of all submissions.
            from_: `next_from` of the page before.
            limit: chunks in hand looked at, at most MAX_PAGE: of one submission fewer come.
        """
        answer = self._scripts.call(
            "list_reservations",
            id="" if submission_id is None else str(submission_id),
            limit=min(checked_limit(limit), MAX_PAGE),
            **{"from": checked_page(from_ or "-")},
        )
        match answer:
            case [b"listed", rows, next_from]:
                return HandPage(tuple(map(_in_hand, rows)), next_from.decode() or None)
        raise unexpected(answer)

    def list_delayed(self, submission_id: SubmissionId, *, limit: int = MAX_PAGE) -> Delayed:
        """List the chunks of a submission that wait for another attempt, the first due first.

        Args:
            submission_id: an unknown one has none.
            limit: delayed chunks of the queue looked at, at most MAX_PAGE * 10.
        """
        answer = self._scripts.call(
            "list_delayed",
            id=str(submission_id),
            limit=min(checked_limit(limit), MAX_PAGE * _PAGES),
        )
        match answer:
            case [b"listed", rows, int(is_partial), retried, int(total)]:
                return Delayed(
                    chunks=tuple(
                        DelayedChunk(index=index, due_at=_instant(due), attempts_used=used)
                        for index, due, used in rows
                    ),
                    is_partial=bool(is_partial),
                    retried=tuple(RetriedChunk(index, used) for index, used in retried),
                    retried_total=total,
                )
        raise unexpected(answer)


def chunk_grid(on: GridReadings, submission: Submission, *, cells: int) -> Grid:
    """Look at a submission's chunks.

    Args:
        on: its queue.
        submission: as it is now.
        cells: at most, up to MAX_CELLS.

    Raises:
        SubmissionNotFoundError: it was forgotten meanwhile.
    """
    total = submission.chunks_total
    # One chunk a cell, or whole bytes of the bitmap, so that Redis can count them.
    per_cell = 1 if total <= cells else 8 * -(-total // (8 * cells))
    done, errors = _counts(on, submission, per_cell)
    in_hand, is_cut = _chunks_in_hand(on, submission)
    delayed = on.list_delayed(submission.id, limit=MAX_PAGE * _PAGES)
    failure = submission.last_failure if submission.chunks_failed else None
    failed = [] if failure is None else [failure.chunk_index]
    held_of = _tally((chunk.index for chunk in in_hand), per_cell, len(done))
    delayed_of = _tally((chunk.index for chunk in delayed.chunks), per_cell, len(done))
    failed_of = _tally(failed, per_cell, len(done))
    retried = sorted(delayed.retried, key=lambda chunk: (-chunk.attempts_used, chunk.index))
    return Grid(
        submission=submission,
        chunks_per_cell=per_cell,
        cells=tuple(map(Cell, done, held_of, delayed_of, failed_of, errors)),
        in_hand=in_hand[:MAX_LISTED],
        delayed=delayed.chunks[:MAX_LISTED],
        retried=tuple(retried[:MAX_LISTED]),
        retried_total=delayed.retried_total,
        is_partial=is_cut or delayed.is_partial,
    )


def _counts(on: GridReadings, submission: Submission, per_cell: int) -> tuple[list[int], list[int]]:
    """Give how many of each cell are done, and have errors."""
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


def _chunks_in_hand(
    on: GridReadings, submission: Submission
) -> tuple[tuple[ChunkInHand, ...], bool]:
    """Give those of a submission, and whether the queue has more than was looked through."""
    found: list[ChunkInHand] = []
    next_from: str | None = None
    for _ in range(_PAGES):
        page = on.list_reservations(submission.id, from_=next_from)
        found += page.chunks
        next_from = page.next_from
        if next_from is None or len(found) >= submission.chunks_in_hand:
            return tuple(found), False
    return tuple(found), True


def _checked_cell(chunks: int) -> int:
    checked_whole("chunks_per_cell", chunks, least=1, most=MAX_CHUNKS)
    if chunks > 1 and chunks % 8:
        message = f"chunks_per_cell is {chunks}: give 1, or a multiple of 8"
        raise InvalidArgumentError(message)
    return chunks


def _tally(indexes: Iterable[int], per_cell: int, cells: int) -> list[int]:
    counts = [0] * cells
    for index in indexes:
        if index // per_cell < cells:
            counts[index // per_cell] += 1
    return counts


def _in_hand(row: list[Any]) -> ChunkInHand:
    id_, index, attempt, worker, reserved_at, expires_at = row
    return ChunkInHand(
        submission_id=SubmissionId(id_.decode()),
        index=index,
        attempt=attempt,
        worker=worker.decode(),
        reserved_at=_instant(reserved_at),
        expires_at=_instant(expires_at),
    )


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
