"""A real API without tokens, reached by names that somebody else may own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from click.testing import CliRunner

from opsqueue.cli.commands import main
from opsqueue.exceptions import IncorrectUsageError
from opsqueue.producer import ProducerClient
from tests.system.conftest import Process, Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

EVIL = "evil.example"


@pytest.fixture
def start_api(start: Start, redis_url: str, store_url: str) -> Start:
    def start_one(*arguments: str, **environment: str) -> Process:
        return start(
            *("opsqueue_api", "--port", "0", *arguments),
            OPSQUEUE_REDIS_URL=redis_url,
            OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
            **environment,
        )

    return start_one


def url_of(api: Process) -> str:
    return api.wait_for_line("ready on ").rpartition(" ")[2]


@contextmanager
def resolving(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Resolve a name to this machine, like a rebound one."""
    resolve = socket.getaddrinfo

    def resolve_it(host: Any, *rest: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if host == name else host, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve_it)
        yield


def status_of(url: str, *lines: str) -> int:
    """Send these lines as a request, and return the answer's status."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_a_rebound_name_reaches_nothing_of_a_real_api(start_api: Start) -> None:
    """The form of the request does not matter."""
    url = url_of(start_api("--allowed-hosts", "api, *.internal", "--allowed-hosts", "gateway"))
    queues = "GET /v1/queues HTTP/1.1"

    refused = {
        "a foreign name": (queues, f"Host: {EVIL}"),
        "in capitals, with a port": (queues, f"Host: {EVIL.upper()}:3999"),
        "none": (queues,),
        "none in HTTP/1.0": ("GET /v1/queues HTTP/1.0",),
        "an empty one": (queues, "Host:"),
        "a whole URL": (f"GET http://{EVIL}/v1/queues HTTP/1.1", "Host: localhost"),
        "a whole URL with a user": (f"GET http://localhost@{EVIL}/ HTTP/1.1", "Host: localhost"),
        "a whole URL, and a foreign Host": ("GET http://localhost/ HTTP/1.1", f"Host: {EVIL}"),
        "forwarded": (queues, f"Host: {EVIL}", "X-Forwarded-Host: localhost"),
        "a user": (queues, f"Host: localhost@{EVIL}"),
        "a post": ("POST /v1/queues/q/pause HTTP/1.1", f"Host: {EVIL}", "Content-Length: 0"),
        "the dashboard": ("GET / HTTP/1.1", f"Host: {EVIL}"),
        "metrics": ("GET /metrics HTTP/1.1", f"Host: {EVIL}"),
    }
    answered = {
        "localhost": (queues, "Host: localhost"),
        "with the root's dot": (queues, "Host: LOCALHOST.:1"),
        "an address": (queues, "Host: 127.0.0.1"),
        "an address of IPv6": (queues, "Host: [::1]:3999"),
        "a whole URL": ("GET http://localhost/v1/queues HTTP/1.1", "Host: localhost"),
        "a name that is given": (queues, "Host: api:3999"),
        "below a name that is given": (queues, "Host: a.internal"),
        "the option given again": (queues, "Host: gateway"),
        "alive": ("GET /healthz HTTP/1.1", f"Host: {EVIL}"),
        "ready": ("GET /readyz HTTP/1.1", f"Host: {EVIL}"),
        "alive in HTTP/1.0": ("GET /healthz HTTP/1.0",),
    }

    assert {} == {k: s for k, v in refused.items() if (s := status_of(url, *v)) != 421}
    assert {} == {k: s for k, v in answered.items() if (s := status_of(url, *v)) != 200}
    # Servers differ in what they make of two; none may take the one that is accepted.
    for hosts in ((EVIL, "localhost"), ("localhost", EVIL)):
        assert status_of(url, queues, *(f"Host: {host}" for host in hosts)) in (400, 421)


def test_clients_show_which_option_helps(
    start_api: Start, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that they were given, which this API was not."""
    url = url_of(start_api())
    with httpx.Client(headers={"Host": "queue.example"}) as foreign:
        answer = foreign.get(f"{url}/v1/queues")
    by_name = url.replace("127.0.0.1", "queue.example")

    assert 421 == answer.status_code
    assert "application/problem+json" == answer.headers["content-type"]
    assert "--allowed-hosts (OPSQUEUE_API_ALLOWED_HOSTS)" in answer.json()["detail"]
    with resolving("queue.example", monkeypatch):
        told = CliRunner().invoke(main, ["queues", "--api-url", by_name])
        with (
            ProducerClient(by_name, store_url, queue="q") as producer,
            pytest.raises(IncorrectUsageError, match="--allowed-hosts"),
        ):
            producer.insert_submission([1], chunk_size=1)
    assert (2, True) == (told.exit_code, "--allowed-hosts" in told.output)


def test_names_come_from_the_environment_too(start_api: Start) -> None:
    url = url_of(start_api(OPSQUEUE_API_ALLOWED_HOSTS="api,opsqueue.example gateway"))

    for host in ("api", "opsqueue.example", "gateway"):
        assert 200 == status_of(url, "GET /v1/queues HTTP/1.1", f"Host: {host}")


def test_an_api_that_others_reach_says_by_which_names(start_api: Start) -> None:
    """Before it is asked by another."""
    api = start_api("--host", "0.0.0.0", "--insecure", "--allowed-hosts", "api")  # noqa: S104

    url = url_of(api).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert "requests may be sent to its IP addresses and to localhost, api," in api.output
    assert "--allowed-hosts" in api.output
    assert 421 == status_of(url, "GET /v1/queues HTTP/1.1", f"Host: {EVIL}")


def test_a_name_that_is_listened_on_is_accepted(start_api: Start) -> None:
    url = url_of(start_api("--host", "localhost"))
    assert 200 == httpx.get(f"{url}/v1/queues").status_code


@pytest.mark.parametrize("names", ["http://api", "api:3999", "api,*bad"])
def test_a_name_that_can_be_none_ends_it_with_exit_code_2(start_api: Start, names: str) -> None:
    api = start_api("--allowed-hosts", names)

    assert 2 == api.wait()
    assert "use a name without scheme and port" in " ".join(api.output.split())


def test_an_api_with_tokens_answers_to_any_name(start_api: Start) -> None:
    """No page of another site has a token."""
    url = url_of(start_api(OPSQUEUE_API_TOKENS="ops:0123456789abcdef:admin"))
    known = "Authorization: Bearer 0123456789abcdef"

    assert 200 == status_of(url, "GET /v1/queues HTTP/1.1", f"Host: {EVIL}", known)
    assert 401 == status_of(url, "GET /v1/queues HTTP/1.1", f"Host: {EVIL}")
