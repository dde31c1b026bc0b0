"""Common steps of the state machine's tests: public transitions, and raw keys."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Any, Self, cast

import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.answers import Reserved
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import Backoff, NewSubmission
from opsqueue.model.submission import Submission, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue, wake_channel
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


class Ear:
    """Hears what is published on a channel of a queue."""

    def __init__(self, queue: Queue, channel: str) -> None:
        self._bell = threading.Event()
        self._queue, self._channel = queue, channel
        self._watching = queue.watching(channel, self._bell.set)

    def __enter__(self) -> Self:
        self._watching.__enter__()
        self._bell.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.__exit__(None, None, None)

    def hears(self) -> bool:
        return self._bell.wait(5)

    def hears_nothing(self) -> bool:
        """Whether nothing had been published before this call."""
        heard, before = self._bell, self._queue.part(0)
        with Ear(before, "a test's own") as last:
            tell(before, "a test's own")
            assert last.hears()
        return not heard.is_set()


def tell(queue: Queue, channel: str) -> None:
    """Publish on a channel of a queue."""
    scripts = queue._scripts_of(queue.partition)
    scripts.run(
        lambda server: cast("Any", server).execute_command("SPUBLISH", scripts.base + channel, "")
    )


class Sleeper(Ear):
    """A worker that has found nothing and sleeps."""

    def __init__(
        self,
        queue: Queue,
        worker: str = "idle",
        *,
        strategy: AnyStrategy | None = None,
        **options: Any,
    ) -> None:
        strategy = strategy or Oldest()
        super().__init__(queue, wake_channel(worker, strategy))
        self._worker, self._options = worker, {"strategy": strategy, **options}
        self.found = Reserved(chunks=(), is_paused=False, next_due_in_ms=None)

    def __enter__(self) -> Self:
        super().__enter__()
        self.found = self._queue.reserve_chunks(self._worker, sleeps=True, **self._options)
        return self


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
