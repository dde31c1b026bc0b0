"""Redis itself as `SubmissionApi`, for tools and tests that need no HTTP; and how to wait there.

The HTTP API waits with the same `wait_until_ended`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from opsqueue.contents.inline import Kind
from opsqueue.model.answers import Counts, ErrorChunks, Progress, SubmissionPage, WorkerSeen
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.model.version import __version__
from opsqueue.producer.backends import Ids, Order
from opsqueue.queue.cluster import Client
from opsqueue.queue.connection import BLOCK_MS
from opsqueue.queue.durability import Durability
from opsqueue.queue.partitioned import PartitionedQueue
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import each_readable, queue_names

_QUEUES_KEPT: Final = 1_000
_GATHER_S: Final = 0.02


class QueueApi:
    """Answers from Redis itself.

    Args:
        client: from `opsqueue.queue.connection.connect`, or a fakeredis one; stays the caller's.
        queue_of: makes a queue by its name, where it is not to be a `PartitionedQueue`.
        durability: that each insert waits for, see `opsqueue.queue.durability.check_durability`.
    """

    def __init__(
        self,
        client: Client,
        *,
        queue_of: Callable[[str], Queue] | None = None,
        durability: Durability = Durability.NONE,
    ) -> None:
        """Connect to nothing yet."""
        self._queue_names = partial(queue_names, client)
        # Kept, since a queue registers itself with its first insert.
        make = queue_of or partial(PartitionedQueue, client, durability=durability)
        self._queue_of = lru_cache(_QUEUES_KEPT)(make)

    def insert(self, queue: str, new: NewSubmission, idempotency_key: str) -> Submission:
        """Insert a submission; see `SubmissionApi.insert`."""
        on = self._queue_of(queue)
        return on.get_submission(on.insert_submission(new, idempotency_key=idempotency_key).id)

    def get(self, queue: str, submission_id: SubmissionId, wait_s: float = 0) -> Submission:
        """Give a submission; see `SubmissionApi.get`."""
        return wait_until_ended(self._queue_of(queue), submission_id, wait_s=wait_s)

    def progress(
        self,
        queue: str,
        submission_id: SubmissionId,
        start: int = 0,
        *,
        seen: int | None = None,
        wait_s: float = 0,
    ) -> Progress:
        """Give how far a submission is; see `SubmissionApi.progress`."""
        on = self._queue_of(queue)
        return wait_for_progress(on, submission_id, start, seen=seen, wait_s=wait_s)

    def cancel(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Cancel a submission; see `SubmissionApi.cancel`."""
        on = self._queue_of(queue)
        on.cancel_submission(submission_id)
        return on.get_submission(submission_id)

    def retry(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Retry; see `SubmissionApi.retry`."""
        on = self._queue_of(queue)
        on.retry_submission(submission_id)
        return on.get_submission(submission_id)

    def update_metadata(
        self, queue: str, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> Submission:
        """Change strategic metadata; see `SubmissionApi.update_metadata`."""
        on = self._queue_of(queue)
        on.update_metadata(submission_id, changes)
        return on.get_submission(submission_id)

    def list(
        self,
        queue: str,
        wanted: SubmissionFilter,
        *,
        after: SubmissionId | None = None,
        order: Order = "newest",
        limit: int = 50,
    ) -> SubmissionPage:
        """List submissions; see `SubmissionApi.list`."""
        return self._queue_of(queue).list_submissions(wanted, after=after, order=order, limit=limit)

    def lookup(
        self,
        queue: str,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState],
        limit: int,
    ) -> Ids:
        """Look up submissions; see `SubmissionApi.lookup`."""
        return self._queue_of(queue).lookup_submissions(pairs, states=states, limit=limit)

    def lookup_prefix(self, queue: str, prefix: str) -> SubmissionId | None:
        """Look up a prefix; see `SubmissionApi.lookup_prefix`."""
        return self._queue_of(queue).lookup_prefix(prefix)

    def inline_contents(
        self, queue: str, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Give contents; see `SubmissionApi.inline_contents`."""
        return self._queue_of(queue).inline_contents(submission_id, kind, index)

    def chunks_with_errors(
        self, queue: str, submission_id: SubmissionId, first_index: int = 0
    ) -> ErrorChunks:
        """Give a page of chunks; see `SubmissionApi.chunks_with_errors`."""
        return self._queue_of(queue).chunks_with_errors(submission_id, first_index=first_index)

    def count(self, queue: str) -> Counts:
        """Count; see `SubmissionApi.count`."""
        return self._queue_of(queue).count_queue()

    def queues(self) -> Mapping[str, Counts]:
        """Count all; see `SubmissionApi.queues`."""
        return dict(each_readable(self._queue_names(), self.count))

    def workers(self, queue: str) -> Sequence[WorkerSeen]:
        """List workers; see `SubmissionApi.workers`."""
        return self._queue_of(queue).list_workers()

    def pause(self, queue: str) -> None:
        """Pause; see `SubmissionApi.pause`."""
        self._queue_of(queue).pause_queue()

    def resume(self, queue: str) -> None:
        """Resume; see `SubmissionApi.resume`."""
        self._queue_of(queue).resume_queue()

    def version(self) -> str:
        """Give our own version."""
        return __version__

    def close(self) -> None:
        """Nothing to give back: the client is the caller's."""


def wait_until_ended(
    queue: Queue,
    submission_id: SubmissionId,
    *,
    wait_s: float,
    slice_ms: int = BLOCK_MS,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Submission:
    """Give a submission when it has ended, or as it is after `wait_s`.

    Args:
        queue: its queue.
        submission_id: its id.
        wait_s: seconds from now; 0 only reads.
        slice_ms: after each the state is read again, in case an event was trimmed away, and
            `is_stopping` is asked; at most BLOCK_MS, for the connection's sake.
        is_stopping: ends the waiting early, when the process shuts down.

    Raises:
        SubmissionNotFoundError: also when it is cleaned up meanwhile.
    """
    if wait_s <= 0:
        return queue.get_submission(submission_id)
    queue = queue.part_of(submission_id)
    deadline = time.monotonic() + wait_s
    # Before the state is read: an end between the two is then among the events.
    last_id = queue.last_event_id()
    submission = queue.get_submission(submission_id)
    while submission.state is SubmissionState.IN_PROGRESS and not is_stopping():
        now = time.monotonic()
        if now >= deadline:
            break
        until = min(deadline, now + slice_ms / 1000)
        last_id = _wait_for_event_of(queue, submission_id, last_id, until=until)
        submission = queue.get_submission(submission_id)
    return submission


def wait_for_progress(
    queue: Queue,
    submission_id: SubmissionId,
    start: int = 0,
    *,
    seen: int | None = None,
    wait_s: float,
    slice_ms: int = BLOCK_MS,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Progress:
    """Give a submission's progress as `SubmissionApi.progress` says; arguments as above.

    Raises:
        SubmissionNotFoundError: also when it is cleaned up meanwhile.
    """
    deadline = time.monotonic() + wait_s
    while True:
        left_s = deadline - time.monotonic()
        news_id = None
        if left_s > 0:
            # Before the progress is read: a change between the two is then among the news.
            news_id = queue.watch_submission(submission_id, watch_ms=2 * BLOCK_MS)
        progress = queue.done_chunks(submission_id, start=start)
        is_due = start in progress.done if seen is None else progress.chunks_done != seen
        has_ended = progress.state is not SubmissionState.IN_PROGRESS
        if is_due or has_ended or news_id is None or is_stopping():
            return progress
        block_ms = math.ceil(min(left_s * 1000, slice_ms))
        if queue.wait_for_news(submission_id, news_id, block_ms=block_ms):
            # Chunks may be done by the thousand a second: what comes meanwhile is read together.
            time.sleep(_GATHER_S)


def _wait_for_event_of(
    queue: Queue, submission_id: SubmissionId, last_id: str, *, until: float
) -> str:
    """Read events until one is of the submission or time is over; give the id of the last read."""
    while (left_s := until - time.monotonic()) > 0:
        last_id, events = queue.wait_for_events(last_id, block_ms=math.ceil(left_s * 1000))
        if any(of == submission_id for of, _ in events):
            break
    return last_id
