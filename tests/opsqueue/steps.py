"""Common steps of the state machine's tests: public transitions, and raw keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import Backoff, NewSubmission
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.strategy import AnyStrategy, Oldest

FAILURE = ChunkFailure(type="ValueError", message="not a number", traceback="line 1")
NO_WAIT = Backoff(first_ms=0, max_ms=0)


@dataclass
class Clock:
    """Milliseconds since 1970; moved by hand."""

    now: int = 1_795_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, ms: int) -> None:
        self.now += ms


def prefix_of(queue: Queue, name: str) -> str:
    """A prefix that the queue's inserts take; the same one for the same name."""
    return f"{queue.name}/{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def new_submission(queue: Queue | str, chunks: int = 3, **fields: Any) -> NewSubmission:
    name = queue if isinstance(queue, str) else queue.name
    fields.setdefault("prefix", fresh_prefix(name))
    return NewSubmission(chunks_total=chunks, **fields)


def insert(queue: Queue, chunks: int = 3, **fields: Any) -> SubmissionId:
    return queue.insert_submission(new_submission(queue, chunks, **fields)).id


def listed(queue: Queue, state: SubmissionState, **options: Any) -> list[Submission]:
    return list(queue.list_submissions(SubmissionFilter(state=state), **options).submissions)


def take(
    queue: Queue, limit: int = 1, *, worker: str = "w1", strategy: AnyStrategy | None = None
) -> list[Reservation]:
    reserved = queue.reserve_chunks(worker, limit=limit, strategy=strategy or Oldest())
    return list(reserved.chunks)


def take_one(queue: Queue, *, worker: str = "w1") -> Reservation:
    (chunk,) = take(queue, worker=worker)
    return chunk


def tokens_of(chunks: list[Reservation]) -> list[Token]:
    return [chunk.token for chunk in chunks]


def indexes_of(chunks: list[Reservation]) -> list[int]:
    return [chunk.chunk_index for chunk in chunks]


def repair_wholly(queue: Queue, *, limit: int = 1_000) -> int:
    """Return the number of chunks that the current repair has freed."""
    freed = 0
    for _ in range(10_000):
        swept = queue.repair(limit=limit)
        if swept is None:
            return freed
        freed += swept.chunks
    message = "the repair does not come to its end"
    raise AssertionError(message)


@dataclass(frozen=True)
class Raw:
    """The keys of a queue, read and broken from outside."""

    client: redis.Redis
    queue_name: str

    def key(self, name: str) -> str:
        return base_key(self.queue_name) + name

    def in_hand(self, meta_key: str) -> dict[int, int]:
        counts: dict[Any, Any] = self.client.hgetall(self.key(f"inhand:{meta_key}"))
        return {int(value): int(count) for value, count in counts.items()}

    def ready(self) -> list[SubmissionId]:
        sets: Any = [b"", *self.client.smembers(self.key("signatures"))]
        ids: Any = [
            id_
            for name in sets
            for id_ in self.client.zrange(self.key(f"ready:{name.decode()}".rstrip(":")), 0, -1)
        ]
        return [SubmissionId(id_.decode()) for id_ in ids]

    def workers(self) -> list[str]:
        names: Any = self.client.zrange(self.key("workers"), 0, -1)
        return [name.decode() for name in names]

    def lose_group(self) -> None:
        self.client.xgroup_destroy(self.key("reservations"), "workers")

    def lose_stream(self) -> None:
        self.client.delete(self.key("reservations"))

    def lose_everything(self) -> None:
        keys: Any = list(self.client.scan_iter(match=self.key("*").replace("[", "\\["), count=1000))
        if keys:
            self.client.delete(*keys)
