"""The reader: one connection to each server, on which a process watches channels of its queues.

A message only means "look": whoever watches reads the state from Redis. It is also called once its
channel is subscribed, and again after each loss of the connection, since messages may have been
missed. Sharded channels (SSUBSCRIBE) are on the same node of a cluster as the queue's keys, so that
one connection serves all queues of a node, however many wait, and for whatever.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

import redis
from redis.exceptions import MovedError, RedisClusterException, ResponseError

from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.process import renew_in_children
from opsqueue.queue.cluster import Client, ClusterClient, run_on

logger = logging.getLogger("opsqueue.queue")

_CHECK_EVERY_S: Final = 5.0
"""The interval at which channels of a cluster are looked up: their keys may have moved."""
_SILENCE_S: Final = 15.0
"""A server that has sent nothing for so long is asked for an answer."""
_ENDS_AFTER_S: Final = 10.0
"""A thread that has watched nothing for so long ends, and its connection closes."""
_LINGERS_S: Final = 3.0
_BACKOFF: Final = RetryBackoff(first_s=0.05, max_s=1.0)
_TROUBLE: Final = (redis.RedisError, RedisClusterException, OSError)

_creation: Final = threading.Lock()


class Watch:
    """A channel that is watched until it is closed."""

    def __init__(self, reader: Reader, base: str, name: str, look: Callable[[], None]) -> None:
        self._reader = reader
        self.base = base
        self.channel = base + name
        self.look = look
        self.is_live = threading.Event()
        """Set as long as the server sends what is published."""
        self.is_closed = False

    def close(self, *, lingers: bool = False) -> None:
        """Stop watching; the reader's thread may still be calling `look`.

        Args:
            lingers: it will probably be watched again soon, so stay subscribed for a while.
        """
        self._reader.stop(self, lingers=lingers)

    def __enter__(self) -> Self:
        """Return the watch itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class Reader:
    """All watches of a client.

    Args:
        client: a client made by `connection.connect`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: in a forked child nothing is watched."""
        self._lock = threading.RLock()
        self._lines: dict[Any, _Line] = {}

    def watch(self, base: str, name: str, look: Callable[[], None]) -> Watch:
        """Watch the channel with a name of a queue's partition.

        The caller reads the state when the watch is live: then it misses nothing. A server that
        does not answer is tried again until it does.

        Args:
            base: the common beginning of the partition's keys.
            name: the channel's name after that.
            look: called from the reader's thread when there may be news; it must be fast.
        """
        watch = Watch(self, base, name, look)
        self.place(watch)
        return watch

    def place(self, watch: Watch) -> None:
        """Pass a watch to the line of the server that has its keys now."""
        pool = self.pool_of(watch)
        with self._lock:
            if watch.is_closed:
                return
            line = self._lines.get(pool)
            if line is None or not line.add(watch):
                line = self._lines[pool] = _Line(self, pool)
                line.add(watch)

    def stop(self, watch: Watch, *, lingers: bool) -> None:
        """See `Watch.close`."""
        with self._lock:
            watch.is_closed = True
            for line in self._lines.values():
                line.remove(watch, lingers=lingers)

    def pool_of(self, watch: Watch) -> Any:  # noqa: ANN401 redis-py has no type for all kinds of pools
        """Return the connections of the server that has a watch's keys; None: not known now."""
        try:
            return run_on(self._client, watch.base, lambda server: server.connection_pool)
        except _TROUBLE:
            return None

    @property
    def is_of_cluster(self) -> bool:
        """True if keys may move to another server."""
        return isinstance(self._client, ClusterClient)

    def forget_nodes(self) -> None:
        """Learn the nodes of a cluster again before the next look for a server."""
        if isinstance(self._client, ClusterClient):
            self._client.forget_nodes()


class _Line:
    """The thread and the connection of one server.

    The thread alone reads. It holds the lock while it reads, but not while it waits, so that others
    can send meanwhile: a TLS connection must not be used by two threads at once.

    Args:
        reader: has the other lines.
        pool: the server's connections; None: of watches whose server is not known now.
    """

    def __init__(self, reader: Reader, pool: Any) -> None:  # noqa: ANN401 see `Reader.pool_of`
        self._reader = reader
        self._pool = pool
        self._lock = threading.RLock()
        self._watches: dict[str, list[Watch]] = {}
        self._connection: Any = None
        self._unanswered: deque[tuple[str, str]] = deque()
        """Commands, each with its channel, that the server has not answered yet."""
        self._lingering: dict[str, float] = {}
        """Channels that nobody watches any more, but that are subscribed until then."""
        self._has_ended = False
        self._is_refused = False
        self._used_at = self._heard_at = self._checked_at = time.monotonic()
        threading.Thread(target=self._read_for_ever, name="reader", daemon=True).start()

    # Called by all threads

    def add(self, watch: Watch) -> bool:
        """Watch one more; return False if the thread has ended."""
        with self._lock:
            if self._has_ended:
                return False
            watches = self._watches.setdefault(watch.channel, [])
            watches.append(watch)
            is_lingering = self._lingering.pop(watch.channel, None) is not None
            if is_lingering or watches[0].is_live.is_set():
                watch.is_live.set()
            elif len(watches) == 1:
                self._send("SSUBSCRIBE", watch.channel)
            return True

    def remove(self, watch: Watch, *, lingers: bool = False) -> None:
        """Stop watching, if it is watched here."""
        with self._lock:
            watches = self._watches.get(watch.channel, [])
            if watch in watches:
                is_live = watch.is_live.is_set()
                watch.is_live.clear()
                watches.remove(watch)
                if watches:
                    return
                del self._watches[watch.channel]
                self._used_at = time.monotonic()
                if lingers and is_live:
                    self._lingering[watch.channel] = self._used_at + _LINGERS_S
                else:
                    self._send("SUNSUBSCRIBE", watch.channel)

    def _send(self, command: str, channel: str) -> None:
        if self._connection is not None:  # else the thread subscribes to all when it has connected
            self._unanswered.append((command, channel))
            with suppress(*_TROUBLE):  # the thread meets the same error
                self._connection.send_command(command, channel, check_health=False)

    # The thread

    def _read_for_ever(self) -> None:
        failures = 0
        while not self._is_over():
            try:
                if self._connection is None:
                    self._connect()
                elif self._wait():
                    self._read()
                    failures = 0
            except _TROUBLE as exc:
                failures += 1
                logger.debug("the reader's connection: %s; connecting again", exc)
                self._reader.forget_nodes()
                self._disconnect()
                time.sleep(_BACKOFF.pause_s(failures))
        self._disconnect()

    def _is_over(self) -> bool:
        with self._lock:
            unused_s = time.monotonic() - self._used_at
            self._has_ended = not self._watches and unused_s > _ENDS_AFTER_S
            return self._has_ended

    def _connect(self) -> None:
        self._leave_to_others()
        if self._pool is None:
            message = "the cluster does not answer"
            raise redis.ConnectionError(message)
        connection = self._pool.get_connection()
        with self._lock:
            self._connection, self._heard_at = connection, time.monotonic()
            for channel in self._watches:
                self._send("SSUBSCRIBE", channel)

    def _disconnect(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            self._unanswered.clear()
            self._lingering.clear()
            for watch in self._all():
                watch.is_live.clear()
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)

    def _leave_to_others(self) -> None:
        """Pass watches on whose keys are on another server now."""
        self._checked_at = time.monotonic()
        if not self._reader.is_of_cluster:
            return
        for watch in self._all():
            if self._reader.pool_of(watch) is not self._pool:
                self.remove(watch)
                self._reader.place(watch)

    def _all(self) -> list[Watch]:
        with self._lock:
            return [watch for watches in self._watches.values() for watch in watches]

    def _wait(self) -> bool:
        """Wait some time for something to read, and look after the connection meanwhile."""
        self._end_lingering()
        if time.monotonic() - self._checked_at > _CHECK_EVERY_S:
            self._leave_to_others()
        if _is_readable(self._connection, within_s=_CHECK_EVERY_S):
            self._heard_at = time.monotonic()
            return True
        silent_s = time.monotonic() - self._heard_at
        if silent_s > 2 * _SILENCE_S:
            message = f"the server has been silent for {silent_s:.0f} s"
            raise redis.TimeoutError(message)
        if silent_s > _SILENCE_S:
            with self._lock:
                self._connection.send_command("PING", check_health=False)
        return False

    def _end_lingering(self) -> None:
        now = time.monotonic()
        with self._lock:
            for channel in [c for c, until in self._lingering.items() if until < now]:
                del self._lingering[channel]
                self._send("SUNSUBSCRIBE", channel)

    def _read(self) -> None:
        """Read all that has come, and call those who watch."""
        looks: list[Watch] = []
        with self._lock:
            while self._connection.can_read(0):
                looks += self._read_one()
        for watch in looks:
            watch.look()
            watch.is_live.set()

    def _read_one(self) -> list[Watch]:
        """Read one answer or message; return the watches that are to look."""
        try:
            answer = self._connection.read_response(disconnect_on_error=False)
        except ResponseError as exc:
            return self._refused(exc)
        match answer:
            case [b"smessage", bytes(channel), _]:
                return list(self._watches.get(channel.decode(), ()))
            case [b"ssubscribe", bytes(channel), _]:
                self._forget_command("SSUBSCRIBE", channel.decode())
                return list(self._watches.get(channel.decode(), ()))
            case [b"sunsubscribe", bytes(channel), _]:
                if not self._forget_command("SUNSUBSCRIBE", channel.decode()):
                    self._is_gone()
        return []

    def _forget_command(self, command: str, channel: str) -> bool:
        try:
            self._unanswered.remove((command, channel))
        except ValueError:
            return False
        return True

    def _refused(self, exc: ResponseError) -> list[Watch]:
        if isinstance(exc, MovedError):
            self._is_gone()
        _, channel = self._unanswered.popleft() if self._unanswered else ("", "")
        if not self._is_refused:
            self._is_refused = True
            logger.warning(
                "Redis does not let this user watch channel %s (%s), so idle programs look for "
                "chunks every few seconds only: the lines of `opsqueue acl` have what is missing",
                channel,
                exc,
            )
        return []

    def _is_gone(self) -> None:
        """Connect again, since a slot has moved: its channels have another server now."""
        message = "a slot has moved to another node"
        raise redis.ConnectionError(message)


def _is_readable(connection: Any, *, within_s: float) -> bool:  # noqa: ANN401 as above
    sock = connection._sock  # noqa: SLF001 redis-py's own wait also reads
    if isinstance(sock, socket.socket):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(within_s * 1000))
    if sock is None:
        message = "the connection was closed"
        raise redis.ConnectionError(message)
    return bool(connection.can_read(within_s))  # fakeredis


def reader_of(client: Client) -> Reader:
    """Return the reader of a client; all queues of the client share it."""
    holder: Any = client
    with _creation:
        if getattr(holder, "opsqueue_reader", None) is None:
            holder.opsqueue_reader = Reader(client)
        reader: Reader = holder.opsqueue_reader
        return reader
