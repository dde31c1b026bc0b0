"""Is the process alive, can it serve, which version is it: what load balancers and people ask."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final

import falcon
import msgspec

from opsqueue.exceptions import OpsqueueError, RedisUnavailableError
from opsqueue.http.bodies import FEATURES, HealthBody, ProblemType, VersionBody
from opsqueue.model.version import __version__
from opsqueue.queue.cluster import Client
from opsqueue.queue.script import ping
from opsqueue.queue.store_identity import identify_store
from opsqueue.store import ObjectStore
from opsqueue.store.base import STORE_ID_KEY
from opsqueue_api.http.operation import operation
from opsqueue_api.http.problem import Problem

STORE_CHECK_S: Final = 5.0
STORE_WRITE_S: Final = 30.0
"""While it can be written; one that could not is tried each time that it is asked."""


class Alive:
    """`/healthz`: the process answers."""

    @operation(answers=HealthBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer."""
        _write(resp, {"status": "alive"})


class Version:
    """`/version`.

    Args:
        store: whose id is told, so that a client with another store notices.
    """

    def __init__(self, store: ObjectStore) -> None:
        """Ask nothing."""
        self._store = store

    @operation(answers=VersionBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer."""
        body = VersionBody(
            name="opsqueue-redis",
            version=__version__,
            features=sorted(FEATURES),
            store_id=self._store.store_id,
        )
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)


class Ready:
    """`/readyz`: Redis answers, and the store is the right one and can be written; else 503.

    Args:
        client: of Redis, asked each time.
        store: asked at most every STORE_CHECK_S seconds, and written to every STORE_WRITE_S, since
            its answers cost money.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        store: ObjectStore,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the collaborators."""
        self._client = client
        self._store = store
        self._clock = clock
        self._lock = Lock()
        self._asked_store_at = float("-inf")
        self._wrote_store_at = float("-inf")
        self._store_trouble = ""

    @operation(answers=HealthBody, problems=(ProblemType.UNAVAILABLE,))
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer."""
        troubles = {"redis": self._ask_redis(), "store": self._ask_store()}
        states = {name: trouble or "ok" for name, trouble in troubles.items()}
        if not any(troubles.values()):
            _write(resp, {"status": "ready", **states})
            return
        detail = "; ".join(f"{name}: {text}" for name, text in troubles.items() if text)
        Problem(ProblemType.UNAVAILABLE, f"not ready: {detail}", states).write(resp)

    def _ask_redis(self) -> str:
        try:
            ping(self._client)
        except OpsqueueError as exc:
            return str(exc)
        return ""

    def _ask_store(self) -> str:
        with self._lock:
            if self._clock() - self._asked_store_at >= STORE_CHECK_S:
                self._store_trouble = self._try_store()
                self._asked_store_at = self._clock()
            return self._store_trouble

    def _try_store(self) -> str:
        try:
            self._store.exists(STORE_ID_KEY)
            with suppress(RedisUnavailableError):  # told apart from the store's own troubles
                identify_store(self._client, self._store)
            if self._clock() - self._wrote_store_at >= STORE_WRITE_S:
                key = f"opsqueue-ready-{uuid.uuid4().hex}"
                self._store.create(key, b"")
                self._store.delete_objects([key])
                self._wrote_store_at = self._clock()
        except OpsqueueError as exc:
            self._wrote_store_at = float("-inf")
            return str(exc)
        return ""


def _write(resp: falcon.Response, body: dict[str, str]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
