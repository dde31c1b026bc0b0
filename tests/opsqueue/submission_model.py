"""A submission in the model of queue_model.py: the place of each chunk, and its worker."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from opsqueue.model.new_submission import BUILT_IN, Defaults, NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState

Chunk = tuple[SubmissionId, int]


class Place(StrEnum):
    """Where a chunk is, ended submissions included: their free chunks wait for a retry."""

    CURSOR = "cursor"
    REDO = "redo"
    DELAYED = "delayed"
    RESERVED = "reserved"
    DONE = "done"
    LOST = "lost"


FREE = (Place.CURSOR, Place.REDO)


@dataclass
class ModelSubmission:
    id: SubmissionId
    new: NewSubmission
    meta: dict[str, int]
    created_at: int
    places: list[Place]
    options: Defaults = BUILT_IN
    state: SubmissionState = SubmissionState.IN_PROGRESS
    ended_at: int | None = None
    attempts: Counter[int] = field(default_factory=Counter)
    was_in_hand: set[int] = field(default_factory=set)
    """Chunks whose next reservation is `again`."""
    last_failure: tuple[int, int, str] | None = None
    failed_in: dict[int, int] = field(default_factory=dict)
    """Operations that failed, by finished chunk; only those that have any."""
    limit: int | None = None
    chunks_failed: int = 0
    inputs: dict[int, bytes] = field(default_factory=dict)
    outputs: dict[int, bytes] = field(default_factory=dict)
    in_hand: int = 0
    """As counted: reserved and lost chunks."""

    @property
    def is_running(self) -> bool:
        return self.state is SubmissionState.IN_PROGRESS

    @property
    def done(self) -> int:
        return self.places.count(Place.DONE)

    @property
    def cursor(self) -> int:
        return len(self.places) - self.places.count(Place.CURSOR)

    @property
    def is_ready(self) -> bool:
        return self.is_running and any(place in FREE for place in self.places)

    @property
    def next_index(self) -> int:
        if Place.REDO in self.places:
            return self.places.index(Place.REDO)
        return self.places.index(Place.CURSOR)

    def operations_in(self, index: int) -> int:
        if index < len(self.places) - 1:
            return self.new.chunk_size
        return self.new.operations - (len(self.places) - 1) * self.new.chunk_size

    @property
    def operations_failed(self) -> int:
        return sum(self.failed_in.values())

    @property
    def operations_done(self) -> int:
        return sum(self.operations_in(i) for i, p in enumerate(self.places) if p is Place.DONE)


@dataclass
class Entry:
    """A reservation's two halves: the entry in the stream, and that it is pending for a worker."""

    id: SubmissionId
    index: int
    worker: str
    reserved_at: int
    expires_at: int
    is_pending: bool = True
    is_there: bool = True


def entry_of(token: str) -> str:
    """Return the id of the stream's entry, which a token begins with."""
    return token.partition(":")[0]


def order_of(token: str) -> tuple[int, int]:
    ms, sequence = entry_of(token).split("-")
    return int(ms), int(sequence)
