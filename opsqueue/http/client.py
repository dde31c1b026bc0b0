"""The client of the HTTP API: requests, their repetition, and errors as exceptions.

No other module of the core speaks HTTP. The requests themselves are in http_api.py of producer/ and
of consumer/. Errors of httpx are translated in one place (`HttpClient.send`), problem details by
one table (`_ERRORS`).
"""

from __future__ import annotations

import logging
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from opsqueue.exceptions import (
    AccessDeniedError,
    ApiUnavailableError,
    EncodingError,
    FormatTooNewError,
    IdempotencyKeyReusedError,
    IncorrectUsageError,
    InvalidArgumentError,
    OpsqueueError,
    OpsqueueInternalError,
    PrefixTakenError,
    SubmissionForgottenError,
    SubmissionNotCancellableError,
    SubmissionNotConfirmedError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
    TooManyMatchingSubmissionsError,
    WrongAnswerError,
)
from opsqueue.http.bodies import ECHO_HEADER, FEATURES, ProblemBody, ProblemType, VersionBody
from opsqueue.http.json_form import decoder_of
from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.checks import is_host
from opsqueue.model.names import check_queue_name
from opsqueue.model.process import PerProcess
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.model.version import __version__
from opsqueue.tracing import current_carrier, spans

logger = logging.getLogger("opsqueue.http")

MAX_WAIT_S: Final = 60.0
"""The longest wait of one request that the API allows."""

# The API itself waits 15 s for Redis before it answers 503.
_ANSWER_WITHIN_S: Final = 20.0
_CONNECT_WITHIN_S: Final = 5.0
_BACKOFF: Final = RetryBackoff(first_s=0.2, max_s=8.0, brisk=6)
_UNAVAILABLE: Final = frozenset({502, 503, 504})
_DENIED: Final = frozenset({401, 403})
Transport = httpx.BaseTransport
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
JSON_TYPE: Final = {"content-type": "application/json"}
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_CA_HELP: Final = (
    "its certificate is not trusted: name the file of its CA in SSL_CERT_FILE, or the host that "
    "the certificate is for in the URL"
)
_HELP: Final = "is opsqueue-api running, and is the URL right (OPSQUEUE_API_URL)?"

_GIVE_ONE: Final = "; give one: token= of a client, OPSQUEUE_API_TOKEN of the command line"

Body = TypeVar("Body")
Params = str | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The number of repetitions of a request, and the pauses before them."""

    repeats: int

    def pauses_s(self) -> Iterator[float]:
        """Yield the pauses in seconds, one before each repetition."""
        return map(_BACKOFF.pause_s, range(1, self.repeats + 1))


CALL_PATIENCE: Final = Patience(repeats=7)
"""About 3 s, since a person may be waiting at a terminal."""

WAIT_PATIENCE: Final = Patience(repeats=18)
"""About a minute, so that a program survives a restart of the API and a failover of Redis."""


class HttpClient:
    """A client of the API with kept-alive connections; safe to use from any number of threads.

    A forked child makes connections of its own. Every answer is checked to belong to its request:
    by a header that the API sends back, unless it is too old for that, and by the queue and
    submission in the answer.

    Args:
        api_url: http://host:3999, https://…, or host:port.
        token: sent as a bearer token, without the white space around it, such as a file's last
            line break.
        patience: the patience of requests that are sent without one.
        transport: for tests, such as `httpx.WSGITransport(app)`.
        pause: called to sleep between repetitions; for tests.

    Raises:
        InvalidArgumentError: the URL can't be read, or the token can't be one.
    """

    def __init__(
        self,
        api_url: str,
        *,
        token: str | None = None,
        patience: Patience = CALL_PATIENCE,
        transport: Transport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make no connection yet."""
        full_url, self.url = _checked_url(api_url)
        headers = {"user-agent": f"opsqueue/{__version__}"}
        self._has_token = token is not None
        if token is not None:
            headers["authorization"] = f"Bearer {_checked_token(token)}"

        def connected() -> httpx.Client:
            # A company's proxy can't reach this machine's own loopback address. Without the
            # environment httpx ignores SSL_CERT_FILE as well, but OpenSSL reads it itself.
            parts = urlsplit(full_url)
            is_here = parts.hostname in _LOOPBACK
            has_own_trust = is_here and parts.scheme == "https"
            return httpx.Client(
                base_url=full_url,
                headers=headers,
                transport=transport,
                timeout=httpx.Timeout(_ANSWER_WITHIN_S, connect=_CONNECT_WITHIN_S),
                trust_env=not is_here,
                verify=ssl.create_default_context() if has_own_trust else True,
            )

        self._client = PerProcess(connected)
        self._client.get()  # raises what is wrong with the URL or the environment now
        self._patience = patience
        self._pause = pause
        self.store_id = ""
        """The id of the API's object store, known after `version`; "" if the API sent none."""
        self._lacking: frozenset[str] = frozenset()
        self._left_out: set[str] = set()

    def __repr__(self) -> str:
        """Show the URL without token and credentials."""
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Close the connections, if they are this process's own."""
        self._client.close(httpx.Client.close)

    def version(self) -> str:
        """Return the API's version, and record which fields it knows; see `encoded`.

        It has little patience, since callers want to know if the API can be reached.
        """
        body = self.read(self.send("GET", "/version", patience=CALL_PATIENCE), VersionBody, "")
        self._lacking = frozenset(FEATURES) - set(body.features)
        self.store_id = body.store_id
        return body.version

    def encoded(self, body: msgspec.Struct) -> bytes:
        """Encode a request without the fields that the API does not know.

        Raises:
            InvalidArgumentError: one of them can't be left out.
        """
        if not self._lacking:
            return msgspec.json.encode(body)
        fields = msgspec.to_builtins(body)
        defaults = {field.name: field.default for field in msgspec.structs.fields(body)}
        for feature in sorted(self._lacking):
            kind, _, name = feature.partition(".")
            if kind != type(body).__name__ or name not in fields:
                continue
            if getattr(body, name) == defaults[name]:
                del fields[name]
                continue
            if not FEATURES[feature]:
                message = f"the API at {self.url} is too old for {name}: upgrade it, or do without"
                raise InvalidArgumentError(message)
            del fields[name]
            if feature not in self._left_out:
                self._left_out.add(feature)
                logger.warning("the API at %s is too old for %s: left out", self.url, name)
        return msgspec.json.encode(fields)

    def send(  # noqa: PLR0913 a request and its repetition
        self,
        method: str,
        path: str,
        *,
        patience: Patience | None = None,
        is_repeatable: bool = True,
        wait_s: float = 0,
        body_wait_s: float = 0,
        params: Mapping[str, Params] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request, and repeat it until the answer is not that the API is unavailable.

        Without `is_repeatable` it is repeated only if no connection was made. `wait_s` is added to
        the query; `body_wait_s` is a wait that the content asks for.
        """
        try:
            request = self._client.get().build_request(
                method,
                path,
                params={**(params or {}), **({"wait": f"{wait_s:.3f}"} if wait_s else {})},
                content=content,
                headers=headers,
                timeout=httpx.Timeout(
                    wait_s + body_wait_s + _ANSWER_WITHIN_S, connect=_CONNECT_WITHIN_S
                ),
            )
        except httpx.InvalidURL as exc:
            message = f"{method} {path}: its query is too long for HTTP ({exc}); give fewer pairs"
            raise InvalidArgumentError(message) from exc
        pauses_s = (patience or self._patience).pauses_s()
        resends = 0
        while True:
            try:
                response = self._send_once(request, resends=resends)
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
            resends += 1

    def _send_once(self, request: httpx.Request, *, resends: int) -> httpx.Response:
        url = request.url.copy_with(username=None, password=None)
        with spans.call(request.method, str(url), url.host, url.port, resends=resends) as span:
            request.headers.update(current_carrier())
            request.headers[ECHO_HEADER] = sent = secrets.token_hex(16)
            response = self._client.get().send(request, stream=True)
            try:
                # Before the body is read: a connection whose response is closed unread is not used
                # again. Everything that follows on it would belong to other requests, too.
                came = response.headers.get(ECHO_HEADER)
                if came not in (sent, None):  # none: an older API, or a proxy's own answer
                    raise self.wrong_answer(
                        request.method, request.url.path, "it repeats the id of another request"
                    )
                response.read()
            finally:
                response.close()
            spans.answered(span, response.status_code, is_error=response.is_error)
            return response

    def wrong_answer(self, method: str, path: str, why: str) -> WrongAnswerError:
        """Return the error for an answer that belongs to another request."""
        return WrongAnswerError(
            f"an answer from the API at {self.url} is not that of {method} {path}: "
            f"{why}. It was dropped, and it is not known whether the request was carried "
            "out. A proxy mixes answers up or stores them in spite of Cache-Control: no-store, or "
            "processes share a connection that a fork has copied"
        )

    def _no_answer(self, exc: httpx.TransportError) -> ApiUnavailableError:
        helps = _CA_HELP if "CERTIFICATE_VERIFY_FAILED" in str(exc) else _HELP
        message = f"no answer from the API at {self.url} ({exc or type(exc).__name__}): {helps}"
        return ApiUnavailableError(message)

    def read(
        self,
        response: httpx.Response,
        body: type[Body],
        queue: str,
        submission_id: SubmissionId | None = None,
    ) -> Body:
        """Decode an answer, or raise the error that it reports.

        Raises:
            WrongAnswerError: it names another queue or submission.
            ApiUnavailableError: it is not an answer of the API.
        """
        if not response.is_success:
            raise self.error(response, queue, submission_id)
        try:
            answer = decoder_of(body).decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._not_ours(response) from exc
        self.check_names(response, answer, queue, submission_id)
        return answer

    def check_names(
        self,
        response: httpx.Response,
        answer: object,
        queue: str,
        submission_id: SubmissionId | None,
    ) -> None:
        """Raise WrongAnswerError if the answer names another queue or submission."""
        request = response.request
        why = ""
        if (named := getattr(answer, "queue", queue)) != queue:
            why = f"it is about queue {named!r}"
        elif submission_id is not None:
            named_id = getattr(answer, "id", submission_id)
            if named_id != submission_id:
                why = f"it is about submission {named_id}"
        if why:
            raise self.wrong_answer(request.method, request.url.path, why)

    def error(
        self, response: httpx.Response, queue: str, submission_id: SubmissionId | None
    ) -> OpsqueueError:
        """Return the error that an answer reports."""
        problem = _problem_of(response)
        if response.status_code in _DENIED:
            why = problem.detail if problem else "a proxy in front of it did"
            helps = "" if self._has_token else _GIVE_ONE
            return AccessDeniedError(
                f"the API at {self.url} refused access ({response.status_code}): {why}{helps}"
            )
        if problem is None:
            return self._not_ours(response)
        if problem.submission is not None:
            self.check_names(response, problem.submission, queue, submission_id)
        make = _ERRORS.get(problem.type)
        if make is not None:
            return make(problem, queue, submission_id or SubmissionId(0))
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
            f"the answer from {self.url} is not one of the opsqueue API, or a proxy made it: "
            f"{response.status_code} with {kind}; {_HELP}"
        )
        return ApiUnavailableError(message)


def _problem_of(response: httpx.Response) -> ProblemBody | None:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        return decoder_of(ProblemBody).decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _invalid(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return InvalidArgumentError(problem.detail)


def _prefix_taken(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return PrefixTakenError(problem.detail)


def _unreadable(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return EncodingError(problem.detail)


def _not_found(_problem: ProblemBody, queue: str, submission_id: SubmissionId) -> OpsqueueError:
    return SubmissionNotFoundError(submission_id, queue)


def _forgotten(problem: ProblemBody, queue: str, _id: SubmissionId) -> OpsqueueError:
    state = SubmissionState(problem.state) if problem.state else None
    return SubmissionForgottenError(SubmissionId(problem.submission_id), queue, state)


def _key_reused(problem: ProblemBody, queue: str, _id: SubmissionId) -> OpsqueueError:
    return IdempotencyKeyReusedError(SubmissionId(problem.submission_id), queue, problem.differing)


def _ended(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    if problem.submission is None:
        return OpsqueueInternalError(f"the API did not name the submission: {problem.detail}")
    return SubmissionNotCancellableError(problem.submission)


def _not_retryable(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    if problem.submission is None:
        return OpsqueueInternalError(f"the API did not name the submission: {problem.detail}")
    return SubmissionNotRetryableError(problem.submission)


def _too_many(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return TooManyMatchingSubmissionsError(problem.max_submissions)


def _not_confirmed(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return SubmissionNotConfirmedError(SubmissionId(problem.submission_id), problem.why)


def _format_too_new(problem: ProblemBody, _queue: str, _id: SubmissionId) -> OpsqueueError:
    return FormatTooNewError(
        problem.name, problem.found, problem.readable, kind=problem.kind, program="the API"
    )


_ERRORS: Final[Mapping[str, Callable[[ProblemBody, str, SubmissionId], OpsqueueError]]] = {
    ProblemType.QUEUE_NAME: _invalid,
    ProblemType.BROKEN_OFF: _invalid,
    ProblemType.MALFORMED_JSON: _invalid,
    ProblemType.INVALID_ARGUMENT: _invalid,
    ProblemType.TOO_LARGE: _invalid,
    ProblemType.PREFIX_TAKEN: _prefix_taken,
    ProblemType.OUTPUT_REFUSED: _unreadable,
    ProblemType.SUBMISSION_NOT_FOUND: _not_found,
    ProblemType.SUBMISSION_FORGOTTEN: _forgotten,
    ProblemType.IDEMPOTENCY_KEY_REUSED: _key_reused,
    ProblemType.SUBMISSION_ENDED: _ended,
    ProblemType.SUBMISSION_NOT_RETRYABLE: _not_retryable,
    ProblemType.TOO_MANY_MATCHES: _too_many,
    ProblemType.NOT_CONFIRMED: _not_confirmed,
    ProblemType.FORMAT_TOO_NEW: _format_too_new,
}


def queue_path(queue: str) -> str:
    """Return the path of a queue's routes, or raise InvalidArgumentError for an invalid name."""
    return f"/v1/queues/{check_queue_name(queue)}"


def _checked_token(token: str) -> str:
    """Return a token as it is sent; no message shows it."""
    sent = token.strip()
    if not sent or not sent.isascii() or not sent.isprintable() or " " in sent:
        why = "has characters that no token has" if sent else "is empty"
        message = f"the API's token {why}: give the secret alone, as the API has it"
        raise InvalidArgumentError(message)
    return sent


def _checked_url(api_url: str) -> tuple[str, str]:
    """Return the URL with its scheme, and the same without credentials, for messages."""
    full_url = api_url if "://" in api_url else f"http://{api_url}"
    try:
        parts = urlsplit(full_url)
        name = parts.hostname or ""
        is_right = parts.scheme in ("http", "https") and bool(name) and is_host(name)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # raises ValueError if it is not a number
        httpx.URL(full_url)
    except (ValueError, httpx.InvalidURL):
        is_right, host = False, ""
    if not is_right:
        shown = api_url.rpartition("@")[2]
        message = f"API URL {shown!r}: give http://host:3999, https://host or host:3999"
        raise InvalidArgumentError(message)
    return full_url, parts._replace(netloc=host).geturl()
