"""What the scripts answer, as values: the only readers of Redis's replies. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from opsqueue.chunk import (
    Completed,
    CompleteOutcome,
    Dropped,
    FailOutcome,
    FinallyFailed,
    Lost,
    Released,
    ReleaseOutcome,
    Reservation,
    Retried,
    Source,
    Token,
)
from opsqueue.exceptions import OpsqueueInternalError
from opsqueue.strategy import TICKS_A_SECOND
from opsqueue.submission import Backoff, Failure, Submission, SubmissionId, SubmissionState

_ALL_DONE: Final = 0xFF
"""A byte of a bitmap whose eight chunks are all done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inserted:
    """An accepted submission. `is_new` is False when its idempotency key was known."""

    id: SubmissionId
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What a reserve gave, and what to wait for when it gave too little."""

    chunks: tuple[Reservation, ...]
    is_paused: bool
    wake_id: str
    """`Queue.wait_for_wake` after this one misses nothing."""
    next_due_in_ms: int | None
    """Until the next delayed chunk is free, or a rate limit lets one through; None: unknown."""
    look_from: str = ""
    """Not '': nothing was found within one script's bounds, there may be more from here on."""
    is_cut: bool = False
    """Fewer chunks than there may be, since their inputs make the answer large enough."""


@dataclass(frozen=True, slots=True)
class Alive:
    """A heartbeat's answer."""

    void: frozenset[Token]
    """Of the tokens named: those whose work nobody wants any more."""
    released: int
    """Chunks that were pending for the worker without its knowledge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit set while running, in place of the strategies' own numbers."""

    meta_key: str
    value: int | None
    """The only one that it is for; None: every value without a limit of its own."""
    max: int | None = None
    """Chunks in hand at most, for MaxSimultaneous."""
    per_second: float | None = None
    """Tokens that come, for RateLimit."""
    burst: int | None = None
    """Tokens that a bucket holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A worker that gave a sign of life and has not gone."""

    name: str
    seen_ms_ago: int
    """Since its last sign of life, on Redis's clock."""
    info: Mapping[str, Any]
    """What it tells of itself: host, pid, queues and more; empty before its first heartbeat."""
    chunks_in_hand: int = 0
    """Of this queue."""
    oldest_ms: int | None = None
    """How long it has had the one that it has had for longest; None: it has none."""
    is_alive: bool = True
    """Whether it has been silent for less long than its own heartbeat timeout."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one bounded sweep did. `next_from` None: this was the last page."""

    chunks: int
    next_from: str | None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Submissions gone, and prefixes whose objects are to be deleted."""

    submissions: int
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErrorChunks:
    """A page of the finished chunks that have operations that failed, ascending."""

    indexes: tuple[int, ...]
    next_index: int | None
    """Where the next page begins; None: this was the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentInputs:
    """Inputs that nobody needs any more: of chunks from `first_index` on."""

    submission_id: SubmissionId
    prefix: str
    first_index: int
    chunks_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionPage:
    """A part of a list. `next` is what goes after it, as `after`; None on the last page."""

    submissions: tuple[Submission, ...]
    next: SubmissionId | None


@dataclass(frozen=True, slots=True)
class ChunkWindow:
    """Which of some consecutive chunks are done, a bit each."""

    first: int
    """The first chunk of the window."""
    end: int
    """The first chunk behind it."""
    bits: bytes
    """The highest bit of the first byte is chunk `first - first % 8`; missing bytes are zero."""

    def __contains__(self, index: object) -> bool:
        """Whether a chunk is in the window and done."""
        if not isinstance(index, int) or not self.first <= index < self.end:
            return False
        at = index - self.first // 8 * 8
        return at // 8 < len(self.bits) and bool(self.bits[at // 8] >> (7 - at % 8) & 1)

    def __iter__(self) -> Iterator[int]:
        """Give the chunks that are done, ascending."""
        base = self.first // 8 * 8
        return (
            index
            for at, byte in enumerate(self.bits)
            if byte
            for index in range(base + at * 8, base + at * 8 + 8)
            if index in self
        )

    @property
    def done_until(self) -> int:
        """The first chunk of the window that is not done, `end` when all are."""
        index = self.first
        while index in self:
            is_whole = index % 8 == 0 and self.bits[index // 8 - self.first // 8] == _ALL_DONE
            index += 8 if is_whole else 1
        return min(index, self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a submission is at one instant, and which chunks of a window are done."""

    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    operations_total: int
    operations_done: int
    operations_failed: int
    done: ChunkWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A queue at one instant. `stats` are totals since it exists; rates are of the last minute."""

    submissions: Mapping[SubmissionState, int]
    submissions_ready: int
    chunks_delayed: int
    chunks_in_hand: int
    workers: int
    chunks_per_second: float
    operations_per_second: float
    is_paused: bool
    oldest_waiting_at: datetime | None
    """When the oldest submission that has a chunk waiting was handed in."""
    stats: Mapping[str, int]

    @property
    def backlog_chunks(self) -> int:
        """Chunks of submissions in progress that have not ended, those in hand among them."""
        return max(0, self.stats.get("backlog_chunks", 0))

    @property
    def chunks_ready(self) -> int:
        """Chunks that could be taken now."""
        # In hand may be some of ended submissions, which the backlog has no more.
        return max(0, self.backlog_chunks - self.chunks_in_hand - self.chunks_delayed)


def read_reserved(answer: list[Any], queue: str) -> Reserved:
    """Of reserve_chunks."""
    match answer:
        case [
            (b"reserved" | b"paused") as tag, wake_id, int(now), int(due), chunks, rows, rest, cut,
        ]:  # fmt: skip
            return Reserved(
                chunks=_reservations(chunks, rows, queue),
                is_paused=tag == b"paused",
                wake_id=wake_id.decode(),
                next_due_in_ms=None if due < 0 else max(0, due - now),
                look_from=rest.decode(),
                is_cut=bool(cut),
            )
    raise unexpected(answer)


def read_reservations(answer: list[Any], queue: str) -> tuple[Reservation, ...]:
    """Of get_reservations."""
    match answer:
        case [b"found", chunks, rows]:
            return _reservations(chunks, rows, queue)
    raise unexpected(answer)


def _reservations(chunks: list[Any], rows: list[Any], queue: str) -> tuple[Reservation, ...]:
    sources = {row[0]: read_source(row, queue) for row in rows}
    return tuple(
        Reservation(
            token=Token(token.decode()),
            source=sources[id_],
            chunk_index=index,
            attempt=attempt,
            expires_at_ms=expires_at,
            input=content[0] if content else None,
        )
        for token, id_, index, attempt, expires_at, content in chunks
    )


def read_completed(row: list[Any]) -> CompleteOutcome:
    """Of one chunk in complete_chunks."""
    match row:
        case [(b"completed" | b"limit_passed") as tag, id_, int(left)]:
            return Completed(SubmissionId(id_.decode()), left, tag == b"limit_passed")
        case [b"dropped", id_]:
            return Dropped(SubmissionId(id_.decode()))
        case [b"lost"]:
            return Lost()
    raise unexpected(row)


def read_failed(row: list[Any]) -> FailOutcome:
    """Of fail_chunk."""
    match row:
        case [b"retried", id_, int(attempt), int(next_at)]:
            return Retried(SubmissionId(id_.decode()), attempt, next_at)
        case [b"failed", id_, int(attempt), int()]:
            return FinallyFailed(SubmissionId(id_.decode()), attempt)
        case [b"dropped", id_]:
            return Dropped(SubmissionId(id_.decode()))
        case [b"lost"]:
            return Lost()
    raise unexpected(row)


def read_released(row: list[Any]) -> ReleaseOutcome:
    """Of one chunk in release_chunks."""
    match row:
        case [b"released", id_]:
            return Released(SubmissionId(id_.decode()))
        case [b"dropped", id_]:
            return Dropped(SubmissionId(id_.decode()))
        case [b"lost"]:
            return Lost()
    raise unexpected(row)


def read_limits(flat: list[bytes]) -> list[Limit]:
    """Of list_limits."""
    limits = []
    for name, text in sorted(_by_name(flat).items()):
        kind, key, *value = name.decode().split(":")
        only = int(value[0]) if value else None
        if kind == "max":
            limits.append(Limit(meta_key=key, value=only, max=int(text)))
        elif kind == "rate":
            interval, burst = map(int, text.decode().split(","))
            per_second = TICKS_A_SECOND / interval
            limits.append(Limit(meta_key=key, value=only, per_second=per_second, burst=burst))
    return limits


def read_counts(numbers: list[Any], stats: list[Any]) -> Counts:
    """Of count_queue."""
    n = _integers(numbers)
    return Counts(
        submissions={s: n[f"submissions_{s.value}"] for s in SubmissionState},
        submissions_ready=n["submissions_ready"],
        chunks_delayed=n["chunks_delayed"],
        chunks_in_hand=n["chunks_in_hand"],
        workers=n["workers"],
        chunks_per_second=n["chunks_lately"] * 1000 / n["lately_ms"],
        operations_per_second=n["operations_lately"] * 1000 / n["lately_ms"],
        is_paused=bool(n["is_paused"]),
        oldest_waiting_at=_instant_or_none(n["oldest_waiting_at"]),
        stats=_integers(stats),
    )


def read_inline(flat: list[Any]) -> dict[int, bytes]:
    """Of inline_contents."""
    return {int(index): data for index, data in _by_name(flat).items()}


def read_source(row: list[Any], queue: str) -> Source:
    """Of a submission in reserve_chunks' answer."""
    id_, fields, meta = row
    f = _by_name(fields)
    return Source(
        submission_id=SubmissionId(id_.decode()),
        queue=queue,
        prefix=f[b"prefix"].decode(),
        codec=f[b"codec"].decode(),
        chunks_total=int(f[b"chunks_total"]),
        chunk_size=int(f[b"chunk_size"]),
        operations_total=int(f[b"operations_total"]),
        max_attempts=int(f[b"max_attempts"]),
        metadata=f.get(b"metadata"),
        strategic_metadata=_integers(meta),
        trace_context=_trace_context(f),
        is_inline=b"inline" in f,
        is_suspect=b"is_suspect" in f,
    )


def read_submission(
    queue: str, id_: str, fields: list[bytes], meta: list[bytes], failure: list[bytes]
) -> Submission:
    """Of get_submission and of each in list_submissions."""
    f = _by_name(fields)
    state = SubmissionState(f[b"state"].decode())
    ended_at, limit = f.get(b"ended_at"), f.get(b"max_failed_operations")
    retention = f.get(b"retention_ms")
    return Submission(
        id=SubmissionId(id_),
        queue=queue,
        state=state,
        prefix=f[b"prefix"].decode(),
        codec=f[b"codec"].decode(),
        chunks_total=int(f[b"chunks_total"]),
        chunks_done=int(f[b"chunks_done"]),
        chunks_in_hand=int(f[b"chunks_in_hand"]),
        chunks_failed=int(f.get(b"chunks_failed", 0)),
        chunk_size=int(f[b"chunk_size"]),
        operations_total=int(f[b"operations_total"]),
        operations_done=int(f[b"operations_done"]),
        operations_failed=int(f[b"operations_failed"]),
        max_failed_operations=None if limit is None else int(limit),
        max_attempts=int(f[b"max_attempts"]),
        backoff=Backoff(first_ms=int(f[b"backoff_first_ms"]), max_ms=int(f[b"backoff_max_ms"])),
        retention_ms=None if retention is None else int(retention),
        delete_inputs_at_completion=b"delete_inputs" in f,
        metadata=f.get(b"metadata"),
        strategic_metadata=_integers(meta),
        trace_context=_trace_context(f),
        is_inline=b"inline" in f,
        created_at=_instant(f[b"created_at"]),
        ended_at=None if ended_at is None else _instant(ended_at),
        last_failure=_failure(failure),
    )


def read_progress(
    state: bytes, numbers: list[bytes], bits: bytes, *, first: int, limit: int
) -> Progress:
    """Of done_chunks."""
    n = _integers(numbers)
    end = min(first + limit, n["chunks_total"])
    if state == b"completed":
        bits = b"\xff" * (-(-end // 8) - first // 8)
    return Progress(
        state=SubmissionState(state.decode()),
        done=ChunkWindow(first, max(first, end), bits),
        **n,
    )


def _by_name(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _integers(flat: list[Any]) -> dict[str, int]:
    return {key.decode(): int(value) for key, value in _by_name(flat).items()}


def _trace_context(fields: dict[bytes, Any]) -> dict[str, str]:
    text = fields.get(b"trace_context")
    return msgspec.json.decode(text, type=dict[str, str]) if text else {}


def _instant(milliseconds: bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def _instant_or_none(milliseconds: int) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC) if milliseconds else None


def _failure(flat: list[bytes]) -> Failure | None:
    if not flat:
        return None
    f = _by_name(flat)
    return Failure(
        chunk_index=int(f[b"chunk_index"]),
        attempt=int(f[b"attempt"]),
        at=_instant(f[b"at"]),
        type=f[b"type"].decode(),
        message=f[b"message"].decode(errors="replace"),
        traceback=f[b"traceback"].decode(errors="replace"),
    )


def unexpected(answer: object) -> OpsqueueInternalError:
    """Make the error for an answer that no case reads: client and script differ in version."""
    return OpsqueueInternalError(f"a script answered {answer!r}, which this version can't read")
