"""The back end of a producer: an interface that Redis and the HTTP API implement.

`Queue` (opsqueue/queue) implements it on Redis, `HttpQueue` (in http_api.py) on the HTTP API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from opsqueue.contents.inline import Kind
from opsqueue.model.answers import (
    Counts,
    ErrorChunks,
    Inserted,
    Progress,
    SubmissionPage,
    WorkerSeen,
)
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState

Order = Literal["newest", "oldest"]


class ProducerQueue(Protocol):
    """The submissions of one queue; see the methods of `Queue`.

    Every method raises a ConnectionTroubleError if there is no answer. The operation may have taken
    effect nevertheless.
    """

    @property
    def name(self) -> str:
        """The queue's name."""

    def insert_submission(self, new: NewSubmission, *, idempotency_key: str = "") -> Inserted:
        """Insert a submission whose contents are stored.

        If the key is known, the answer is the submission inserted with it, whose prefix differs.
        Compare the prefixes rather than read `is_new`: an insert that is repeated after a lost
        answer finds itself and is not new.

        Raises:
            InvalidArgumentError: the submission is invalid.
            PrefixTakenError: another submission has its prefix.
            SubmissionNotConfirmedError: the submission is inserted, but not yet as durable as Redis
                or the API was asked to make it.
        """

    def get_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Return a submission as it is now; raises SubmissionNotFoundError."""

    def wait_for_end(self, submission_id: SubmissionId, *, wait_s: float) -> Submission:
        """Return a submission when it has ended, or as it is after `wait_s`, at most 60.

        May return before the time is over although nothing has changed.

        Raises:
            SubmissionNotFoundError.
        """

    def wait_for_progress(
        self,
        submission_id: SubmissionId,
        start: int = 0,
        *,
        seen: int | None = None,
        wait_s: float = 0,
    ) -> Progress:
        """Return a submission's progress, and which chunks from `start` on are done.

        Waits up to `wait_s`, at most 60, until chunk `start` is done or the submission has ended.
        With `seen`, waits until the number of chunks done differs from it or the submission has
        ended. May return before the time is over although nothing has changed.

        Raises:
            SubmissionNotFoundError.
        """

    def cancel_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Cancel a submission in progress and return its new state."""

    def retry_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Retry a failed or cancelled submission and return its new state."""

    def update_metadata(
        self, submission_id: SubmissionId, changes: Mapping[str, int | None], /
    ) -> Submission:
        """Change strategic metadata of a submission in progress; None removes a key."""

    def list_submissions(
        self,
        wanted: SubmissionFilter | None = None,
        *,
        after: SubmissionId | None = None,
        order: Order = "newest",
        limit: int = 100,
    ) -> SubmissionPage:
        """Return a page of the matching submissions; `limit` is at most 100."""

    def lookup_submissions(
        self, pairs: Mapping[str, int], *, states: Iterable[SubmissionState], limit: int
    ) -> list[SubmissionId]:
        """Return the ids of submissions with all pairs in one of the states, ascending.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """

    def lookup_prefix(self, prefix: str, /) -> SubmissionId | None:
        """Return the submission whose contents lie below a prefix."""

    def inline_contents(
        self, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Return encoded contents of a small submission in Redis by chunk: all, or one chunk's."""

    def chunks_with_errors(
        self, submission_id: SubmissionId, first_index: int = 0, /
    ) -> ErrorChunks:
        """Return a page of the finished chunks that have failed operations, ascending."""

    def count_queue(self) -> Counts:
        """Count what the queue holds now."""

    def list_workers(self) -> Sequence[WorkerSeen]:
        """List the queue's registered workers, the most recently seen first."""

    def pause_queue(self) -> None:
        """Stop reservations of chunks until `resume_queue`."""

    def resume_queue(self) -> None:
        """Allow reservations of chunks again."""


class Backend(Protocol):
    """Redis or the HTTP API, with its queues."""

    store_id: str
    """The id of the API's object store, known after a call of `version`; "" if none is known."""

    def queue(self, name: str, /) -> ProducerQueue:
        """Return a queue; raises InvalidArgumentError for a name that can't be one."""

    def queues(self) -> Mapping[str, Counts]:
        """Count what each queue holds, by name."""

    def version(self) -> str:
        """Return the version of the program that answers."""

    def close(self) -> None:
        """Close the connections."""
