"""The tokens that each route accepts, including a route without declared scopes."""

from __future__ import annotations

from collections.abc import Callable

import falcon
import httpx
import pytest
import redis
from falcon import inspect

from opsqueue.exceptions import AccessDeniedError
from opsqueue.http.bodies import ProblemType
from opsqueue.model.submission import SubmissionId
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.tokens import parse_tokens
from tests.opsqueue_api.clients import client_of

OPEN = {
    ("GET", path)
    for path in (
        *("/healthz", "/readyz", "/version", "/openapi.json"),
        *("/", "/dashboard/{file}"),
    )
}
SECRETS = {name: f"{name}-secret-0123456789" for name in ("producer", "consumer", "limited", "ops")}
TOKENS = parse_tokens(f"""
producer:{SECRETS["producer"]}:produce
consumer:{SECRETS["consumer"]}:consume
limited:{SECRETS["limited"]}:produce@mine:consume@yours
ops:{SECRETS["ops"]}:admin
""")
Ask = Callable[..., httpx.Response]


class Forgotten:
    """A resource whose route says nothing about scopes."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response, queue: str = "") -> None:
        resp.media = {"queue": queue}


@pytest.fixture
def client(fake_client: redis.Redis) -> redis.Redis:
    """Nothing here depends on the server."""
    return fake_client


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    app = create_app(client, store, tokens=TOKENS)
    app.add_route("/forgotten", Forgotten())
    app.add_route("/v1/queues/{queue}/forgotten", Forgotten())
    return app


@pytest.fixture
def ask(app: App) -> Ask:
    def send(path: str, name: str = "", method: str = "GET", **more: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {SECRETS[name]}"} if name else {}
        with client_of(app) as http:
            return http.request(method, path, headers=headers | more)

    return send


def methods_of(app: App) -> set[tuple[str, str]]:
    """Every method that a resource has, with its route."""
    return {
        (method.method, route.path)
        for route in inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal
    }


def test_every_route_but_a_few_wants_a_token(app: App, ask: Ask) -> None:
    """The whole table, as the framework has it."""
    found = methods_of(app)
    assert len(found) > len(OPEN) + 4

    refused = {one for one in found if ask(one[1], method=one[0]).status_code == 401}

    assert found - refused == OPEN


def test_every_route_is_open_without_tokens(client: redis.Redis, store: ObjectStore) -> None:
    """As it is on the loopback address."""
    # Streams of events would go on until the process stops.
    app = create_app(client, store, is_stopping=lambda: True)
    values = {"queue": "q", "submission_id": "1", "worker": "w", "index": "0", "file": "main.js"}
    with client_of(app) as http:
        codes = {
            http.request(method, path.format_map(values)).status_code
            for method, path in methods_of(app)
        }

    assert codes.isdisjoint({401, 403})


@pytest.mark.parametrize("path", ["/forgotten", "/v1/queues/mine/forgotten"])
def test_a_route_that_says_nothing_needs_admin(ask: Ask, path: str) -> None:
    """Denied by default."""
    codes = {name: ask(path, name).status_code for name in SECRETS}

    assert {"producer": 403, "consumer": 403, "limited": 403, "ops": 200} == codes


def test_a_method_that_a_route_does_not_have_needs_admin(ask: Ask) -> None:
    """Who has it is told which there are."""
    codes = [ask("/v1/queues/mine", name, "DELETE").status_code for name in ("producer", "ops")]

    assert [403, 405] == codes


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/v1/queues/mine", "GET", {"producer", "consumer", "limited", "ops"}),
        ("/v1/queues/yours", "GET", {"producer", "consumer", "limited", "ops"}),
        ("/v1/queues/others", "GET", {"producer", "consumer", "ops"}),
        ("/v1/queues/mine/submissions", "GET", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submissions", "POST", {"producer", "limited", "ops"}),
        ("/v1/queues/yours/submissions", "POST", {"producer", "ops"}),
        ("/v1/queues/mine/submissions/1", "GET", {"producer", "limited", "ops"}),
        ("/v1/queues/yours/submissions/1/", "GET", {"producer", "ops"}),
        ("/v1/queues/mine/submissions/1/cancel", "POST", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submissions/1/results", "GET", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submissions/1/retry", "POST", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submissions/1", "PATCH", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submission-ids", "GET", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submissions/1/errors", "GET", {"producer", "limited", "ops"}),
        ("/v1/queues/mine/submissions/1/errors/chunks", "GET", {"producer", "limited", "ops"}),
        ("/v1/queues/yours/chunks/reserve", "POST", {"consumer", "limited", "ops"}),
        ("/v1/queues/mine/chunks/reserve", "POST", {"consumer", "ops"}),
        ("/v1/queues/yours/chunks/complete", "POST", {"consumer", "limited", "ops"}),
        ("/v1/queues/yours/chunks/fail", "POST", {"consumer", "limited", "ops"}),
        ("/v1/queues/yours/chunks/release", "POST", {"consumer", "limited", "ops"}),
        ("/v1/queues/yours/workers/w", "DELETE", {"consumer", "limited", "ops"}),
        ("/v1/queues/yours/workers/w/heartbeat", "POST", {"consumer", "limited", "ops"}),
        ("/v1/queues/yours/submissions/1/chunks/0/input", "GET", {"consumer", "limited", "ops"}),
        ("/v1/queues/yours/submissions/1/chunks/0/output", "PUT", {"consumer", "limited", "ops"}),
        ("/v1/queues/mine/workers", "GET", {"ops"}),
        ("/v1/queues/mine/pause", "POST", {"ops"}),
        ("/v1/queues/mine/resume", "POST", {"ops"}),
        ("/v1/queues", "GET", {"ops"}),
        ("/healthz", "GET", {*SECRETS, ""}),
    ],
)
def test_a_token_opens_what_its_scopes_say(
    ask: Ask, path: str, method: str, allowed: set[str]
) -> None:
    """And nothing of another queue."""
    opened = {
        name for name in (*SECRETS, "") if ask(path, name, method).status_code not in (401, 403)
    }

    assert allowed == opened


def test_admin_of_a_queue_is_not_admin_of_all(client: redis.Redis, store: ObjectStore) -> None:
    """What lists all queues takes a grant for all."""
    secret = "0123456789abcdef"  # noqa: S105 nobody's
    app = create_app(client, store, tokens=parse_tokens(f"lead:{secret}:admin@mine"))
    with client_of(app, "/v1") as http:
        codes = [
            http.get(path, headers={"authorization": f"Bearer {secret}"}).status_code
            for path in ("/queues/mine/workers", "/queues/yours/workers", "/queues")
        ]

    assert [200, 403, 403] == codes


def test_a_request_without_a_token_is_told_how_to_send_one(ask: Ask) -> None:
    """401 with the challenge that RFC 6750 asks for."""
    response = ask("/v1/queues/mine")

    assert (response.status_code, response.json()["type"]) == (401, ProblemType.UNAUTHENTICATED)
    assert response.headers["www-authenticate"] == 'Bearer realm="opsqueue"'
    assert "authorization: Bearer" in response.json()["detail"]


@pytest.mark.parametrize("value", ["Bearer wrong", "Bearer ", "bearer a b", "Basic d2ViOng="])
def test_a_wrong_token_is_401(ask: Ask, value: str) -> None:
    """Whatever is sent."""
    response = ask("/v1/queues/mine", authorization=value)

    assert response.status_code == 401
    assert ('error="invalid_token"' in response.headers["www-authenticate"]) == ("earer" in value)


def test_a_token_without_the_scope_is_told_scope_and_queue(ask: Ask) -> None:
    """403 with its name, not its secret."""
    response = ask("/v1/queues/yours/submissions", "limited")

    problem = response.json()
    assert (response.status_code, problem["type"]) == (403, ProblemType.FORBIDDEN)
    assert "token 'limited' lacks the scope produce for queue 'yours'" in problem["detail"]
    assert (problem["scopes"], problem["queue"]) == (["produce"], "yours")
    assert 'error="insufficient_scope", scope="produce"' in response.headers["www-authenticate"]
    assert SECRETS["limited"] not in response.text


def test_the_client_sends_its_token(app: App, queue: Queue) -> None:
    """And is let in."""
    api = HttpBackend("http://api", token=SECRETS["ops"], transport=httpx.WSGITransport(app))

    assert api.queue(queue.name).count_queue() == queue.count_queue()


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (None, "a token is required.*token= of a client, OPSQUEUE_API_TOKEN of the command line"),
        (SECRETS["consumer"], "lacks the scope produce.*to OPSQUEUE_API_TOKENS of the API$"),
    ],
)
def test_the_client_says_what_is_missing(app: App, token: str | None, says: str) -> None:
    """An exception of its own, with the API's sentence, and where a token goes if there is none."""
    api = HttpBackend("http://api", token=token, transport=httpx.WSGITransport(app))

    with pytest.raises(AccessDeniedError, match=f"http://api refused access .*{says}"):
        api.queue("mine").get_submission(SubmissionId(1))


def test_a_gateways_refusal_is_one_too() -> None:
    """Which is no problem detail."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(403, html="<p>no</p>"))

    with pytest.raises(AccessDeniedError, match="a proxy in front of it"):
        HttpBackend("http://api", transport=transport).version()
