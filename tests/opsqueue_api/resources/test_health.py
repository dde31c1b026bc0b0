"""/healthz, /readyz, /version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import falcon
import httpx
import pytest
import redis
from falcon import testing

from opsqueue import __version__
from opsqueue.exceptions import StoreUnavailableError
from opsqueue.http.bodies import FEATURES
from opsqueue.queue.connection import server_client
from opsqueue.store import ObjectStore
from opsqueue.store.base import STORE_ID_KEY
from opsqueue.store.local import LocalStore
from opsqueue.store.memory import MemoryStore
from opsqueue_api.app import App
from opsqueue_api.resources.health import STORE_CHECK_S, STORE_WRITE_S, Ready
from tests.opsqueue_api.clients import client_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class BrokenStore(MemoryStore):
    """Refuses while `is_broken`."""

    is_broken = True

    def exists(self, key: str) -> bool:
        if self.is_broken:
            message = "the bucket is missing"
            raise StoreUnavailableError(message)
        return super().exists(key)


@pytest.fixture
def root(app: App) -> Iterator[httpx.Client]:
    with client_of(app) as http:
        yield http


def ready(
    client: redis.Redis, store: ObjectStore, clock: Clock | None = None
) -> testing.TestClient:
    app: App = falcon.App()
    app.add_route("/readyz", Ready(client, store, clock=clock or Clock()))
    return testing.TestClient(app)


def test_a_living_process_says_so(root: httpx.Client) -> None:
    """It does not ask Redis or the store."""
    assert root.get("/healthz").status_code == 200


def test_the_version_is_told(root: httpx.Client) -> None:
    """With the name of the program that answers."""
    answer = root.get("/version").json()

    told: dict[str, object] = {
        "name": "opsqueue-redis",
        "version": __version__,
        "features": sorted(FEATURES),
    }
    told["store_id"] = ""  # a memory store has none
    assert told == answer


def test_a_process_is_ready_when_redis_and_store_answer(root: httpx.Client) -> None:
    """200."""
    answer = root.get("/readyz")

    assert answer.json() == {"status": "ready", "redis": "ok", "store": "ok"}


def test_a_process_without_redis_is_not_ready(store: ObjectStore) -> None:
    """503 that names Redis, and when to ask again."""
    client = server_client("redis://127.0.0.1:1/0")

    response = ready(client, store).simulate_get("/readyz")

    assert (response.status_code, response.json["store"]) == (503, "ok")
    assert "redis: Redis does not answer" in response.json["detail"]
    assert "retry-after" in response.headers


def test_a_process_without_a_store_is_not_ready(fake_client: redis.Redis) -> None:
    """503 that names the store."""
    response = ready(fake_client, BrokenStore("broken")).simulate_get("/readyz")

    assert (response.status_code, response.json["redis"]) == (503, "ok")
    assert "store: the bucket is missing" in response.json["detail"]


def test_the_store_is_asked_every_few_seconds_only(fake_client: redis.Redis) -> None:
    """Its answers cost money; after STORE_CHECK_S it is asked again."""
    store, clock = BrokenStore("broken"), Clock()
    http = ready(fake_client, store, clock)
    before = http.simulate_get("/readyz").status_code
    store.is_broken = False

    soon = http.simulate_get("/readyz").status_code
    clock.now += STORE_CHECK_S
    later = http.simulate_get("/readyz").status_code

    assert [before, soon, later] == [503, 503, 200]


def test_a_store_that_can_not_be_written_makes_a_process_unready(
    fake_client: redis.Redis, tmp_path: Path
) -> None:
    """Also one that was written to before: it is tried again and again."""
    store, clock = LocalStore(str(tmp_path / "store")), Clock()
    http = ready(fake_client, store, clock)
    before = http.simulate_get("/readyz").status_code

    class Full(LocalStore):
        def create(self, key: str, data: bytes) -> bool:
            raise StoreUnavailableError(key, data)

    store.__class__ = Full
    clock.now += STORE_WRITE_S
    full = http.simulate_get("/readyz").status_code
    store.__class__ = LocalStore
    clock.now += STORE_CHECK_S
    later = http.simulate_get("/readyz").status_code

    assert [before, full, later] == [200, 503, 200]
    assert [path.name for path in (tmp_path / "store").iterdir()] == [STORE_ID_KEY]


@pytest.mark.parametrize("what", ["gone", "empty"])
def test_a_store_that_is_not_mounted_makes_a_process_unready(
    fake_client: redis.Redis, tmp_path: Path, what: str
) -> None:
    """And nothing is made at its place."""
    root, clock = tmp_path / "store", Clock()
    http = ready(fake_client, LocalStore(str(root)), clock)
    before = http.simulate_get("/readyz").status_code
    root.rename(tmp_path / "unmounted")
    if what == "empty":
        root.mkdir()

    clock.now += STORE_WRITE_S
    response = http.simulate_get("/readyz")

    assert (before, response.status_code) == (200, 503)
    assert "has lost its marker" in response.json["store"]
    assert (list(root.iterdir()) if what == "empty" else root.exists()) in ([], False)
