"""How we connect to Redis: one function, since redis-py's defaults are dangerous for a queue.

They repeat every command up to ten times, EVALSHA included, after 5 s without an answer: a script
slower than that would run eleven times. Here nothing is repeated; who may repeat decides (see the
failure table in ARCHITECTURE.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from opsqueue.exceptions import InvalidArgumentError, RedisUnavailableError

SOCKET_TIMEOUT_S: Final = 15.0
"""Longer than any BLOCK that we send, see BLOCK_MS."""

BLOCK_MS: Final = 5_000
"""The longest that one blocking read waits."""

_PASSWORD: Final = re.compile(r"(://[^:@/]*:).*@")
_QUERY_PASSWORD: Final = re.compile(r"([?&]password=)[^&]*")


def connect(
    url: str, *, max_connections: int = 64, timeout_s: float = SOCKET_TIMEOUT_S
) -> redis.Redis:
    """Make a client; it connects with its first command.

    Args:
        url: redis://, rediss:// or unix://, as redis-py reads them.
        max_connections: each thread in a call holds one.
        timeout_s: of an answer; longer than the longest wait that is asked for.

    Raises:
        InvalidArgumentError: the URL can't be read.
    """
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,  # scripts answer alike on a server and on fakeredis only in this one
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            socket_connect_timeout=5.0,
            max_connections=max_connections,
        )
    except ValueError:
        message = (
            f"Redis URL {masked(url)!r} can't be read: give redis://host:6379/0, rediss://… or "
            "unix:///path/to/socket; other characters than letters and digits in a password "
            "stand as %XX"
        )
        # Not `from exc`: its message may have a piece of the password.
        raise InvalidArgumentError(message) from None


def masked(url: str) -> str:
    """Give the URL without its password, for banners and messages."""
    # By pattern, not parsed: a URL is shown above all when it can't be parsed.
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


def check(client: redis.Redis, *, url: str) -> list[str]:
    """Ask the server whether it can hold a queue; give warnings about how it is set up.

    Raises:
        RedisUnavailableError: no answer, or one that is not of a server of 7.0 or newer.
    """
    info = read_info(client, url=url)
    if info is None:
        return [f"Redis at {masked(url)} does not let us read INFO: settings are not checked"]
    if trouble := version_trouble(info):
        message = f"Redis at {masked(url)} is {trouble}"
        raise RedisUnavailableError(message)
    return [f"Redis {trouble}" for of in (eviction_trouble, loss_trouble) if (trouble := of(info))]


def read_info(client: redis.Redis, *, url: str) -> Mapping[str, Any] | None:
    """Give what the server says of itself; None: this user may not read it.

    Raises:
        RedisUnavailableError: no answer, or the credentials are refused.
    """
    try:
        client.ping()
        info: dict[str, Any] = {}
        for section in ("server", "memory", "persistence", "replication"):
            info |= client.info(section)
    except redis.AuthenticationError as exc:
        message = f"Redis at {masked(url)} refused the credentials ({exc}): put them into its URL"
        raise RedisUnavailableError(message) from exc
    except redis.exceptions.NoPermissionError:
        # An ACL user without INFO: the queue works, only these checks can't be made.
        return None
    except redis.RedisError as exc:
        message = (
            f"Redis at {masked(url)} does not answer ({exc}): is it running, and is the URL right? "
            "Set OPSQUEUE_REDIS_URL, or start one with `opsqueue dev`"
        )
        raise RedisUnavailableError(message) from exc
    return info


def version_trouble(info: Mapping[str, Any]) -> str | None:
    """Say it of a server that is too old."""
    version = str(info.get("redis_version", "0"))
    if int(version.split(".", maxsplit=1)[0]) < 7:
        return f"version {version}: 7.0 or newer is needed"
    return None


def eviction_trouble(info: Mapping[str, Any]) -> str | None:
    """Say it of a server that throws away what it was told to keep."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return (
        f"evicts keys when memory is full (maxmemory-policy {policy}): submissions can "
        "vanish; set it to noeviction"
    )


def loss_trouble(info: Mapping[str, Any]) -> str | None:
    """Say it of a server that forgets what it was told."""
    if info.get("aof_enabled", 0):
        return None
    return "keeps no append-only file: a crash of the server loses submissions; set appendonly yes"
