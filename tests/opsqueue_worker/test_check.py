"""`--check` uses the timeout that the worker has sent, not its own option."""

from __future__ import annotations

import socket
import time

import msgspec
import pytest
import redis

from opsqueue.queue.queue import Queue
from opsqueue_worker.check import check_worker
from opsqueue_worker.settings import WorkerSettings

INFO = msgspec.json.encode({"host": socket.gethostname()})
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
        app="tasks:app", redis_url=redis_url, store_url="", heartbeat_timeout_s=option_s
    )

    missing = check_worker(settings, (queue_name,))

    assert is_alive == (missing is None)
