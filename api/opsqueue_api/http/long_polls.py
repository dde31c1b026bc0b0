"""Requests that wait, and answers that go on for long: how many there may be at once.

Each occupies a thread of the server; without a bound, they would leave none for the others.
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
"""After each a waiting request notices that the process stops."""


class Room:
    """A place among the long polls; given back once, at the latest with its last reference."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        """Take what gives it back."""
        # The net below `leave`, which whoever takes a room calls: for an answer that nobody closes.
        self._finalize = weakref.finalize(self, give_back)

    def leave(self) -> None:
        """Give it back; twice is once."""
        self._finalize()


class LongPolls:
    """Lets at most `limit` requests wait at once, so that the others find a free thread.

    A request beyond the limit is answered at once; our client then pauses before it asks again.
    """

    def __init__(self, limit: int, is_stopping: Callable[[], bool]) -> None:
        """Take the limit, and what tells that the process stops."""
        self._limit = limit
        self._free = BoundedSemaphore(limit)
        self.is_stopping = is_stopping

    def wait(self, queue: Queue, submission_id: SubmissionId, wait_s: float) -> Submission:
        """Give a submission when it has ended, or as it is when time or room is over."""
        with self.room_for(wait_s) as granted_s:
            return queue.wait_for_end(
                submission_id,
                wait_s=granted_s,
                slice_ms=WAIT_SLICE_MS,
                is_stopping=self.is_stopping,
            )

    @contextmanager
    def room_for(self, wait_s: float) -> Iterator[float]:
        """Give how long the request may wait: as long as it asks for, or not at all."""
        has_room = wait_s > 0 and self._free.acquire(blocking=False)
        try:
            yield wait_s if has_room else 0
        finally:
            if has_room:
                self._free.release()

    def take_room(self) -> Room:
        """Take room for an answer that goes on for long.

        Raises:
            ProblemError: there is none.
        """
        if not self._free.acquire(blocking=False):
            detail = (
                f"all {self._limit} places for requests that wait or stream are taken: try again, "
                "or start the API with more --threads"
            )
            raise ProblemError(Problem(ProblemType.UNAVAILABLE, detail))
        return Room(self._free.release)
