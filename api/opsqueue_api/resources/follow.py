"""Following a submission: its chunks in order, each as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opsqueue.model.answers import Progress
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer.follow import done_in_order
from opsqueue.queue.queue import Queue
from opsqueue_api.http.long_polls import WAIT_SLICE_MS
from opsqueue_api.http.streams import Reader, cut_off

_WAIT_S: Final = 1.0


def followed_chunks(
    queue: Queue, submission_id: SubmissionId, start: int, reader: Reader
) -> Iterator[range]:
    """Yield the next chunks that are done, in order; an empty range if none came for a while.

    Raises:
        ConnectionAbortedError: the submission ended without completing, the process stops, or the
            client is gone.
    """

    def ask(first: int, wait_s: float) -> Progress:
        # Not in the first turn, when there is no answer yet that could be cut off.
        if wait_s and reader.is_gone:
            why = "the process stops, or the client is gone"
            raise cut_off(why)
        return queue.wait_for_progress(
            submission_id,
            first,
            wait_s=wait_s,
            slice_ms=WAIT_SLICE_MS,
            is_stopping=reader.is_stopping,
        )

    def check_end(state: SubmissionState, first: int) -> None:
        why = f"submission {submission_id} is {state}: chunk {first} is not done"
        raise cut_off(why)

    return done_in_order(ask, check_end, start=start, turn_s=_WAIT_S)
