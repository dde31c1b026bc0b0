"""The back end of a producer: the queue's own interface, which Redis and the HTTP API implement.

`Queue` (opsqueue/queue) is Redis's implementation, `HttpQueue` (in http_api.py) asks the HTTP API.
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

    Every method raises an error of ConnectionTroubleError's kind when there is no answer: what was
    asked for may have happened.
    """

    @property
    def name(self) -> str:
        """The queue's name."""

    def insert_submission(self, new: NewSubmission, *, idempotency_key: str = "") -> Inserted:
        """Insert a submission whose contents are stored.

        When the key is known, the answer is its submission, whose prefix is another one. (Not
        `is_new`: an insert repeated after a lost answer finds itself known.)

        Raises:
            InvalidArgumentError: the submission is not a valid one.
            PrefixTakenError: another submission has its prefix.
            SubmissionNotConfirmedError: it is inserted, but not yet as durable as Redis, or the
                API, was asked to make it.
        """

    def get_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Return a submission as it is now; raises SubmissionNotFoundError."""

    def wait_for_end(self, submission_id: SubmissionId, *, wait_s: float) -> Submission:
        """Return a submission when it has ended, or as it is after `wait_s`, at most 60.

        May answer before the time is over though nothing has changed.

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
        """Return how far a submission is, and which chunks from `start` on are done.

        Waits up to `wait_s`, at most 60, until chunk `start` is done or the submission has ended;
        with `seen` until other than that many chunks are done or it has ended. May answer before
        the time is over though neither is so.

        Raises:
            SubmissionNotFoundError.
        """

    def cancel_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Cancel a submission in progress and return it as it is then."""

    def retry_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Retry a failed or cancelled submission and return it as it is then."""

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
        """List a page of the submissions that fit, of at most 100."""

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
        """Return what a small submission has in Redis, encoded, by chunk; all, or of one chunk."""

    def chunks_with_errors(
        self, submission_id: SubmissionId, first_index: int = 0, /
    ) -> ErrorChunks:
        """Return a page of the finished chunks that have operations that failed, ascending."""

    def count_queue(self) -> Counts:
        """Count what the queue holds now."""

    def list_workers(self) -> Sequence[WorkerSeen]:
        """List the queue's workers that have not gone, the ones seen last first."""

    def pause_queue(self) -> None:
        """Stop handing out chunks until `resume_queue`."""

    def resume_queue(self) -> None:
        """Resume handing out chunks."""


class Backend(Protocol):
    """Redis or the HTTP API: the queues that it has."""

    store_id: str
    """Of the API's object store, once it has told its version; "" where none is known."""

    def queue(self, name: str, /) -> ProducerQueue:
        """Return a queue; raises InvalidArgumentError for a name that can't be one."""

    def queues(self) -> Mapping[str, Counts]:
        """Count what each queue holds, by name."""

    def version(self) -> str:
        """Return the version of whoever answers."""

    def close(self) -> None:
        """Give connections back."""
