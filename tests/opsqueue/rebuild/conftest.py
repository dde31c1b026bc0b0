"""A server for these tests alone, whose data they lose, and programs that use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from opsqueue.producer import ProducerClient
from opsqueue.queue.connection import server_client
from opsqueue.store import ObjectStore, open_store
from opsqueue.testing import LocalOpsqueue
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.rebuild.steps import app


@pytest.fixture(scope="module")
def own_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server of this module alone, to flush."""
    with EmbeddedServer(tmp_path_factory.mktemp("own"), is_durable=False) as server:
        client = server_client(server.url)
        yield client
        client.close()


@pytest.fixture(params=["own_client", "fake_client"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    client: redis.Redis = request.getfixturevalue(request.param)
    client.flushall()
    return client


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def local(client: redis.Redis, store: ObjectStore) -> LocalOpsqueue:
    return LocalOpsqueue(app, client, store)


@pytest.fixture
def producer(local: LocalOpsqueue, store: ObjectStore) -> ProducerClient:
    return ProducerClient.over(local.api, store, queue="numbers", inline_bytes=0)
