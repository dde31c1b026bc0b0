"""Request ids and the access log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import falcon
import httpx
import pytest
import redis
from falcon import testing

from opsqueue.store import ObjectStore
from opsqueue.tracing.logs import formatter
from opsqueue_api.app import App, create_app
from opsqueue_api.http.access_log import LOGGER, AccessLog
from opsqueue_api.http.request_ids import add_request_id
from opsqueue_api.http.tokens import parse_tokens
from tests.opsqueue_api.clients import client_of

SECRET = "s3cret-s3cret-s3cret"  # noqa: S105 nobody's
TOKENS = parse_tokens(f"web:{SECRET}:produce")
Get = Callable[..., httpx.Response]


class Streams:
    """Yields once, then fails if the test asks for it."""

    def __init__(self, *, is_broken: bool) -> None:
        self.is_broken = is_broken

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        resp.stream = self._parts()

    def _parts(self) -> Iterator[bytes]:
        yield b"12345"
        if self.is_broken:
            raise ZeroDivisionError
        yield b"678"


class Fails:
    def on_get(self, _req: falcon.Request, _resp: falcon.Response) -> None:
        raise ZeroDivisionError


@pytest.fixture
def client(fake_client: redis.Redis) -> redis.Redis:
    """Nothing here depends on the server."""
    return fake_client


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    app = create_app(client, store, tokens=TOKENS)
    app.add_route("/fails", Fails())
    return app


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """The records of the access log."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    before = LOGGER.level, LOGGER.handlers
    LOGGER.handlers = [Keep()]
    LOGGER.setLevel(logging.INFO)
    yield found
    LOGGER.level, LOGGER.handlers = before


def get(app: App | AccessLog, path: str, **headers: str) -> httpx.Response:
    with client_of(app) as http:
        return http.get(path, headers=headers)


def test_a_request_keeps_the_id_that_it_has(app: App) -> None:
    """In the answer's header and in a problem's body."""
    response = get(app, "/nowhere", **{"x-request-id": "trace-1:2/3"})

    assert response.headers["x-request-id"] == response.json()["request_id"] == "trace-1:2/3"


@pytest.mark.parametrize("given", ["", "two words", 'a"b', "x" * 129, "\x7f"])
def test_an_id_that_could_harm_a_log_is_replaced(app: App, given: str) -> None:
    """As is none."""
    response = get(app, "/nowhere", **{"x-request-id": given})

    made = response.headers["x-request-id"]
    assert made == response.json()["request_id"] != given
    assert len(made) == 32


def test_each_request_has_an_id_of_its_own(app: App) -> None:
    """Also those that succeed."""
    first, second = (get(app, "/healthz").headers["x-request-id"] for _ in range(2))

    assert first != second


def test_a_refusal_has_an_id(app: App) -> None:
    """401, too."""
    response = get(app, "/v1/queues/q", **{"x-request-id": "mine"})

    assert (response.status_code, response.json()["request_id"]) == (401, "mine")


def test_a_defects_line_has_the_requests_id(
    client: redis.Redis, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    """By which the traceback is found."""
    app = create_app(client, store)
    app.add_route("/fails", Fails())
    caplog.handler.addFilter(add_request_id)

    with caplog.at_level(logging.ERROR):
        response = get(app, "/fails", **{"x-request-id": "mine"})

    (record,) = caplog.records
    assert response.json()["request_id"] == vars(record)["request_id"] == "mine"
    assert "[request_id=mine]" in formatter("plain").format(record)


def test_a_line_tells_who_asked_for_what(app: App, lines: list[logging.LogRecord]) -> None:
    """With the token's name and never its secret, nor the query."""
    now = iter([1.0, 1.25])
    logged = AccessLog(app, clock=lambda: next(now))

    response = get(
        logged,
        "/v1/queues/q/submissions?after=x",
        authorization=f"Bearer {SECRET}",
        **{"x-request-id": "mine"},
    )

    (line,) = lines
    told = json.loads(formatter("json").format(line))
    del told["time"], told["process"], told["client"]
    assert told == {
        "level": "INFO",
        "logger": "opsqueue_api.access_log",
        "message": "request",
        "request_id": "mine",
        "token": "web",
        "method": "GET",
        "path": "/v1/queues/q/submissions",
        "status": 422,
        "bytes": len(response.content),
        "duration_ms": 250.0,
    }
    plain = formatter("plain").format(line)
    assert "token=web method=GET path=/v1/queues/q/submissions status=422" in plain


def test_a_path_can_not_break_a_line(app: App, lines: list[logging.LogRecord]) -> None:
    """It is quoted as it was sent."""
    environ = testing.create_environ("/a%0Ab%20%22%C3%BC")

    AccessLog(app)(environ, lambda *_: lambda _: None).close()  # type: ignore[attr-defined]  # a server does

    assert lines[0].path == "/a%0Ab%20%22%C3%BC"  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_streams_line_comes_at_its_end(
    lines: list[logging.LogRecord],
    is_broken: bool,  # noqa: FBT001 a column
) -> None:
    """With the bytes that were sent, and whether it was cut off."""
    app: App = falcon.App()
    app.add_route("/", Streams(is_broken=is_broken))
    environ = testing.create_environ("/")
    body = AccessLog(app)(environ, lambda *_: lambda _: None)
    parts = iter(body)
    next(parts)
    assert not lines

    for _ in range(2):
        try:
            next(parts)
        except (StopIteration, ZeroDivisionError):
            break
    body.close()  # type: ignore[attr-defined]  # a WSGI server does

    told = vars(lines[0])
    assert (told["status"], told["bytes"]) == (200, 5 if is_broken else 8)
    assert told.get("cut_off", False) is is_broken


def test_a_clients_own_id_comes_back_with_every_answer(app: App) -> None:
    """Beside the other id; not one that could spoil a header."""
    for path in ("/healthz", "/nowhere", "/v1/queues/q"):
        mine = get(app, path, **{"opsqueue-request-id": "0a1b", "x-request-id": "proxy"}).headers
        spoilt = get(app, path, **{"opsqueue-request-id": "a b"}).headers
        assert (mine["opsqueue-request-id"], mine["x-request-id"]) == ("0a1b", "proxy")
        assert "opsqueue-request-id" not in spoilt
        assert mine["cache-control"] == "no-store"
