"""Who lives, and what is taken back from who does not.

The transitions that workers make for themselves and for each other; `Queue` has them all, each is
one Lua script.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.answers import Alive, RepairStep, Swept
from opsqueue.model.checks import MAX_MS, checked_whole
from opsqueue.model.chunk import MAX_BATCH, Token
from opsqueue.model.names import checked_worker
from opsqueue.queue import calls
from opsqueue.queue.cluster import Client
from opsqueue.queue.replies import unexpected
from opsqueue.queue.script import Scripts, register_queue
from opsqueue.queue.upkeep import Upkeep


class WorkerLife(Upkeep):
    """A queue's transitions that are about a worker, or about what it left behind.

    Args:
        client: has the names of all queues; a heartbeat says this one's.
        name: the queue's.
        scripts: that move it.
    """

    def __init__(self, client: Client, name: str, scripts: Scripts) -> None:
        """Connect to nothing yet."""
        super().__init__(name, scripts)
        self._client = client

    def heartbeat(
        self,
        worker: str,
        *,
        tokens: Iterable[Token] = (),
        info: bytes = b"{}",
        unknown_ms: int = 30_000,
        timeout_ms: int = calls.DEFAULT_TIMEOUT_MS,
    ) -> Alive:
        """Say that a worker lives and what it holds; learn what of that is void.

        Args:
            worker: its name.
            tokens: all that it holds.
            info: JSON that lists of workers show.
            unknown_ms: chunks pending for it for longer that it does not name are released; longer
                than an answer of reserve can be under way.
            timeout_ms: after so long a silence from now on it is dead, and its chunks are taken
                back by whoever sweeps.
        """
        # Before anything is sent: one that can't be read would spoil every list of workers.
        calls.checked_info(info)
        checked_whole("unknown_ms", unknown_ms, most=MAX_MS)
        checked_whole("timeout_ms", timeout_ms, most=MAX_MS)
        # Not only once: a flushed server has forgotten the queue's name. (A full one refuses it.)
        with suppress(RedisUnavailableError):
            register_queue(self._client, self.name)
        answer = self._scripts.call(
            "heartbeat",
            worker=checked_worker(worker),
            info=info,
            unknown_ms=unknown_ms,
            timeout_ms=timeout_ms,
            rest=list(tokens),
        )
        match answer:
            case [b"alive", void, int(released), int(lost)]:
                return Alive(frozenset(Token(t.decode()) for t in void), released, lost)
        raise unexpected(answer)

    def retire_worker(self, worker: str, *, limit: int = MAX_BATCH) -> bool:
        """Release what a worker still holds and forget it.

        Returns True when nothing is left to do, or when nothing could be done: to repeat it would
        be of no use.
        """
        answer = self._scripts.call(
            "retire_worker", worker=checked_worker(worker), limit=calls.checked_limit(limit)
        )
        match answer:
            case [b"retired", int(ended), int(has_more), int()]:
                return not (has_more and ended)
        raise unexpected(answer)

    def reclaim_dead(self, sweeper: str, *, limit: int = 100, lock_ms: int = 2_000) -> Swept | None:
        """Take chunks back from workers silent for too long; None when another sweeps now."""
        answer = self._scripts.call(
            "reclaim_dead",
            sweeper=sweeper,
            limit=calls.checked_limit(limit),
            lock_ms=checked_whole("lock_ms", lock_ms, least=1, most=MAX_MS),
        )
        match answer:
            case [b"reclaimed", int(chunks), int(has_more), int(lost)]:
                return Swept(chunks, "-" if has_more else None, lost)
            case [b"busy"]:
                return None
        raise unexpected(answer)

    def reclaim_expired(
        self, sweeper: str, *, page_from: str = "-", limit: int = 1_000, lock_ms: int = 2_000
    ) -> Swept | None:
        """Take chunks back whose reservation is over, a page; None when another sweeps now."""
        answer = self._scripts.call(
            "reclaim_expired",
            sweeper=sweeper,
            limit=calls.checked_limit(limit),
            lock_ms=checked_whole("lock_ms", lock_ms, least=1, most=MAX_MS),
            **{"from": calls.checked_page(page_from)},
        )
        match answer:
            case [b"reclaimed", int(chunks), next_from, int(lost)]:
                return Swept(chunks, next_from.decode() or None, lost)
            case [b"busy"]:
                return None
        raise unexpected(answer)

    def repair(
        self,
        *,
        begin: bool = False,
        limit: int = 1_000,
        sweeper: str = "",
        lock_ms: int = 2_000,
    ) -> RepairStep | None:
        """Free chunks whose reservations were lost, a step; None when there is nothing to do.

        Args:
            begin: a repair that covers all that is lost by now; otherwise only goes on with one
                that has begun.
            limit: entries, unfinished chunks and submissions looked at, about.
            sweeper: who does it. Others are busy then for `lock_ms`; one that begins a repair
                takes it over from them. Without a name it is done beside others.
            lock_ms: see `sweeper`.
        """
        answer = self._scripts.call(
            "repair",
            action="begin" if begin else "step",
            limit=calls.checked_limit(limit),
            sweeper=sweeper,
            lock_ms=checked_whole("lock_ms", lock_ms, least=1, most=MAX_MS),
        )
        match answer:
            case [
                b"repaired",
                int(chunks),
                int(has_more),
                int(entries),
                int(submissions),
                int(chunks_seen),
                int(freed),
                int(lost),
            ]:
                return RepairStep(
                    chunks=chunks,
                    next_from="-" if has_more else None,
                    entries=entries,
                    submissions=submissions,
                    chunks_seen=chunks_seen,
                    freed=freed,
                    lost=lost,
                )
            case [b"busy"]:
                return RepairStep(is_busy=True)
            case [b"idle"]:
                return None
        raise unexpected(answer)
