"""Connecting, warnings about a server, and secrets that no message shows."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import redis

from opsqueue.cli.checks import Level, _server_findings
from opsqueue.exceptions import InvalidArgumentError, RedisUnavailableError
from opsqueue.queue.connection import (
    SOCKET_TIMEOUT_S,
    check,
    connect,
    masked,
    server_client,
)
from opsqueue.queue.script import ping
from opsqueue.testing.embedded import EmbeddedServer

GOOD = {"maxmemory_policy": "noeviction", "aof_enabled": 1, "role": "master"}
OPTIONS = "username=u&password=p&client_name=c&health_check_interval=3"
TLS = (
    "ssl_ca_certs=/ca&ssl_ca_data=x&ssl_ca_path=/cas&ssl_cert_reqs=none&ssl_certfile=/c&"
    "ssl_check_hostname=no&ssl_ciphers=ALL&ssl_keyfile=/k&ssl_min_version=771&ssl_password=p"
)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of this module alone, to set up wrongly."""
    with EmbeddedServer(tmp_path_factory.mktemp("own"), is_durable=True) as server:
        yield server


@pytest.fixture
def own_client(own_server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = server_client(own_server.url)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://user:secret@host/1", "redis://user:***@host/1"),
        (
            "rediss://user:s%40cret@host/1?ssl_cert_reqs=none",
            "rediss://user:***@host/1?ssl_cert_reqs=none",
        ),
        ("redis://user:sec:ret@[::1]:6379/0", "redis://user:***@[::1]:6379/0"),
        ("redis://user@host", "redis://user@host"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix://user:secret@/run/redis.sock", "unix://user:***@/run/redis.sock"),
        ("unix:///run/redis.sock?password=secret&db=1", "unix:///run/redis.sock?password=***&db=1"),
        ("redis://host?db=1&password=secret", "redis://host?db=1&password=***"),
        ("redis://:sec/ret@host:6379", "redis://:***@host:6379"),
        ("redis://:sec#ret?x@host:6379", "redis://:***@host:6379"),
        ("redis://:secret@[host", "redis://:***@[host"),
        ("redis://:sec@ret@host", "redis://:***@host"),
    ],
)
def test_a_masked_url_shows_all_but_the_password(url: str, shown: str) -> None:
    """Also of a URL that is wrong, which is when it is shown."""
    assert shown == masked(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:6379",
        "http://:secret@host",
        "redis://:secret@host:port",
        "redis://:secret@host:99999",
        "redis://:secret@[host",
        "redis://:sec/secret@host",
        "redis://:secret@a..b",
        f"redis://:secret@{'x' * 64}",
        f"redis+sentinel://:secret@host,{'x' * 64}/main",
        "redis://host?protocol=3",
        "redis://host?decode_responses=1",
        "redis://host?no_such_option=1",
        "redis+cluster://host?socket_timeout=1",
        "redis://:secret@host?sentinel_password=secret",
        "redis://:secret@host?ssl_ca_certs=/etc/ca.pem",
        "redis+sentinel://:secret@host/main?ssl_ca_certs=/etc/ca.pem",
        "rediss://:secret@host?ssl_no_such=1",
        "redis+cluster://:secret@host?db=0",
        "unix:///tmp/redis.sock?socket_keepalive=1",
    ],
)
def test_a_url_that_can_not_be_read_is_refused_without_its_password(url: str) -> None:
    """The message says which forms there are."""
    with pytest.raises(InvalidArgumentError, match="give redis://host:6379/0") as caught:
        connect(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://127.0.0.1:1?{OPTIONS}&db=1&socket_keepalive=1",
        f"rediss://127.0.0.1:1?{OPTIONS}&db=1&socket_keepalive=1&{TLS}",
        f"unix:///no/such/socket?{OPTIONS}&db=1",
        f"rediss+sentinel://127.0.0.1:1/m?{OPTIONS}&db=1&sentinel_username=u&sentinel_password=p&{TLS}",
        f"rediss+cluster://127.0.0.1:1?{OPTIONS}&socket_keepalive=1&{TLS}",
    ],
)
def test_options_that_are_taken_are_known_to_who_connects(url: str) -> None:
    """Else the first command fails with a TypeError."""
    with pytest.raises(RedisUnavailableError, match="does not answer"):
        ping(connect(url))


def test_nothing_is_sent_before_the_first_command() -> None:
    """Programs create clients before they know whether Redis is there."""
    connect("redis://127.0.0.1:1/0")


def test_redis_py_repeats_nothing(own_server: EmbeddedServer) -> None:
    """By default a script slower than its timeout would run eleven times."""
    options = server_client(own_server.url).connection_pool.connection_kwargs

    assert options["retry"]._retries == 0
    assert options["protocol"] == 2
    assert options["socket_timeout"] == SOCKET_TIMEOUT_S


def test_a_server_that_is_set_up_well_gives_no_warnings(
    own_client: redis.Redis, own_server: EmbeddedServer
) -> None:
    """It has an append-only file and evicts nothing."""
    assert check(own_client, url=own_server.url) == []


def test_a_server_that_evicts_keys_gives_a_warning(
    own_client: redis.Redis, own_server: EmbeddedServer
) -> None:
    """The message has the policy and the one that is right."""
    own_client.config_set("maxmemory-policy", "allkeys-lru")

    try:
        (warning,) = check(own_client, url=own_server.url)
    finally:
        own_client.config_set("maxmemory-policy", "noeviction")

    assert "maxmemory-policy allkeys-lru" in warning
    assert "noeviction" in warning


def test_a_server_without_an_append_only_file_gives_a_warning(
    own_client: redis.Redis, own_server: EmbeddedServer
) -> None:
    """A crash loses what it holds."""
    own_client.config_set("appendonly", "no")

    try:
        (warning,) = check(own_client, url=own_server.url)
    finally:
        own_client.config_set("appendonly", "yes")

    assert "appendonly yes" in warning


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:{port}/99", "answers, but refuses .*: is its URL right"),
        ("redis+sentinel://127.0.0.1:{port}/mymaster", "is not a Sentinel: its own URL begins"),
        ("redis+cluster://127.0.0.1:{port}", "is not a cluster: its URL begins with redis://"),
        ("redis://:wrong@127.0.0.1:{port}", "refused the credentials"),
    ],
)
def test_a_server_that_answers_is_not_said_to_be_silent(
    own_server: EmbeddedServer, url: str, says: str
) -> None:
    url = url.format(port=own_server.port)
    client = connect(url)

    with pytest.raises(RedisUnavailableError, match=says):
        check(client, url=url)

    client.close()


def test_a_user_without_info_gives_a_warning(
    own_client: redis.Redis, own_server: EmbeddedServer
) -> None:
    """The queue works; only its settings are not checked."""
    own_client.acl_setuser(
        "worker",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        categories=["+@all"],
        commands=["-info"],
    )
    url = own_server.url.replace("//", "//worker:secret@")

    (warning,) = check(connect(url), url=url)

    assert "INFO" in warning
    assert "secret" not in warning


def test_refused_credentials_are_an_error_that_says_where_they_go(
    own_server: EmbeddedServer,
) -> None:
    """The message does not show the password."""
    url = own_server.url.replace("//", "//worker:wrong-secret@")

    with pytest.raises(RedisUnavailableError, match="refused the credentials") as caught:
        check(connect(url), url=url)

    assert "wrong-secret" not in str(caught.value)


def test_missing_credentials_are_an_error(
    own_client: redis.Redis, own_server: EmbeddedServer
) -> None:
    """A server that wants a password, a URL without one."""
    own_client.config_set("requirepass", "secret")
    try:
        with pytest.raises(RedisUnavailableError, match="refused the credentials"):
            check(connect(own_server.url), url=own_server.url)
    finally:
        server_client(own_server.url.replace("//", "//:secret@")).config_set("requirepass", "")


def test_nobody_there_is_an_error_that_says_what_to_do() -> None:
    """Which variable, and how to start one."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{closed.getsockname()[1]}/0"

    with pytest.raises(RedisUnavailableError, match="OPSQUEUE_REDIS_URL") as caught:
        check(connect(url), url=url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7"])
def test_a_server_that_is_too_old_is_an_error(
    own_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """7.0 is the oldest that is tried."""
    monkeypatch.setattr(own_client, "info", lambda _section: {"redis_version": version})

    with pytest.raises(RedisUnavailableError, match=f"version {version}: 7.0 or newer"):
        check(own_client, url="redis://host")


@pytest.mark.parametrize("version", ["7.managed", "8", "255.255.255"])
def test_a_version_of_another_form_is_no_error(
    own_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Some providers have their own."""
    info = {"redis_version": version, **GOOD}
    monkeypatch.setattr(own_client, "info", lambda _section: info)

    assert check(own_client, url="redis://host") == []


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("redis_version", "it is version 7.0 or newer"),
        ("maxmemory_policy", "maxmemory-policy is noeviction"),
        ("aof_enabled", "appendonly is yes"),
        ("role", "it is a primary"),
    ],
)
def test_what_info_leaves_out_is_said_and_not_guessed(
    own_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, name: str, fact: str
) -> None:
    """Neither taken for good nor for bad."""
    info = {key: value for key, value in {"redis_version": "7.2.4", **GOOD}.items() if key != name}
    monkeypatch.setattr(own_client, "info", lambda _section: info)

    (warning,) = check(own_client, url="redis://host")
    findings = {one.check: one for one in _server_findings(info)}

    assert f"Redis does not report {name} (INFO); make sure that {fact}" == warning
    assert Level.WARNING is findings["redis-info"].level
    assert f"make sure that {fact}" == findings["redis-info"].help
    assert len(findings) == (3 if name != "role" else 4)
