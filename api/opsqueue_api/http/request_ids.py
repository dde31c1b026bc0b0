"""An id for each request: the client's or a new one, in the answer and in all its log lines.

opsqueue's clients send a second id in `ECHO_HEADER` and check that the answer returns it.
"""

from __future__ import annotations

import logging
import re
import uuid
from contextvars import ContextVar
from typing import Final

import falcon

from opsqueue.http.bodies import ECHO_HEADER

HEADER: Final = "X-Request-Id"
# In the WSGI environment, where the access log and other servers' formats find them.
ID_KEY: Final = "opsqueue.request_id"
TOKEN_KEY: Final = "opsqueue.token"  # noqa: S105  its name
# Safe in log lines and headers: no spaces, no quotes, no control characters.
_SANE: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_current: ContextVar[str] = ContextVar("opsqueue_request_id", default="")


class RequestIds:
    """Falcon middleware; it comes first so that answers of other middleware have the id, too."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Use the client's id if it is valid, otherwise create one."""
        given = req.get_header(HEADER) or ""
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        req.env[ID_KEY] = request_id
        resp.context.request_id = request_id
        resp.set_header(HEADER, request_id)
        echo = req.get_header(ECHO_HEADER) or ""
        if _SANE.fullmatch(echo):
            resp.set_header(ECHO_HEADER, echo)
        # A stored answer would carry the ids of another request. Resources may override it.
        resp.cache_control = ["no-store"]
        # An answer contains data that clients have sent; no browser may treat it as a page.
        resp.set_header("X-Content-Type-Options", "nosniff")
        # It stays until `forget_request`, since a stream is written after the app has returned.
        _current.set(request_id)


def forget_request() -> None:
    """End the thread's request: the server's next log lines do not belong to it."""
    _current.set("")


def add_request_id(record: logging.LogRecord) -> bool:
    """Add the request's id to a log record; a filter for log handlers."""
    if request_id := _current.get():
        record.request_id = request_id
    return True
