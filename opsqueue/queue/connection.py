"""Connecting to Redis, in one function, since redis-py's defaults are dangerous for a queue.

redis-py repeats every command up to ten times, EVALSHA included, after 5 s without an answer: a
slower script would run eleven times. Here nothing is repeated; callers that may repeat decide (see
the table in docs/internals/failures.md).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from opsqueue.exceptions import InvalidArgumentError, RedisUnavailableError
from opsqueue.model.process import renew_in_children
from opsqueue.queue.cluster import Client, ClusterClient, reason_of, run_on_all
from opsqueue.queue.redis_url import BehindSentinels, Cluster, Server, UrlError, place_of
from opsqueue.queue.replication import lag_warning, replica_warning

SOCKET_TIMEOUT_S: Final = 15.0
"""Longer than any blocking read that we send: those of events wait for a second."""

_PASSWORD: Final = re.compile(r"(://[^:@/]*:).*@")
_QUERY_PASSWORD: Final = re.compile(r"([?&](?:sentinel_|ssl_)?password=)[^&]*")


def connect(url: str, *, max_connections: int = 64, timeout_s: float = SOCKET_TIMEOUT_S) -> Client:
    """Make a client, which connects with its first command.

    Args:
        url: redis://, rediss:// or unix://, as in redis-py; redis+sentinel:// or redis+cluster://,
            see `redis_url`.
        max_connections: each thread that waits for an answer uses one; in a cluster, for each node.
        timeout_s: the wait for an answer; longer than the longest blocking read.

    Raises:
        InvalidArgumentError: the URL is not valid.
    """
    options = _options(max_connections, timeout_s)
    try:
        match place_of(url):
            case Server():
                return server_client(url, max_connections=max_connections, timeout_s=timeout_s)
            case BehindSentinels() as behind:
                return _master(behind, options)
            case Cluster() as cluster:
                return ClusterClient(_discovery(cluster, options))
    except ValueError as exc:
        # Other errors may contain a part of the password; for the same reason no `from exc`.
        why = f" ({exc})" if isinstance(exc, UrlError) else ""
        message = (
            f"Redis URL {masked(url)!r} can't be read{why}: give redis://host:6379/0, rediss://…, "
            "unix:///path/to/socket, redis+sentinel://host:26379/mymaster or "
            "redis+cluster://host:6379; write characters of a password other than letters and "
            "digits as %XX"
        )
        raise InvalidArgumentError(message) from None


def server_client(
    url: str, *, max_connections: int = 64, timeout_s: float = SOCKET_TIMEOUT_S
) -> redis.Redis:
    """Make a client of one server, like `connect`, where only a single server will do."""
    options = _options(max_connections, timeout_s)
    if url.startswith("rediss:"):
        options["redis_connect_func"] = _begin
    return _with_locks_of_its_own(redis.Redis.from_url(url, **options, retry=_never()))


class _PoolLocks:
    """The locks of a redis-py pool, new ones in each process.

    In a forked child redis-py drops the pool's connections, and takes the pool's lock for that. If
    a thread of the parent held it at the fork, nothing in the child would release it.
    """

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 redis-py has no type for these
        self._pool = pool
        renew_in_children(self)

    def start_afresh(self) -> None:
        self._pool._lock, self._pool._fork_lock = threading.RLock(), threading.RLock()  # noqa: SLF001 as above


def _with_locks_of_its_own(client: redis.Redis) -> redis.Redis:
    pool: Any = client.connection_pool
    pool.opsqueue_locks = _PoolLocks(pool)  # it lives as long as the pool
    return client


def _begin(connection: Any) -> None:  # noqa: ANN401 redis-py has no type for a pool's connections
    """Set up a new connection as redis-py does, and read what TLS sends without a request.

    A server's session tickets arrive right after the handshake. If nothing is read then (an answer
    to a password would be), redis-py takes them for an unread answer and drops the connection.
    """
    connection.on_connect()
    _read_what_came(connection)


def _read_what_came(connection: Any) -> None:  # noqa: ANN401 as above
    connection.send_command("PING", check_health=False)
    connection.read_response()


def _options(max_connections: int, timeout_s: float) -> dict[str, Any]:
    return {
        "protocol": 2,  # the only one in which scripts answer alike on a server and on fakeredis
        "driver_info": None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": 5.0,
        "max_connections": max_connections,
    }


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _master(behind: BehindSentinels, options: dict[str, Any]) -> redis.Redis:
    """Make a client that asks the Sentinels for the master at every new connection."""
    if "ssl" in behind.options:
        options = {**options, "redis_connect_func": _begin}
    sentinel_options = {**options, "socket_timeout": 2.0, "socket_connect_timeout": 2.0}
    # redis-py has no types for these.
    sentinels = cast("Any", Sentinel)(
        behind.addresses,
        sentinel_kwargs={**sentinel_options, **behind.sentinel_options, "retry": _never()},
    )
    for sentinel in sentinels.sentinels:
        _with_locks_of_its_own(sentinel)
    return _with_locks_of_its_own(
        sentinels.master_for(behind.service, **{**options, **behind.options}, retry=_never())
    )


def _discovery(cluster: Cluster, options: dict[str, Any]) -> Callable[[], RedisCluster]:
    nodes = [cast("Any", ClusterNode)(host, port) for host, port in cluster.addresses]
    if "ssl" in cluster.options:
        # RedisCluster has its own function for new connections, which calls this one at its end.
        options = {**options, "redis_connect_func": _read_what_came}
    # Its nodes' clients never repeat; this `retry` is for RedisCluster's own commands.
    return partial(RedisCluster, startup_nodes=nodes, retry=_never(), **options, **cluster.options)


def masked(url: str) -> str:
    """Return the URL without its password, for banners and messages."""
    # By pattern instead of parsing: a URL is shown above all when it can't be parsed.
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


def check(client: Client, *, url: str) -> list[str]:
    """Check that the servers can hold a queue; return warnings about their configuration.

    Raises:
        RedisUnavailableError: no answer, or the server is older than 7.0.
    """
    warnings: dict[str, None] = {}
    for info in read_info(client, url=url):
        if info is None:
            warnings[f"Redis at {masked(url)} {NO_INFO}; make sure that {ALL_FACTS}"] = None
            continue
        if warning := version_warning(info):
            message = f"Redis at {masked(url)} is {warning}"
            raise RedisUnavailableError(message)
        for warning_of in (eviction_warning, loss_warning, replica_warning, lag_warning):
            if warning := warning_of(info):
                warnings[f"Redis {warning}"] = None
        for warning in unseen_facts(info):
            warnings[f"Redis {warning}"] = None
    return list(warnings)


NO_INFO: Final = "does not let this user read INFO, so its version and settings are not checked"
_FACTS: Final = {
    "redis_version": "it is version 7.0 or newer",
    "maxmemory_policy": "maxmemory-policy is noeviction",
    "aof_enabled": "appendonly is yes",
    "role": "it is a primary",
}
ALL_FACTS: Final = ", ".join(_FACTS.values())


def unseen_facts(info: Mapping[str, Any]) -> list[str]:
    """Return warnings about facts that a server's INFO leaves out, as some providers' do."""
    return [
        f"does not report {name} (INFO); make sure that {fact}"
        for name, fact in _FACTS.items()
        if name not in info
    ]


def read_info(client: Client, *, url: str) -> list[Mapping[str, Any] | None]:
    """Return each server's INFO (in a cluster, each master's); None: INFO is refused.

    Raises:
        RedisUnavailableError: no answer, or the credentials are refused.
    """
    try:
        return run_on_all(client, _info)
    except redis.AuthenticationError as exc:
        message = f"Redis at {masked(url)} refused the credentials ({exc}): put them into its URL"
        raise RedisUnavailableError(message) from exc
    except (redis.RedisError, RedisClusterException) as exc:
        message = f"Redis at {masked(url)} {_reason_of(exc)}"
        raise RedisUnavailableError(message) from exc


def _reason_of(exc: Exception) -> str:
    reason = reason_of(exc)
    told = f"{reason} {exc.__cause__ or ''}".lower()
    if "cluster mode is not enabled" in told:
        return "is not a cluster: its URL begins with redis://, not redis+cluster://"
    if "unknown command 'sentinel'" in told:
        return "is not a Sentinel: its own URL begins with redis://, not redis+sentinel://"
    if isinstance(exc, redis.ResponseError):
        return f"answers, but refuses ({reason}): is its URL right?"
    help_ = (
        "give the authority that signed it: rediss://…?ssl_ca_certs=/path/to/ca.pem"
        if "certificate verify failed" in told
        else "is it running, and is the URL right? Set OPSQUEUE_REDIS_URL, or start one with "
        "`opsqueue dev`"
    )
    return f"does not answer ({reason}): {help_}"


def _info(server: redis.Redis) -> Mapping[str, Any] | None:
    server.ping()
    info: dict[str, Any] = {}
    try:
        for section in ("server", "memory", "persistence", "replication"):
            info |= server.info(section)
    except redis.ResponseError as exc:
        # An ACL user without INFO, or a server that renamed it: the queue works, only these checks
        # can't be made.
        is_known = isinstance(exc, redis.exceptions.NoPermissionError)
        if not is_known and "unknown command" not in str(exc).lower():
            raise
        return None
    return info


def version_warning(info: Mapping[str, Any]) -> str | None:
    """Return a warning if a server is too old."""
    version = str(info.get("redis_version", ""))
    major = re.match(r"\d+", version)
    if major is not None and int(major[0]) < 7:
        return f"version {version}: 7.0 or newer is needed"
    return None


def eviction_warning(info: Mapping[str, Any]) -> str | None:
    """Return a warning if a server evicts data when its memory is full."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return (
        f"evicts keys when memory is full (maxmemory-policy {policy}): submissions can "
        "vanish; set it to noeviction"
    )


def loss_warning(info: Mapping[str, Any]) -> str | None:
    """Return a warning if a server loses data in a crash."""
    if "aof_enabled" not in info:
        return None
    if info["aof_enabled"]:
        if info.get("aof_last_write_status", "ok") == "ok":
            return None
        return "can't write its append-only file; look at the server's log and at its disk"
    return "keeps no append-only file: a crash of the server loses submissions; set appendonly yes"
