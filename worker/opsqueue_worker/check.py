"""`opsqueue-worker --check`: whether a worker of this host is alive, for health checks."""

from __future__ import annotations

import socket

from opsqueue.exceptions import OpsqueueError
from opsqueue.queue import connection
from opsqueue.queue.queue import Queue
from opsqueue_worker.settings import WorkerSettings


def check_worker(settings: WorkerSettings, queues: tuple[str, ...]) -> str | None:
    """Look for a worker of this host among those that Redis knows; None when there is one.

    A worker registers with its first heartbeat, which comes when its children are ready, and says
    itself after how long a silence it is dead.

    Returns:
        Otherwise what is missing, as a sentence.
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
    return f"no worker of {host} has given a sign of life on {', '.join(queues)}"
