"""A queue's answers as values. `replies.py` parses them from the scripts' replies; no I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct, field
from msgspec.structs import force_setattr

from opsqueue.model.chunk import Reservation, Token
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState

_ALL_DONE: Final = b"\xff"
"""A byte of a bitmap in which all eight chunks are done."""


class Inserted(Struct, frozen=True, kw_only=True):
    """An accepted submission. `is_new` is False if its idempotency key was already known."""

    id: SubmissionId
    is_new: bool
    submission: Submission | None = None
    """Its present state; None: only its id is known."""
    is_first: bool = False
    """The queue or partition is new, or had been deleted: its name must be registered."""
    warning: str = ""
    """A warning for the producer, although the submission was accepted."""


class Reserved(Struct, frozen=True, kw_only=True):
    """The result of a reserve, and what to wait for if it returned too few chunks."""

    chunks: tuple[Reservation, ...]
    is_paused: bool
    next_due_in_ms: int | None
    """Time until the next delayed chunk is due or a rate limit permits one; None: unknown."""
    has_alarm: bool = True
    """False: a sleeper is woken then, since others with its strategy come by themselves."""
    scan_from: str = ""
    """Not '': the script reached its limit and found nothing; continue the search from here."""
    is_cut: bool = False
    """There may be more chunks, but these make the answer large, or the script long, enough."""
    is_suspect: bool = False
    """The only chunk of this answer may kill the whole worker: hold nothing beside it."""
    must_drain: bool = False
    """A suspect waits: reserve nothing more until the worker holds nothing; then ask `alone`."""


class Alive(Struct, frozen=True):
    """The answer to a heartbeat."""

    revoked: frozenset[Token] = field(name="void")
    """Tokens in this heartbeat whose reservations are no longer valid."""
    released: int
    """Chunks that were pending for the worker without its knowledge, and were released."""
    lost: int = 0
    """Reservations that something other than a report or a sweep removed from Redis."""
    is_free: bool = False
    """The queue is not paused and may have a chunk to reserve; False over HTTP."""
    workers: int = 0
    """Workers that have not retired, of the partition that has most; 0 over HTTP."""
    partitions: tuple[int, ...] = ()
    """The numbers of partitions that the queue has had; () from another than the first one."""
    is_due: bool = False
    """Something should have been swept by now; False over HTTP."""

    @classmethod
    def merged(cls, answers: Iterable[Alive]) -> Alive:
        """Return the answer of a whole queue from those of its parts."""
        parts = list(answers)
        return cls(
            revoked=frozenset(token for one in parts for token in one.revoked),
            released=sum(one.released for one in parts),
            lost=sum(one.lost for one in parts),
            is_free=any(one.is_free for one in parts),
            workers=max((one.workers for one in parts), default=0),
            partitions=max((one.partitions for one in parts), default=()),
            is_due=any(one.is_due for one in parts),
        )


LimitKind = Literal["max", "rate"]


class Limit(Struct, frozen=True, kw_only=True):
    """A limit set at run time, which replaces the numbers in the strategies; of one kind."""

    meta_key: str
    value: int | None
    """The value that it applies to; None: every value without a limit of its own."""
    max: int | None = None
    """The largest number of reserved chunks, for MaxSimultaneous."""
    per_second: float | None = None
    """Tokens added a second, for RateLimit."""
    burst: int | None = None
    """Tokens that a bucket holds."""

    @property
    def kind(self) -> LimitKind:
        """The strategy that it limits: `max` is MaxSimultaneous, `rate` is RateLimit."""
        return "rate" if self.max is None else "max"

    @property
    def name(self) -> tuple[str, int | None, LimitKind]:
        """Key, value and kind: the identity of the limit."""
        return self.meta_key, self.value, self.kind


MAX_WORKERS: Final = 1_000
"""The most workers that a list has: those that were seen last."""


class WorkerSeen(Struct, frozen=True, kw_only=True):
    """A worker that has not retired. `info` is what it reports about itself.

    `oldest_ms`: how long the worker has held the chunk that it reserved first; null: it holds none.
    `is_alive`: its last heartbeat is more recent than its own heartbeat timeout.
    """

    name: str
    seen_ms_ago: int
    """Time since its last heartbeat, on Redis's clock; not every reserve counts as one."""
    info: Mapping[str, Any]
    """Host, pid, queues and more; empty before its first heartbeat."""
    chunks_in_hand: int = 0
    """Chunks of this queue that it holds."""
    oldest_ms: int | None = None
    is_alive: bool = True

    def reads(self, codec: str) -> bool | None:
        """Return whether its handler of this queue reads a codec; None: it does not report that."""
        told = self.info.get("codecs")
        return codec.removesuffix("+zstd") in told if isinstance(told, list) else None


class Swept(Struct, frozen=True):
    """The result of one bounded sweep. `next_from` None: this was the last page."""

    chunks: int
    next_from: str | None
    lost: int = 0
    """Reservations that something other than a report or a sweep removed from Redis."""
    workers: tuple[str, ...] = ()
    """Workers whose chunks were reclaimed."""


class Due(Struct, frozen=True, kw_only=True):
    """The upkeep that one partition needs, and when it needs more; None: no time is known."""

    dead_in_ms: int | None
    """Time until the first worker counts as dead; 0: one does."""
    objects_in_ms: int | None
    """Time until there are submissions to forget or objects to delete; 0: there are."""
    chunks_in_hand: int
    is_repairing: bool
    in_progress: int
    """Submissions in progress."""


class RepairStep(Struct, frozen=True, kw_only=True):
    """The result of one bounded step of a repair, with the totals of the repair so far."""

    chunks: int = 0
    """Chunks freed by this step."""
    next_from: str | None = "-"
    """None: the repair has ended."""
    is_busy: bool = False
    """Nothing was done: another sweeper runs the repair, and its totals are not known here."""
    entries: int = 0
    """Reservations examined; one examined twice counts twice."""
    submissions: int = 0
    chunks_seen: int = 0
    """Chunks of these submissions that have been reserved at least once."""
    freed: int = 0
    lost: int = 0
    """Reservations of which only one of their two halves was left."""


class Forgotten(Struct, frozen=True):
    """Submissions that were forgotten, and prefixes whose objects are to be deleted."""

    submissions: int
    prefixes: tuple[str, ...]


class ErrorChunks(Struct, frozen=True, rename={"indexes": "chunks", "next_index": "next"}):
    """A page of the chunks with errors; `next` is the next page's `from=`, null on the last."""

    indexes: tuple[int, ...]
    """Indexes of finished chunks, ascending."""
    next_index: int | None = None
    """The first index of the next page; None: this was the last."""


class SpentInputs(Struct, frozen=True, kw_only=True):
    """Inputs that are no longer needed: those of the chunks from `first_index` on."""

    submission_id: SubmissionId
    prefix: str
    first_index: int
    chunks_total: int


class SubmissionPage(Struct, frozen=True, kw_only=True):
    """A page of a list; `next` is the `after=` of the next page, null on the last."""

    submissions: tuple[Submission, ...]
    next: SubmissionId | None = None


class ChunkWindow(Struct, frozen=True):
    """A range of consecutive chunks, with a bit for each that tells whether it is done."""

    first: int
    """The first chunk of the window."""
    end: int
    """The index after the last chunk of the window."""
    bits: bytes
    """The highest bit of the first byte is chunk `first - first % 8`; missing bytes are zero."""

    def __contains__(self, index: object) -> bool:
        """Return whether a chunk is in the window and done."""
        if not isinstance(index, int) or not self.first <= index < self.end:
            return False
        at = index - self.first // 8 * 8
        return at // 8 < len(self.bits) and bool(self.bits[at // 8] >> (7 - at % 8) & 1)

    def __iter__(self) -> Iterator[int]:
        """Yield the indexes of the chunks that are done, ascending."""
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
        offset = self.first % 8
        if not self.bits:
            return min(self.first, self.end)
        # Treat the chunks of the first byte that are before the window as done.
        bits = bytes([self.bits[0] | (0xFF00 >> offset & 0xFF)]) + self.bits[1:]
        whole = len(bits) - len(bits.lstrip(_ALL_DONE))
        rest = bits[whole] if whole < len(bits) else 0
        leading = 8 - (~rest & 0xFF).bit_length()
        return min(self.first - offset + 8 * whole + leading, self.end)


class ProgressNumbers(Struct, frozen=True, kw_only=True):
    """Progress of a submission at one instant."""

    state: SubmissionState
    chunks_total: int
    chunks_done: int
    chunks_in_hand: int
    operations_total: int
    operations_done: int
    operations_failed: int


class Progress(
    ProgressNumbers,
    frozen=True,
    kw_only=True,
    rename={"first": "from", "end": "to", "bits": "done"},
):
    """Progress of a submission, and which chunks of a window are done.

    `done_until` is the first chunk of the window that is not done. `done` has a bit for each chunk
    from `from` up to, but not including, `to`. The highest bit of its first byte is chunk
    `from - from % 8`. Zeros at its end may be missing.
    """

    done_until: int = 0
    first: int
    end: int
    bits: bytes

    def __post_init__(self) -> None:
        """Compute the field that follows from the others."""
        force_setattr(self, "done_until", self.done.done_until)

    @property
    def done(self) -> ChunkWindow:
        """The chunks of the window that are done."""
        return ChunkWindow(self.first, self.end, self.bits)


class Durations(Struct, frozen=True, kw_only=True):
    """A histogram of durations. Each count is of those above the previous bound, up to its own."""

    counts: Mapping[float, int]
    """Counts by bound in seconds, ascending; the last bound is infinity."""
    sum_s: float

    @classmethod
    def summed(cls, parts: Iterable[Durations]) -> Durations:
        """Return the sum of several histograms."""
        parts = list(parts)
        bounds = sorted({bound for part in parts for bound in part.counts})
        return cls(
            counts={bound: sum(part.counts.get(bound, 0) for part in parts) for bound in bounds},
            sum_s=sum(part.sum_s for part in parts),
        )


class Counts(Struct, frozen=True, kw_only=True):
    """A queue at one instant. `stats` are totals since it was created; rates: the last minute."""

    queue: str
    submissions: Mapping[SubmissionState, int]
    submissions_ready: int
    chunks_delayed: int
    chunks_in_hand: int
    workers: int
    chunks_per_second: float
    operations_per_second: float
    is_paused: bool
    oldest_waiting_at: datetime | None = None
    """The instant when the oldest submission with a waiting chunk was submitted."""
    stats: Mapping[str, int]

    def __post_init__(self) -> None:
        """Round the rates; further digits are noise."""
        for name in ("chunks_per_second", "operations_per_second"):
            force_setattr(self, name, round(getattr(self, name), 3))

    @property
    def backlog_chunks(self) -> int:
        """Chunks of submissions in progress that have not ended, including reserved ones."""
        return max(0, self.stats.get("backlog_chunks", 0))

    @property
    def chunks_ready(self) -> int:
        """Chunks that could be reserved now."""
        # Reserved chunks may be of ended submissions, which the backlog no longer includes.
        return max(0, self.backlog_chunks - self.chunks_in_hand - self.chunks_delayed)
