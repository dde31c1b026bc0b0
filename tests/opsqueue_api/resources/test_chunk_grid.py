"""count_cells, list_reservations, list_delayed, and the grid that combines them."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import SubmissionNotFoundError
from opsqueue.model.grid import Cell
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Newest
from opsqueue_api.resources.grid import chunk_grid
from tests.opsqueue.steps import FAILURE, NO_WAIT, Clock, insert, take, take_one, tokens_of

EMPTY = Cell(done=0, in_hand=0, delayed=0, failed=0, errors=0)
DONE = Cell(done=1, in_hand=0, delayed=0, failed=0, errors=0)
MINUTE = Backoff(first_ms=60_000, max_ms=60_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(client: redis.Redis, queue_name: str, clock: Clock) -> Queue:
    return Queue(client, queue_name, clock=clock)


def test_each_chunk_of_a_small_submission_has_a_cell(queue: Queue, clock: Clock) -> None:
    """Done, done with errors, delayed, in hand, free; and who holds what since when."""
    id_ = insert(queue, 6, chunk_size=2, operations_total=11, backoff=MINUTE)
    first, second, third, _ = (chunk.token for chunk in take(queue, 4, worker="w7"))
    queue.complete_chunks([first])
    queue.complete_chunks([second], operations_failed={second: 1})
    queue.fail_chunk(third, FAILURE)
    reserved_at = clock.now
    clock.advance(2_000)

    grid = chunk_grid(queue, queue.get_submission(id_), cells=100)

    with_errors = Cell(done=1, in_hand=0, delayed=0, failed=0, errors=1)
    delayed = Cell(done=0, in_hand=0, delayed=1, failed=0, errors=0)
    held = Cell(done=0, in_hand=1, delayed=0, failed=0, errors=0)
    assert (DONE, with_errors, delayed, held, EMPTY, EMPTY) == grid.cells
    assert grid.chunks_per_cell == 1
    (chunk,) = grid.in_hand
    assert ("w7", 3, 1) == (chunk.worker, chunk.index, chunk.attempt)
    assert reserved_at == chunk.reserved_at.timestamp() * 1000
    assert [(2, 1)] == [(one.index, one.attempts_used) for one in grid.delayed]
    assert grid.delayed[0].due_at.timestamp() * 1000 > clock.now
    assert [(2, 1)] == [(one.index, one.attempts_used) for one in grid.retried]
    assert not grid.is_partial


def test_many_chunks_share_cells_of_eight_or_a_multiple(queue: Queue) -> None:
    """Nothing twice and nothing left out, in the last cell, which is smaller, too."""
    id_ = insert(queue, 1_000)
    queue.complete_chunks(tokens_of(take(queue, 21)))
    take(queue, 2)

    grid = chunk_grid(queue, queue.get_submission(id_), cells=100)

    assert grid.chunks_per_cell == 16
    assert len(grid.cells) == 63
    assert [16, 5, 0] == [cell.done for cell in grid.cells[:3]]
    assert [0, 2, 0] == [cell.in_hand for cell in grid.cells[:3]]
    assert sum(cell.done for cell in grid.cells) == 21


@pytest.mark.parametrize("cells", [100, 200])
def test_all_of_a_completed_submission_is_done(queue: Queue, cells: int) -> None:
    """Though its bitmap is gone; where errors are is known still."""
    id_ = insert(queue, 150)
    tokens = tokens_of(take(queue, 150))
    queue.complete_chunks(tokens, operations_failed={tokens[-1]: 1})

    grid = chunk_grid(queue, queue.get_submission(id_), cells=cells)

    assert sum(cell.done for cell in grid.cells) == 150
    assert grid.cells[-1].errors == 1
    assert sum(cell.errors for cell in grid.cells) == 1


def test_the_chunk_that_failed_a_submission_is_the_failed_one(queue: Queue) -> None:
    """The attempts that it used are told; what was dropped is in no count."""
    id_ = insert(queue, 4, max_attempts=2, backoff=NO_WAIT)
    queue.complete_chunks(tokens_of(take(queue, 1)))
    for _ in range(2):
        queue.fail_chunk(take_one(queue).token, FAILURE)

    grid = chunk_grid(queue, queue.get_submission(id_), cells=100)

    failed = Cell(done=0, in_hand=0, delayed=0, failed=1, errors=0)
    assert (DONE, failed, EMPTY, EMPTY) == grid.cells
    assert [(1, 2)] == [(one.index, one.attempts_used) for one in grid.retried]
    assert grid.state is SubmissionState.FAILED


def test_a_submission_without_chunks_has_no_cells(queue: Queue) -> None:
    """Nor a division by them."""
    assert chunk_grid(queue, queue.get_submission(insert(queue, 0)), cells=100).cells == ()


def test_cells_of_what_is_not_there_are_an_error(queue: Queue) -> None:
    """Forgotten between two readings."""
    with pytest.raises(SubmissionNotFoundError):
        queue.count_cells(SubmissionId(42), chunks_per_cell=8, first_cell=0, limit=10)


def test_chunks_in_hand_are_listed_page_by_page(queue: Queue) -> None:
    """Of all submissions, or of one; the oldest first."""
    old, new = insert(queue, 3), insert(queue, 3)
    take(queue, 2, worker="w1")
    take(queue, 2, worker="w2", strategy=Newest())

    first = queue.list_reservations(limit=3)
    second = queue.list_reservations(from_=first.next_from, limit=3)
    of_new = queue.list_reservations(new)

    listed = [(c.submission_id, c.worker) for c in (*first.chunks, *second.chunks)]
    assert [(old, "w1")] * 2 + [(new, "w2")] * 2 == listed
    assert second.next_from is None
    assert [(new, 0), (new, 1)] == [(c.submission_id, c.index) for c in of_new.chunks]


def test_nobody_holds_anything_of_a_queue_that_nobody_used(queue: Queue) -> None:
    """Without stream and group, too."""
    assert queue.list_reservations().chunks == ()


def test_delayed_chunks_of_other_submissions_are_not_this_ones(queue: Queue) -> None:
    """Nor hidden behind them without saying so."""
    other, id_ = (insert(queue, 3, backoff=MINUTE) for _ in range(2))
    for _ in range(3):
        queue.fail_chunk(take_one(queue).token, FAILURE)

    assert queue.list_delayed(id_).chunks == ()
    assert len(queue.list_delayed(other).chunks) == 3
    assert queue.list_delayed(id_, limit=2).is_partial
