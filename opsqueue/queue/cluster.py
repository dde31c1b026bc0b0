"""Redis Cluster: which node has a key, and what to do when the key has moved.

All keys of a queue have one hash tag and are therefore on one node. Each command is sent to a plain
client of that node. redis-py finds the nodes. Its own cluster client is not used for commands: it
refuses EVALSHA in a pipeline, and repeats commands that may have been executed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis
from redis.cluster import RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.sentinel import MasterNotFoundError

from opsqueue.model.process import renew_in_children

Answer = TypeVar("Answer")
Server = redis.Redis
"""One server; in a cluster, one master."""

_MOST_MOVES: Final = 5
"""The most moves of a key that are followed; a key that moves more often is still moving."""
_REFRESH_EVERY_S: Final = 0.1
_UNATTENDED_S: Final = 1.0
"""After this time any thread asks for the nodes, not only one that had a failure."""
_NEWS_TAKES_S: Final = 0.1
_IS_ELSEWHERE: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    ReadOnlyError,
    ClusterDownError,
    MasterDownError,
    SlotNotCoveredError,
)
"""After one of these the map of the cluster may be wrong: a master has gone or is a replica."""


class SlotIsMovingError(redis.RedisError):
    """The key's slot is being moved to another node, which already has some of its keys."""


class ClusterClient:
    """Runs commands on the node that has a key. It knows the nodes from its first use on.

    Args:
        discover: asks the cluster for its nodes; raises RedisClusterException if none answers.
    """

    def __init__(self, discover: Callable[[], RedisCluster]) -> None:
        self._discover = discover
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`."""
        self._cluster: Any = None  # a RedisCluster, most of whose methods have no types
        self._lock = threading.Lock()
        self._stale_since: float | None = None
        self._is_refreshing = False
        self._refreshed_at = float("-inf")
        self._own = threading.local()

    def run(self, key: str, command: Callable[[redis.Redis], Answer]) -> Answer:
        """Run commands for a key on the node that has it.

        A key that has moved is followed, since nothing was done in that case; also to the successor
        of a master that refuses connections. Nothing else is repeated here: callers that may repeat
        decide.

        Raises:
            redis.RedisError, RedisClusterException: the command's errors.
        """
        for move in range(_MOST_MOVES):
            node = self._node_of(key)
            try:
                return command(node)
            except MovedError:  # before its base class, AskError
                self.forget_nodes()
                # Nodes inform each other, so the one that we ask may not know the move yet.
                time.sleep(_NEWS_TAKES_S * move)
                self._refreshed_at = float("-inf")
            except AskError as exc:
                # Not followed: a script would run where only some of the queue's keys are. Scripts
                # name no key of ours of their own, so none starts to run on the old node.
                message = (
                    f"the slot of {key} is being moved to another node: its queue pauses "
                    "until that is over"
                )
                raise SlotIsMovingError(message) from exc
            except TryAgainError as exc:
                raise SlotIsMovingError(str(exc)) from exc
            except _IS_ELSEWHERE as exc:
                self.forget_nodes()
                # After a failover the first thread that meets it must not only inform the others.
                # Nothing was sent over a connection that was refused.
                if isinstance(exc.__context__, ConnectionRefusedError) and self._has_moved(
                    key, node
                ):
                    continue
                raise
        message = f"{key} moved {_MOST_MOVES} times during the search for it: try again later"
        raise ClusterDownError(message)

    def run_on_primaries(self, command: Callable[[redis.Redis], Answer]) -> list[Answer]:
        """Run commands on each node that has slots.

        Raises:
            redis.RedisError, RedisClusterException: the error of the first node that fails.
        """
        cluster = self._known()
        try:
            return [command(cluster.get_redis_connection(n)) for n in cluster.get_primaries()]
        except _IS_ELSEWHERE:
            self.forget_nodes()
            raise

    def name_of_node(self, key: str) -> str:
        """Return the name of the node that has a key, as far as the nodes are known; else ''."""
        cluster = self._cluster
        try:
            return "" if cluster is None else str(cluster.get_node_from_key(key).name)
        except (redis.RedisError, redis.exceptions.RedisClusterException):
            return ""  # the slot has no node now

    def masters_by_slot(self) -> dict[int, str]:
        """Ask the cluster for its nodes, and return by slot the address of its master."""
        self.forget_nodes()
        self._refreshed_at = float("-inf")
        slots = self._known().nodes_manager.slots_cache
        return {slot: nodes[0].name for slot, nodes in slots.items() if nodes}

    def forget_nodes(self) -> None:
        """Ask the cluster again for its nodes with this thread's next command."""
        self._own.failed_at = now = time.monotonic()
        with self._lock:
            if self._stale_since is None:
                self._stale_since = now

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._cluster is not None:
                self._cluster.close()
                self._cluster = None

    def _node_of(self, key: str) -> redis.Redis:
        cluster = self._known()
        node: redis.Redis = cluster.get_redis_connection(cluster.get_node_from_key(key))
        return node

    def _has_moved(self, key: str, node: redis.Redis) -> bool:
        try:
            return self._node_of(key) is not node
        except (redis.RedisError, RedisClusterException):
            return False

    def _known(self) -> Any:  # noqa: ANN401 see _cluster
        with self._lock:
            if self._cluster is None:
                self._cluster = self._discover()
                self._refreshed_at = time.monotonic()
            cluster = self._cluster
            is_due = self._is_due()
            if is_due:
                self._is_refreshing, self._stale_since = True, None
        if is_due:
            try:
                cluster.nodes_manager.initialize()
            except Exception:
                self.forget_nodes()
                raise
            finally:
                with self._lock:
                    self._is_refreshing, self._refreshed_at = False, time.monotonic()
        return cluster

    def _is_due(self) -> bool:
        # One thread asks, without the lock: a node that hangs must not stop the other threads,
        # whose nodes may work. It is a thread that had a failure, as long as those come.
        now, since = time.monotonic(), self._stale_since
        if since is None or self._is_refreshing:
            return False
        has_seen = getattr(self._own, "failed_at", float("-inf")) >= since
        if not has_seen and now - since < _UNATTENDED_S:
            return False
        # Not more often: during a fail-over a cluster gives the old answer for a while.
        return now - self._refreshed_at >= _REFRESH_EVERY_S


Client = redis.Redis | ClusterClient
"""The result of `connection.connect`."""


def reason_of(exc: Exception) -> str:
    """Return in a few words why there is no answer."""
    if isinstance(exc, MasterNotFoundError):
        # redis-py continues with each Sentinel's client, printed as an object.
        service = str(exc).partition(" : ")[0].partition("for ")[2]
        return f"no Sentinel answers that knows a master {service}"
    return str(exc) or type(exc).__name__


def run_on(client: Client, key: str, command: Callable[[redis.Redis], Answer]) -> Answer:
    """Run commands for a key: on the single server, or on the node of a cluster that has it."""
    if isinstance(client, ClusterClient):
        return client.run(key, command)
    return command(client)


def masters_by_slot(client: Client) -> dict[int, str]:
    """Return by slot the address of its master, asked now; {} on a single server."""
    return client.masters_by_slot() if isinstance(client, ClusterClient) else {}


def node_of(client: Client, key: str) -> str:
    """Return the address of the node that has a key; "" if it is not known, or the only server."""
    return client.name_of_node(key) if isinstance(client, ClusterClient) else ""


def run_on_all(client: Client, command: Callable[[redis.Redis], Answer]) -> list[Answer]:
    """Run commands on each writable server: the single one, or a cluster's masters."""
    if isinstance(client, ClusterClient):
        return client.run_on_primaries(command)
    return [command(client)]
