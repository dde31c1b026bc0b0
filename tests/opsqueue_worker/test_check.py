"""`--check` goes by what the worker has sent, not by its own options or by the app."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import msgspec
import pytest
import redis

from opsqueue.queue.queue import Queue
from opsqueue_worker.check import check_worker
from opsqueue_worker.settings import WorkerSettings

INFO = msgspec.json.encode({"host": socket.gethostname(), "app": "tasks:app"})
MINUTE_MS = 60_000


@pytest.mark.parametrize(("timeout_ms", "is_alive"), [(MINUTE_MS, False), (10 * MINUTE_MS, True)])
@pytest.mark.parametrize("option_s", [1, 3600])
def test_a_worker_lives_for_as_long_a_silence_as_it_said(
    real_client: redis.Redis,
    redis_url: str,
    queue_name: str,
    timeout_ms: int,
    option_s: int,
    *,
    is_alive: bool,
) -> None:
    """Its last heartbeat was two minutes ago; health checks rarely repeat all of its options."""
    past = Queue(real_client, queue_name, clock=lambda: int(time.time() * 1000) - 2 * MINUTE_MS)
    past.heartbeat("w1", info=INFO, timeout_ms=timeout_ms)
    settings = WorkerSettings(
        app="tasks:app",
        redis_url=redis_url,
        store_url="",
        queues=(queue_name,),
        heartbeat_timeout_s=option_s,
    )

    missing = check_worker(settings)

    assert is_alive == (missing is None)


@pytest.mark.parametrize(
    ("reported", "missing"),
    [
        ({}, ""),  # as an earlier version reports
        ({"children_ready": 2, "problem": ""}, ""),
        ({"children_ready": 1, "problem": "no memory"}, ""),
        ({"children_ready": 0, "problem": ""}, ""),
        ({"children_ready": 0, "problem": "no memory"}, "no child is: no memory"),
        ({"app": "others:app"}, "no worker of"),
        ({"host": "elsewhere"}, "no worker of"),
    ],
)
def test_a_worker_is_found_by_its_app_and_must_have_children(
    real_client: redis.Redis,
    redis_url: str,
    queue_name: str,
    reported: dict[str, object],
    missing: str,
) -> None:
    """Its queues need not be named, and the app, which does not exist here, is not imported."""
    app = f"{queue_name}:app"
    info = {"host": socket.gethostname(), "app": app, **reported}
    if not reported:
        del info["app"]
    Queue(real_client, queue_name).heartbeat("w1", info=msgspec.json.encode(info))
    anywhere = WorkerSettings(app=app, redis_url=redis_url, store_url="")

    found = [check_worker(replace(anywhere, queues=queues)) for queues in ((queue_name,), ())]

    Queue(real_client, queue_name).retire_worker("w1")
    assert [bool(missing)] * 2 == [one is not None for one in found]
    assert all(missing in str(one) for one in found)
