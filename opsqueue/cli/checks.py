"""The checks of `opsqueue doctor`: each yields findings, with what helps, and none raises."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from opsqueue import config
from opsqueue.cli.connections import DEFAULT_API_URL
from opsqueue.cli.queues import backlog_of
from opsqueue.exceptions import (
    ConnectionTroubleError,
    FormatTooNewError,
    IncorrectUsageError,
    OpsqueueError,
    StoreUnavailableError,
)
from opsqueue.model.answers import Counts
from opsqueue.model.checks import counted
from opsqueue.model.submission import SubmissionFilter, SubmissionState
from opsqueue.model.version import __version__
from opsqueue.producer.backends import Backend
from opsqueue.producer.http_api import HttpBackend
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import Client, Server, run_on_all
from opsqueue.queue.connection import (
    ALL_FACTS,
    NO_INFO,
    connect,
    eviction_warning,
    loss_warning,
    masked,
    read_info,
    unseen_facts,
    version_warning,
)
from opsqueue.queue.durability import (
    Durability,
    absent_warnings,
    all_unseen_settings,
    fsync_warnings,
    read_settings,
    server_name,
    unseen_replicas,
    wait_warnings,
)
from opsqueue.queue.queue import Queue
from opsqueue.queue.replication import lag_warning, replica_warning, replicas_of
from opsqueue.queue.script import (
    ask_slot_map,
    each_readable,
    queue_names,
    translated_errors,
)
from opsqueue.queue.spread import crowding, places_of
from opsqueue.queue.store_identity import identify_store
from opsqueue.store import open_store

_MAX_SKEW_S: Final = 2.0
_ANSWER_WITHIN_S: Final = 5.0
_NAMED: Final = 10
_RECENT_S: Final = 60
_LOOKED_AT: Final = 100
_UNSEEN_HELP: Final = {
    Durability.FSYNC: "make sure that appendfsync is everysec or always",
    Durability.REPLICA: "nothing, unless inserts are to wait for a replica",
}


class Level(StrEnum):
    """The severity of a finding."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `help` says what to do; it is '' if there is nothing to do."""

    check: str
    level: Level
    text: str
    help: str = ""


def check_redis(url: str | None, durability: Durability = Durability.NONE) -> Iterator[Finding]:
    """Check the server: whether it is reachable, its version, settings, clock and replicas.

    Args:
        url: the server's URL; None: the default.
        durability: the one that the API promises. With NONE, none can be missing.
    """
    used_url = url or config.REDIS_URL.default
    try:
        client = connect(used_url, timeout_s=_ANSWER_WITHIN_S)
    except IncorrectUsageError as exc:
        yield Finding("redis", Level.PROBLEM, str(exc))
        return
    try:
        infos = read_info(client, url=used_url)
        yield Finding("redis", Level.GOOD, f"Redis answers at {masked(used_url)}")
        # The primaries of a cluster mostly have the same findings; each is shown once.
        findings = [finding for info in infos for finding in _server_findings(info)]
        findings += _durability_findings(client, infos, durability)
        yield from dict.fromkeys([*findings, *_clock_findings(client)])
    except ConnectionTroubleError as exc:
        yield _unreachable("redis", str(exc), is_given=url is not None, variable="REDIS")
    finally:
        client.close()


def _server_findings(info: Mapping[str, Any] | None) -> Iterator[Finding]:
    if info is None:
        yield Finding(
            "redis-info",
            Level.WARNING,
            f"the server {NO_INFO}",
            f"allow it (ACL +info), ask as another user, or make sure that {ALL_FACTS}",
        )
        return
    for unseen in unseen_facts(info):
        yield _split("redis-info", Level.WARNING, unseen)
    if warning := version_warning(info):
        yield Finding("redis-version", Level.PROBLEM, warning, "upgrade the server")
    elif "redis_version" in info:
        yield Finding("redis-version", Level.GOOD, server_name(info))
    if warning := eviction_warning(info):
        yield _split("redis-eviction", Level.PROBLEM, warning)
    elif "maxmemory_policy" in info:
        yield Finding("redis-eviction", Level.GOOD, "keys are not evicted (noeviction)")
    if warning := loss_warning(info):
        yield _split("redis-persistence", Level.WARNING, warning)
    elif "aof_enabled" in info:
        yield Finding(
            "redis-persistence",
            Level.GOOD,
            "an append-only file is kept (a crash of the machine loses about a second with "
            "appendfsync everysec, nothing with always, and half a minute with no)",
        )
    yield from _replication_findings(info)


def _split(check: str, level: Level, warning: str) -> Finding:
    text, _, help_ = warning.rpartition("; ")
    return Finding(check, level, text, help_)


def _replication_findings(info: Mapping[str, Any]) -> Iterator[Finding]:
    if warning := replica_warning(info):
        yield _split("redis-replication", Level.PROBLEM, warning)
    elif warning := lag_warning(info):
        yield _split("redis-replication", Level.WARNING, warning)
    elif replicas := replicas_of(info):
        yield Finding("redis-replication", Level.GOOD, f"replicas up to date: {len(replicas)}")


def _durability_findings(
    client: Client, infos: Sequence[Mapping[str, Any] | None], chosen: Durability
) -> Iterator[Finding]:
    """Report for each durability whether the servers keep it; only a chosen one is a problem."""
    settings = read_settings(client)
    warnings = {
        Durability.FSYNC: fsync_warnings(infos, settings),
        Durability.REPLICA: absent_warnings(infos) + unseen_replicas(infos),
    }
    unseen = {
        Durability.FSYNC: all_unseen_settings(infos, settings),
        Durability.REPLICA: unseen_replicas(infos),
    }
    for durability, of_servers in warnings.items():
        check, option = f"durability-{durability}", f"--durability {durability}"
        found = of_servers or wait_warnings(client, durability)
        if not found:
            yield Finding(check, Level.GOOD, f"{option} is kept by this server")
        elif durability is chosen:
            for warning in found:
                yield _split(check, Level.PROBLEM, f"{option} is not kept: {warning}")
        elif unseen[durability]:
            for warning in unseen[durability]:
                text = f"{option} is not asked for; it can't be seen if it would be kept: {warning}"
                yield Finding(check, Level.WARNING, text, _UNSEEN_HELP[durability])
        else:
            for warning in found:
                text = f"{option} is not asked for, nor kept: {warning}"
                yield Finding(check, Level.GOOD, text)


def _clock_findings(client: Client) -> list[Finding]:
    with translated_errors(None):
        return run_on_all(client, _clock_finding)


def _clock_finding(server: Server) -> Finding:
    before = time.time()
    seconds, microseconds = server.time()
    middle = (before + time.time()) / 2
    skew_s = middle - (seconds + microseconds / 1e6)
    if abs(skew_s) <= _MAX_SKEW_S:
        return Finding("clock", Level.GOOD, f"clocks agree within {abs(skew_s):.1f} s")
    direction = "ahead of" if skew_s > 0 else "behind"
    return Finding(
        "clock",
        Level.WARNING,
        f"this machine's clock is {abs(skew_s):,.1f} s {direction} the server's: ages are shown "
        "wrong, and --since counts from another instant",
        "set both clocks by NTP",
    )


def check_store(url: str | None, client: Client | None) -> Iterator[Finding]:
    """Check the object store: whether it is the right one, and can write, create, read and delete.

    Args:
        url: the store's URL.
        client: a client of Redis, which knows the store's id; None: Redis can't be reached.
    """
    if url is None:
        yield Finding("store", Level.WARNING, "not checked", "give OPSQUEUE_STORE_URL")
        return
    try:
        store = open_store(url)
    except IncorrectUsageError as exc:
        yield Finding("store", Level.PROBLEM, str(exc))
        return
    except StoreUnavailableError as exc:
        yield Finding("store", Level.UNREACHABLE, str(exc))
        return
    try:
        if client is not None:
            identify_store(client, store)
        store.check()
        yield Finding(
            "store", Level.GOOD, f"{store.url} writes, reads, deletes, and keeps the first object"
        )
    except FormatTooNewError as exc:
        yield Finding("store", Level.PROBLEM, str(exc))
    except StoreUnavailableError as exc:
        yield Finding("store", Level.UNREACHABLE, str(exc))
    finally:
        store.close()


def check_api(url: str | None, token: str | None) -> Iterator[Finding]:
    """Check the HTTP API: whether it is reachable, has our version and accepts the token."""
    try:
        api = HttpBackend(url or DEFAULT_API_URL, token=token)
    except IncorrectUsageError as exc:
        yield Finding("api", Level.PROBLEM, str(exc))
        return
    try:
        version = api.version()
        yield Finding("api", Level.GOOD, f"the API answers at {api.url}")
        yield (
            Finding("api-version", Level.GOOD, f"the API has our version, {version}")
            if version == __version__
            else Finding(
                "api-version",
                Level.WARNING,
                f"the API is {version}, this command {__version__}",
                "install the same version in both places",
            )
        )
        yield _token_finding(api, token)
    except ConnectionTroubleError as exc:
        yield _unreachable("api", str(exc), is_given=url is not None, variable="API")
    except OpsqueueError as exc:
        yield Finding("api", Level.PROBLEM, str(exc))
    finally:
        api.close()


def _token_finding(api: HttpBackend, token: str | None) -> Finding:
    try:
        api.queues()
    except IncorrectUsageError as exc:
        help_ = (
            "give OPSQUEUE_API_TOKEN"
            if token is None
            else "check that the token is one of this API, and allows this"
        )
        return Finding("api-token", Level.PROBLEM, str(exc), help_)
    except ConnectionTroubleError as exc:
        # It has just answered with its version: what can't be reached is the Redis behind it.
        help_ = "start the Redis that the API was given, or give the API another one"
        return Finding("api-redis", Level.UNREACHABLE, str(exc), help_)
    text = "no token is needed" if token is None else "the token is accepted"
    return Finding("api-token", Level.GOOD, text)


def _unreachable(check: str, text: str, *, is_given: bool, variable: str) -> Finding:
    """Return a finding that is only a warning unless the URL was given."""
    if is_given:
        return Finding(check, Level.UNREACHABLE, text)
    help_ = f"give OPSQUEUE_{variable}_URL if there is one"
    return Finding(check, Level.WARNING, f"none at the default address: {text}", help_)


def check_queues(api: Backend) -> Iterator[Finding]:
    """Check for work that waits for a worker."""
    try:
        queues = api.queues()
    except OpsqueueError:
        # The check of Redis or the API has reported it already.
        return
    waiting = {name: counts for name, counts in queues.items() if _is_waiting(counts)}
    idle = [name for name, c in waiting.items() if c.workers == 0 and not c.is_paused]
    paused = [name for name, counts in waiting.items() if counts.is_paused]
    for name in idle[:_NAMED]:
        left = backlog_of(queues[name])
        yield Finding(
            "queue",
            Level.WARNING,
            f"queue {name} has {counted(left, 'chunk')} to do and no worker",
            "start opsqueue-worker with an app that has a handler for it, or cancel them",
        )
    for name in paused[:_NAMED]:
        yield Finding(
            "queue",
            Level.WARNING,
            f"queue {name} is paused and has {counted(backlog_of(queues[name]), 'chunk')} to do",
            f"`opsqueue resume {name}` resumes it",
        )
    yield from _released(api, [name for name in waiting if name not in idle][:_NAMED])
    more = len(idle[_NAMED:]) + len(paused[_NAMED:])
    if more:
        yield Finding("queue", Level.WARNING, f"{more:,} more wait", "`opsqueue queues`")
    if not idle and not paused:
        yield Finding(
            "queue", Level.GOOD, f"no work waits for a worker in {counted(len(queues), 'queue')}"
        )


def check_partitions(client: Client) -> Iterator[Finding]:
    """Check on a cluster where the partitions of queues are."""
    try:
        masters = ask_slot_map(client)
        names = queue_names(client) if masters else []
        found = each_readable(names, lambda name: Queue(client, name).get_partitions())
        spread = [
            (name, places_of(name, history.tags, history.numbers[-1], masters))
            for name, history in found
            if history.numbers[-1] > 1
        ]
    except OpsqueueError:
        return  # the check of Redis has reported it already
    spread.sort(key=lambda one: crowding(one[1], masters) is None)
    for name, places in spread[:_NAMED]:
        where = ", ".join(f"{place.partition} on {place.master or '-'}" for place in places)
        yield Finding("partitions", Level.GOOD, f"queue {name}: {where}")
        if warning := crowding(places, masters):
            yield _split("partitions", Level.WARNING, f"queue {name}: {warning}")
    if more := len(spread[_NAMED:]):
        text = f"{counted(more, 'more queue')} with partitions"
        yield Finding("partitions", Level.GOOD, text, "`opsqueue partitions show QUEUE`")


def _released(api: Backend, names: Iterable[str]) -> Iterator[Finding]:
    """Report why chunks of queues were released without an attempt within the last minute."""
    recent = datetime.now(UTC) - timedelta(seconds=_RECENT_S)
    wanted = SubmissionFilter(state=SubmissionState.IN_PROGRESS)
    for name in names:
        page = api.queue(name).list_submissions(wanted, order="oldest", limit=_LOOKED_AT)
        for one in page.submissions:
            if one.release_reason and one.released_at and one.released_at > recent:
                text = f"chunks of {name}/{one.id} are released again: {one.release_reason}"
                help_ = "once that is repaired they go on; no attempt is used until then"
                yield Finding("given-back", Level.WARNING, text, help_)
                break


def _is_waiting(counts: Counts) -> bool:
    return counts.submissions[SubmissionState.IN_PROGRESS] > 0


def check_everything(
    *,
    api_url: str | None,
    token: str | None,
    redis_url: str | None,
    store_url: str | None,
    durability: Durability,
) -> Iterator[Finding]:
    """Run all checks, and yield each finding as soon as it is made."""
    seen: dict[str, Level] = {}

    def noted(findings: Iterable[Finding]) -> Iterator[Finding]:
        for finding in findings:
            seen[finding.check] = finding.level
            yield finding

    yield from noted(check_redis(redis_url, durability))
    if seen["redis"] is Level.GOOD:
        with closing(connect(redis_url or config.REDIS_URL.default)) as client:
            yield from noted(check_store(store_url, client))
            yield from noted(check_partitions(client))
    else:
        yield from noted(check_store(store_url, None))
    yield from noted(check_api(api_url, token))
    if seen["api"] is Level.GOOD and seen.get("api-token") is Level.GOOD:
        api = HttpBackend(api_url or DEFAULT_API_URL, token=token)
        yield from check_queues(api)
        api.close()
    elif seen["redis"] is Level.GOOD:
        client = connect(redis_url or config.REDIS_URL.default)
        yield from check_queues(RedisBackend(client))
        client.close()
    elif Level.GOOD not in (seen["api"], seen["redis"]):
        yield Finding(
            "system",
            Level.UNREACHABLE,
            "neither Redis nor the API can be reached",
            "give OPSQUEUE_API_URL or OPSQUEUE_REDIS_URL; `opsqueue dev` starts both",
        )
