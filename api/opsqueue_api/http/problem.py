"""Errors as problem details (RFC 9457): one table of kinds, and one of opsqueue's exceptions.

Programs decide by `type`; `detail` is a sentence that says what helps. An unexpected exception is
answered without its traceback, which is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import falcon

from opsqueue.exceptions import (
    ChunkTooLargeError,
    ConnectionTroubleError,
    EncodingError,
    FormatTooNewError,
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    ObjectNotFoundError,
    OpsqueueError,
    PrefixTakenError,
    StoreUnavailableError,
    SubmissionCancelledError,
    SubmissionFailedError,
    SubmissionForgottenError,
    SubmissionNotCancellableError,
    SubmissionNotCompletedYetError,
    SubmissionNotConfirmedError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.http.bodies import ProblemType
from opsqueue.http.json_form import encode
from opsqueue.model.submission import Submission

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
_LOG: Final = logging.getLogger("opsqueue_api.problem")

_KINDS: Final[Mapping[ProblemType, tuple[int, str]]] = {
    ProblemType.ROUTE_NOT_FOUND: (404, "No such route"),
    ProblemType.METHOD_NOT_ALLOWED: (405, "Method not allowed"),
    ProblemType.UNAUTHENTICATED: (401, "Not authenticated"),
    ProblemType.FORBIDDEN: (403, "Forbidden"),
    ProblemType.MISDIRECTED: (421, "Sent to a name that is not allowed"),
    ProblemType.MEDIA_TYPE: (415, "Not JSON"),
    ProblemType.CONTENT_ENCODING: (415, "Unknown content encoding"),
    ProblemType.BROKEN_OFF: (400, "Body breaks off"),
    ProblemType.MALFORMED_GZIP: (400, "Malformed gzip"),
    ProblemType.MALFORMED_JSON: (400, "Malformed JSON"),
    ProblemType.QUEUE_NAME: (400, "Invalid queue name"),
    ProblemType.INVALID_ARGUMENT: (422, "Invalid argument"),
    ProblemType.TOO_LARGE: (413, "Too large"),
    ProblemType.SUBMISSION_FORGOTTEN: (409, "Submission was forgotten"),
    ProblemType.IDEMPOTENCY_KEY_REUSED: (422, "Idempotency key of another insert"),
    ProblemType.PREFIX_TAKEN: (409, "Prefix taken"),
    ProblemType.SUBMISSION_NOT_FOUND: (404, "Submission not found"),
    ProblemType.SUBMISSION_ENDED: (409, "Submission has ended"),
    ProblemType.SUBMISSION_NOT_RETRYABLE: (409, "Submission can't be retried"),
    ProblemType.TOO_MANY_MATCHES: (409, "Too many matches"),
    ProblemType.SUBMISSION_NOT_COMPLETED: (409, "Submission has not completed"),
    ProblemType.RESULTS_NOT_JSON: (422, "Results have no JSON form"),
    ProblemType.OPERATIONS_FAILED: (409, "Operations failed"),
    ProblemType.RESULTS_GONE: (410, "Results are gone"),
    ProblemType.NOT_JSON: (422, "No JSON form"),
    ProblemType.INPUT_GONE: (410, "Input is gone"),
    ProblemType.CHUNK_LOST: (409, "Chunk is lost"),
    ProblemType.OUTPUT_REFUSED: (422, "Output is refused"),
    ProblemType.NOT_CONFIRMED: (503, "Inserted, but not confirmed yet"),
    ProblemType.FORMAT_TOO_NEW: (501, "Format of a newer version"),
    ProblemType.UNAVAILABLE: (503, "Unavailable"),
    ProblemType.INTERNAL: (500, "Internal error"),
}

# The first match counts, so subclasses come before their bases.
_OF_EXCEPTION: Final[tuple[tuple[type[OpsqueueError], ProblemType], ...]] = (
    (SubmissionNotFoundError, ProblemType.SUBMISSION_NOT_FOUND),
    (SubmissionForgottenError, ProblemType.SUBMISSION_FORGOTTEN),
    (IdempotencyKeyReusedError, ProblemType.IDEMPOTENCY_KEY_REUSED),
    (SubmissionNotCancellableError, ProblemType.SUBMISSION_ENDED),
    (SubmissionNotRetryableError, ProblemType.SUBMISSION_NOT_RETRYABLE),
    (TooManyMatchingSubmissionsError, ProblemType.TOO_MANY_MATCHES),
    (SubmissionNotCompletedYetError, ProblemType.SUBMISSION_NOT_COMPLETED),
    (SubmissionFailedError, ProblemType.SUBMISSION_NOT_COMPLETED),
    (SubmissionCancelledError, ProblemType.SUBMISSION_NOT_COMPLETED),
    (PrefixTakenError, ProblemType.PREFIX_TAKEN),
    (InvalidArgumentError, ProblemType.INVALID_ARGUMENT),
    (ChunkTooLargeError, ProblemType.TOO_LARGE),
    (EncodingError, ProblemType.INVALID_ARGUMENT),
    (ObjectNotFoundError, ProblemType.RESULTS_GONE),
    (SubmissionNotConfirmedError, ProblemType.NOT_CONFIRMED),
    (FormatTooNewError, ProblemType.FORMAT_TOO_NEW),
    (ConnectionTroubleError, ProblemType.UNAVAILABLE),
)


def status_of(kind: ProblemType) -> int:
    """Return the HTTP status of a kind."""
    return _KINDS[kind][0]


def title_of(kind: ProblemType) -> str:
    """Return the title of a kind."""
    return _KINDS[kind][1]


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as it is answered. `fields` are its further members, as JSON values."""

    type: ProblemType
    detail: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _KINDS[self.type][0]

    def write(self, resp: falcon.Response) -> None:
        """Write the problem into the answer."""
        status, title = _KINDS[self.type]
        _write(
            resp, status, {"type": self.type, "title": title, "detail": self.detail}, self.fields
        )
        for name, value in self.headers.items():
            resp.set_header(name, value)


class ProblemError(Exception):
    """Raised by resources for problems that none of opsqueue's exceptions describes."""

    def __init__(self, problem: Problem) -> None:
        """Store the problem."""
        self.problem = problem
        super().__init__(problem.detail)


def invalid(detail: str) -> ProblemError:
    """Return the error for a refused value."""
    return ProblemError(Problem(ProblemType.INVALID_ARGUMENT, detail))


def too_large(detail: str) -> ProblemError:
    """Return the error for an exceeded limit; `detail` names the limit and what helps."""
    return ProblemError(Problem(ProblemType.TOO_LARGE, detail))


def problem_of(exc: OpsqueueError, *, submission: Submission | None = None) -> Problem:
    """Translate one of opsqueue's exceptions; include the submission's state if it is known."""
    for kind, problem_type in _OF_EXCEPTION:
        if isinstance(exc, kind):
            fields = fields_of(submission or _submission_of(exc))
            if isinstance(exc, TooManyMatchingSubmissionsError):
                fields["max_submissions"] = exc.max_submissions
            if isinstance(exc, SubmissionNotConfirmedError):
                fields |= {"submission_id": str(exc.submission_id), "why": exc.why}
            if isinstance(exc, SubmissionForgottenError):
                fields |= {"submission_id": str(exc.submission_id), "state": exc.state or ""}
            if isinstance(exc, IdempotencyKeyReusedError):
                fields |= {"submission_id": str(exc.submission_id), "differing": exc.differing}
            if isinstance(exc, FormatTooNewError):
                fields |= {"kind": exc.kind, "name": exc.name}
                fields |= {"found": exc.found, "readable": exc.readable}
            return Problem(problem_type, str(exc), fields)
    _LOG.error("internal error", exc_info=exc)
    return _internal()


def install(app: falcon.App[falcon.Request, falcon.Response]) -> None:
    """Install handlers that answer every error of the app as a problem detail."""
    app.add_error_handler(Exception, _on_unexpected)
    app.add_error_handler(OpsqueueError, _on_ours)
    app.add_error_handler(ProblemError, _on_problem)
    app.set_error_serializer(_on_http_error)


def _on_ours(
    req: falcon.Request, resp: falcon.Response, exc: OpsqueueError, _params: dict[str, Any]
) -> None:
    if isinstance(exc, StoreUnavailableError):
        # For example a full disk: the API's operator can fix it, not the client.
        _LOG.warning("%s %s: %s", req.method, req.path, exc)
    problem_of(exc).write(resp)


def _on_problem(
    _req: falcon.Request, resp: falcon.Response, exc: ProblemError, _params: dict[str, Any]
) -> None:
    exc.problem.write(resp)


def _on_unexpected(
    req: falcon.Request, resp: falcon.Response, exc: Exception, _params: dict[str, Any]
) -> None:
    # Without the query: it is the client's data, and it would not explain a defect.
    _LOG.error("%s %s failed", req.method, req.path, exc_info=exc)
    _internal().write(resp)


def _on_http_error(req: falcon.Request, resp: falcon.Response, exc: falcon.HTTPError) -> None:
    """Answer Falcon's own errors; status and headers, such as Allow, are set already."""
    match exc.status_code:
        case 404:
            detail = f"{req.path} is not a route: submissions are at /v1/queues/QUEUE/submissions"
            Problem(ProblemType.ROUTE_NOT_FOUND, detail).write(resp)
        case 405:
            allowed = (exc.headers or {}) if isinstance(exc.headers, dict) else {}
            methods = allowed.get("Allow", "fewer methods")
            detail = f"{req.path} does not accept {req.method}: it accepts {methods}"
            Problem(ProblemType.METHOD_NOT_ALLOWED, detail).write(resp)
        case status:
            _write(resp, status, {"title": exc.title, "detail": exc.description or exc.title}, {})


def _write(
    resp: falcon.Response, status: int, head: Mapping[str, Any], fields: Mapping[str, Any]
) -> None:
    resp.status = falcon.code_to_http_status(status)
    if status == 503:
        resp.set_header("Retry-After", str(RETRY_AFTER_S))
    resp.content_type = MEDIA_TYPE
    # RequestIds sets it; log lines about this request have it, too.
    request_id = getattr(resp.context, "request_id", None)
    about = {} if request_id is None else {"request_id": request_id}
    resp.data = encode({**head, "status": status, **about, **fields})


def _internal() -> Problem:
    return Problem(
        ProblemType.INTERNAL, "this is a defect of opsqueue: please report it, with the API's log"
    )


def _submission_of(exc: OpsqueueError) -> Submission | None:
    submission = getattr(exc, "ended", getattr(exc, "submission", None))
    return submission if isinstance(submission, Submission) else None


def fields_of(submission: Submission | None) -> dict[str, Any]:
    """Return the members that describe a submission's state."""
    if submission is None:
        return {}
    return {
        "state": submission.state,
        "chunks_done": submission.chunks_done,
        "chunks_total": submission.chunks_total,
        "submission": submission,
    }
