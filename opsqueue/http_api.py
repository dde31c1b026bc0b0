"""The HTTP API as `SubmissionApi`: requests, their repetition, and errors as exceptions.

The only module of the core that speaks HTTP. Foreign errors become ours at one border
(`HttpApi._send`), problem details by one table (`_ERRORS`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from opsqueue import __version__
from opsqueue.answers import Counts, ErrorChunks, Progress, SubmissionPage, WorkerSeen
from opsqueue.exceptions import (
    AccessDeniedError,
    ApiUnavailableError,
    IncorrectUsageError,
    InvalidArgumentError,
    OpsqueueError,
    OpsqueueInternalError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.keys import check_queue_name
from opsqueue.submission import (
    NewSubmission,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
    check_strategic_metadata,
)
from opsqueue.submission_api import Ids, Order
from opsqueue.wire import (
    CountsBody,
    ErrorChunksBody,
    IdsBody,
    InsertBody,
    PatchBody,
    ProblemBody,
    ProblemType,
    ProgressBody,
    QueuesBody,
    SubmissionBody,
    SubmissionsBody,
    VersionBody,
    WorkersBody,
)

MAX_WAIT_S: Final = 60.0
"""The longest that the API lets one request wait."""

# The API itself waits 15 s for Redis before it answers 503.
_ANSWER_WITHIN_S: Final = 20.0
_CONNECT_WITHIN_S: Final = 5.0
_UNAVAILABLE: Final = frozenset({502, 503, 504})
_DENIED: Final = frozenset({401, 403})
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_JSON: Final = {"content-type": "application/json"}
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_HELP: Final = "is opsqueue-api running, and is the URL right (OPSQUEUE_API_URL)?"

Body = TypeVar("Body")
Params = str | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a request is repeated, and after which pauses: doubling, capped, half jitter."""

    repeats: int
    first_s: float = 0.2
    max_s: float = 8.0

    def pauses_s(self) -> Iterator[float]:
        """Yield the pauses in seconds, one before each repetition."""
        for number in range(self.repeats):
            full_s = min(self.max_s, self.first_s * 2**number)
            yield full_s * random.uniform(0.5, 1.0)  # noqa: S311 jitter needs no cryptography


CALL_PATIENCE: Final = Patience(repeats=4)
"""About 3 s: somebody looks at the terminal."""

WAIT_PATIENCE: Final = Patience(repeats=12)
"""About a minute: waiting for hours must survive a restart of the API."""


class HttpApi:
    """Submissions over HTTP; one client with kept-alive connections, for any number of threads.

    Args:
        api_url: http://host:port, https://…, or host:port alone.
        token: sent as a bearer token.
        transport: for tests, such as `httpx.WSGITransport(app)`.
        pause: sleeps between repetitions; for tests.

    Raises:
        InvalidArgumentError: the URL can't be read.
    """

    def __init__(
        self,
        api_url: str,
        *,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to nothing yet."""
        full_url, self.url = _checked_url(api_url)
        headers = {"user-agent": f"opsqueue/{__version__}"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=full_url,
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(_ANSWER_WITHIN_S, connect=_CONNECT_WITHIN_S),
            # A company's proxy can't reach this machine's own loopback address.
            trust_env=urlsplit(full_url).hostname not in _LOOPBACK,
        )
        self._pause = pause

    def __repr__(self) -> str:
        """Without token and credentials."""
        return f"HttpApi({self.url!r})"

    def insert(self, queue: str, new: NewSubmission, idempotency_key: str) -> Submission:
        """Insert a submission; see `SubmissionApi.insert`. Repeated safely, by its key."""
        response = self._send(
            "POST",
            f"{_path(queue)}/submissions",
            content=msgspec.json.encode(InsertBody.of(new)),
            headers={**_JSON, "idempotency-key": idempotency_key},
        )
        return self._read(response, SubmissionBody, queue).to_submission()

    def get(self, queue: str, submission_id: SubmissionId, wait_s: float = 0) -> Submission:
        """Give a submission; see `SubmissionApi.get`. More patient while it waits."""
        wait_s = max(0.0, min(wait_s, MAX_WAIT_S))
        response = self._send(
            "GET",
            f"{_path(queue)}/submissions/{submission_id}",
            patience=WAIT_PATIENCE if wait_s else CALL_PATIENCE,
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
            f"{_path(queue)}/submissions/{submission_id}/progress",
            patience=WAIT_PATIENCE if wait_s else CALL_PATIENCE,
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
            f"{_path(queue)}/submissions/{submission_id}/cancel",
            # Repeated after a lost answer it would be refused: it is cancelled already.
            is_repeatable=False,
        )
        return self._read(response, SubmissionBody, queue, submission_id).to_submission()

    def retry(self, queue: str, submission_id: SubmissionId) -> Submission:
        """Retry; see `SubmissionApi.retry`."""
        path = f"{_path(queue)}/submissions/{submission_id}/retry"
        response = self._send("POST", path, is_repeatable=False)
        return self._read(response, SubmissionBody, queue, submission_id).to_submission()

    def update_metadata(
        self, queue: str, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> Submission:
        """Change strategic metadata; see `SubmissionApi.update_metadata`."""
        response = self._send(
            "PATCH",
            f"{_path(queue)}/submissions/{submission_id}",
            content=msgspec.json.encode(PatchBody(strategic_metadata=dict(changes))),
            headers=_JSON,
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
        response = self._send("GET", f"{_path(queue)}/submissions", params=params)
        return self._read(response, SubmissionsBody, queue).to_page()

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
            f"{_path(queue)}/submission-ids",
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
        response = self._send("GET", f"{_path(queue)}/submission-ids", params={"prefix": prefix})
        ids = self._read(response, IdsBody, queue).ids
        return SubmissionId(ids[0]) if ids else None

    def chunks_with_errors(
        self, queue: str, submission_id: SubmissionId, first_index: int = 0
    ) -> ErrorChunks:
        """Give a page of chunks; see `SubmissionApi.chunks_with_errors`."""
        response = self._send(
            "GET",
            f"{_path(queue)}/submissions/{submission_id}/errors/chunks",
            params={"from": str(first_index)},
        )
        return self._read(response, ErrorChunksBody, queue, submission_id).to_page()

    def count(self, queue: str) -> Counts:
        """Count; see `SubmissionApi.count`."""
        return self._read(self._send("GET", _path(queue)), CountsBody, queue).to_counts()

    def queues(self) -> Mapping[str, Counts]:
        """Count all; see `SubmissionApi.queues`."""
        body = self._read(self._send("GET", "/v1/queues"), QueuesBody, "")
        return {counts.queue: counts.to_counts() for counts in body.queues}

    def workers(self, queue: str) -> Sequence[WorkerSeen]:
        """List workers; see `SubmissionApi.workers`."""
        body = self._read(self._send("GET", f"{_path(queue)}/workers"), WorkersBody, queue)
        return [worker.to_worker() for worker in body.workers]

    def pause(self, queue: str) -> None:
        """Pause; see `SubmissionApi.pause`."""
        self._read(self._send("POST", f"{_path(queue)}/pause"), CountsBody, queue)

    def resume(self, queue: str) -> None:
        """Resume; see `SubmissionApi.resume`."""
        self._read(self._send("POST", f"{_path(queue)}/resume"), CountsBody, queue)

    def version(self) -> str:
        """Give the API's version."""
        return self._read(self._send("GET", "/version"), VersionBody, "").version

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(
        self,
        method: str,
        path: str,
        *,
        patience: Patience = CALL_PATIENCE,
        is_repeatable: bool = True,
        wait_s: float = 0,
        params: Mapping[str, Params] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request until something other than "unavailable" is answered.

        Without `is_repeatable` it is repeated only when no connection was made.
        """
        request = self._client.build_request(
            method,
            path,
            params={**(params or {}), **({"wait": f"{wait_s:.3f}"} if wait_s else {})},
            content=content,
            headers=headers,
            timeout=httpx.Timeout(wait_s + _ANSWER_WITHIN_S, connect=_CONNECT_WITHIN_S),
        )
        pauses_s = patience.pauses_s()
        while True:
            try:
                response = self._client.send(request)
            except httpx.TransportError as exc:
                was_sent = not isinstance(exc, _NOT_SENT)
                pause_s = None if was_sent and not is_repeatable else next(pauses_s, None)
                if pause_s is None:
                    raise self._no_answer(exc) from exc
            else:
                if response.status_code not in _UNAVAILABLE or not is_repeatable:
                    return response
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    return response
            self._pause(pause_s)

    def _no_answer(self, exc: httpx.TransportError) -> ApiUnavailableError:
        message = f"no answer from the API at {self.url} ({exc or type(exc).__name__}): {_HELP}"
        return ApiUnavailableError(message)

    def _read(
        self,
        response: httpx.Response,
        body: type[Body],
        queue: str,
        submission_id: SubmissionId | None = None,
    ) -> Body:
        if not response.is_success:
            raise self._error(response, queue, submission_id or SubmissionId(0))
        try:
            return msgspec.json.decode(response.content, type=body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._not_ours(response) from exc

    def _error(
        self, response: httpx.Response, queue: str, submission_id: SubmissionId
    ) -> OpsqueueError:
        problem = _problem_of(response)
        if response.status_code in _DENIED:
            why = problem.detail if problem else "a proxy before it says so"
            return AccessDeniedError(
                f"the API at {self.url} refused access ({response.status_code}): {why}; "
                "the client takes the token as token="
            )
        if problem is None:
            return self._not_ours(response)
        make = _ERRORS.get(problem.type)
        if make is not None:
            return make(problem, queue, submission_id)
        if response.status_code in _UNAVAILABLE:
            return ApiUnavailableError(f"the API at {self.url} can't serve: {problem.detail}")
        if response.is_server_error:
            return OpsqueueInternalError(f"the API at {self.url} failed: {problem.detail}")
        return IncorrectUsageError(
            f"the API at {self.url} refused ({response.status_code}): {problem.detail}"
        )

    def _not_ours(self, response: httpx.Response) -> ApiUnavailableError:
        kind = response.headers.get("content-type", "nothing")
        message = (
            f"what answers at {self.url} is not the opsqueue API, or a proxy before it: "
            f"{response.status_code} with {kind}; {_HELP}"
        )
        return ApiUnavailableError(message)


def _problem_of(response: httpx.Response) -> ProblemBody | None:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        return msgspec.json.decode(response.content, type=ProblemBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _invalid(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return InvalidArgumentError(problem.detail)


def _not_found(_problem: ProblemBody, queue: str, submission_id: SubmissionId) -> OpsqueueError:
    return SubmissionNotFoundError(submission_id, queue)


def _ended(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    if problem.submission is None:
        return OpsqueueInternalError(f"the API did not say what ended: {problem.detail}")
    return SubmissionNotCancellableError(problem.submission.to_submission())


def _not_retryable(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    if problem.submission is None:
        return OpsqueueInternalError(f"the API did not say what it is: {problem.detail}")
    return SubmissionNotRetryableError(problem.submission.to_submission())


def _too_many(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return TooManyMatchingSubmissionsError(problem.max_submissions)


_ERRORS: Final[Mapping[str, Callable[[ProblemBody, str, SubmissionId], OpsqueueError]]] = {
    ProblemType.QUEUE_NAME: _invalid,
    ProblemType.MALFORMED_JSON: _invalid,
    ProblemType.INVALID_ARGUMENT: _invalid,
    ProblemType.TOO_LARGE: _invalid,
    ProblemType.PREFIX_TAKEN: _invalid,
    ProblemType.SUBMISSION_NOT_FOUND: _not_found,
    ProblemType.SUBMISSION_ENDED: _ended,
    ProblemType.SUBMISSION_NOT_RETRYABLE: _not_retryable,
    ProblemType.TOO_MANY_MATCHES: _too_many,
}


def _pairs(pairs: Mapping[str, int]) -> list[str]:
    check_strategic_metadata(pairs)
    return [f"{key}:{value}" for key, value in pairs.items()]


def _path(queue: str) -> str:
    return f"/v1/queues/{check_queue_name(queue)}"


def _checked_url(api_url: str) -> tuple[str, str]:
    """Give the URL with its scheme, and the same without credentials, for messages."""
    full_url = api_url if "://" in api_url else f"http://{api_url}"
    try:
        parts = urlsplit(full_url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # raises ValueError when it is no number
        httpx.URL(full_url)
    except (ValueError, httpx.InvalidURL):
        is_right, host = False, ""
    if not is_right:
        shown = api_url.rpartition("@")[2]
        message = f"API URL {shown!r}: give http://host:3999, https://host or host:3999"
        raise InvalidArgumentError(message)
    return full_url, parts._replace(netloc=host).geturl()
