"""The HTTP API as a producer's back end: which requests answer what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import unquote

from opsqueue.contents.inline import Kind
from opsqueue.http.bodies import (
    WARNING_HEADER,
    IdsBody,
    InlineBody,
    InsertBody,
    PatchBody,
    QueuesBody,
    WorkersBody,
)
from opsqueue.http.client import (
    JSON_TYPE,
    MAX_WAIT_S,
    WAIT_PATIENCE,
    HttpClient,
    Params,
    queue_path,
)
from opsqueue.model.answers import (
    Counts,
    ErrorChunks,
    Inserted,
    Progress,
    SubmissionPage,
    WorkerSeen,
)
from opsqueue.model.new_submission import (
    NewSubmission,
    check_metadata_changes,
    check_strategic_metadata,
)
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.producer.backends import Order


class HttpBackend(HttpClient):
    """The HTTP API's queues."""

    def queue(self, name: str, /) -> HttpQueue:
        """Return a queue; raises InvalidArgumentError for a name that can't be one."""
        return HttpQueue(self, name)

    def queues(self) -> Mapping[str, Counts]:
        """Count all; see `Backend.queues`."""
        body = self.read(self.send("GET", "/v1/queues"), QueuesBody, "")
        return {counts.queue: counts for counts in body.queues}


class HttpQueue:
    """The submissions of one queue over HTTP."""

    def __init__(self, client: HttpClient, name: str) -> None:
        """Ask nothing yet."""
        self._path = queue_path(name)
        self._client = client
        self.name = name

    def insert_submission(self, new: NewSubmission, *, idempotency_key: str = "") -> Inserted:
        """Insert a submission; see `ProducerQueue.insert_submission`. Safe to repeat, by key."""
        response = self._client.send(
            "POST",
            f"{self._path}/submissions",
            content=self._client.encoded(InsertBody.of(new)),
            headers={**JSON_TYPE, "idempotency-key": idempotency_key},
        )
        submission = self._client.read(response, Submission, self.name)
        is_new = response.status_code == HTTPStatus.CREATED
        return Inserted(
            id=submission.id,
            is_new=is_new,
            submission=submission,
            warning=unquote(response.headers.get(WARNING_HEADER, "")),
        )

    def get_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Return a submission; see `ProducerQueue.get_submission`."""
        return self.wait_for_end(submission_id, wait_s=0)

    def wait_for_end(self, submission_id: SubmissionId, *, wait_s: float) -> Submission:
        """Wait for a submission; see `ProducerQueue.wait_for_end`. More patient while it waits."""
        wait_s = max(0.0, min(wait_s, MAX_WAIT_S))
        response = self._client.send(
            "GET",
            f"{self._path}/submissions/{submission_id}",
            patience=WAIT_PATIENCE if wait_s else None,
            wait_s=wait_s,
        )
        return self._client.read(response, Submission, self.name, submission_id)

    def wait_for_progress(
        self,
        submission_id: SubmissionId,
        start: int = 0,
        *,
        seen: int | None = None,
        wait_s: float = 0,
    ) -> Progress:
        """Return progress; see `ProducerQueue.wait_for_progress`. More patient while it waits."""
        wait_s = max(0.0, min(wait_s, MAX_WAIT_S))
        response = self._client.send(
            "GET",
            f"{self._path}/submissions/{submission_id}/progress",
            patience=WAIT_PATIENCE if wait_s else None,
            wait_s=wait_s,
            params={"from": str(start)}
            if seen is None
            else {"from": str(start), "seen": str(seen)},
        )
        return self._client.read(response, Progress, self.name, submission_id)

    def cancel_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Cancel a submission; see `ProducerQueue.cancel_submission`."""
        response = self._client.send(
            "POST",
            f"{self._path}/submissions/{submission_id}/cancel",
            # Repeated after a lost answer it would be refused: it is cancelled already.
            is_repeatable=False,
        )
        return self._client.read(response, Submission, self.name, submission_id)

    def retry_submission(self, submission_id: SubmissionId, /) -> Submission:
        """Retry; see `ProducerQueue.retry_submission`."""
        path = f"{self._path}/submissions/{submission_id}/retry"
        response = self._client.send("POST", path, is_repeatable=False)
        return self._client.read(response, Submission, self.name, submission_id)

    def update_metadata(
        self, submission_id: SubmissionId, changes: Mapping[str, int | None], /
    ) -> Submission:
        """Change strategic metadata; see `ProducerQueue.update_metadata`."""
        check_metadata_changes(changes)
        response = self._client.send(
            "PATCH",
            f"{self._path}/submissions/{submission_id}",
            content=self._client.encoded(PatchBody(strategic_metadata=dict(changes))),
            headers=JSON_TYPE,
        )
        return self._client.read(response, Submission, self.name, submission_id)

    def list_submissions(
        self,
        wanted: SubmissionFilter | None = None,
        *,
        after: SubmissionId | None = None,
        order: Order = "newest",
        limit: int = 100,
    ) -> SubmissionPage:
        """List submissions; see `ProducerQueue.list_submissions`."""
        wanted = wanted or SubmissionFilter()
        params: dict[str, Params] = {
            "state": wanted.state.value if wanted.state else "any",
            "order": order,
            "limit": str(limit),
            "meta": _pairs(wanted.strategic_metadata),
        }
        if wanted.created_from:
            params["created_from"] = wanted.created_from.isoformat()
        if wanted.created_until:
            params["created_until"] = wanted.created_until.isoformat()
        if after is not None:
            params["after"] = str(after)
        response = self._client.send("GET", f"{self._path}/submissions", params=params)
        body = self._client.read(response, SubmissionPage, self.name)
        for submission in body.submissions:
            self._client.check_names(response, submission, self.name, None)
        return body

    def lookup_submissions(
        self,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState],
        limit: int,
    ) -> list[SubmissionId]:
        """Look up submissions; see `ProducerQueue.lookup_submissions`."""
        response = self._client.send(
            "GET",
            f"{self._path}/submission-ids",
            params={
                "meta": _pairs(pairs),
                "state": [state.value for state in states],
                "limit": str(limit),
            },
        )
        return self._client.read(response, IdsBody, self.name).ids

    def lookup_prefix(self, prefix: str, /) -> SubmissionId | None:
        """Look up a prefix; see `ProducerQueue.lookup_prefix`."""
        response = self._client.send(
            "GET", f"{self._path}/submission-ids", params={"prefix": prefix}
        )
        ids = self._client.read(response, IdsBody, self.name).ids
        return ids[0] if ids else None

    def inline_contents(
        self, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Return contents; see `ProducerQueue.inline_contents`."""
        response = self._client.send(
            "GET",
            f"{self._path}/submissions/{submission_id}/inline-{kind}",
            params=None if index is None else {"index": str(index)},
        )
        return self._client.read(response, InlineBody, self.name, submission_id).chunks

    def chunks_with_errors(
        self, submission_id: SubmissionId, first_index: int = 0, /
    ) -> ErrorChunks:
        """Return a page of chunks; see `ProducerQueue.chunks_with_errors`."""
        response = self._client.send(
            "GET",
            f"{self._path}/submissions/{submission_id}/errors/chunks",
            params={"from": str(first_index)},
        )
        return self._client.read(response, ErrorChunks, self.name, submission_id)

    def count_queue(self) -> Counts:
        """Count; see `ProducerQueue.count_queue`."""
        return self._client.read(self._client.send("GET", self._path), Counts, self.name)

    def list_workers(self) -> Sequence[WorkerSeen]:
        """List workers; see `ProducerQueue.list_workers`."""
        body = self._client.read(
            self._client.send("GET", f"{self._path}/workers"), WorkersBody, self.name
        )
        return body.workers

    def pause_queue(self) -> None:
        """Pause; see `ProducerQueue.pause_queue`."""
        self._client.read(self._client.send("POST", f"{self._path}/pause"), Counts, self.name)

    def resume_queue(self) -> None:
        """Resume; see `ProducerQueue.resume_queue`."""
        self._client.read(self._client.send("POST", f"{self._path}/resume"), Counts, self.name)


def _pairs(pairs: Mapping[str, int]) -> list[str]:
    check_strategic_metadata(pairs)
    return [f"{key}:{value}" for key, value in pairs.items()]
