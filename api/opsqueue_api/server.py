"""gunicorn inside this process: threads, graceful shutdown, and the `ready on` line."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any, Final
from wsgiref.types import WSGIApplication

import msgspec
from gunicorn import util  # type: ignore[import-untyped]  # it ships none
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # it ships none
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]  # as above
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # as above
from gunicorn.http import errors  # type: ignore[import-untyped]  # as above
from gunicorn.workers import gthread  # type: ignore[import-untyped]  # as above
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # as above
from prometheus_client import values
from prometheus_client.values import MultiProcessValue

from opsqueue.config import say
from opsqueue.exceptions import ConnectionTroubleError, FormatTooNewError
from opsqueue.model.process import new_worker_name
from opsqueue.queue.connection import connect
from opsqueue.queue.store_identity import identify_store
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import open_store
from opsqueue.tracing.export import export_spans
from opsqueue_api.app import create_app
from opsqueue_api.http.access_log import AccessLog, set_up_access_log
from opsqueue_api.http.problem import MEDIA_TYPE
from opsqueue_api.http.request_ids import forget_request
from opsqueue_api.http.settings import METRICS_FOLDER, MULTIPROCESS_DIR, Settings

GRACEFUL_S: Final = 30
"""Time for running requests after SIGTERM; requests that only wait end within a second."""

STOP_LINGER_S: Final = 0.2
"""Time that an idle connection stays open after SIGTERM, so that a request that is already on its
way is answered, with `connection: close`."""

CLOSE_WITHIN_S: Final = 0.05
"""Time for a client to close its connection after SIGTERM, once an answer has announced that."""

FIRST_BYTE_S: Final = 0.2
"""A new connection that sends nothing for this long waits without a thread."""

MAX_REQUEST_LINE_BYTES: Final = 8_190
"""The most that gunicorn takes: look-ups by the longest keys fit in."""

KEEPALIVE_S: Final = 75
"""Longer than clients and load balancers keep idle connections (httpx 5 s, often 60 s), so that
they close them first: a request sent while the server closes its connection would be lost."""


class Server(BaseApplication):  # type: ignore[misc]  # no types, as above
    """Runs the API until SIGTERM or SIGINT, then exits with 0 by SystemExit."""

    def __init__(self, settings: Settings) -> None:
        """Store the settings; `run` binds the address."""
        self._settings = settings
        self._worker: Any = None
        super().__init__()

    def load_config(self) -> None:
        """Translate the settings into gunicorn's; gunicorn's files and variables are not read."""
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        values = {
            "bind": f"{host}:{settings.port}",
            "worker_class": _Worker,
            "workers": settings.workers,
            "threads": settings.threads,
            "keepalive": KEEPALIVE_S,
            "limit_request_line": MAX_REQUEST_LINE_BYTES,
            "graceful_timeout": GRACEFUL_S,
            "proc_name": "opsqueue-api",
            # At "info" gunicorn logs its own processes; the API prints one line instead.
            "loglevel": "debug" if settings.log_level == "debug" else "warning",
            "logger_class": _Log,
            "accesslog": None,  # AccessLog writes it
            "pre_fork": _give_place,
            "post_fork": _count_for_place,
            "post_worker_init": self._begin,
            "on_exit": lambda _arbiter: _remove_metrics(),
            # After gunicorn has logged an answer that failed.
            "post_request": lambda _worker, _req, _environ, _resp: forget_request(),
            # Newer versions open a socket in the home directory for gunicorn's own tool.
            "control_socket_disable": True,
        }
        for name, value in values.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def run(self) -> None:
        """Serve."""
        _Arbiter(self).run()

    def load(self) -> WSGIApplication:
        """Create the app in each worker process, since forks must not share connections."""
        export_spans("opsqueue-api")
        return make_app(self._settings, is_stopping=self._is_stopping)

    def _begin(self, worker: Any) -> None:  # noqa: ANN401 gunicorn ships no types
        self._worker = worker
        # Not in `when_ready`, which runs before the first fork: a process that gets a signal
        # between the fork and this point loses it, and Ctrl-C would take GRACEFUL_S.
        if worker.age == 1:
            _say_ready(worker)

    def _is_stopping(self) -> bool:
        return self._worker is not None and not self._worker.alive


class _Worker(ThreadWorker):  # type: ignore[misc]  # no types, as above
    """gunicorn's worker, except that errors about malformed requests are problem details.

    When its parent was killed it ends as at SIGTERM. Otherwise clients that wait, or that reuse
    their connections, would keep the process and the port for GRACEFUL_S, and no other API could
    start.
    """

    def init_signals(self) -> None:
        """Ignore the signals that would replace, stop or kill the process."""
        super().init_signals()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 gunicorn's
        """Accept waiting connections before the process stops listening and resets them."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                taken = -1
                while taken != self.nr_conns:
                    taken = self.nr_conns
                    self.accept(listener)
                # Closed now rather than at the end: new clients are refused and go elsewhere.
                listener.close()

    def handle(self, conn: Any) -> Any:  # noqa: ANN401 as above
        """Serve a connection's next request."""
        is_new = _DEFER is not None and not conn.initialized and not conn.data_ready
        if is_new and not conn.wait_for_data(FIRST_BYTE_S):
            return _DEFER
        return super().handle(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:  # noqa: ANN401 as above
        """Keep or close the connection.

        Connections are closed one after the other, so no client may delay the shutdown.
        """
        if self.alive or _DEFER is None or fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
            return
        self.nr_conns -= 1
        util.close_graceful(conn.sock, timeout=CLOSE_WITHIN_S)

    def _cap_keepalive(self, _deadline: float) -> None:
        """End connections without a request soon after SIGTERM, even those that never had one."""
        super()._cap_keepalive(time.monotonic() + STOP_LINGER_S)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_LINGER_S)

    def is_parent_alive(self) -> bool:
        """Return whether to continue; gunicorn calls it about once a second."""
        if not super().is_parent_alive():
            self.alive = False
        return bool(self.alive)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ANN401 as above
        """Answer a malformed request, for which the app can't be called."""
        kinds = [kind.__name__ for kind in type(exc).__mro__]
        if not isinstance(exc, errors.ParseException) or not _OWN_ERRORS.isdisjoint(kinds):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("Invalid request from ip=%s: %s", addr[0] if addr else "", exc)
        status = next((_STATUSES[kind] for kind in kinds if kind in _STATUSES), 400)
        reason = HTTPStatus(status).phrase
        detail = f"this is not an HTTP request that the API can read: {exc}"
        body = msgspec.json.encode({"title": reason, "detail": detail, "status": status})
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: {MEDIA_TYPE}\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):  # the client has closed the connection
            util.write_nonblock(client, head.encode() + body)


class _Arbiter(Arbiter):  # type: ignore[misc]  # no types, as above
    """gunicorn's supervising process, which only starts and stops."""

    def init_signals(self) -> None:
        """Ignore the signals that would start a second API, or end or replace processes."""
        super().init_signals()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)


_IGNORED: Final = (
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)

_DEFER: Final = getattr(gthread, "_DEFER", None)
"""Tells gunicorn that a connection waits without a thread; None in versions without that."""

# By name, since older versions lack some of them.
_STATUSES: Final = {
    "LimitRequestLine": 414,
    "LimitRequestHeaders": 431,
    "ExpectationFailed": 417,
    "UnsupportedTransferCoding": 501,
}
_OWN_ERRORS: Final = frozenset(
    {"ConfigurationProblem", "InvalidResponseHeader", "InvalidResponseHeaderName"}
)
"""Errors of the API's settings and answers, not of the request."""


class _Log(Logger):  # type: ignore[misc]  # no types, as above
    """gunicorn's own lines, in the API's format."""

    def setup(self, cfg: Any) -> None:  # noqa: ANN401 as above
        """Pass the lines to the root logger's handler."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def make_app(settings: Settings, **options: Any) -> WSGIApplication:  # noqa: ANN401 as create_app
    """Connect to Redis and the store, create the app, and start the sweeper."""
    client = connect(settings.redis_url, max_connections=settings.redis_connections)
    store = open_store(settings.store_url)
    # The command has checked both. /readyz reports failures since then.
    with suppress(ConnectionTroubleError, FormatTooNewError):
        identify_store(client, store)
    # Consumers over HTTP can't sweep, and there may be no worker. So the API must reclaim the
    # chunks of dead consumers.
    Sweeper(
        list, client=client, sweeper=new_worker_name("api-"), store=store, sweeps_all=True
    ).start()
    app = create_app(
        client,
        store,
        limits=settings.limits,
        tokens=settings.tokens,
        allowed_hosts=settings.allowed_hosts,
        long_polls=settings.long_polls,
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        defaults=settings.defaults,
        durability=settings.durability,
        **options,
    )
    if not settings.has_access_log:
        return app
    set_up_access_log(settings.log_format)
    return AccessLog(app)


def _give_place(arbiter: Any, worker: Any) -> None:  # noqa: ANN401 gunicorn ships no types
    """Assign a worker process the first place that no other process has."""
    taken = {other.place for other in arbiter.WORKERS.values()}
    worker.place = next(place for place in count() if place not in taken)


def _count_for_place(_arbiter: Any, worker: Any) -> None:  # noqa: ANN401 as above
    """Make a process continue the metrics of the one whose place it takes.

    prometheus-client keeps a file for each process. Named by process id, each ended process would
    leave a file behind.
    """
    if MULTIPROCESS_DIR in os.environ:
        place = f"{worker.ppid}-{worker.place}"
        values.ValueClass = MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]


def _remove_metrics() -> None:
    # Only the folder that `cli` has created.
    folder = os.environ.get(MULTIPROCESS_DIR, "")
    if Path(folder).name.startswith(METRICS_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def _say_ready(worker: Any) -> None:  # noqa: ANN401 gunicorn ships no types
    # Printed once the API serves, with its actual port: programs wait for this line.
    address = worker.sockets[0].sock.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    say(f"ready on http://{host}:{address[1]}")
