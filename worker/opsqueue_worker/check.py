"""`opsqueue-worker --check`: a health check that looks for a live worker of this host."""

from __future__ import annotations

import socket

from opsqueue.exceptions import OpsqueueError
from opsqueue.queue import connection
from opsqueue.queue.queue import Queue
from opsqueue_worker.settings import WorkerSettings


def check_worker(settings: WorkerSettings, queues: tuple[str, ...]) -> str | None:
    """Look for a live worker of this host among the workers that Redis knows.

    A worker registers with its first heartbeat, which it sends when its children are ready. Each
    heartbeat says after how long a silence the worker counts as dead.

    Returns:
        None if there is one, otherwise a sentence that says what is missing.
    """
    client = connection.connect(settings.redis_url)
    host = socket.gethostname()
    try:
        for name in queues:
            for worker in Queue(client, name).list_workers():
                if worker.is_alive and worker.info.get("host") == host:
                    return None
    except OpsqueueError as exc:
        return str(exc)
    finally:
        client.close()
    return f"no worker of {host} has sent a heartbeat on {', '.join(queues)}"
