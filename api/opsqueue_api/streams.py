"""Answers that go on for long: whether their client is still there, and how they are cut off.

A stream occupies a thread of the server for as long as it lasts, so it takes a long poll's room and
looks about once a second whether anybody still reads it.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Self

import falcon

from opsqueue_api.long_polls import LongPolls, Room


@dataclass(frozen=True, slots=True)
class Reader:
    """The client of a stream, and the room that it takes; ends with the stream's generator."""

    room: Room
    is_stopping: Callable[[], bool]
    connection: object

    @property
    def is_gone(self) -> bool:
        """Whether there is nobody to write for: the client closed, or this process stops."""
        return self.is_stopping() or has_closed(self.connection)


class Stream:
    """The parts of an answer that holds a room until it ends or is closed, begun or not."""

    def __init__(self, parts: Generator[bytes], room: Room) -> None:
        """Take both."""
        self._parts = parts
        self._room = room

    def __iter__(self) -> Self:
        """As WSGI asks for."""
        return self

    def __next__(self) -> bytes:
        """Give the next part."""
        try:
            return next(self._parts)
        except BaseException:
            self._room.leave()
            raise

    def close(self) -> None:
        """What the server calls in any case."""
        try:
            self._parts.close()
        finally:
            self._room.leave()


def admit(long_polls: LongPolls, req: falcon.Request) -> Reader:
    """Take room for a stream.

    Raises:
        ProblemError: there is none.
    """
    # gunicorn's own; other servers tell of a closed connection when it is written to.
    connection = req.env.get("gunicorn.socket")
    return Reader(long_polls.take_room(), long_polls.is_stopping, connection)


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
