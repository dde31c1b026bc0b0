"""Waiting for a submission's end in turns, each of which is one long poll."""

from __future__ import annotations

import logging
import time
from typing import Final

from opsqueue.model.backoff import NO_ROOM
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.producer.backends import ProducerQueue

LONG_POLL_S: Final = 30.0
"""The wait of one request. It is below the timeout of proxies, which is often 60 s."""

_FIRST_POLL_S: Final = 5.0
"""The wait of the first request. After it a warning is logged if the queue has no worker."""

_LOG: Final = logging.getLogger("opsqueue.producer")


class NobodyWorks:
    """Logs a warning, once, if nothing happens because the queue, maybe misspelt, has no worker."""

    def __init__(self, queue: ProducerQueue, submission_id: SubmissionId) -> None:
        """Make no request yet."""
        self._queue = queue
        self._id = submission_id
        self._is_checked = False

    def check(self, chunks_done: int) -> None:
        """Look at the queue's workers if nothing was done in the first wait for a submission."""
        if self._is_checked:
            return
        self._is_checked = True
        if chunks_done == 0 and self._queue.count_queue().workers == 0:
            _LOG.warning(
                "submission %s waits: no worker serves queue %r; check the queue's name, and that "
                "opsqueue-worker is running",
                self._id,
                self._queue.name,
            )


class Waiting:
    """A wait until a submission has ended.

    Args:
        queue: the submission's queue.
        submission_id: its id.
        timeout: seconds from now; None waits as long as it takes.
    """

    def __init__(
        self, queue: ProducerQueue, submission_id: SubmissionId, *, timeout: float | None
    ) -> None:
        """Make no request yet."""
        self._queue = queue
        self._id = submission_id
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._is_first = True
        self._nobody_works = NobodyWorks(queue, submission_id)

    def turn(self, at_most_s: float | None = None) -> Submission | None:
        """Wait for at most LONG_POLL_S; return None if the submission is still in progress.

        Raises:
            TimeoutError: the timeout is over.
            SubmissionNotFoundError: also if the submission was cleaned up meanwhile.
        """
        at_most_s = LONG_POLL_S if at_most_s is None else at_most_s
        asked_at = time.monotonic()
        left_s = at_most_s if self._deadline is None else self._deadline - asked_at
        wait_s = max(0.0, min(at_most_s, left_s, _FIRST_POLL_S if self._is_first else at_most_s))
        submission = self._queue.wait_for_end(self._id, wait_s=wait_s)
        if submission.state is not SubmissionState.IN_PROGRESS:
            return submission
        if left_s <= 0:
            message = (
                f"submission {self._id} is still in progress after {self._timeout} s: "
                f"{submission.chunks_done:,} of {submission.chunks_total:,} chunks are done"
            )
            raise TimeoutError(message)
        self._nobody_works.check(submission.chunks_done)
        self._is_first = False
        if time.monotonic() - asked_at < wait_s / 2:
            time.sleep(min(wait_s, NO_ROOM.pause_s(1)))
        return None
