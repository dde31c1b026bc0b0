"""A server's report on its replicas or its primary, and warnings about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Info = Mapping[str, Any]

_MAX_LAG_S: Final = 10


def replicas_of(info: Info) -> list[Info]:
    """Return a primary's report on each of its replicas."""
    found = (info.get(f"slave{number}") for number in range(info.get("connected_slaves", 0)))
    return [replica for replica in found if isinstance(replica, dict)]


def is_online(replica: Info) -> bool:
    """Return whether a replica follows its primary, after it has received all data."""
    return bool(replica.get("state") == "online")


def replica_warning(info: Info) -> str | None:
    """Return a warning if a server is a replica, which refuses writes."""
    if info.get("role") != "slave":
        return None
    primary = f"{info.get('master_host')}:{info.get('master_port')}"
    link = "" if info.get("master_link_status") == "up" else ", which it does not reach"
    return (
        f"is a replica of {primary}{link}: it refuses to write; give the primary's URL as "
        "OPSQUEUE_REDIS_URL"
    )


def lag_warning(info: Info) -> str | None:
    """Return a warning if replicas of a primary lag behind it."""
    late = [
        f"{replica.get('ip')}:{replica.get('port')}"
        for replica in replicas_of(info)
        if not is_online(replica) or int(replica.get("lag", 0)) > _MAX_LAG_S
    ]
    if not late:
        return None
    return (
        f"has replicas that are not up to date ({', '.join(late)}): a fail-over now would lose "
        "what they lack; look at their logs and at the network"
    )
