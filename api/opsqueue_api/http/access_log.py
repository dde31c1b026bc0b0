"""The access log: one line per request with client, path, status, size and duration.

It wraps the app rather than being part of it. So the line is written when a stream has ended, it
counts what the server really got, and it works with every server.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from opsqueue.tracing.logs import LogFormat, formatter
from opsqueue_api.http.request_ids import ID_KEY, TOKEN_KEY

LOGGER: Final = logging.getLogger("opsqueue_api.access_log")


def set_up_access_log(form: LogFormat) -> None:
    """Write the access log to stdout, independently of the level of the log on stderr."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter(form))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


class AccessLog:
    """WSGI middleware that logs each request.

    Args:
        app: the wrapped app.
        clock: returns monotonic seconds.
    """

    def __init__(self, app: WSGIApplication, clock: Callable[[], float] = time.monotonic) -> None:
        """Wrap an app."""
        self._app = app
        self._clock = clock

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass the request on and watch its answer."""
        answer = _Answer(environ, self._clock)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:  # noqa: ANN401 PEP 3333
            answer.status = int(status.partition(" ")[0])
            return start_response(status, headers, *rest)

        return answer.watch(self._app(environ, start))


class _Answer:
    """The app's answer while it is sent; the server closes it, whether complete or not."""

    def __init__(self, environ: WSGIEnvironment, clock: Callable[[], float]) -> None:
        self.status = 0
        self._environ = environ
        self._clock = clock
        self._began = clock()
        self._bytes = 0
        self._is_whole = False
        self._body: Iterable[bytes] = ()

    def watch(self, body: Iterable[bytes]) -> _Answer:
        self._body = body
        return self

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            self._bytes += len(part)
            yield part
        self._is_whole = True

    def close(self) -> None:
        """Close the app's answer, then write the line."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            LOGGER.info("request", extra=self._fields())

    def _fields(self) -> dict[str, object]:
        environ = self._environ
        return {
            "request_id": environ.get(ID_KEY, "-"),
            "client": environ.get("REMOTE_ADDR", "-"),
            "token": environ.get(TOKEN_KEY, "-"),
            "method": environ["REQUEST_METHOD"],
            # Without the query, which may contain more than a log should keep. Quoted again, since
            # the server has decoded characters that could break the line.
            "path": quote(
                environ.get("PATH_INFO", "").encode("latin-1", "replace"), safe="/:@,+=~!*'()$&;"
            ),
            "status": self.status,
            "bytes": self._bytes,
            "duration_ms": round((self._clock() - self._began) * 1000, 1),
            # The client closed the connection, or producing the stream failed.
            **({} if self._is_whole else {"cut_off": True}),
        }
