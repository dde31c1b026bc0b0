"""Redis URLs: a server, a master known to Sentinels, or a cluster.

    redis://host:6379/0                               a server; rediss:// with TLS, unix:///path
    redis+sentinel://host:26379,host2:26379/mymaster  the master with that name, as Sentinels report
    redis+cluster://host:6379,host2:6379              a cluster, found through any of these nodes

User, password and options have the same form in all of them, that of redis-py for a server:
`rediss+…` uses TLS, and options such as `ssl_ca_certs` follow a `?`. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis.connection

from opsqueue.model.checks import is_host

_PARSE: Final[Callable[[str], dict[str, Any]]] = redis.connection.parse_url
_SENTINEL_PORT: Final = 26379
_SERVER_PORT: Final = 6379
_OF_ALL: Final = ("client_name", "health_check_interval", "password", "username")
_OF_TCP: Final = ("socket_keepalive",)
_OF_DATABASES: Final = ("db",)
_OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")
_KNOWN_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "sentinel": (*_OF_ALL, *_OF_TCP, *_OF_DATABASES, *_OF_SENTINELS),
    "cluster": (*_OF_ALL, *_OF_TCP),
    "unix": (*_OF_ALL, *_OF_DATABASES),
}
"""Options by the part after the `+`, or by the scheme; all other URLs have those of a server."""
_OF_SERVERS: Final = (*_OF_ALL, *_OF_TCP, *_OF_DATABASES)
_OF_TLS: Final = (
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
    "ssl_password",
)

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Server:
    """One server; redis-py parses its URL."""

    url: str


@dataclass(frozen=True, slots=True)
class BehindSentinels:
    """The current master of `service`, as named by the Sentinels at `addresses`."""

    addresses: tuple[Address, ...]
    service: str
    options: Mapping[str, Any] = field(repr=False)
    """redis-py's options for the master: credentials, db, TLS."""
    sentinel_options: Mapping[str, Any] = field(repr=False)
    """redis-py's options for the Sentinels."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that any of the nodes at `addresses` describes."""

    addresses: tuple[Address, ...]
    options: Mapping[str, Any] = field(repr=False)


Place = Server | BehindSentinels | Cluster


class UrlError(ValueError):
    """A fault of a URL. The message quotes nothing of the URL, which may contain a password."""


def place_of(url: str) -> Place:
    """Parse a URL.

    Raises:
        UrlError: it is not valid.
        ValueError: urllib can't parse it; the message may contain a part of the password.
    """
    parts = urlsplit(url)
    _check_options(parts)
    match parts.scheme.split("+"):
        case ["redis" | "rediss" as scheme, "sentinel"]:
            return _behind_sentinels(scheme, parts)
        case ["redis" | "rediss" as scheme, "cluster"]:
            if parts.path.strip("/") not in ("", "0"):
                message = "a cluster has the database 0 only"
                raise UrlError(message)
            return Cluster(_addresses(parts, _SERVER_PORT), _options(scheme, parts, path=""))
    if not is_host(parts.hostname or ""):
        message = "its host is not a valid name of a server"
        raise UrlError(message)
    return Server(url)


def _check_options(parts: SplitResult) -> None:
    """Refuse options that redis-py accepts, but with which commands fail later.

    With `decode_responses=1` no answer can be read; others make the first command fail with a
    TypeError.
    """
    scheme, _, kind = parts.scheme.partition("+")
    known = _KNOWN_OPTIONS.get(kind or scheme, _OF_SERVERS)
    if scheme == "rediss":
        known += _OF_TLS
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            hint = " without TLS (rediss)" if name in _OF_TLS else ""
            message = f"{name[:40]!r} is not one of its options{hint}: {', '.join(sorted(known))}"
            raise UrlError(message)


def _behind_sentinels(scheme: str, parts: SplitResult) -> BehindSentinels:
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        message = "the name of the master is missing after the Sentinels, such as /mymaster"
        raise UrlError(message)
    if db and not db.isdecimal():
        message = "the part after the master's name must be the number of a database"
        raise UrlError(message)
    options = _options(scheme, parts, path=f"/{db}")
    own = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in _OF_SENTINELS
        if name in options
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    return BehindSentinels(
        addresses=_addresses(parts, _SENTINEL_PORT),
        service=unquote(service),
        options=options,
        sentinel_options={**tls, **own},
    )


def _options(scheme: str, parts: SplitResult, *, path: str) -> dict[str, Any]:
    user_info, at, _ = parts.netloc.rpartition("@")
    # The host does not matter: redis-py needs one, and we have several.
    options = _PARSE(f"{scheme}://{user_info}{at}host{path}?{parts.query}")
    options.pop("host", None)
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    return options


def _addresses(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    return tuple(_address(host.strip(), default_port) for host in hosts)


def _address(text: str, default_port: int) -> Address:
    try:
        # Parse it as a URL of its own, so that [::1]:6379 is read correctly.
        one = urlsplit(f"//{text}")
        host, port = one.hostname, one.port
    except ValueError:
        host, port = None, None
    if not host or not is_host(host):
        message = "one of its hosts or ports can't be read"
        raise UrlError(message)
    return host, default_port if port is None else port
