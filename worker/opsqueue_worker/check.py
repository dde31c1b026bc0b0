"""`opsqueue-worker --check`: a health check that looks for a live worker of this host.

It does not import the app, whose import may take long and is the worker's own business: Redis knows
which queues there are, and each worker's heartbeat names its app.
"""

from __future__ import annotations

import socket

from opsqueue.exceptions import OpsqueueError
from opsqueue.queue import connection
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import each_readable, queue_names
from opsqueue_worker.settings import WorkerSettings


def check_worker(settings: WorkerSettings) -> str | None:
    """Look for a live worker of this host and app among the workers that Redis knows.

    A worker registers with its first heartbeat, which it sends when its children are ready. Each
    heartbeat says after how long a silence the worker counts as dead, and whether its children
    start.

    Returns:
        None if there is one, otherwise a sentence that says what is missing.
    """
    client = connection.connect(settings.redis_url)
    host = socket.gethostname()
    problem = ""
    try:
        queues = settings.queues or queue_names(client)
        for _, workers in each_readable(queues, lambda name: Queue(client, name).list_workers()):
            for worker in workers:
                info = worker.info
                # Workers of earlier versions don't name their app.
                is_ours = info.get("host") == host and info.get("app", settings.app) == settings.app
                if not (worker.is_alive and is_ours):
                    continue
                if info.get("children_ready", 1) or not info.get("problem"):
                    return None
                problem = f"worker {worker.name} is alive, but no child is: {info['problem']}"
    except OpsqueueError as exc:
        return str(exc)
    finally:
        client.close()
    where = f" on {', '.join(settings.queues)}" if settings.queues else ""
    return problem or f"no worker of {host} for {settings.app} has sent a heartbeat{where}"
