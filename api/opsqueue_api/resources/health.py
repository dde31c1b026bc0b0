"""Is the process alive, can it serve, which version is it: what load balancers and people ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

import falcon
import msgspec

from opsqueue.exceptions import OpsqueueError
from opsqueue.http.bodies import FEATURES, HealthBody, ProblemType, VersionBody
from opsqueue.model.version import __version__
from opsqueue.queue.cluster import Client
from opsqueue.queue.script import ping
from opsqueue.store import ObjectStore
from opsqueue_api.http.operation import operation
from opsqueue_api.http.problem import Problem

STORE_CHECK_S: Final = 5.0
_PROBE_KEY: Final = "opsqueue-ready"
"""Needs not exist: only whether the store answers is of interest."""


class Alive:
    """`/healthz`: the process answers."""

    @operation(answers=HealthBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer."""
        _write(resp, {"status": "alive"})


class Version:
    """`/version`."""

    @operation(answers=VersionBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer."""
        body = VersionBody(name="opsqueue-redis", version=__version__, features=sorted(FEATURES))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)


class Ready:
    """`/readyz`: Redis answers and the store can be reached; 503 says which can't.

    Args:
        client: of Redis, asked each time.
        store: asked at most every STORE_CHECK_S seconds, since its answers cost money.
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
                self._store_trouble = self._exists_trouble()
                self._asked_store_at = self._clock()
            return self._store_trouble

    def _exists_trouble(self) -> str:
        try:
            self._store.exists(_PROBE_KEY)
        except OpsqueueError as exc:
            return str(exc)
        return ""


def _write(resp: falcon.Response, body: dict[str, str]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
