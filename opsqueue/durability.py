"""How durable an answered insert is, and whether the server at hand keeps that promise.

What waits for the disk or for a replica goes over the connection of the insert, behind it, and what
the server says of itself comes with the same answer: so a server that was set otherwise meanwhile,
or that a failover has put in its place, is not taken for the one that was looked at at the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import redis

from opsqueue.cluster import Client, run_on_all
from opsqueue.connection import masked, read_info
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.replication import is_online, replicas_of
from opsqueue.script import translated_errors

Command = Sequence[str | bytes | int]
Reading = Mapping[str, Any]

CONFIRM_WITHIN_MS: Final = 5_000
"""Longer than an fsync a second, on a disk that is busy; shorter than a connection's timeout."""

_SETTINGS: Final = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite")
_OWN_VERSIONS: Final = frozenset({"redis_version", "gcc_version"})


class Durability(StrEnum):
    """What an answered insert survives; which transitions wait is ARCHITECTURE.md's to say."""

    NONE = "none"
    """What the server itself promises: with an append-only file, most often its own crash."""
    FSYNC = "fsync"
    """It is on the server's disk: the machine may lose its power."""
    REPLICA = "replica"
    """A replica has it, too: the server's machine may be lost, if that replica takes over."""


def confirming(durability: Durability, base: str) -> list[Command]:
    """Give the commands that go behind an insert; `unconfirmed` reads their answers.

    Args:
        durability: FSYNC or REPLICA.
        base: prefix of the queue's keys.
    """
    # An insert that is repeated writes nothing. Both waits are for the last write of their own
    # connection, so behind one that wrote nothing they answer at once, whatever is not safe yet.
    mark: Command = ("SET", f"{base}confirmed", "1")
    if durability is Durability.REPLICA:
        return [mark, ("WAIT", 1, CONFIRM_WITHIN_MS)]
    return [
        mark,
        ("WAITAOF", 1, 0, CONFIRM_WITHIN_MS),
        ("INFO", "server"),
        ("CONFIG", "GET", *_SETTINGS),
    ]


def unconfirmed(durability: Durability, answers: Sequence[Any]) -> str | None:
    """Say why the insert before these answers is not as durable as promised; None: it is.

    Args:
        durability: that they were asked for.
        answers: to `confirming`'s commands; an error stands in the place of its answer.
    """
    match durability, answers:
        case Durability.REPLICA, [b"OK", int(replicas)]:
            within = f"within {CONFIRM_WITHIN_MS:,} ms"
            return None if replicas else f"no replica has confirmed it {within}"
        case Durability.FSYNC, [b"OK", waited, info, settings]:
            return _unsynced(waited, _reading(info), _settings(settings))
    error = next((a for a in answers if isinstance(a, Exception)), None)
    return f"the server answered {error or answers!r} when it was asked to wait"


def _unsynced(waited: object, info: Reading, settings: Reading) -> str | None:
    if trouble := fsync_trouble(info, settings):
        return trouble
    match waited:
        case [int(synced), int()]:
            within = f"within {CONFIRM_WITHIN_MS:,} ms"
            return None if synced else f"it was not on the server's disk {within}"
        case redis.ResponseError() if "unknown command" in str(waited):
            # Before 7.2. What let this pass is `appendfsync always`, which answers after the fsync.
            return None
    return f"the server answered {waited!r} when it was asked to wait for its disk"


def fsync_trouble(info: Reading, settings: Reading) -> str | None:
    """Say why this server can't promise that an answered write is on its disk; None: it can.

    Args:
        info: INFO server; empty: it may not be read.
        settings: of CONFIG GET; empty likewise.
    """
    name = server_name(info)
    if settings.get("appendonly") == "no":
        return f"{name} keeps no append-only file; set appendonly yes"
    policy = settings.get("appendfsync")
    if policy == "always" and settings.get("no-appendfsync-on-rewrite") == "no":
        return None
    if not waits_rightly(info):
        if policy is None:
            return (
                f"{name} does not let us read its settings, and only with appendfsync always its "
                "answer comes after the fsync; let this user read them (ACL +config|get)"
            )
        put_off = policy == "always"
        setting = "no-appendfsync-on-rewrite yes" if put_off else f"appendfsync {policy}"
        helps = "no-appendfsync-on-rewrite no" if put_off else "appendfsync always"
        return f"{name} with {setting} answers before the fsync, WAITAOF too; set {helps}"
    if policy == "no":
        return f"{name} with appendfsync no leaves the fsync to chance; set appendfsync everysec"
    return None


def waits_rightly(info: Reading) -> bool:
    """Tell whether this server's WAITAOF answers after the fsync, however often that comes.

    Redis's does, from 7.2 on, where it was new. Valkey's does not (8.1 and 9.1, seen with strace),
    and of other servers nothing is known.
    """
    names = {name for name in info if name.endswith("_version")}
    version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    is_new = version is not None and (int(version[1]), int(version[2])) >= (7, 2)
    return is_new and not names - _OWN_VERSIONS


def server_name(info: Reading) -> str:
    """Name a server and its version; Valkey calls itself Redis 7.2, for old clients' sake."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "the server"


def fsync_troubles(infos: Sequence[Reading | None], settings: Sequence[Reading]) -> list[str]:
    """Say what keeps servers, of a cluster each master, from promising what is on their disks."""
    pairs = zip(infos, settings, strict=False)
    found = (fsync_trouble(info or {}, of_server) for info, of_server in pairs)
    return list(dict.fromkeys(trouble for trouble in found if trouble))


def absent_troubles(infos: Sequence[Reading | None]) -> list[str]:
    """Say it of servers none of whose replicas can confirm a write; not where INFO is refused."""
    for info in infos:
        if info is not None and not any(is_online(replica) for replica in replicas_of(info)):
            return ["no replica is connected, so each insert waits in vain; start one (replicaof)"]
    return []


def check_durability(client: Client, durability: Durability, *, url: str) -> list[str]:
    """Find out at the start what would keep each insert from being confirmed; give warnings.

    A server that can't keep the promise as it is set is refused. A replica that is not there only
    makes a warning, since it may come back: until then inserts are answered that they are not
    confirmed, and all else goes on.

    Raises:
        InvalidArgumentError: says which setting helps.
        RedisUnavailableError: no answer.
    """
    if durability is Durability.NONE:
        return []
    infos = read_info(client, url=url)
    if durability is Durability.REPLICA:
        absent = absent_troubles(infos)
        return [f"durability 'replica' is not kept now: {trouble}" for trouble in absent]
    if troubles := fsync_troubles(infos, read_settings(client)):
        message = (
            f"durability 'fsync' is not kept by {masked(url)}: {'; '.join(troubles)}, or promise "
            "less with --durability replica or none (OPSQUEUE_DURABILITY)"
        )
        raise InvalidArgumentError(message)
    return []


def read_settings(client: Client) -> list[Reading]:
    """Give what a server's answer to WAITAOF depends on; {}: this user may not read it."""
    with translated_errors(None):
        return run_on_all(client, _settings_of)


def _settings_of(server: redis.Redis) -> Reading:
    try:
        return _settings(server.config_get(*_SETTINGS))
    except redis.ResponseError:
        return {}


def _reading(answer: object) -> Reading:
    """Read INFO as the server sends it; an error is a reading of nothing."""
    if not isinstance(answer, bytes):
        return {}
    pairs = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _settings(answer: object) -> Reading:
    """Read CONFIG GET's names and values; an error is a reading of nothing."""
    match answer:
        case dict():
            pairs: Iterable[tuple[object, object]] = answer.items()
        case list():
            pairs = zip(answer[::2], answer[1::2], strict=True)
        case _:
            pairs = ()
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
