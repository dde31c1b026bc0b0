"""The partitions of a queue: their number, and how their answers are merged into one.

A queue may be spread over several slots of a cluster. Each slot is a partition. The last two digits
of a submission's id are its partition, and tokens have them, too. Settings made at run time apply
to all partitions; strategies and limits apply within each.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, TypeVar
from zlib import crc32

from msgspec.structs import replace

from opsqueue.exceptions import InvalidArgumentError, RedisUnavailableError
from opsqueue.model.answers import (
    Counts,
    RepairStep,
    Reserved,
    SubmissionPage,
    Swept,
    WorkerSeen,
)
from opsqueue.model.checks import is_text, shown
from opsqueue.model.chunk import Token
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.process import PerProcess
from opsqueue.model.submission import SubmissionState

Item = TypeVar("Item")

KNOWN_FOR_S: Final = 2.0
"""After this time a program asks again for the number of a queue's partitions."""

_SEPARATOR: Final = "@"
"""Stands between the id of an entry and the partition whose stream has it."""
_PLACE: Final = re.compile(rf"([^{_SEPARATOR}]*)(?:{_SEPARATOR}([0-9]{{2}}))?")
_ENTRY: Final = re.compile(r"([0-9]{1,19})-([0-9]{1,19})(?![0-9])")
_IN_TOKEN: Final = re.compile(r"[0-9]+-[0-9]+:[0-9]{17}([0-9]{2}):")


def partition_of(token: Token) -> int:
    """Return the partition of a token's submission; for an invalid token, the first partition."""
    found = _IN_TOKEN.match(token) if is_text(token) else None
    return int(found[1]) if found else 0


def entry_of(token: Token) -> tuple[int, int]:
    """Return the entry of a token, for sorting; (0, 0), which there never is, if it has none."""
    found = _ENTRY.match(token) if is_text(token) else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


@dataclass(frozen=True, slots=True)
class History:
    """The partitions of a queue, as its first one knows them."""

    numbers: Sequence[int]
    """All numbers of partitions that there were; the last one is current."""
    tags: Mapping[int, str] = field(default_factory=dict)
    """Tags that were chosen for partitions, also for ones that are only about to be used."""
    by: str = ""
    """The key of strategic metadata that chooses a submission's partition, if there is one."""

    def home_of(self, new: NewSubmission, key: str) -> int:
        """Return the partition for an insert with an idempotency key, or without one (`""`)."""
        value = new.strategic_metadata.get(self.by) if self.by else None
        return home_of((key or new.prefix) if value is None else f"{value}", self.numbers[-1])

    def earlier_homes_of(self, key: str) -> Sequence[int]:
        """Return the partitions that may know an idempotency key beside the present home."""
        if self.by:
            return range(self.numbers[-1])
        # While there were fewer partitions, the key may have belonged to another one.
        return [home_of(key, number) for number in self.numbers[:-1]]


class Partitions:
    """The number of a queue's partitions and their tags, as last answered by Redis.

    Args:
        ask: asks the queue's first partition.
    """

    def __init__(self, ask: Callable[[], History]) -> None:
        """Start without a question: every queue has one partition."""
        self.ask = ask
        self.history: Sequence[int] = [1]
        self._with_tags = History([1])
        self._with_tags_at = float("-inf")
        self._asked_at = float("-inf")
        self._asked = self._answered = self._answered_with_tags = 0
        self._lock = PerProcess(threading.Lock)

    def count(self) -> int:
        """Return the number, at most KNOWN_FOR_S old.

        Raises:
            RedisUnavailableError: Redis does not answer, and the number was never known.
        """
        if time.monotonic() - self._asked_at >= KNOWN_FOR_S:
            try:
                self.look()
            except RedisUnavailableError:
                if self._asked_at == float("-inf"):
                    raise
                # The first partition's master does not answer. The other partitions may, and must
                # not wait for it each time.
                self._asked_at = time.monotonic()
        return self.history[-1]

    def look(self) -> int:
        """Return the present number.

        Raises:
            RedisUnavailableError: the first partition does not answer.
        """
        self.look_at_all()
        return self.history[-1]

    def all(self) -> History:
        """Return everything that is known, at most KNOWN_FOR_S old if Redis answers.

        Raises:
            RedisUnavailableError: Redis does not answer, and nothing was ever known.
        """
        if time.monotonic() - self._with_tags_at >= KNOWN_FOR_S:
            try:
                return self.look_at_all()
            except RedisUnavailableError:
                if self._with_tags_at == float("-inf"):
                    raise
                self._with_tags_at = time.monotonic()  # as in `count`
        return self._with_tags

    def tag_of(self, partition: int) -> str:
        """Return the tag that was chosen for a partition, "" if none was.

        Redis is asked only about a partition that this program did not know: a tag never changes.

        Raises:
            RedisUnavailableError: the partition is not known, and the first one does not answer.
        """
        known = self._with_tags
        if partition >= known.numbers[-1] and partition not in known.tags:
            known = self.look_at_all()
        return known.tags.get(partition, "")

    def look_at_all(self) -> History:
        """Ask Redis, and return its answer.

        Raises:
            RedisUnavailableError: the first partition does not answer.
        """
        question = self.next_question()
        found = self.ask()
        self.learn(found.numbers, question, found=found)
        return found

    def next_question(self) -> int:
        """Return a new question's number; pass it to `learn` with the answer."""
        with self._lock.get():
            self._asked += 1
            return self._asked

    def learn(self, history: Sequence[int], question: int, *, found: History | None = None) -> None:
        """Store an answer of Redis, unless a later question has already been answered.

        Args:
            history: all numbers of partitions that there were.
            question: the number of the question.
            found: the whole answer. None: only the numbers are known.
        """
        with self._lock.get():
            if question > self._answered:
                self.history, self._answered = history, question
            if found is not None and question > self._answered_with_tags:
                self._with_tags, self._answered_with_tags = found, question
        if found is not None:
            self._with_tags_at = time.monotonic()
        self._asked_at = time.monotonic()


def home_of(key: str, partitions: int) -> int:
    """Return the partition for an insert with a key or prefix."""
    return crc32(key.encode()) % partitions


def grouped(items: Iterable[Item], tokens: Iterable[Token]) -> dict[int, list[Item]]:
    """Group items by the partitions of their tokens."""
    groups: dict[int, list[Item]] = {}
    for item, token in zip(items, tokens, strict=True):
        groups.setdefault(partition_of(token), []).append(item)
    return groups


def placed(entry_id: str, partition: int) -> str:
    """Return a name for an entry of a partition's stream."""
    return f"{entry_id}{_SEPARATOR}{partition:02}"


def place_of(text: str, *, first: int = 0) -> tuple[int, str]:
    """Parse a name from `placed` into partition and entry; without a partition, it is `first`.

    Raises:
        InvalidArgumentError: the text does not have this form.
    """
    found = _PLACE.fullmatch(text) if is_text(text) else None
    if found is None:
        message = f"{shown(text)} is not a position in a queue: give one from an earlier answer"
        raise InvalidArgumentError(message)
    return int(found[2] or first), found[1]


def joined(ids: Mapping[int, str], *, first: int = 0) -> str:
    """Join streams' ids by partition into one text; the first partition's alone is unchanged."""
    if ids.keys() == {first}:
        return ids[first]
    return ",".join(placed(id_, partition) for partition, id_ in sorted(ids.items()))


def taken_apart(text: str, *, first: int = 0) -> dict[int, str]:
    """Parse a text from `joined` into streams' ids by partition."""
    parts = text.split(",") if is_text(text) else [text]
    return dict(place_of(part, first=first) for part in parts)


def merged_workers(parts: Iterable[Iterable[WorkerSeen]]) -> list[WorkerSeen]:
    """Return each worker once, with its totals of all partitions; the last seen is first."""
    by_name: dict[str, WorkerSeen] = {}
    for worker in chain.from_iterable(parts):
        known = by_name.get(worker.name)
        by_name[worker.name] = worker if known is None else _merged_worker(known, worker)
    return sorted(by_name.values(), key=lambda worker: worker.seen_ms_ago)


def _merged_worker(a: WorkerSeen, b: WorkerSeen) -> WorkerSeen:
    seen_last = min(a, b, key=lambda worker: worker.seen_ms_ago)
    oldest = [w.oldest_ms for w in (a, b) if w.oldest_ms is not None]
    return replace(
        seen_last,
        info=seen_last.info or a.info or b.info,
        chunks_in_hand=a.chunks_in_hand + b.chunks_in_hand,
        oldest_ms=max(oldest, default=None),
        is_alive=a.is_alive or b.is_alive,
    )


def summed(counted: Sequence[Counts]) -> Counts:
    """Return the counts of a queue from those of its partitions."""
    if len(counted) == 1:
        return counted[0]
    oldest = [c.oldest_waiting_at for c in counted if c.oldest_waiting_at is not None]
    return Counts(
        queue=counted[0].queue,
        submissions={s: sum(c.submissions.get(s, 0) for c in counted) for s in SubmissionState},
        submissions_ready=sum(c.submissions_ready for c in counted),
        chunks_delayed=sum(c.chunks_delayed for c in counted),
        chunks_in_hand=sum(c.chunks_in_hand for c in counted),
        # Workers are in all partitions, except those that don't know of a new one yet.
        workers=max(c.workers for c in counted),
        chunks_per_second=sum(c.chunks_per_second for c in counted),
        operations_per_second=sum(c.operations_per_second for c in counted),
        is_paused=all(c.is_paused for c in counted),
        oldest_waiting_at=min(oldest, default=None),
        stats={
            name: sum(c.stats.get(name, 0) for c in counted) for c in counted for name in c.stats
        },
    )


def merged_pages(pages: Iterable[SubmissionPage], *, is_newest: bool, limit: int) -> SubmissionPage:
    """Merge pages of different submissions into one page."""
    pages = list(pages)
    # No page may go further than the end of another one, where the next page starts.
    ends = [page.next for page in pages if page.next is not None]
    end = (max if is_newest else min)(ends, default=None)
    found = sorted(
        (s for page in pages for s in page.submissions), key=lambda s: s.id, reverse=is_newest
    )
    if end is not None:
        found = [s for s in found if (s.id >= end if is_newest else s.id <= end)]
    if len(found) > limit:
        found = found[:limit]
        end = found[-1].id
    return SubmissionPage(submissions=tuple(found), next=end)


def merged_reserves(found: Mapping[int, Reserved]) -> Reserved:
    """Merge the answers of reserves in several partitions."""
    dues = [r.next_due_in_ms for r in found.values() if r.next_due_in_ms is not None]
    return Reserved(
        chunks=tuple(chunk for reserved in found.values() for chunk in reserved.chunks),
        is_paused=all(reserved.is_paused for reserved in found.values()),
        has_alarm=any(reserved.has_alarm for reserved in found.values()),
        next_due_in_ms=min(dues, default=None),
        is_cut=any(reserved.is_cut for reserved in found.values()),
        is_suspect=any(reserved.is_suspect for reserved in found.values()),
        must_drain=any(reserved.must_drain for reserved in found.values()),
    )


def merged_sweeps(parts: Sequence[Swept | None]) -> Swept | None:
    """Return the sum of sweeps of several partitions; None if others sweep all of them."""
    swept = [one for one in parts if one is not None]
    if not swept:
        return None
    return Swept(
        sum(one.chunks for one in swept),
        "-" if any(one.next_from for one in swept) else None,
        sum(one.lost for one in swept),
        tuple(dict.fromkeys(worker for one in swept for worker in one.workers)),
    )


def merged_repairs(parts: Sequence[RepairStep | None]) -> RepairStep | None:
    """Return the totals of several partitions' repairs; the sum ends when all have ended."""
    steps = [step for step in parts if step is not None]
    if len(steps) < 2:
        return steps[0] if steps else None
    return RepairStep(
        chunks=sum(step.chunks for step in steps),
        next_from=None if all(step.next_from is None for step in steps) else "-",
        is_busy=all(step.is_busy for step in steps),
        entries=sum(step.entries for step in steps),
        submissions=sum(step.submissions for step in steps),
        chunks_seen=sum(step.chunks_seen for step in steps),
        freed=sum(step.freed for step in steps),
        lost=sum(step.lost for step in steps),
    )
