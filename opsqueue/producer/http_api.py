"""The HTTP API as `SubmissionApi`: which requests answer what; `http/client.py` makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opsqueue.contents.inline import Kind
from opsqueue.http.client import (
    CALL_PATIENCE,
    JSON_TYPE,
    MAX_WAIT_S,
    WAIT_PATIENCE,
    HttpClient,
    Params,
    queue_path,
)
from opsqueue.http.progress_wire import ErrorChunksBody, ProgressBody
from opsqueue.http.submission_wire import (
    IdsBody,
    InlineBody,
    InsertBody,
    PatchBody,
    SubmissionBody,
    SubmissionsBody,
)
from opsqueue.http.wire import CountsBody, QueuesBody, WorkersBody
from opsqueue.model.answers import Counts, ErrorChunks, Progress, SubmissionPage, WorkerSeen
from opsqueue.model.new_submission import NewSubmission, check_strategic_metadata
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.producer.backends import Ids, Order


class HttpApi(HttpClient):
    """Submissions over HTTP."""

    def insert(self, queue: str, new: NewSubmission, idempotency_key: str) -> Submission:
        """Insert a submission; see `SubmissionApi.insert`. Repeated safely, by its key."""
        response = self._send(
            "POST",
            f"{queue_path(queue)}/submissions",
            content=self._encoded(InsertBody.of(new)),
            headers={**JSON_TYPE, "idempotency-key": idempotency_key},
        )
        return self._read(response, SubmissionBody, queue).to_submission()

    def get(self, queue: str, submission_id: SubmissionId, wait_s: float = 0) -> Submission:
        """Give a submission; see `SubmissionApi.get`. More patient while it waits."""
        wait_s = max(0.0, min(wait_s, MAX_WAIT_S))
        response = self._send(
            "GET",
            f"{queue_path(queue)}/submissions/{submission_id}",
            patience=WAIT_PATIENCE if wait_s else None,
            wait_s=wait_s,
        )
        return self._read(response, SubmissionBody, queue, submission_id).to_submission()

    def progress(
        self,
        queue: str,
        submission_id: SubmissionId,
        start: int = 0,
        *,
        seen: int | None = None,
        wait_s: float = 0,
    ) -> Progress:
        """Give progress; see `SubmissionApi.progress`. More patient while it waits."""
        wait_s = max(0.0, min(wait_s, MAX_WAIT_S))
        response = self._send(
            "GET",
            f"{queue_path(queue)}/submissions/{submission_id}/progress",
            patience=WAIT_PATIENCE if wait_s else None,
            wait_s=wait_s,
            params={"from": str(start)}
            if seen is None
            else {"from": str(start), "seen": str(seen)},
        )
        return self._read(response, ProgressBody, queue, submission_id).to_progress()

    def cancel(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Cancel a submission; see `SubmissionApi.cancel`."""
        response = self._send(
            "POST",
            f"{queue_path(queue)}/submissions/{submission_id}/cancel",
            # Repeated after a lost answer it would be refused: it is cancelled already.
            is_repeatable=False,
        )
        return self._read(response, SubmissionBody, queue, submission_id).to_submission()

    def retry(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Retry; see `SubmissionApi.retry`."""
        path = f"{queue_path(queue)}/submissions/{submission_id}/retry"
        response = self._send("POST", path, is_repeatable=False)
        return self._read(response, SubmissionBody, queue, submission_id).to_submission()

    def update_metadata(
        self, queue: str, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> Submission:
        """Change strategic metadata; see `SubmissionApi.update_metadata`."""
        response = self._send(
            "PATCH",
            f"{queue_path(queue)}/submissions/{submission_id}",
            content=self._encoded(PatchBody(strategic_metadata=dict(changes))),
            headers=JSON_TYPE,
        )
        return self._read(response, SubmissionBody, queue, submission_id).to_submission()

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
        response = self._send("GET", f"{queue_path(queue)}/submissions", params=params)
        body = self._read(response, SubmissionsBody, queue)
        for submission in body.submissions:
            self._check_names(response, submission, queue, None)
        return body.to_page()

    def lookup(
        self,
        queue: str,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState],
        limit: int,
    ) -> Ids:
        """Look up submissions; see `SubmissionApi.lookup`."""
        response = self._send(
            "GET",
            f"{queue_path(queue)}/submission-ids",
            params={
                "meta": _pairs(pairs),
                "state": [state.value for state in states],
                "limit": str(limit),
            },
        )
        ids = self._read(response, IdsBody, queue).ids
        return [SubmissionId(id_) for id_ in ids]

    def lookup_prefix(self, queue: str, prefix: str) -> SubmissionId | None:
        """Look up a prefix; see `SubmissionApi.lookup_prefix`."""
        response = self._send(
            "GET", f"{queue_path(queue)}/submission-ids", params={"prefix": prefix}
        )
        ids = self._read(response, IdsBody, queue).ids
        return SubmissionId(ids[0]) if ids else None

    def inline_contents(
        self, queue: str, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Give contents; see `SubmissionApi.inline_contents`."""
        response = self._send(
            "GET",
            f"{queue_path(queue)}/submissions/{submission_id}/inline-{kind}",
            params=None if index is None else {"index": str(index)},
        )
        return self._read(response, InlineBody, queue, submission_id).chunks

    def chunks_with_errors(
        self, queue: str, submission_id: SubmissionId, first_index: int = 0
    ) -> ErrorChunks:
        """Give a page of chunks; see `SubmissionApi.chunks_with_errors`."""
        response = self._send(
            "GET",
            f"{queue_path(queue)}/submissions/{submission_id}/errors/chunks",
            params={"from": str(first_index)},
        )
        return self._read(response, ErrorChunksBody, queue, submission_id).to_page()

    def count(self, queue: str) -> Counts:
        """Count; see `SubmissionApi.count`."""
        return self._read(self._send("GET", queue_path(queue)), CountsBody, queue).to_counts()

    def queues(self) -> Mapping[str, Counts]:
        """Count all; see `SubmissionApi.queues`."""
        body = self._read(self._send("GET", "/v1/queues"), QueuesBody, "")
        return {counts.queue: counts.to_counts() for counts in body.queues}

    def workers(self, queue: str) -> Sequence[WorkerSeen]:
        """List workers; see `SubmissionApi.workers`."""
        body = self._read(self._send("GET", f"{queue_path(queue)}/workers"), WorkersBody, queue)
        return [worker.to_worker() for worker in body.workers]

    def pause(self, queue: str) -> None:
        """Pause; see `SubmissionApi.pause`."""
        self._read(self._send("POST", f"{queue_path(queue)}/pause"), CountsBody, queue)

    def resume(self, queue: str) -> None:
        """Resume; see `SubmissionApi.resume`."""
        self._read(self._send("POST", f"{queue_path(queue)}/resume"), CountsBody, queue)

    def version(self) -> str:
        """Give the API's version. Of little patience: who asks wants to know if it is there."""
        return self._ask_version(CALL_PATIENCE)


def _pairs(pairs: Mapping[str, int]) -> list[str]:
    check_strategic_metadata(pairs)
    return [f"{key}:{value}" for key, value in pairs.items()]
