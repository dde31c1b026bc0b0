"""Redis itself as `ChunkApi`; and how to wait there. The HTTP API waits with the same functions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from opsqueue.model.answers import Alive, Reserved
from opsqueue.model.chunk import (
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    ReleaseOutcome,
    Reservation,
    Token,
)
from opsqueue.model.names import checked_worker
from opsqueue.queue import commands, connection
from opsqueue.queue.connection import BLOCK_MS, SOCKET_TIMEOUT_S
from opsqueue.queue.queue import Queue
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import ObjectStore
from opsqueue.strategy import AnyStrategy

UNKNOWN_MS: Final = int(2_000 * SOCKET_TIMEOUT_S)
"""A reserve that was not answered within the socket's timeout never will be."""

_MOST_BATCHES: Final = 1_000


class QueueChunkApi:
    """Answers from Redis itself.

    Args:
        queue: whose chunks.
        worker: the name under which they are held.
        url: names Redis in messages, without its password.
        timeout_ms: after so long a silence the worker is dead to the others.
        check: raises when the server can't hold a queue.
    """

    def __init__(
        self,
        queue: Queue,
        worker: str,
        *,
        url: str = "redis://",
        timeout_ms: int = commands.DEFAULT_TIMEOUT_MS,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Connect to nothing yet; the queue's client stays the caller's."""
        self.url = url
        self._check = check
        self._queue = queue
        self._worker = checked_worker(worker)
        self._timeout_ms = timeout_ms

    def check(self) -> None:
        """See `ChunkApi`."""
        self._check()

    def reserve(
        self,
        *,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        wait_s: float,
        is_gone: Callable[[], bool],
    ) -> Sequence[Reservation]:
        """See `ChunkApi`."""
        return reserve_when_free(
            self._queue,
            self._worker,
            limit=limit,
            reservation_ms=reservation_ms,
            strategy=strategy,
            heartbeat_timeout_ms=self._timeout_ms,
            wait_s=wait_s,
            is_gone=is_gone,
        ).chunks

    def complete(
        self, token: Token, *, operations_failed: int = 0, output: bytes | None = None
    ) -> CompleteOutcome:
        """See `ChunkApi`."""
        failed = {token: operations_failed}
        outputs = None if output is None else {token: output}
        return self._queue.complete_chunks([token], operations_failed=failed, outputs=outputs)[0]

    def fail(self, token: Token, failure: ChunkFailure) -> FailOutcome:
        """See `ChunkApi`."""
        return self._queue.fail_chunk(token, failure)

    def release(self, tokens: Sequence[Token], *, delay_ms: int = 0) -> list[ReleaseOutcome]:
        """See `ChunkApi`."""
        return self._queue.release_chunks(tokens, delay_ms=delay_ms)

    def heartbeat(self, tokens: Sequence[Token], info: bytes) -> Alive:
        """See `ChunkApi`."""
        return self._queue.heartbeat(
            self._worker,
            tokens=tokens,
            info=info,
            unknown_ms=UNKNOWN_MS,
            timeout_ms=self._timeout_ms,
        )

    def retire(self) -> None:
        """See `ChunkApi`."""
        retire_wholly(self._queue, self._worker)


def connected(
    url: str,
    queue: str,
    worker: str,
    *,
    timeout_ms: int | None,
    store: ObjectStore,
    resources: ExitStack,
) -> tuple[QueueChunkApi, Sweeper]:
    """Connect a worker to its queue, with what sweeps that; `resources` closes the connections."""
    client = connection.connect(url, max_connections=8)
    resources.callback(client.close)
    on = Queue(client, queue)
    api = QueueChunkApi(
        on,
        worker,
        url=connection.masked(url),
        timeout_ms=timeout_ms or commands.DEFAULT_TIMEOUT_MS,
        check=partial(connection.check, client, url=url),
    )
    return api, Sweeper(lambda: [on], sweeper=worker, store=store)


def retire_wholly(queue: Queue, worker: str) -> None:
    """Release all that a worker holds, a batch at a time, and forget it.

    Bounded: a worker that goes on reserving meanwhile is released by its own end, or by sweepers.
    """
    for _ in range(_MOST_BATCHES):
        if queue.retire_worker(worker):
            return


def reserve_when_free(  # noqa: PLR0913 a reserve's own, and how to wait
    queue: Queue,
    worker: str,
    *,
    limit: int,
    reservation_ms: int,
    strategy: AnyStrategy,
    heartbeat_timeout_ms: int,
    wait_s: float,
    slice_ms: int = 1_000,
    is_gone: Callable[[], bool],
) -> Reserved:
    """Reserve chunks as soon as there are any, or none after `wait_s`.

    Args:
        queue: whose chunks.
        worker: who takes them.
        limit: at most.
        reservation_ms: from when they are taken.
        strategy: which.
        heartbeat_timeout_ms: of the worker, until its first heartbeat says it.
        wait_s: seconds from now; 0 only looks.
        slice_ms: after each `is_gone` is asked; at most BLOCK_MS, for the connection's sake.
        is_gone: nobody waits any more, or the process shuts down: takes nothing after that.
    """
    deadline = time.monotonic() + wait_s
    while True:
        reserved = queue.reserve_chunks(
            worker,
            limit=limit,
            reservation_ms=reservation_ms,
            strategy=strategy,
            heartbeat_timeout_ms=heartbeat_timeout_ms,
        )
        # Also without a wake-up: a look now and then finds what none announced.
        until = min(deadline, time.monotonic() + BLOCK_MS / 1000)
        if reserved.next_due_in_ms is not None and not reserved.is_paused:
            until = min(until, time.monotonic() + reserved.next_due_in_ms / 1000)
        if reserved.chunks or time.monotonic() >= deadline:
            return reserved
        is_awake = False
        while not is_awake and (left_s := until - time.monotonic()) > 0:
            block_ms = min(slice_ms, math.ceil(left_s * 1000))
            is_awake = queue.wait_for_wake(reserved.wake_id, block_ms=block_ms)
            if is_gone():
                return reserved
