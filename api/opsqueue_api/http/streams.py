"""Streamed answers: noticing that the client is gone, and cutting an answer off.

A stream occupies a thread of the server as long as it lasts. So it takes a long poll's place and
checks about once a second whether the client is still there.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self

import falcon

from opsqueue_api.http.long_polls import LongPolls, Room

_PART_BYTES: Final = 1024 * 1024
"""Size up to which lines are combined."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The client of a stream, and the place that the stream occupies."""

    room: Room
    is_stopping: Callable[[], bool]
    connection: object

    @property
    def is_gone(self) -> bool:
        """True if the client has closed the connection or this process stops."""
        return self.is_stopping() or has_closed(self.connection)


class Stream:
    """The parts of an answer, and callbacks for its end.

    The callbacks run when the parts end or the stream is closed, even if it has not begun. A
    generator's `finally` would not run if the first part was never requested.

    Args:
        parts: the parts of the answer, in order.
        at_end: each is called at least once, and all of them even if one raises.
    """

    def __init__(self, parts: Iterator[bytes], *at_end: Callable[[], object]) -> None:
        """Store them; no part is requested yet."""
        self._parts = parts
        self._at_end = at_end

    def __iter__(self) -> Self:
        """Return the stream itself, which is its own iterator."""
        return self

    def __next__(self) -> bytes:
        """Return the next part."""
        try:
            return next(self._parts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Run the callbacks; the server calls this in any case."""
        with ExitStack() as stack:
            for call in reversed(self._at_end):
                stack.callback(call)


class Heads:
    """Falcon middleware, the first one: handles a HEAD as a GET without a body.

    For all other parts it is a GET: it needs the same token and takes the same parameters.
    """

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Turn a HEAD into a GET."""
        if req.method == "HEAD":
            req.context.is_head = True
            req.method = "GET"

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: object
    ) -> None:
        """Make Falcon leave out the body; end a stream, whose place would stay occupied."""
        if not getattr(req.context, "is_head", False):
            return
        req.method = "HEAD"
        if resp.stream is None:
            return
        close = getattr(resp.stream, "close", None)
        # Not None: Falcon would say that the body of the GET has no bytes.
        resp.stream = iter(())
        if close is not None:
            close()


def begun(parts: Generator[bytes], *at_end: Callable[[], object]) -> Stream:
    """Return a stream whose first part is produced now, so that its errors can become problems."""
    first = next(parts, b"")
    return Stream(chain([first], parts), parts.close, *at_end)


@contextmanager
def admitted(long_polls: LongPolls, req: falcon.Request) -> Iterator[Reader]:
    """Reserve a place for a stream; release it here only if the answer can't begin.

    Raises:
        ProblemError: there is no free place.
    """
    # Only gunicorn sets it. With other servers a closed connection is noticed at the next write.
    connection = req.env.get("gunicorn.socket")
    reader = Reader(long_polls.take_room(), long_polls.is_stopping, connection)
    try:
        yield reader
    except BaseException:
        reader.room.leave()
        raise


def cut_off(why: str) -> ConnectionAbortedError:
    """Return the error that breaks off a stream, so that a client can detect it.

    gunicorn takes its error number for a lost connection, which it closes without logging.
    """
    return ConnectionAbortedError(errno.ECONNRESET, why)


def has_closed(connection: object) -> bool:
    """Return whether the client has closed the connection."""
    if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join the lines of a chunk; a large chunk yields several parts."""
    part: list[bytes] = []
    part_bytes = 0
    for line in lines:
        part.append(line)
        part_bytes += len(line)
        if part_bytes > _PART_BYTES:
            yield b"".join(part)
            part, part_bytes = [], 0
    yield b"".join(part)
