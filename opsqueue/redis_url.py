"""What a Redis URL names: a server, a master that Sentinels know, or a cluster.

    redis://host:6379/0                               a server; rediss:// with TLS, unix:///path
    redis+sentinel://host:26379,host2:26379/mymaster  the master of that name, as Sentinels say
    redis+cluster://host:6379,host2:6379              a cluster, found by any of these nodes

User, password and options stand in all of them as redis-py reads them in the first: `rediss+…` is
with TLS, options such as `ssl_ca_certs` follow a `?`. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis.connection

from opsqueue.bounds import is_host

_PARSE: Final[Callable[[str], dict[str, Any]]] = redis.connection.parse_url
_SENTINEL_PORT: Final = 26379
_SERVER_PORT: Final = 6379
_KNOWN_OPTIONS: Final = (
    "client_name",
    "db",
    "health_check_interval",
    "password",
    "sentinel_password",
    "sentinel_username",
    "socket_keepalive",
    "username",
)
_OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Server:
    """One server, whose URL redis-py reads itself."""

    url: str


@dataclass(frozen=True, slots=True)
class BehindSentinels:
    """The master of `service` now: whichever the Sentinels at `addresses` name."""

    addresses: tuple[Address, ...]
    service: str
    options: Mapping[str, Any] = field(repr=False)
    """redis-py's for the master: credentials, db, TLS."""
    sentinel_options: Mapping[str, Any] = field(repr=False)
    """redis-py's for the Sentinels."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that any of the nodes at `addresses` describes."""

    addresses: tuple[Address, ...]
    options: Mapping[str, Any] = field(repr=False)


Place = Server | BehindSentinels | Cluster


class UrlError(ValueError):
    """Says what is wrong, and nothing of what stands in the URL: it may be a password."""


def place_of(url: str) -> Place:
    """Read a URL.

    Raises:
        UrlError: it can't be read.
        ValueError: urllib can't take it apart; its message may have a piece of the password.
    """
    parts = urlsplit(url)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _KNOWN_OPTIONS and not name.startswith("ssl_"):
            # redis-py would take `decode_responses=1`, and no answer could be read any more; what
            # it does not know it would pass on, to fail with the first command.
            message = f"{name[:40]!r} is none of its options: {', '.join(_KNOWN_OPTIONS)}, ssl_…"
            raise UrlError(message)
    match parts.scheme.split("+"):
        case ["redis" | "rediss" as scheme, "sentinel"]:
            return _behind_sentinels(scheme, parts)
        case ["redis" | "rediss" as scheme, "cluster"]:
            if parts.path.strip("/") not in ("", "0"):
                message = "a cluster has the database 0 only"
                raise UrlError(message)
            return Cluster(_addresses(parts, _SERVER_PORT), _options(scheme, parts, path=""))
    if not is_host(parts.hostname or ""):
        message = "no server can have the name of its host"
        raise UrlError(message)
    return Server(url)


def _behind_sentinels(scheme: str, parts: SplitResult) -> BehindSentinels:
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        message = "the name of the master is missing behind the Sentinels, such as /mymaster"
        raise UrlError(message)
    if db and not db.isdecimal():
        message = "what stands behind the master's name is the number of a database"
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
    # A host of no importance: redis-py takes one, we have several.
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
        # As a URL of its own: so [::1]:6379 is read rightly.
        one = urlsplit(f"//{text}")
        host, port = one.hostname, one.port
    except ValueError:
        host, port = None, None
    if not host or not is_host(host):
        message = "one of its hosts or ports can't be read"
        raise UrlError(message)
    return host, default_port if port is None else port
