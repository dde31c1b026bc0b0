"""An app whose module changes the process that imports it, as libraries and settings do."""

from __future__ import annotations

import io
import locale
import logging
import logging.config
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from opsqueue import Opsqueue

socket.setdefaulttimeout(20)
os.chdir("/")
os.umask(0o077)
locale.setlocale(locale.LC_ALL, "C")
resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, lambda *_: sys.exit("a signal handler of the app"))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
sys.stdout = io.StringIO()
sys.stderr.close()
for descriptor in range(200):
    with suppress(OSError):
        os.close(descriptor)
logging.config.dictConfig({"version": 1, "root": {"handlers": []}})  # disables existing loggers
logging.disable()

if "--pool" in sys.argv:  # in the parent only
    threading.Thread(target=threading.Event().wait).start()

app = Opsqueue()


@app.operation_handler(os.environ["TEST_QUEUE"])
def act(operation: Any) -> Any:
    """Import a module of the app's folder; write to descriptors, and close them."""
    from tasks import add_one  # noqa: PLC0415 the current folder is another one

    for fd in range(20):
        with suppress(OSError):
            os.close(fd) if fd < 3 else os.write(fd, b"nonsense")
    return add_one(operation)


@app.on_worker_stop
def fail() -> None:
    """Raise, which the worker logs."""
    message = "a stop hook's error"
    raise ValueError(message)
