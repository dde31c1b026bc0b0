"""The HTTP client: repeated requests, and the exceptions for answers."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trustme
from msgspec.structs import replace

from opsqueue.consumer.http_api import HttpChunkQueue
from opsqueue.exceptions import (
    AccessDeniedError,
    ApiUnavailableError,
    FormatTooNewError,
    IdempotencyKeyReusedError,
    IncorrectUsageError,
    InvalidArgumentError,
    OpsqueueError,
    OpsqueueInternalError,
    PrefixTakenError,
    SubmissionForgottenError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    WrongAnswerError,
)
from opsqueue.http import client as http_client
from opsqueue.http.bodies import (
    ECHO_HEADER,
    AliveBody,
    InsertBody,
    OutcomeBody,
    OutcomesBody,
    ProblemType,
)
from opsqueue.http.client import CALL_PATIENCE, WAIT_PATIENCE, HttpClient, Patience
from opsqueue.http.json_form import decoder_of, encode
from opsqueue.model.answers import SubmissionPage
from opsqueue.model.chunk import ChunkFailure, Token
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState
from opsqueue.producer.http_api import HttpBackend
from tests.tls_proxy import TlsProxy

ID = SubmissionId(41)
NEW = NewSubmission(prefix="q/1", chunks_total=1)
BODY = Submission(
    id=ID,
    queue="q",
    state=SubmissionState.COMPLETED,
    prefix="q/1",
    codec="json",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    chunks_total=1,
    chunks_done=1,
    chunks_in_hand=0,
    chunks_failed=0,
    chunk_size=1,
    operations_total=1,
    operations_done=1,
    operations_failed=0,
    max_attempts=10,
)
OK = httpx.Response(200, content=encode(BODY))
Answer = httpx.Response | Exception


class Wire:
    """Answers requests with given answers in order; the last answer is used for all others."""

    def __init__(self, *answers: Answer, patience: Patience = CALL_PATIENCE) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses_s: list[float] = []
        self.api = HttpBackend(
            "api:3999",
            token="t",  # noqa: S106 nobody's secret
            patience=patience,
            transport=httpx.MockTransport(self),
            pause=self.pauses_s.append,
        )

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def problem(status: int, kind: str = "about:blank", /, **more: object) -> httpx.Response:
    body = {"type": kind, "status": status, "detail": "a sentence", **more}
    return httpx.Response(
        status,
        content=encode(body),
        headers={"content-type": "application/problem+json"},
    )


CALLS: dict[str, Callable[[HttpBackend], Any]] = {
    "insert": lambda api: api.queue("q").insert_submission(NEW, idempotency_key="key"),
    "get": lambda api: api.queue("q").get_submission(ID),
    "cancel": lambda api: api.queue("q").cancel_submission(ID),
}
TROUBLES: list[Answer] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("closed"),
    problem(503, ProblemType.UNAVAILABLE),
    httpx.Response(502, text="<html>"),
    httpx.Response(504, text="<html>"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=repr)
@pytest.mark.parametrize("call", ["insert", "get"])
def test_a_safe_request_is_repeated_until_it_is_answered(call: str, trouble: Answer) -> None:
    """There are pauses between the attempts."""
    wire = Wire(trouble, trouble, OK)

    CALLS[call](wire.api)

    assert (len(wire.requests), len(wire.pauses_s)) == (3, 2)


@pytest.mark.parametrize("trouble", TROUBLES, ids=repr)
def test_a_request_is_repeated_a_few_times_only(trouble: Answer) -> None:
    """Then ApiUnavailableError names the URL."""
    wire = Wire(trouble)

    with pytest.raises(ApiUnavailableError, match="http://api:3999"):
        wire.api.queue("q").insert_submission(NEW, idempotency_key="key")

    assert 1 + CALL_PATIENCE.repeats == len(wire.requests)


def test_an_api_that_nobody_started_is_explained() -> None:
    """The message says what helps."""
    wire = Wire(httpx.ConnectError("refused"))

    with pytest.raises(ApiUnavailableError, match=r"is opsqueue-api running.*OPSQUEUE_API_URL"):
        wire.api.version()


def test_waiting_is_more_patient_than_calling() -> None:
    """A restart of the API must not end a wait of hours."""
    wire = Wire(httpx.ConnectError("refused"))

    with pytest.raises(ApiUnavailableError):
        wire.api.queue("q").wait_for_end(ID, wait_s=30)

    assert 1 + WAIT_PATIENCE.repeats == len(wire.requests)
    assert 20 < sum(wire.pauses_s) < 90


def test_a_patient_client_asks_longer_for_all_but_whether_the_api_is_there() -> None:
    """A program outlives a failover of Redis; that nobody started the API it learns at once."""
    wire = Wire(problem(503, ProblemType.UNAVAILABLE), patience=WAIT_PATIENCE)

    with pytest.raises(ApiUnavailableError):
        wire.api.version()
    asked_of_version = len(wire.requests)
    with pytest.raises(ApiUnavailableError):
        wire.api.queue("q").insert_submission(NEW, idempotency_key="key")

    assert 1 + CALL_PATIENCE.repeats == asked_of_version
    assert 1 + WAIT_PATIENCE.repeats == len(wire.requests) - asked_of_version


def test_a_cancel_is_not_repeated_once_it_was_sent() -> None:
    """The second would be refused, since the first has cancelled."""
    wire = Wire(httpx.ReadTimeout("slow"), OK)

    with pytest.raises(ApiUnavailableError):
        wire.api.queue("q").cancel_submission(ID)

    assert len(wire.requests) == 1


def test_a_cancel_is_repeated_while_it_cannot_be_sent() -> None:
    """The API has not received it yet."""
    wire = Wire(httpx.ConnectError("refused"), OK)

    wire.api.queue("q").cancel_submission(ID)

    assert len(wire.requests) == 2


def test_a_refusal_is_not_repeated() -> None:
    """The answer would be the same."""
    wire = Wire(problem(422, ProblemType.INVALID_ARGUMENT))

    with pytest.raises(InvalidArgumentError):
        wire.api.queue("q").insert_submission(NEW, idempotency_key="key")

    assert len(wire.requests) == 1


def test_repeated_inserts_have_the_same_idempotency_key() -> None:
    """And the token."""
    wire = Wire(httpx.ReadTimeout("slow"), OK)

    wire.api.queue("q").insert_submission(NEW, idempotency_key="key")

    sent = [(r.headers["idempotency-key"], r.headers["authorization"]) for r in wire.requests]
    assert sent == [("key", "Bearer t")] * 2


def test_white_space_around_a_token_is_left_out() -> None:
    """A secret that is read from a file ends with a line break."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        return httpx.Response(200, json={"name": "opsqueue", "version": "0.1.0"})

    transport = httpx.MockTransport(answer)
    http = HttpClient("http://api", token=" secret\n", transport=transport)  # noqa: S106 a test's
    http.send("GET", "/version")
    http.close()

    assert sent == ["Bearer secret"]


@pytest.mark.parametrize("token", ["", "\n", "se cret", "se\ncret", "sécret", "se\x00cret"])
def test_what_can_not_be_a_token_is_refused_at_once_and_not_shown(token: str) -> None:
    """It would be an unavailable API otherwise, and the message would have the secret."""
    with pytest.raises(InvalidArgumentError, match="the API's token") as raised:
        HttpClient("http://api", token=token)

    assert "cret" not in str(raised.value).replace("secret", "")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(400, ProblemType.QUEUE_NAME), InvalidArgumentError),
        (problem(409, ProblemType.PREFIX_TAKEN), PrefixTakenError),
        (
            problem(409, ProblemType.SUBMISSION_FORGOTTEN, submission_id="7", state="failed"),
            SubmissionForgottenError,
        ),
        (
            problem(
                422, ProblemType.IDEMPOTENCY_KEY_REUSED, submission_id="7", differing=["codec"]
            ),
            IdempotencyKeyReusedError,
        ),
        (problem(413, ProblemType.TOO_LARGE), InvalidArgumentError),
        (problem(404, ProblemType.SUBMISSION_NOT_FOUND), SubmissionNotFoundError),
        (problem(401), AccessDeniedError),
        (problem(403, ProblemType.FORBIDDEN), AccessDeniedError),
        (problem(405), IncorrectUsageError),
        (problem(500, ProblemType.INTERNAL), OpsqueueInternalError),
        (httpx.Response(404, text="<html>not here"), ApiUnavailableError),
        (httpx.Response(200, text="<html>welcome"), ApiUnavailableError),
        (httpx.Response(200, content=b'{"id": "\xff"}'), ApiUnavailableError),
    ],
)
def test_an_answer_becomes_the_exception_that_fits(
    answer: httpx.Response, error: type[OpsqueueError]
) -> None:
    """The problem's type decides; an answer without a problem is not from the API."""
    wire = Wire(answer)

    with pytest.raises(OpsqueueError) as raised:
        wire.api.queue("q").get_submission(ID)

    assert error is type(raised.value)


def test_a_format_that_the_api_cannot_read_is_the_apis_to_learn() -> None:
    """The queue is named, and both versions."""
    wire = Wire(
        problem(501, ProblemType.FORMAT_TOO_NEW, kind="queue", name="q", found=2, readable=1)
    )

    with pytest.raises(FormatTooNewError) as raised:
        wire.api.queue("q").get_submission(ID)

    assert str(raised.value) == (
        "queue q has format 2, and the API reads formats up to 1: upgrade that program"
    )
    assert len(wire.requests) == 1


@pytest.fixture
def newer_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a version that has added two fields to the insert."""
    added = {"InsertBody.trace_context": True, "InsertBody.max_failed_operations": False}
    monkeypatch.setattr(http_client, "FEATURES", added)


def version(*features: str) -> httpx.Response:
    return httpx.Response(200, json={"name": "a", "version": "0.1.0", "features": list(features)})


@pytest.mark.usefixtures("newer_client")
def test_what_an_older_api_does_not_know_is_left_out_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where it may be; an API that does not tell its features knows those of the first version."""
    wire = Wire(httpx.Response(200, json={"name": "a", "version": "0.1.0"}), OK)
    new = replace(NEW, trace_context={"traceparent": "x"})

    wire.api.version()
    for _ in range(2):
        wire.api.queue("q").insert_submission(new)

    sent = [msgspec.json.decode(request.content) for request in wire.requests[1:]]
    assert sent == [msgspec.to_builtins(InsertBody.of(NEW))] * 2
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the API at http://api:3999 is too old for trace_context: left out"
    ]


@pytest.mark.usefixtures("newer_client")
def test_what_an_older_api_must_know_is_refused() -> None:
    """Without it the submission would be another one."""
    wire = Wire(version("InsertBody.trace_context"), OK)
    wire.api.version()

    with pytest.raises(InvalidArgumentError, match="too old for max_failed_operations: upgrade it"):
        wire.api.queue("q").insert_submission(replace(NEW, max_failed_operations=1))

    assert len(wire.requests) == 1


@pytest.mark.usefixtures("newer_client")
def test_what_the_api_knows_is_sent() -> None:
    """No field is left out."""
    wire = Wire(version("InsertBody.trace_context", "InsertBody.max_failed_operations"), OK)
    new = replace(NEW, trace_context={"traceparent": "x"}, max_failed_operations=1)

    wire.api.version()
    wire.api.queue("q").insert_submission(new)

    sent = msgspec.json.decode(wire.requests[1].content)
    assert (sent["trace_context"], sent["max_failed_operations"]) == ({"traceparent": "x"}, 1)


def test_a_refused_cancel_has_the_submission() -> None:
    """It comes from a member of the problem."""
    wire = Wire(problem(409, ProblemType.SUBMISSION_ENDED, submission=BODY))

    with pytest.raises(SubmissionNotCancellableError, match="is completed") as raised:
        wire.api.queue("q").cancel_submission(ID)

    assert raised.value.ended.id == ID


@pytest.mark.parametrize("url", ["ftp://host", "http://", "", "http://host:x", "redis://h:6379"])
def test_a_url_that_cannot_be_one_is_refused_at_once(url: str) -> None:
    """The message shows valid forms."""
    with pytest.raises(InvalidArgumentError, match="host:3999"):
        HttpBackend(url)


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("host:3999", "http://host:3999/version"),
        ("https://host", "https://host/version"),
        ("http://host/opsqueue/", "http://host/opsqueue/version"),
    ],
)
def test_a_url_may_have_a_path_or_no_scheme(url: str, requested: str) -> None:
    """Behind a proxy the API may lie in a folder."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, content=b'{"name": "opsqueue-redis", "version": "1"}')

    version = HttpBackend(url, transport=httpx.MockTransport(answer)).version()

    assert ("1", [requested]) == (version, seen)


def test_decoders_are_made_in_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once can crash the interpreter: msgspec keeps what is not complete yet."""
    bodies = [type(f"Body{n}", (msgspec.Struct,), {}) for n in range(8)]
    all_there, lock, at_once, most = threading.Barrier(len(bodies)), threading.Lock(), 0, 0
    make = msgspec.json.Decoder

    def make_slowly(body: type, **hooks: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.005)  # as if another thread had its turn
        with lock:
            at_once -= 1
        return make(body, **hooks)

    def ask(body: type) -> bytes:
        all_there.wait(60)
        return msgspec.json.encode(decoder_of(body).decode(b"{}"))

    monkeypatch.setattr(msgspec.json, "Decoder", make_slowly)
    with ThreadPoolExecutor(len(bodies)) as threads:
        answers = list(threads.map(ask, bodies))

    assert answers == [b"{}"] * len(bodies)
    assert most == 1


class Echo:
    """Answers with the given body and the id of this request, or of another."""

    def __init__(self, body: msgspec.Struct, *, id_of: str = "this") -> None:
        self.body = body
        self.id_of = id_of
        self.ids: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.ids.append(request.headers[ECHO_HEADER])
        headers = {
            "this": {ECHO_HEADER: self.ids[-1]},
            "another": {ECHO_HEADER: "0" * 32},
            "none": {},
        }[self.id_of]
        return httpx.Response(200, content=encode(self.body), headers=headers)


def api_of(answers: Echo) -> HttpBackend:
    return HttpBackend("api:3999", transport=httpx.MockTransport(answers))


@pytest.mark.parametrize("id_of", ["this", "none"])
def test_an_answer_with_the_requests_id_is_accepted_and_so_is_an_older_api(id_of: str) -> None:
    """Each request, and each repetition, has an id of its own."""
    answers = Echo(BODY, id_of=id_of)
    api = api_of(answers)

    assert [api.queue("q").get_submission(ID).id, api.queue("q").get_submission(ID).id] == [ID, ID]
    assert len(set(answers.ids)) == 2


@pytest.mark.parametrize("call", CALLS)
def test_the_answer_to_another_request_is_never_handed_on(call: str) -> None:
    """Nor repeated; the message says what happened and what may cause it."""
    answers = Echo(BODY, id_of="another")

    with pytest.raises(WrongAnswerError, match=r"not that of (GET|POST) /v1.* proxy .*fork"):
        CALLS[call](api_of(answers))

    assert len(answers.ids) == 1


@pytest.mark.parametrize(
    ("body", "about"),
    [
        (msgspec.structs.replace(BODY, id=SubmissionId(42)), "submission .*42"),
        (msgspec.structs.replace(BODY, queue="other"), "queue 'other'"),
    ],
)
@pytest.mark.parametrize("id_of", ["this", "none"])
def test_an_answer_about_another_submission_or_queue_is_never_handed_on(
    body: Submission, about: str, id_of: str
) -> None:
    """With an older API this is all that tells."""
    for call in (CALLS["get"], CALLS["cancel"]):
        with pytest.raises(WrongAnswerError, match=about):
            call(api_of(Echo(body, id_of=id_of)))


def test_a_list_or_count_of_another_queue_is_never_handed_on() -> None:
    other = msgspec.structs.replace(BODY, queue="other")
    with pytest.raises(WrongAnswerError, match="queue 'other'"):
        api_of(Echo(SubmissionPage(submissions=(BODY, other)))).queue("q").list_submissions()


def test_a_refusal_about_another_submission_is_never_handed_on() -> None:
    """Otherwise the caller would believe that its own submission has ended."""
    other = msgspec.structs.replace(BODY, id=SubmissionId(42))
    wire = Wire(problem(409, ProblemType.SUBMISSION_ENDED, submission=other))

    with pytest.raises(WrongAnswerError, match=r"submission .*42"):
        wire.api.queue("q").cancel_submission(ID)


def test_reports_about_another_chunk_are_never_handed_on() -> None:
    """Completed, failed, released; and heartbeats that free what is not held."""
    token, other = Token("0-1-2-3"), Token("0-7-7-7")
    outcome = OutcomeBody(token=other, outcome="lost")

    def chunks(body: msgspec.Struct) -> HttpChunkQueue:
        transport = httpx.MockTransport(Echo(body))
        return HttpChunkQueue(HttpClient("api:3999", transport=transport), "q")

    reports: list[Callable[[HttpChunkQueue], object]] = [
        lambda on: on.complete_chunks([token], operations_failed={}, outputs={}),
        lambda on: on.fail_chunk(token, ChunkFailure(type="E", message="m")),
        lambda on: on.release_chunks([token]),
    ]
    for outcomes in ([outcome], [], [outcome, outcome]):
        for report in reports:
            with pytest.raises(WrongAnswerError, match="other chunks"):
                report(chunks(OutcomesBody(outcomes=outcomes)))
    with pytest.raises(WrongAnswerError, match="other chunks"):
        chunks(AliveBody(revoked=[other], released=0)).heartbeat(
            "w", tokens=[token], info=b"{}", timeout_ms=None
        )


def test_a_connection_with_a_wrong_answer_is_given_up() -> None:
    """Every later answer on it would belong to another request, too."""
    connections: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        number = len(connections)
        connections.append(number)
        with connection, connection.makefile("rb") as requests:
            while head := b"".join(iter(requests.readline, b"\r\n")):
                found = re.search(rb"(?i)opsqueue-request-id: (\w+)", head)
                assert found
                echo = b"another" if number == 0 else found[1]
                body = encode(BODY)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nopsqueue-request-id: %s\r\n\r\n%s"
                    % (len(body), echo, body)
                )

    def accept() -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    api = HttpBackend(f"127.0.0.1:{listener.getsockname()[1]}")

    with pytest.raises(WrongAnswerError):
        api.queue("q").get_submission(ID)
    found = [api.queue("q").get_submission(ID).id for _ in range(3)]

    assert found == [ID] * 3
    assert connections == [0, 1]
    api.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_certificate_of_ones_own_holds_on_loopback_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_trusted: bool
) -> None:
    """SSL_CERT_FILE names its CA; without it the message says so."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    answer = b'{"name": "opsqueue-redis", "version": "1.2.3"}'

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with TlsProxy(server.server_port, tls) as proxy:
            api = HttpBackend(f"https://127.0.0.1:{proxy.port}", patience=Patience(repeats=0))
            if is_trusted:
                assert api.version() == "1.2.3"
            else:
                with pytest.raises(ApiUnavailableError, match="file of its CA in SSL_CERT"):
                    api.version()
            api.close()
        server.shutdown()
