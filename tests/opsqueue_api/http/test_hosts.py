"""The names that an API without tokens answers to: no page may reach it by its own name."""

from __future__ import annotations

import httpx
import pytest
import redis

from opsqueue.exceptions import IncorrectUsageError, InvalidArgumentError
from opsqueue.http.bodies import ProblemType
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import create_app
from opsqueue_api.http.hosts import AllowedHosts, is_name
from opsqueue_api.http.tokens import parse_tokens
from tests.opsqueue_api.clients import client_of

ALWAYS = (
    *("localhost", "LOCALHOST", "LocalHost:3999", "localhost.", "localhost.:80", "localhost:"),
    *("app.localhost", "a.b.LOCALHOST:3999", "127.0.0.1", "127.0.0.1:3999", "127.0.0.1:0"),
    *("127.0.0.1:65535", "10.1.2.3:8080", "192.168.0.1", "[::1]", "[::1]:3999", "[FE80::1]:80"),
    *("[::ffff:127.0.0.1]:3999", "[2001:db8::7]"),
)
NEVER = (
    # Names, also such as begin or end like those that are accepted.
    *("evil.example", "evil.example:3999", "localhost.evil.example", "evillocalhost", ".localhost"),
    *("127.0.0.1.evil.example", "127.0.0.1.nip.io", "xn--lclhost-4ya.example", "api", "com"),
    # No host at all.
    *("", " ", ".", "..", ":3999", "[]", "[]:3999"),
    # Other things in front of it, behind it or beside it.
    *("a@localhost", "localhost@evil.example", "evil.example#localhost", "localhost/evil.example"),
    *("localhost,evil.example", "evil.example, localhost", "localhost evil.example", "localhost\t"),
    *("http://localhost", "localhost?", "localhost\\evil.example", "localhost%00", "loc%61lhost"),
    *("l\u043ecalhost", "localhost\u3002", "\u246027.0.0.1", "\u0661\u0662\u0667.0.0.1"),
    # Ports that are none.
    *("localhost:65536", "localhost:99999", "localhost:-1", "localhost:80:80", "localhost:http"),
    *("127.0.0.1:+80", "localhost:999999999999", "[::1]:x", "[::1]80", "localhost:\u0668\u0660"),
    # Addresses that are none, or that some resolver takes for one.
    *("2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.1", "256.0.0.1"),
    *("127.0.0.01", "::1", "::1:3999", "[::1", "::1]", "[127.0.0.1]", "[localhost]", "[::g]"),
    *("[fe80::1%eth0]", "[fe80::1%25eth0]", "[::1]]", "[[::1]]", "[v1.a]", "1.2.3.4.evil.example"),
)


@pytest.mark.parametrize("host", ALWAYS)
def test_localhost_and_addresses_are_accepted_without_being_named(host: str) -> None:
    assert AllowedHosts([]).allow(host)


@pytest.mark.parametrize("host", NEVER)
@pytest.mark.parametrize("names", [[], ["known.example", "*.known.example"]], ids=str)
def test_whatever_else_is_not(host: str, names: list[str]) -> None:
    """Also what looks like a name that is accepted."""
    assert not AllowedHosts(names).allow(host)


def test_a_request_without_a_host_is_not_accepted() -> None:
    """HTTP/1.0 lets it out."""
    assert not AllowedHosts(["api"]).allow(None)


@pytest.mark.parametrize(
    ("pattern", "accepted", "refused"),
    [
        ("api", ["api", "API:3999", "api."], ["api.evil.example", "xapi", "a.api"]),
        ("Api.Example.com.", ["api.example.com", "API.example.COM.:80"], ["example.com"]),
        ("my_api", ["my_api:3999"], ["my-api"]),
        (
            "*.example.com",
            ["a.example.com", "a.b.example.com:80"],
            ["example.com", "aexample.com", "a.example.com.evil", ".example.com", "*.example.com"],
        ),
        (".example.com", ["example.com", "a.example.com"], ["aexample.com", "example.org"]),
        ("*", ["evil.example", "", "a@b"], []),
        ("xn--bcher-kva.example", ["xn--bcher-kva.example"], ["bücher.example"]),
        ("10.0.0.7", ["10.0.0.7"], ["api"]),
        ("[::1]", ["[::1]"], ["api"]),
        ("::", ["[::]"], ["api"]),
    ],
)
def test_names_are_accepted_as_they_are_given(
    pattern: str, accepted: list[str], refused: list[str]
) -> None:
    hosts = AllowedHosts([pattern])

    assert [] == [host for host in accepted if not hosts.allow(host)]
    assert [] == [host for host in refused if hosts.allow(host)]


@pytest.mark.parametrize(
    "name",
    [
        *("http://api", "api:3999", "api/", "a b", "*api", "a.*.com", "**", "*.", ".", "", "a..b"),
        *("bücher.example", "-api", "user@api", "[api]", "*.*.com", "api\n"),
    ],
)
def test_what_can_be_no_name_is_refused_with_the_forms_that_can(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="use a name without scheme and port"):
        AllowedHosts([name])


@pytest.fixture
def http(fake_client: redis.Redis, store: ObjectStore) -> httpx.Client:
    return client_of(create_app(fake_client, store, allowed_hosts=["api", "*.internal"]))


EVIL = {"Host": "evil.example:3999"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/dashboard/app.js"),
        ("GET", "/v1/queues"),
        ("GET", "/v1/events"),
        ("GET", "/v1/queues/numbers/submissions"),
        ("HEAD", "/v1/queues"),
        ("OPTIONS", "/v1/queues"),
        ("POST", "/v1/queues/numbers/submissions"),
        ("POST", "/v1/queues/numbers/submissions/1/cancel"),
        ("POST", "/v1/queues/numbers/pause"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/version"),
        ("GET", "/nowhere"),
        ("GET", "/healthz/x"),
        ("GET", "//healthz"),
        ("GET", "/HEALTHZ"),
    ],
)
def test_a_rebound_name_reaches_nothing(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, httpx.URL("http://api").copy_with(path=path), headers=EVIL)

    assert 421 == answer.status_code
    if method != "HEAD":
        problem = answer.json()
        assert ProblemType.MISDIRECTED == problem["type"]
        assert "'evil.example:3999'" in problem["detail"]
        assert "--allowed-hosts" in problem["detail"]
        assert problem["request_id"]


def test_a_rebound_page_of_an_old_browser_changes_nothing(
    http: httpx.Client, fake_client: redis.Redis
) -> None:
    """Its Origin is the Host that it sends."""
    headers = {**EVIL, "Origin": "http://evil.example:3999"}

    assert 421 == http.post("/v1/queues/numbers/pause", headers=headers).status_code
    assert not Queue(fake_client, "numbers").count_queue().is_paused


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz/", "/readyz/"])
@pytest.mark.parametrize("host", ["evil.example", "", "a@b"])
def test_probes_are_answered_by_any_name(http: httpx.Client, path: str, host: str) -> None:
    assert 200 == http.get(path, headers={"Host": host}).status_code


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "api:3999", "a.internal"])
def test_names_that_are_accepted_are_answered(http: httpx.Client, host: str) -> None:
    assert 200 == http.get("/v1/queues", headers={"Host": host}).status_code


def test_a_forwarded_host_does_not_count(http: httpx.Client) -> None:
    """A page may send it."""
    headers = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost", **EVIL}

    assert 421 == http.get("/v1/queues", headers=headers).status_code
    headers = {"X-Forwarded-Host": "evil.example", "Host": "localhost"}
    assert 200 == http.get("/v1/queues", headers=headers).status_code


def test_a_page_of_an_accepted_name_may_change_something(http: httpx.Client) -> None:
    headers = {"Host": "api:3999", "Origin": "http://api:3999"}

    assert http.post("/v1/queues/numbers/pause", headers=headers).is_success
    headers["Origin"] = "http://evil.example:3999"
    assert 403 == http.post("/v1/queues/numbers/pause", headers=headers).status_code


def test_an_api_with_tokens_answers_to_any_name(
    fake_client: redis.Redis, store: ObjectStore
) -> None:
    """No page of another site has a token."""
    tokens = parse_tokens("ops:0123456789abcdef:admin")
    http = client_of(create_app(fake_client, store, tokens=tokens, allowed_hosts=[]))

    known = {**EVIL, "Authorization": "Bearer 0123456789abcdef"}
    assert 200 == http.get("/v1/queues", headers=known).status_code
    assert 401 == http.get("/v1/queues", headers=EVIL).status_code


def test_a_client_shows_what_helps(fake_client: redis.Redis, store: ObjectStore) -> None:
    app = create_app(fake_client, store, allowed_hosts=[])
    api = HttpBackend("http://api.example:3999", transport=httpx.WSGITransport(app))

    with pytest.raises(IncorrectUsageError, match=r"refused \(421\): .*--allowed-hosts"):
        api.queues()


def test_the_document_has_the_refusal_where_there_is_one(
    fake_client: redis.Redis, store: ObjectStore
) -> None:
    tokens = parse_tokens("ops:0123456789abcdef:admin")
    without = client_of(create_app(fake_client, store, allowed_hosts=["*"])).get("/openapi.json")
    with_tokens = client_of(create_app(fake_client, store, tokens=tokens)).get("/openapi.json")

    paths = without.json()["paths"]
    unrefused = {
        path
        for path, methods in paths.items()
        if not all("421" in one["responses"] for one in methods.values())
    }
    assert {"/healthz", "/readyz"} == unrefused
    assert '"421"' not in with_tokens.text


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        *(("api", True), ("My-Host.example.", True), ("127.0.0.1", False), ("::", False)),
        *(("", False), ("fe80::1%eth0", False), ("bücher", False)),
    ],
)
def test_only_a_name_that_is_listened_on_is_accepted_as_one(host: str, *, is_one: bool) -> None:
    assert is_one is is_name(host)
