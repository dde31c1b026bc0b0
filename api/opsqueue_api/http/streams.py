"""Answers that go on for long: whether their client is still there, and how they are cut off.

A stream occupies a thread of the server for as long as it lasts, so it takes a long poll's room and
looks about once a second whether anybody still reads it.
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
"""Size up to which lines are sent together."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The client of a stream, and the room that it takes."""

    room: Room
    is_stopping: Callable[[], bool]
    connection: object

    @property
    def is_gone(self) -> bool:
        """Whether there is nobody to write for: the client closed, or this process stops."""
        return self.is_stopping() or has_closed(self.connection)


class Stream:
    """The parts of an answer, and what is to be done when they end or are closed, begun or not.

    Not a generator's `finally`, which does not run if the first part was never asked for.

    Args:
        parts: one after the other.
        at_end: each called at least once, and all of them whatever one raises.
    """

    def __init__(self, parts: Iterator[bytes], *at_end: Callable[[], object]) -> None:
        """Take them; nothing is asked for yet."""
        self._parts = parts
        self._at_end = at_end

    def __iter__(self) -> Self:
        """As WSGI asks for."""
        return self

    def __next__(self) -> bytes:
        """Give the next part."""
        try:
            return next(self._parts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """What the server calls in any case."""
        with ExitStack() as stack:
            for call in reversed(self._at_end):
                stack.callback(call)


class Heads:
    """Falcon middleware, the first one: a HEAD is a GET whose body is left out.

    To everything behind it, it is a GET: it needs the same token and takes the same parameters.
    """

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Make it one."""
        if req.method == "HEAD":
            req.context.is_head = True
            req.method = "GET"

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: object
    ) -> None:
        """Let Falcon leave the body out, and end a stream, whose room would stay taken."""
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
    """Make a stream whose first part is made now, so that what that raises can be a problem."""
    first = next(parts, b"")
    return Stream(chain([first], parts), parts.close, *at_end)


@contextmanager
def admitted(long_polls: LongPolls, req: falcon.Request) -> Iterator[Reader]:
    """Take room for a stream; it is given back here if the answer can't begin, else at its end.

    Raises:
        ProblemError: there is none.
    """
    # gunicorn's own; other servers tell of a closed connection when it is written to.
    connection = req.env.get("gunicorn.socket")
    reader = Reader(long_polls.take_room(), long_polls.is_stopping, connection)
    try:
        yield reader
    except BaseException:
        reader.room.leave()
        raise


def cut_off(why: str) -> ConnectionAbortedError:
    """Make the error that ends a stream without its end, so that a client can tell.

    The number is one that gunicorn takes for a lost connection: it closes it and logs nothing.
    """
    return ConnectionAbortedError(errno.ECONNRESET, why)


def has_closed(connection: object) -> bool:
    """Tell whether the client has hung up: nobody would hear of what comes then."""
    if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join the lines of a chunk, of a large one some at a time."""
    part: list[bytes] = []
    part_bytes = 0
    for line in lines:
        part.append(line)
        part_bytes += len(line)
        if part_bytes > _PART_BYTES:
            yield b"".join(part)
            part, part_bytes = [], 0
    yield b"".join(part)
