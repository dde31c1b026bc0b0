"""Calls of a cluster's client that can't reach a master: only what was never sent is repeated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis

from opsqueue.queue.cluster import ClusterClient


class FakeCluster:
    """A `RedisCluster` with one key, whose master is another one after the next question."""

    def __init__(self, *masters: str) -> None:
        self._masters = list(masters)
        self.nodes_manager = SimpleNamespace(initialize=self._ask)

    def _ask(self) -> None:
        if len(self._masters) > 1:
            self._masters.pop(0)

    def get_node_from_key(self, _key: str) -> str:
        return self._masters[0]

    def get_redis_connection(self, node: str) -> str:
        return node


def client_of(cluster: FakeCluster) -> ClusterClient:
    client = ClusterClient(lambda: cluster)  # type: ignore[arg-type, return-value]  # all that is used
    client.run("key", lambda _: None)
    client._refreshed_at = float("-inf")
    return client


def refuse() -> Any:
    """Fail as redis-py does if nothing listens at the port."""
    try:
        raise ConnectionRefusedError(111, "Connection refused")
    except OSError:
        message = "Error 111 connecting to a:1. Connection refused."
        raise redis.ConnectionError(message)  # noqa: B904 as redis-py does it


def lose() -> Any:
    message = "Connection closed by server."
    raise redis.ConnectionError(message)


def test_what_a_dead_master_refused_goes_to_its_successor_at_once() -> None:
    """Not after the caller's next pause."""
    client = client_of(FakeCluster("old", "new"))
    asked: list[Any] = []

    def command(node: Any) -> str:
        asked.append(node)
        return refuse() if node == "old" else "done"

    assert client.run("key", command) == "done"
    assert asked == ["old", "new"]


def test_what_may_have_been_executed_is_not_repeated() -> None:
    client = client_of(FakeCluster("old", "new"))
    asked: list[Any] = []

    def command(node: Any) -> str:
        asked.append(node)
        return lose() if node == "old" else "done"

    with pytest.raises(redis.ConnectionError):
        client.run("key", command)

    assert asked == ["old"]
    assert client.run("key", command) == "done"


def test_a_master_without_a_successor_is_asked_once() -> None:
    """Its caller decides when to try again."""
    client = client_of(FakeCluster("old"))
    asked: list[Any] = []

    def command(node: Any) -> str:
        asked.append(node)
        return str(refuse())

    with pytest.raises(redis.ConnectionError):
        client.run("key", command)

    assert asked == ["old"]
