"""Following a submission while it runs: long polls yield the chunks that are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from opsqueue.contents.chunks import check_completed
from opsqueue.exceptions import InvalidArgumentError, OpsqueueInternalError
from opsqueue.model.answers import Progress
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer.backends import ProducerQueue
from opsqueue.producer.wait import NobodyWorks

TURN_S = 10.0
"""The wait of one request. An empty batch is yielded then, so that the caller can stop."""
_MOST_ENDED_TURNS: Final = 100
"""The limit of such turns in a row; a single one may be due to a retry between two requests."""


def chunks_in_order(
    queue: ProducerQueue, submission_id: SubmissionId, *, start: int
) -> Iterator[Sequence[int]]:
    """Yield the chunks from `start` on, each when it and all before it are done.

    Yields an empty sequence after each wait in which nothing was done.

    Raises:
        SubmissionFailedError, SubmissionCancelledError: after all chunks before the first one that
            is not done.
        SubmissionNotFoundError: also if the submission is cleaned up meanwhile.
        InvalidArgumentError: the submission has no chunk `start`.
    """
    nobody_works = NobodyWorks(queue, submission_id)

    def ask(first: int, wait_s: float) -> Progress:
        progress = queue.wait_for_progress(submission_id, first, wait_s=wait_s)
        _check_start(progress, first)
        if wait_s and progress.state is SubmissionState.IN_PROGRESS:
            nobody_works.check(progress.chunks_done)
        return progress

    def check_end(_state: SubmissionState, _first: int) -> None:
        check_completed(queue.get_submission(submission_id))

    return done_in_order(ask, check_end, start=start, turn_s=TURN_S)


def done_in_order(
    ask: Callable[[int, float], Progress],
    check_end: Callable[[SubmissionState, int], None],
    *,
    start: int,
    turn_s: float,
) -> Iterator[range]:
    """Yield the chunks from `start` on, each when it and all before it are done.

    Yields an empty range after each wait in which nothing was done.

    Args:
        ask: returns the progress from a chunk on; waits up to the given number of seconds until
            that chunk is done.
        check_end: called when the submission has ended in a state and the chunk is not done;
            raises the error for it. If it returns, the progress is asked for again, since a retry
            may have come between the two requests.
        start: the first chunk.
        turn_s: how long to wait each time, except the first time, which does not wait.
    """
    wait_s, ended_turns = 0.0, 0
    while True:
        progress = ask(start, wait_s)
        done = range(start, max(start, progress.done_until))
        yield done
        start = done.stop
        if start >= progress.chunks_total:
            return
        if not done and progress.state is not SubmissionState.IN_PROGRESS:
            check_end(progress.state, start)
            ended_turns += 1
            if ended_turns > _MOST_ENDED_TURNS:
                message = f"the submission is {progress.state}, but its chunk {start} is not done"
                raise OpsqueueInternalError(message)
        else:
            ended_turns = 0
        wait_s = turn_s


def chunks_as_they_come(
    queue: ProducerQueue, submission_id: SubmissionId, *, start: int
) -> Iterator[Sequence[int]]:
    """Yield the chunks from `start` on in the order in which they are found to be done.

    Needs one bit of memory per chunk.

    Raises:
        SubmissionFailedError, SubmissionCancelledError: after all chunks that were done.
        SubmissionNotFoundError, InvalidArgumentError: see `chunks_in_order`.
    """
    first = queue.wait_for_progress(submission_id, start)
    _check_start(first, start)
    seen = bytearray(-(-first.chunks_total // 8))
    nobody_works = NobodyWorks(queue, submission_id)
    progress = first
    while True:
        found = 0
        for window in _windows(queue, submission_id, progress):
            fresh = [index for index in window.done if not seen[index >> 3] & 1 << (index & 7)]
            for index in fresh:
                seen[index >> 3] |= 1 << (index & 7)
            found += len(fresh)
            yield fresh
        if progress.state is not SubmissionState.IN_PROGRESS and not found:
            if progress.state is not SubmissionState.COMPLETED:
                check_completed(queue.get_submission(submission_id))
            return
        progress = queue.wait_for_progress(
            submission_id, start, seen=progress.chunks_done, wait_s=TURN_S
        )
        if progress.state is SubmissionState.IN_PROGRESS:
            nobody_works.check(progress.chunks_done)


def chunks_done(
    queue: ProducerQueue, submission_id: SubmissionId, *, start: int = 0
) -> Iterator[Sequence[int]]:
    """Yield the chunks from `start` on that are done now, ascending; the state does not matter.

    Raises:
        SubmissionNotFoundError, InvalidArgumentError: see `chunks_in_order`.
    """
    progress = queue.wait_for_progress(submission_id, start)
    _check_start(progress, start)
    for window in _windows(queue, submission_id, progress):
        yield tuple(window.done)


def _windows(
    queue: ProducerQueue, submission_id: SubmissionId, progress: Progress
) -> Iterator[Progress]:
    """Yield the given window of progress and all that follow it."""
    yield progress
    while (end := progress.done.end) < progress.chunks_total:
        progress = queue.wait_for_progress(submission_id, end)
        yield progress
        if progress.done.end <= end:
            return  # the same window again: a later call may find a further one


def _check_start(progress: Progress, start: int) -> None:
    if not 0 <= start <= progress.chunks_total:
        message = f"start is {start}: the submission has chunks 0 to {progress.chunks_total - 1}"
        raise InvalidArgumentError(message)
