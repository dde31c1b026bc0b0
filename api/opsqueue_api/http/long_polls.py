"""A limit on requests that wait and on answers that are streamed.

Each occupies a thread of the server. Without a limit they would leave none for other requests.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final

from opsqueue.http.bodies import ProblemType
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue_api.http.problem import Problem, ProblemError

MAX_WAIT_S: Final = 60.0
WAIT_SLICE_MS: Final = 1_000
"""Interval at which a waiting request checks whether the process stops."""


class Room:
    """A place among the long polls; it is released once, at the latest with its last reference."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        """Occupy the place; `give_back` releases it."""
        # A safety net for an answer that nobody closes; normally `leave` is called.
        self._finalize = weakref.finalize(self, give_back)

    def leave(self) -> None:
        """Release the place; further calls do nothing."""
        self._finalize()


class LongPolls:
    """A limit on the requests that wait at the same time, so that others find a free thread.

    A request beyond the limit is answered at once; opsqueue's client then pauses before it asks
    again.
    """

    def __init__(self, limit: int, is_stopping: Callable[[], bool]) -> None:
        """Set the limit; `is_stopping` is called by waiting requests."""
        self._limit = limit
        self._free = BoundedSemaphore(limit)
        self.is_stopping = is_stopping

    def wait(self, queue: Queue, submission_id: SubmissionId, wait_s: float) -> Submission:
        """Return a submission when it has ended, or earlier if the time or the places run out."""
        with self.room_for(wait_s) as granted_s:
            return queue.wait_for_end(
                submission_id,
                wait_s=granted_s,
                slice_ms=WAIT_SLICE_MS,
                is_stopping=self.is_stopping,
            )

    @contextmanager
    def room_for(self, wait_s: float) -> Iterator[float]:
        """Yield the seconds that the request may wait: the requested time, or 0."""
        has_room = wait_s > 0 and self._free.acquire(blocking=False)
        try:
            yield wait_s if has_room else 0
        finally:
            if has_room:
                self._free.release()

    def take_room(self) -> Room:
        """Reserve a place for a streamed answer.

        Raises:
            ProblemError: there is no free place.
        """
        if not self._free.acquire(blocking=False):
            detail = (
                f"all {self._limit} places for requests that wait or stream are taken: try again "
                "later, or start the API with more --threads"
            )
            raise ProblemError(Problem(ProblemType.UNAVAILABLE, detail))
        return Room(self._free.release)
