"""The back end of a producer: one interface to submissions, which Redis and the HTTP API implement.

`HttpApi` (in http_api.py) asks the HTTP API; `QueueApi` (in redis_api.py) asks Redis itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from opsqueue.contents.inline import Kind
from opsqueue.model.answers import Counts, ErrorChunks, Progress, SubmissionPage, WorkerSeen
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState

Order = Literal["newest", "oldest"]
Ids = list[SubmissionId]
"""Named here, since `list` is a method below."""


class SubmissionApi(Protocol):
    """Submissions of any queue, in values.

    Every method raises InvalidArgumentError for a queue name that can't be one, and an error of
    ConnectionTroubleError's kind when there is no answer: what was asked for may have happened.
    """

    def insert(self, queue: str, new: NewSubmission, idempotency_key: str) -> Submission:
        """Insert a submission whose contents are stored.

        Returns the submission of this key: when it is an earlier one, its prefix is not the one
        given. (Not a flag: an insert repeated after a lost answer would find itself known.)

        Raises:
            InvalidArgumentError: also when another submission has its prefix.
            SubmissionNotConfirmedError: it is inserted, but not yet as durable as Redis, or the
                API, was asked to make it.
        """

    def get(self, queue: str, submission_id: SubmissionId, wait_s: float = 0) -> Submission:
        """Give a submission as it is now; waits up to `wait_s`, at most 60, for its end.

        May answer before the time is over though nothing has changed.

        Raises:
            SubmissionNotFoundError.
        """

    def progress(
        self,
        queue: str,
        submission_id: SubmissionId,
        start: int = 0,
        *,
        seen: int | None = None,
        wait_s: float = 0,
    ) -> Progress:
        """Give how far a submission is, and which chunks from `start` on are done.

        Waits up to `wait_s`, at most 60, until chunk `start` is done or the submission has ended;
        with `seen` until other than that many chunks are done or it has ended. May answer before
        the time is over though neither is so.

        Raises:
            SubmissionNotFoundError.
        """

    def cancel(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Drop what is left of a submission, and give it as it is then.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError.
        """

    def retry(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Put a failed or cancelled submission back to work, and give it as it is then.

        Raises:
            SubmissionNotFoundError, SubmissionNotRetryableError.
        """

    def update_metadata(
        self, queue: str, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> Submission:
        """Change strategic metadata of a submission in progress; None removes a key.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """

    def list(
        self,
        queue: str,
        wanted: SubmissionFilter,
        *,
        after: SubmissionId | None = None,
        order: Order = "newest",
        limit: int = 50,
    ) -> SubmissionPage:
        """List a page of the submissions that fit, of at most 100."""

    def lookup(
        self,
        queue: str,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState],
        limit: int,
    ) -> Ids:
        """Give the ids of submissions with all pairs in one of the states, ascending.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """

    def lookup_prefix(self, queue: str, prefix: str) -> SubmissionId | None:
        """Give the submission whose contents lie below a prefix."""

    def inline_contents(
        self, queue: str, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Give what a small submission has in Redis, encoded, by chunk; all, or of one chunk.

        Raises:
            SubmissionNotFoundError.
        """

    def chunks_with_errors(
        self, queue: str, submission_id: SubmissionId, first_index: int = 0
    ) -> ErrorChunks:
        """Give a page of the finished chunks that have operations that failed, ascending.

        Raises:
            SubmissionNotFoundError.
        """

    def count(self, queue: str) -> Counts:
        """Count what the queue holds now."""

    def queues(self) -> Mapping[str, Counts]:
        """Count what each queue holds, by name."""

    def workers(self, queue: str) -> Sequence[WorkerSeen]:
        """List the queue's workers that have not gone, the ones seen last first."""

    def pause(self, queue: str) -> None:
        """Let no chunk be reserved until `resume`."""

    def resume(self, queue: str) -> None:
        """Let chunks be reserved again."""

    def version(self) -> str:
        """Give the version of whoever answers."""

    def close(self) -> None:
        """Give connections back."""
