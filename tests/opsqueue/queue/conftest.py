"""A queue whose clock the test moves, on a real server and on fakeredis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from opsqueue.queue.connection import server_client
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.steps import Clock, Raw


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(client: redis.Redis, queue_name: str, clock: Clock) -> Queue:
    return Queue(client, queue_name, clock=clock)


@pytest.fixture
def raw(client: redis.Redis, queue_name: str) -> Raw:
    return Raw(client, queue_name)


@pytest.fixture(scope="module")
def own_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server of this module alone, to flush and to measure."""
    with EmbeddedServer(tmp_path_factory.mktemp("own"), is_durable=False) as server:
        client = server_client(server.url)
        yield client
        client.close()


@pytest.fixture(params=["server", "fakeredis"])
def alone(request: pytest.FixtureRequest) -> redis.Redis:
    """Return a client of an empty server, of each kind in turn, that no other test uses."""
    name = {"server": "own_client", "fakeredis": "fake_client"}[request.param]
    client: redis.Redis = request.getfixturevalue(name)
    client.flushall()
    return client
