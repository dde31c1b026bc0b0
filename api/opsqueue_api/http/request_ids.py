"""An id for each request: the client's or a new one, in its answer and in every line of its log.

Clients of ours send a second one of their own, `ECHO_HEADER`, and check that it comes back.
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
# What is put into log lines and headers: no spaces, no quotes, no controls.
_SANE: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_current: ContextVar[str] = ContextVar("opsqueue_request_id", default="")


class RequestIds:
    """Falcon middleware, the first one: what the others answer has the id, too."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take the client's id if it is sane, else make one."""
        given = req.get_header(HEADER) or ""
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        req.env[ID_KEY] = request_id
        resp.context.request_id = request_id
        resp.set_header(HEADER, request_id)
        echo = req.get_header(ECHO_HEADER) or ""
        if _SANE.fullmatch(echo):
            resp.set_header(ECHO_HEADER, echo)
        # A stored answer would carry the ids of another request. Resources may say otherwise.
        resp.cache_control = ["no-store"]
        # An answer holds what clients have sent, and no browser shall take it for a page.
        resp.set_header("X-Content-Type-Options", "nosniff")
        # Until `forget_request`, since a stream is written when the app has long returned.
        _current.set(request_id)


def forget_request() -> None:
    """Say that the thread's request is over: the server's next lines are not about it."""
    _current.set("")


def add_request_id(record: logging.LogRecord) -> bool:
    """Filter of a log handler: let lines that a request causes carry its id."""
    if request_id := _current.get():
        record.request_id = request_id
    return True
