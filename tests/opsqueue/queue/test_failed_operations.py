"""Operations that failed: counted, limited, and found again."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import SubmissionNotFoundError
from opsqueue.model.chunk import Completed, Dropped
from opsqueue.model.new_submission import MAX_CHUNKS
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, Clock, Raw, insert, take, take_one, tokens_of


def complete(queue: Queue, *failed: int) -> None:
    """Finish the next chunks, each with so many operations that failed."""
    tokens = tokens_of(take(queue, len(failed)))
    queue.complete_chunks(tokens, operations_failed=dict(zip(tokens, failed, strict=True)))


def accounted(submission: Submission) -> tuple[int, int, int]:
    """Succeeded, failed, dropped; all operations in every end state."""
    counts = (
        submission.operations_succeeded,
        submission.operations_failed,
        submission.operations_dropped,
    )
    assert submission.operations_total == sum(counts)
    return counts


def test_as_many_as_allowed_may_fail(queue: Queue) -> None:
    """The limit itself is still allowed."""
    id_ = insert(queue, 3, chunk_size=10, max_failed_operations=4)

    complete(queue, 3, 0, 1)

    submission = queue.get_submission(id_)
    assert submission.state is SubmissionState.COMPLETED
    assert accounted(submission) == (26, 4, 0)
    assert submission.max_failed_operations == 4


def test_past_its_limit_a_submission_fails_and_the_rest_is_dropped(queue: Queue) -> None:
    """The chunk that passed it is done, its results and errors can be read."""
    id_ = insert(queue, 4, chunk_size=10, operations_total=35, max_failed_operations=4)
    first, second = tokens_of(take(queue, 2))
    queue.complete_chunks([first], operations_failed={first: 4})

    outcome = queue.complete_chunks([second], operations_failed={second: 1})

    submission = queue.get_submission(id_)
    assert [Completed(id_, 2, is_limit_passed=True)] == outcome
    assert submission.state is SubmissionState.FAILED
    assert (submission.chunks_done, submission.chunks_failed, submission.chunks_dropped) == (
        2,
        0,
        2,
    )
    assert accounted(submission) == (15, 5, 15)
    assert submission.failure is not None
    assert submission.failure.type == "TooManyFailedOperations"
    assert submission.failure.chunk_index == 1
    assert "5 operations failed, of 35 in all; max_failed_operations is 4" in (
        submission.failure.message
    )
    assert take(queue, 5) == []
    stats = queue.count_queue().stats
    assert (stats["backlog_chunks"], stats["backlog_operations"]) == (0, 0)


@pytest.mark.parametrize(
    ("share", "operations", "count"),
    [(0.0, 100, 0), (0.29, 100, 29), (0.05, 39, 1), (1.0, 7, 7), (1e-05, 10**6, 10)],
)
def test_a_share_is_stored_as_the_whole_operations_in_it(
    queue: Queue, share: float, operations: int, count: int
) -> None:
    """As it is written, not as a float's multiplication has it."""
    id_ = insert(queue, operations, max_failed_operations=share)

    assert queue.get_submission(id_).max_failed_operations == count


def test_after_a_retry_the_limit_holds_no_longer(queue: Queue) -> None:
    """Otherwise the next error would fail the submission again."""
    id_ = insert(queue, 3, chunk_size=10, max_failed_operations=0)
    complete(queue, 1)

    queue.retry_submission(id_)
    complete(queue, 10, 10)

    submission = queue.get_submission(id_)
    assert submission.state is SubmissionState.COMPLETED
    assert submission.max_failed_operations is None
    assert accounted(submission) == (9, 21, 0)


def test_a_retry_completes_a_submission_whose_last_chunk_passed_the_limit(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """Nothing is left to do; without this nobody would ever end it."""
    id_ = insert(queue, 2, max_failed_operations=0)
    complete(queue, 0, 1)
    failed = queue.get_submission(id_)

    queue.retry_submission(id_)

    submission = queue.get_submission(id_)
    assert (failed.state, accounted(failed)) == (SubmissionState.FAILED, (1, 1, 0))
    assert submission.state is SubmissionState.COMPLETED
    assert queue.chunks_with_errors(id_).indexes == (1,)
    assert client.exists(raw.key(f"sub:{id_}:done")) == 0
    assert queue.count_queue().stats["backlog_chunks"] == 0


def test_a_failed_chunk_is_told_from_too_many_failed_operations(queue: Queue) -> None:
    """`chunks_failed` counts the one that used up its attempts."""
    id_ = insert(queue, 2, max_attempts=1)
    queue.fail_chunk(take_one(queue).token, FAILURE)
    failed = queue.get_submission(id_)

    queue.retry_submission(id_)

    assert (failed.chunks_failed, queue.get_submission(id_).chunks_failed) == (1, 0)


def test_chunks_with_errors_are_found_page_by_page(queue: Queue) -> None:
    """Ascending, each once, whatever the page; also while it is in progress."""
    id_ = insert(queue, 40)
    complete(queue, *(int(index % 3 == 0) for index in range(31)))

    pages, first_index = [], 0
    while True:
        page = queue.chunks_with_errors(id_, first_index=first_index, limit=4)
        pages.append(page.indexes)
        if page.next_index is None:
            break
        first_index = page.next_index

    assert [(0, 3, 6, 9), (12, 15, 18, 21), (24, 27, 30)] == pages
    assert queue.chunks_with_errors(id_, first_index=MAX_CHUNKS).indexes == ()


def test_a_page_looks_at_a_bounded_number_of_chunks(
    client: redis.Redis, queue: Queue, raw: Raw
) -> None:
    """One error among the last of millions must not keep the server busy."""
    id_ = insert(queue, 3_000_000)
    client.setbit(raw.key(f"sub:{id_}:errors"), 2_999_999, 1)

    pages, first_index = [], 0
    while True:
        page = queue.chunks_with_errors(id_, first_index=first_index)
        pages.append(page.indexes)
        if page.next_index is None:
            break
        first_index = page.next_index

    assert [*[()] * 5, (2_999_999,)] == pages


def test_errors_are_found_until_the_submission_is_forgotten(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock
) -> None:
    """Completed submissions keep the bitmap; forgotten ones leave nothing."""
    id_ = insert(queue, 1, retention_ms=1_000)
    complete(queue, 1)
    found = queue.chunks_with_errors(id_).indexes
    clock.advance(1_000)

    queue.forget_submissions()

    assert found == (0,)
    assert client.exists(raw.key(f"sub:{id_}:errors")) == 0
    with pytest.raises(SubmissionNotFoundError):
        queue.chunks_with_errors(id_)


def test_a_submission_that_never_was_has_no_chunks(queue: Queue) -> None:
    """It is not found, rather than without errors."""
    with pytest.raises(SubmissionNotFoundError):
        queue.chunks_with_errors(SubmissionId(1))


def test_the_chunks_behind_the_one_that_passes_the_limit_are_dropped_in_the_same_call(
    queue: Queue,
) -> None:
    """Those in front of it are done, and so is itself."""
    id_ = insert(queue, 5, max_failed_operations=1)
    tokens = tokens_of(take(queue, 4))

    outcomes = queue.complete_chunks(tokens, operations_failed={tokens[0]: 1, tokens[2]: 1})

    assert [
        Completed(id_, 4),
        Completed(id_, 3),
        Completed(id_, 2, is_limit_passed=True),
        Dropped(id_),
    ] == outcomes
    submission = queue.get_submission(id_)
    assert submission.state is SubmissionState.FAILED
    assert (3, 0) == (submission.chunks_done, submission.chunks_in_hand)
    assert 2 == submission.operations_failed
