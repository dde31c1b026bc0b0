"""What a queue answers, as values; `replies.py` reads them off the scripts' replies. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import force_setattr

from opsqueue.model.chunk import Reservation, Token
from opsqueue.model.submission import Submission, SubmissionId, SubmissionState

_ALL_DONE: Final = b"\xff"
"""A byte of a bitmap whose eight chunks are all done."""


class Inserted(Struct, frozen=True, kw_only=True):
    """An accepted submission. `is_new` is False when its idempotency key was known."""

    id: SubmissionId
    is_new: bool
    submission: Submission | None = None
    """Its state now; None: only its id is known."""
    is_first: bool = False
    """The queue, or its partition, is new or was deleted: its name must be registered."""
    warning: str = ""
    """What the producer should know of it though it was accepted."""


class Reserved(Struct, frozen=True, kw_only=True):
    """What a reserve gave, and what to wait for when it gave too little."""

    chunks: tuple[Reservation, ...]
    is_paused: bool
    wake_id: str = ""
    """`Queue.wait_for_wake` after this one misses nothing; "": over HTTP, the API waits."""
    next_due_in_ms: int | None
    """Until the next delayed chunk is free, or a rate limit lets one through; None: unknown."""
    look_from: str = ""
    """Not '': nothing was found within one script's bounds, there may be more from here on."""
    is_cut: bool = False
    """Fewer chunks than there may be, since their inputs make the answer large enough."""


class Alive(Struct, frozen=True):
    """A heartbeat's answer."""

    void: frozenset[Token]
    """Of the tokens named: those whose work nobody wants any more."""
    released: int
    """Chunks that were pending for the worker without its knowledge."""
    lost: int = 0
    """Reservations that something other than a report or a sweep removed from Redis."""


LimitKind = Literal["max", "rate"]


class Limit(Struct, frozen=True, kw_only=True):
    """A limit set while running, in place of the strategies' own numbers; of one kind."""

    meta_key: str
    value: int | None
    """The only one that it is for; None: every value without a limit of its own."""
    max: int | None = None
    """Chunks in hand at most, for MaxSimultaneous."""
    per_second: float | None = None
    """Tokens that come, for RateLimit."""
    burst: int | None = None
    """Tokens that a bucket holds."""

    @property
    def kind(self) -> LimitKind:
        """Tell for which strategy it is."""
        return "rate" if self.max is None else "max"

    @property
    def name(self) -> tuple[str, int | None, LimitKind]:
        """Give what there is one limit of."""
        return self.meta_key, self.value, self.kind


class WorkerSeen(Struct, frozen=True, kw_only=True):
    """A worker that has not gone. `info` is what it tells of itself.

    `oldest_ms`: how long it has had the chunk that it has had for longest; null: it has none.
    `is_alive`: it has been silent for less long than its own heartbeat timeout.
    """

    name: str
    seen_ms_ago: int
    """Since its last sign of life, on Redis's clock; a reserve need not be one."""
    info: Mapping[str, Any]
    """Host, pid, queues and more; empty before its first heartbeat."""
    chunks_in_hand: int = 0
    """Of this queue."""
    oldest_ms: int | None = None
    is_alive: bool = True

    def reads(self, codec: str) -> bool | None:
        """Whether its handler of this queue reads a codec; None: it does not tell."""
        told = self.info.get("codecs")
        return codec.removesuffix("+zstd") in told if isinstance(told, list) else None


class Swept(Struct, frozen=True):
    """Result of one bounded sweep. `next_from` None: this was the last page."""

    chunks: int
    next_from: str | None
    lost: int = 0
    """Reservations that something other than a report or a sweep removed from Redis."""
    workers: tuple[str, ...] = ()
    """Whose chunks were taken back."""


class RepairStep(Struct, frozen=True, kw_only=True):
    """Result of one bounded step of a repair, with the totals of the repair so far."""

    chunks: int = 0
    """Freed by this step."""
    next_from: str | None = "-"
    """None: the repair has ended."""
    is_busy: bool = False
    """Nothing was done: another sweeper does it, and its totals are not known here."""
    entries: int = 0
    """Reservations looked at; one looked at twice counts twice."""
    submissions: int = 0
    chunks_seen: int = 0
    """Chunks of these submissions that had been handed out once."""
    freed: int = 0
    lost: int = 0
    """Reservations of which only a half was left."""


class Forgotten(Struct, frozen=True):
    """Submissions gone, and prefixes whose objects are to be deleted."""

    submissions: int
    prefixes: tuple[str, ...]


class ErrorChunks(Struct, frozen=True, rename={"indexes": "chunks", "next_index": "next"}):
    """A page of the chunks with errors; `next` is what `from=` takes, null on the last."""

    indexes: tuple[int, ...]
    """Ascending, of finished chunks."""
    next_index: int | None = None
    """Where the next page begins; None: this was the last."""


class SpentInputs(Struct, frozen=True, kw_only=True):
    """Inputs that nobody needs any more: of chunks from `first_index` on."""

    submission_id: SubmissionId
    prefix: str
    first_index: int
    chunks_total: int


class SubmissionPage(Struct, frozen=True, kw_only=True):
    """A page of a list; `next` is what `after=` takes for the next page, null on the last."""

    submissions: tuple[Submission, ...]
    next: SubmissionId | None = None


class ChunkWindow(Struct, frozen=True):
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
        offset = self.first % 8
        if not self.bits:
            return min(self.first, self.end)
        # As if the chunks of the first byte that are before the window were done.
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
    """Progress of a submission, and the chunks of a window that are done.

    `done_until` is the first chunk of the window that is not done. `done` has a bit for each chunk
    from `from` to before `to`; the highest bit of its first byte is chunk `from - from % 8`, and
    zeros at its end may be missing.
    """

    done_until: int = 0
    first: int
    end: int
    bits: bytes

    def __post_init__(self) -> None:
        """Compute what answers show and follows from the rest."""
        force_setattr(self, "done_until", self.done.done_until)

    @property
    def done(self) -> ChunkWindow:
        """The chunks of the window that are done."""
        return ChunkWindow(self.first, self.end, self.bits)


class Durations(Struct, frozen=True, kw_only=True):
    """How long some things took: how many within each bound in seconds, but not the one before."""

    counts: Mapping[float, int]
    """Ascending by bound; infinity is the last one."""
    sum_s: float

    @classmethod
    def summed(cls, parts: Iterable[Durations]) -> Durations:
        """Return those of several together."""
        parts = list(parts)
        bounds = sorted({bound for part in parts for bound in part.counts})
        return cls(
            counts={bound: sum(part.counts.get(bound, 0) for part in parts) for bound in bounds},
            sum_s=sum(part.sum_s for part in parts),
        )


class Counts(Struct, frozen=True, kw_only=True):
    """A queue at one instant. `stats` are totals since it exists; rates are of the last minute."""

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
    """When the oldest submission that has a chunk waiting was handed in."""
    stats: Mapping[str, int]

    def __post_init__(self) -> None:
        """Round the rates: further digits are noise."""
        for name in ("chunks_per_second", "operations_per_second"):
            force_setattr(self, name, round(getattr(self, name), 3))

    @property
    def backlog_chunks(self) -> int:
        """Chunks of submissions in progress that have not ended, those in hand among them."""
        return max(0, self.stats.get("backlog_chunks", 0))

    @property
    def chunks_ready(self) -> int:
        """Chunks that could be taken now."""
        # In hand may be some of ended submissions, which the backlog has no more.
        return max(0, self.backlog_chunks - self.chunks_in_hand - self.chunks_delayed)
