"""Liveness, readiness and version of the process, for load balancers and people."""

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
"""Interval of test writes while the store works; a failing store is tested at every check."""


class Alive:
    """`/healthz`: the process answers."""

    @operation(answers=HealthBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer if the process is alive."""
        _write(resp, {"status": "alive"})


class Version:
    """`/version`.

    Args:
        store: its id is part of the answer, so that a client with another store notices.
    """

    def __init__(self, store: ObjectStore) -> None:
        """Store the collaborator."""
        self._store = store

    @operation(answers=VersionBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Return the API's version and features, and the store's id."""
        body = VersionBody(
            name="opsqueue-redis",
            version=__version__,
            features=sorted(FEATURES),
            store_id=self._store.store_id,
        )
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)


class Ready:
    """`/readyz`: 503 unless Redis answers and the right store can be written.

    Args:
        client: the Redis client, which is checked each time.
        store: checked at most every STORE_CHECK_S seconds, and written to at most every
            STORE_WRITE_S seconds, since its requests cost money.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        store: ObjectStore,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the collaborators."""
        self._client = client
        self._store = store
        self._clock = clock
        self._lock = Lock()
        self._asked_store_at = float("-inf")
        self._wrote_store_at = float("-inf")
        self._store_error = ""

    @operation(answers=HealthBody, problems=(ProblemType.UNAVAILABLE,))
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Check whether Redis and the store can be used."""
        errors = {"redis": self._ask_redis(), "store": self._ask_store()}
        states = {name: error or "ok" for name, error in errors.items()}
        if not any(errors.values()):
            _write(resp, {"status": "ready", **states})
            return
        detail = "; ".join(f"{name}: {text}" for name, text in errors.items() if text)
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
                self._store_error = self._try_store()
                self._asked_store_at = self._clock()
            return self._store_error

    def _try_store(self) -> str:
        try:
            self._store.exists(STORE_ID_KEY)
            with suppress(RedisUnavailableError):  # not an error of the store
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
