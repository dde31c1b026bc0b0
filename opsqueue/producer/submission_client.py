"""What a client asks about submissions that are there: state, lists, look-ups, changes, waiting.

No contents pass through here: `ProducerClient` adds what hands them in and reads results. Each
method has its asynchronous form, made by `producer/aio.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Mapping

from opsqueue.exceptions import SubmissionNotFoundError
from opsqueue.model.names import check_queue_name
from opsqueue.model.status import SubmissionStatus, status_of
from opsqueue.model.submission import (
    MAX_LOOKED_UP,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.producer.aio import Batched, Threads, each, in_thread
from opsqueue.producer.backends import Order, SubmissionApi
from opsqueue.producer.wait import LONG_POLL_S, Waiting
from opsqueue.tracing import spans


class SubmissionClient:
    """Asks about the submissions of one queue; may be used from several threads.

    Args:
        api: to ask.
        queue: the queue's name.
    """

    def __init__(self, api: SubmissionApi, queue: str) -> None:
        self.queue = check_queue_name(queue)
        self._api = api
        self.threads = Threads()

    def get_submission(self, submission_id: SubmissionId) -> Submission:
        """Give a submission as it is now.

        Raises:
            SubmissionNotFoundError: also after its retention.
        """
        return self._api.get(self.queue, SubmissionId(submission_id))

    def get_submission_status(self, submission_id: SubmissionId) -> SubmissionStatus | None:
        """Give a submission's state as a class, such as SubmissionStatus.InProgress.

        None when the queue has none of this id.
        """
        try:
            return status_of(self.get_submission(submission_id))
        except SubmissionNotFoundError:
            return None

    def is_completed(self, submission_id: SubmissionId) -> bool:
        """Tell whether all chunks of a submission are done.

        Raises:
            SubmissionNotFoundError.
        """
        return self.get_submission(submission_id).state is SubmissionState.COMPLETED

    def wait_for_submission(
        self, submission_id: SubmissionId, *, timeout: float | None = None
    ) -> Submission:
        """Block until a submission has ended, in whatever state, and give it.

        Args:
            submission_id: its id.
            timeout: seconds; None waits as long as it takes. An API that does not answer is asked
                again for about a minute each time.

        Raises:
            TimeoutError: it is still in progress.
            SubmissionNotFoundError: also when it was cleaned up meanwhile.
        """
        waiting = self._waiting(submission_id, timeout)
        with spans.wait(self.queue, submission_id):
            while (submission := waiting.turn()) is None:
                pass
        return submission

    async def async_wait_for_submission(
        self,
        submission_id: SubmissionId,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 as above
    ) -> Submission:
        """Do what `wait_for_submission` does; any number may wait at once."""
        waiting = self._waiting(submission_id, timeout)
        with spans.wait(self.queue, submission_id):
            return await self.threads.wait(waiting.turn, turn_s=LONG_POLL_S)

    def _waiting(self, submission_id: SubmissionId, timeout: float | None) -> Waiting:
        return Waiting(self._api, self.queue, SubmissionId(submission_id), timeout=timeout)

    def cancel_submission(self, submission_id: SubmissionId) -> None:
        """Drop what is left of a submission in progress.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        self._api.cancel(self.queue, SubmissionId(submission_id))

    def update_strategic_metadata(
        self, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> None:
        """Change strategic metadata while a submission is in progress, such as its priority.

        Args:
            submission_id: its id.
            changes: new values; None removes a key, what is not named stays.

        Raises:
            InvalidArgumentError: a key or value that can't be one, or too many pairs.
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        self._api.update_metadata(self.queue, SubmissionId(submission_id), changes)

    def lookup_submission_ids_by_strategic_metadata(
        self,
        strategic_metadata: Mapping[str, int],
        *,
        states: Iterable[SubmissionState] = (SubmissionState.IN_PROGRESS,),
        limit: int = MAX_LOOKED_UP,
    ) -> list[SubmissionId]:
        """Give the ids of all submissions that have all these pairs, ascending.

        Args:
            strategic_metadata: the pairs; none: all submissions.
            states: that they may be in.
            limit: at most MAX_LOOKED_UP.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """
        return self._api.lookup(self.queue, strategic_metadata, states=states, limit=limit)

    def lookup_submission_id_by_prefix(self, prefix: str) -> SubmissionId | None:
        """Give the submission whose contents lie below a prefix of the object store."""
        return self._api.lookup_prefix(self.queue, prefix)

    def list_submissions(
        self, wanted: SubmissionFilter | None = None, *, order: Order = "newest"
    ) -> Batched[Submission]:
        """Yield the submissions that fit, by creation, asking for the next page when needed."""
        return Batched(self._pages(wanted or SubmissionFilter(), order))

    async def async_list_submissions(
        self, wanted: SubmissionFilter | None = None, *, order: Order = "newest"
    ) -> AsyncIterator[Submission]:
        """Do what `list_submissions` does."""
        async for submission in each(self.list_submissions(wanted, order=order), self.threads):
            yield submission

    def _pages(
        self, wanted: SubmissionFilter, order: Order
    ) -> Generator[Iterable[Submission], None, None]:
        after: SubmissionId | None = None
        while True:
            page = self._api.list(self.queue, wanted, after=after, order=order, limit=100)
            yield page.submissions
            if page.next in (None, after):
                return
            after = page.next

    def count_submissions(self) -> int:
        """Count the queue's submissions in progress."""
        return self._api.count(self.queue).submissions[SubmissionState.IN_PROGRESS]

    def server_version(self) -> str:
        """Give the API's version."""
        return self._api.version()

    async_get_submission = in_thread(get_submission)
    async_get_submission_status = in_thread(get_submission_status)
    async_is_completed = in_thread(is_completed)
    async_cancel_submission = in_thread(cancel_submission)
    async_update_strategic_metadata = in_thread(update_strategic_metadata)
    async_lookup_submission_ids_by_strategic_metadata = in_thread(
        lookup_submission_ids_by_strategic_metadata
    )
    async_lookup_submission_id_by_prefix = in_thread(lookup_submission_id_by_prefix)
    async_count_submissions = in_thread(count_submissions)
    async_server_version = in_thread(server_version)
