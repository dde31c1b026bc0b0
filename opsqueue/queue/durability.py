"""The durability of an answered insert, and whether the present server keeps that promise.

Commands that wait for the disk or a replica are sent after the insert on the same connection, and
the server's own settings come with the same answer. So a server that was reconfigured in the
meantime, or that a fail-over has put in place, is not mistaken for the one checked at the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, cast

import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue.cluster import Client, run_on_all
from opsqueue.queue.connection import masked, read_info
from opsqueue.queue.replication import is_online, replicas_of
from opsqueue.queue.script import translated_errors

Command = Sequence[str | bytes | int]
Reading = Mapping[str, Any]
Settings = Reading | redis.ResponseError
"""The answer to CONFIG GET, or the error if the server refused it."""

CONFIRM_WITHIN_MS: Final = 5_000
"""Longer than one fsync a second on a busy disk takes; shorter than a connection's timeout."""

_SETTINGS: Final = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite")
_OWN_VERSIONS: Final = frozenset({"redis_version", "gcc_version"})


class Durability(StrEnum):
    """The failures that an answered insert survives; see docs/internals/durability.md."""

    NONE = "none"
    """The server's own guarantee: with an append-only file, it usually survives its own crash."""
    FSYNC = "fsync"
    """It is on the server's disk: it survives a power cut of the machine."""
    REPLICA = "replica"
    """A replica has it, too: it survives the loss of the machine if that replica takes over."""


ACL_COMMAND: Final = "opsqueue acl api --durability fsync"
"""Prints the user that may use FSYNC."""

# Answered at once, since they wait for nothing.
_WAITS: Final[Mapping[Durability, tuple[tuple[str | int, ...], str]]] = {
    Durability.FSYNC: (("WAITAOF", 0, 0, 1), ACL_COMMAND),
    Durability.REPLICA: (("WAIT", 0, 1), "opsqueue acl api"),
}


def confirming(durability: Durability, base: str) -> list[Command]:
    """Return the commands to send after an insert; `unconfirmed` reads their answers.

    Args:
        durability: FSYNC or REPLICA.
        base: the prefix of the queue's keys.
    """
    # A repeated insert writes nothing. Both waits are for the last write of their own connection,
    # so after a connection without a write they would answer at once, without any guarantee.
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
    """Return why the insert before these answers is not as durable as promised; None: it is.

    Args:
        durability: the durability that was requested.
        answers: answers to the commands of `confirming`; an error in place of its answer.
    """
    match durability, answers:
        case Durability.REPLICA, [b"OK", int(replicas)]:
            within = f"within {CONFIRM_WITHIN_MS:,} ms"
            return None if replicas else f"no replica has confirmed it {within}"
        case Durability.FSYNC, [b"OK", waited, info, settings]:
            return _unsynced(waited, _reading(info), _settings(settings))
    error = next((a for a in answers if isinstance(a, Exception)), None)
    return f"the server answered {error or answers!r} when it was asked to wait"


def _unsynced(waited: object, info: Reading, settings: Settings) -> str | None:
    if warning := fsync_warning(info, settings):
        return warning
    match waited:
        case [int(synced), int()]:
            within = f"within {CONFIRM_WITHIN_MS:,} ms"
            return None if synced else f"it was not on the server's disk {within}"
        case redis.ResponseError() if "unknown command" in str(waited):
            # Before 7.2. It passes with `appendfsync always`, which answers after the fsync.
            return None
    return f"the server answered {waited!r} when it was asked to wait for its disk"


def fsync_warning(info: Reading, settings: Settings) -> str | None:
    """Return why this server can't promise that an answered write is on its disk; None: it can.

    Args:
        info: INFO server; empty if the user may not read it.
        settings: the settings that decide; an unreadable setting is taken as no promise.
    """
    unseen = unseen_settings(info, settings)
    if unseen or isinstance(settings, redis.ResponseError):
        return unseen
    name, policy = server_name(info), settings["appendfsync"]
    if settings["appendonly"] == "no":
        return f"{name} keeps no append-only file; set appendonly yes"
    if policy == "always" and settings["no-appendfsync-on-rewrite"] == "no":
        return None
    if not waits_rightly(info):
        return _early_answer(info, policy)
    if policy == "no":
        return f"{name} with appendfsync no leaves the fsync to chance; set appendfsync everysec"
    return None


def _early_answer(info: Reading, policy: str) -> str:
    name, is_put_off = server_name(info), policy == "always"
    setting = "no-appendfsync-on-rewrite yes" if is_put_off else f"appendfsync {policy}"
    helps = "no-appendfsync-on-rewrite no" if is_put_off else "appendfsync always"
    if not info:
        return (
            f"{name} does not let this user read its version (INFO), and with {setting} only some "
            f"answer after the fsync; allow it (ACL +info) or set {helps}"
        )
    return f"{name} with {setting} answers before the fsync, WAITAOF too; set {helps}"


def unseen_settings(info: Reading, settings: Settings) -> str | None:
    """Return which settings of the disk this user can't read, and what helps; None: none."""
    name = server_name(info)
    if isinstance(settings, redis.exceptions.NoPermissionError):
        return (
            f"{name} does not let this user read its appendfsync (CONFIG GET), so it is not known "
            "when it writes to its disk; allow it (ACL +config|get), as in the line that "
            f"`{ACL_COMMAND}` prints"
        )
    is_refused = isinstance(settings, redis.ResponseError)
    why = f" (CONFIG GET: {settings})" if is_refused else ""
    told = frozenset[str]() if isinstance(settings, redis.ResponseError) else settings.keys()
    missing = [one for one in _SETTINGS if one not in told]
    if not missing:
        return None
    return (
        f"{name} does not report its {', '.join(missing)}{why}, so it is not known when it writes "
        "to its disk; use a server that reports it"
    )


def waits_rightly(info: Reading) -> bool:
    """Return whether this server's WAITAOF answers after the fsync, whatever appendfsync is.

    Redis's does since 7.2, which introduced it. Valkey's does not (8.1 and 9.1, seen with strace),
    and nothing is known about other servers.
    """
    names = {name for name in info if name.endswith("_version")}
    version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    is_new = version is not None and (int(version[1]), int(version[2])) >= (7, 2)
    return is_new and not names - _OWN_VERSIONS


def server_name(info: Reading) -> str:
    """Return a server's name and version; Valkey calls itself Redis 7.2 for old clients."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "the server"


def fsync_warnings(infos: Sequence[Reading | None], settings: Sequence[Settings]) -> list[str]:
    """Return what keeps servers from promising data on disk; in a cluster, for each master."""
    return _of_each(fsync_warning, infos, settings)


def all_unseen_settings(infos: Sequence[Reading | None], settings: Sequence[Settings]) -> list[str]:
    """Return which settings of the servers can't be read; in a cluster, of each master."""
    return _of_each(unseen_settings, infos, settings)


def _of_each(
    warning_of: Callable[[Reading, Settings], str | None],
    infos: Sequence[Reading | None],
    settings: Sequence[Settings],
) -> list[str]:
    pairs = zip(infos, settings, strict=False)
    found = (warning_of(info or {}, of_server) for info, of_server in pairs)
    return list(dict.fromkeys(warning for warning in found if warning))


def absent_warnings(infos: Sequence[Reading | None]) -> list[str]:
    """Report primaries that have no online replica."""
    for info in infos:
        if _tells_replicas(info) and not any(is_online(one) for one in replicas_of(info or {})):
            return ["no replica is connected, so each insert waits in vain; start one (replicaof)"]
    return []


def unseen_replicas(infos: Sequence[Reading | None]) -> list[str]:
    """Report servers that do not let this user see whether a replica is connected."""
    if all(_tells_replicas(info) for info in infos):
        return []
    warning = (
        "it is not known whether a replica is connected, since the server does not let this user "
        "read it (INFO replication); make sure of one (replicaof)"
    )
    return [warning]


def _tells_replicas(info: Reading | None) -> bool:
    return info is not None and "connected_slaves" in info


def check_durability(client: Client, durability: Durability, *, url: str) -> list[str]:
    """Check at the start whether inserts can be confirmed; return warnings.

    A server that can't keep the promise with its settings is refused, and so is a user without the
    permission to wait for it. A missing replica only causes a warning, since it may come back:
    until then inserts are answered as not confirmed, and everything else works.

    Raises:
        InvalidArgumentError: the message has the setting or the permission that helps.
        RedisUnavailableError: no answer.
    """
    if durability is Durability.NONE:
        return []
    infos = read_info(client, url=url)
    warnings: list[str] = []
    if durability is Durability.FSYNC:
        warnings = fsync_warnings(infos, read_settings(client))
    if warnings := warnings or wait_warnings(client, durability):
        less = "replica or none" if durability is Durability.FSYNC else "none"
        message = (
            f"durability {durability.value!r} is not kept by {masked(url)}: "
            f"{'; '.join(warnings)}, or promise less with --durability {less} (OPSQUEUE_DURABILITY)"
        )
        raise InvalidArgumentError(message)
    if durability is Durability.REPLICA:
        about = "durability 'replica'"
        return [
            *(f"{about} is not kept now: {warning}" for warning in absent_warnings(infos)),
            *(f"{about} may not be kept: {warning}" for warning in unseen_replicas(infos)),
        ]
    return []


def wait_warnings(client: Client, durability: Durability) -> list[str]:
    """Return why inserts can't wait: servers that don't let this user do so."""
    (name, *arguments), prints = _WAITS[durability]

    def refusal(server: redis.Redis) -> str:
        try:
            cast("Any", server).execute_command(name, *arguments)
        except redis.exceptions.NoPermissionError:
            return (
                f"the server does not let this user wait ({name}); allow it, as in the line "
                f"that `{prints}` prints"
            )
        except redis.ResponseError:
            # WAITAOF is unknown before 7.2; `_unsynced` decides whether that matters.
            return ""
        return ""

    with translated_errors(None):
        refusals = run_on_all(client, refusal)
    return list(dict.fromkeys(text for text in refusals if text))


def read_settings(client: Client) -> list[Settings]:
    """Return the settings on which a server's answer to WAITAOF depends, or the refusal."""
    with translated_errors(None):
        return run_on_all(client, _settings_of)


def _settings_of(server: redis.Redis) -> Settings:
    try:
        return _settings(server.config_get(*_SETTINGS))
    except redis.ResponseError as exc:
        return exc


def _reading(answer: object) -> Reading:
    """Parse INFO as the server sends it; an error has no fields."""
    if not isinstance(answer, bytes):
        return {}
    pairs = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _settings(answer: object) -> Settings:
    """Parse CONFIG GET's names and values."""
    match answer:
        case redis.ResponseError():
            return answer
        case dict():
            pairs: Iterable[tuple[object, object]] = answer.items()
        case list():
            pairs = zip(answer[::2], answer[1::2], strict=True)
        case _:
            pairs = ()
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
