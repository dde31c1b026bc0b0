"""Results as they come: the chunks of a running submission in order, each as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opsqueue.queue import Queue
from opsqueue.submission import SubmissionId, SubmissionState
from opsqueue.submission_api import wait_for_progress
from opsqueue_api.long_polls import WAIT_SLICE_MS
from opsqueue_api.streams import Reader, cut_off

_WAIT_S: Final = 1.0


def followed_chunks(
    queue: Queue, submission_id: SubmissionId, start: int, reader: Reader
) -> Iterator[range]:
    """Yield the next chunks that are done, in order; an empty range when none came for a while.

    Raises:
        ConnectionAbortedError: the submission ended without completing, the process stops, or
            nobody reads any more.
    """
    wait_s = 0.0
    while True:
        progress = wait_for_progress(
            queue,
            submission_id,
            start,
            wait_s=wait_s,
            slice_ms=WAIT_SLICE_MS,
            is_stopping=reader.is_stopping,
        )
        done = range(start, max(start, progress.done.done_until))
        yield done
        start = done.stop
        if start >= progress.chunks_total:
            return
        if not done and progress.state is not SubmissionState.IN_PROGRESS:
            why = f"submission {submission_id} is {progress.state}: chunk {start} is not done"
            raise cut_off(why)
        if reader.is_gone:
            why = "the process stops, or nobody reads"
            raise cut_off(why)
        wait_s = _WAIT_S
