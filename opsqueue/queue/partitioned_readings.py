"""The readings and the upkeep of a queue in several partitions: of all of them, as one answer.

Nothing is atomic over partitions: what moves while they are asked one after the other can be
missed, or counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from opsqueue.exceptions import TooManyMatchingSubmissionsError
from opsqueue.model.answers import Counts, Forgotten, Limit, LimitKind, SubmissionPage, WorkerSeen
from opsqueue.model.chunk import MAX_BATCH
from opsqueue.model.submission import MAX_LOOKED_UP, SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.queue import calls
from opsqueue.queue.grid import MAX_PAGE, ChunkInHand, HandPage
from opsqueue.queue.partition import joined, merged_worker, place_of, placed, summed, taken_apart
from opsqueue.queue.partitions import Partitions
from opsqueue.queue.readings import merged_pages

LEAST_BLOCK_MS: Final = 10


class PartitionedReadings(Partitions):
    """What can be asked of all partitions, and done for all of them."""

    # Readings

    def list_reservations(
        self,
        submission_id: SubmissionId | None = None,
        *,
        from_: str | None = None,
        limit: int = MAX_PAGE,
    ) -> HandPage:
        """List the chunks in hand; see `Queue.list_reservations`.

        A page is filled partition by partition: the oldest come first in it, not in all pages.
        """
        if submission_id is not None:
            part = self.part_of(submission_id)
            return part.list_reservations(submission_id, from_=from_, limit=limit)
        limit = min(calls.checked_limit(limit), MAX_PAGE)
        partition, from_ = place_of(from_) if from_ else (0, None)
        chunks: list[ChunkInHand] = []
        next_from: str | None = None
        for part in self.parts()[partition:]:
            if len(chunks) >= limit:
                next_from = placed("", part.partition)
                break
            page = part.list_reservations(None, from_=from_ or None, limit=limit - len(chunks))
            chunks += page.chunks
            if page.next_from is not None:
                next_from = placed(page.next_from, part.partition)
                break
            from_ = None
        return HandPage(tuple(sorted(chunks, key=lambda chunk: chunk.reserved_at)), next_from)

    def list_submissions(
        self,
        wanted: SubmissionFilter | None = None,
        *,
        after: SubmissionId | None = None,
        order: Literal["newest", "oldest"] = "newest",
        limit: int = 100,
    ) -> SubmissionPage:
        """List submissions of all partitions by creation; see `Queue.list_submissions`."""
        pages = [
            part.list_submissions(wanted, after=after, order=order, limit=limit)
            for part in self.parts()
        ]
        return merged_pages(
            pages,
            is_newest=order == "newest",
            limit=min(calls.checked_limit(limit), MAX_BATCH),
        )

    def lookup_submissions(
        self,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState] = (SubmissionState.IN_PROGRESS,),
        limit: int = MAX_LOOKED_UP,
    ) -> list[SubmissionId]:
        """Give the submissions of all partitions that have all pairs, ascending."""
        states = list(states)
        found: list[SubmissionId] = []
        for part in self.parts():
            found += part.lookup_submissions(pairs, states=states, limit=limit)
            if len(found) > limit:
                raise TooManyMatchingSubmissionsError(limit)
        return sorted(found)

    def lookup_prefix(self, prefix: str) -> SubmissionId | None:
        """Give the submission whose contents lie below a prefix, of whatever partition."""
        found = (part.lookup_prefix(prefix) for part in self.parts_now())
        return next((id_ for id_ in found if id_ is not None), None)

    def lookup_key(self, idempotency_key: str) -> SubmissionId | None:
        """Give the submission that was inserted with a key, of whatever partition."""
        found = (part.lookup_key(idempotency_key) for part in self.parts())
        return next((id_ for id_ in found if id_ is not None), None)

    def list_limits(self) -> list[Limit]:
        """List the limits set while running: those of the first partition, all have them."""
        return self._parts[0].list_limits()

    def get_retention(self) -> int | None:
        """Give for how long ended submissions are kept: all partitions say the same."""
        return self._parts[0].get_retention()

    def get_partitions(self) -> list[int]:
        """Give the numbers of partitions that the queue has had; see `Queue.get_partitions`."""
        return self._parts[0].get_partitions()

    def unknown_prefixes(self, prefixes: Sequence[str]) -> list[str]:
        """Give those prefixes that no submission of any partition has."""
        unknown = list(prefixes)
        for part in self.parts_now():
            unknown = part.unknown_prefixes(unknown)
        return unknown

    def list_workers(self, *, limit: int = 1_000) -> list[WorkerSeen]:
        """List workers, each once with what it holds in all partitions."""
        by_name: dict[str, WorkerSeen] = {}
        for part in self.parts():
            for worker in part.list_workers(limit=limit):
                known = by_name.get(worker.name)
                by_name[worker.name] = worker if known is None else merged_worker(known, worker)
        return sorted(by_name.values(), key=lambda worker: worker.seen_ms_ago)[:limit]

    def count_queue(self) -> Counts:
        """Count what all partitions hold now; not at one instant."""
        counted = [part.count_queue() for part in self.parts()]
        return counted[0] if len(counted) == 1 else summed(counted)

    def wait_for_wake(self, wake_id: str, *, block_ms: int) -> bool:
        """Sleep until a chunk may have become free in a partition; each is asked in turn."""
        ids = taken_apart(wake_id)
        block_ms = max(LEAST_BLOCK_MS, block_ms // max(1, len(ids)))
        return any(
            self._part(number).wait_for_wake(id_, block_ms=block_ms) for number, id_ in ids.items()
        )

    def wait_for_news(self, submission_id: SubmissionId, news_id: str, *, block_ms: int) -> bool:
        """Sleep until a watched submission changed; see `Queue.wait_for_news`."""
        part = self.part_of(submission_id)
        return part.wait_for_news(submission_id, news_id, block_ms=block_ms)

    def last_event_id(self) -> str:
        """Give where the events of all partitions stand now."""
        return joined({part.partition: part.last_event_id() for part in self.parts()})

    def wait_for_events(
        self, last_id: str, *, block_ms: int
    ) -> tuple[str, list[tuple[SubmissionId, str]]]:
        """Sleep until submissions change, of any partition; each is asked in turn."""
        since = taken_apart(last_id)
        events: list[tuple[SubmissionId, str]] = []
        parts = self.parts()
        for part in parts:
            # Once there are some, the others are only looked at.
            share_ms = 1 if events else max(LEAST_BLOCK_MS, block_ms // len(parts))
            since[part.partition], found = part.wait_for_events(
                since.get(part.partition, "0-0"), block_ms=share_ms
            )
            events += found
        return joined(since), events

    # Upkeep

    def pause_queue(self) -> None:
        """Let no chunk be reserved in any partition."""
        self.tell_all(lambda part: part.pause_queue())

    def resume_queue(self) -> None:
        """Let chunks be reserved again in all partitions."""
        self.tell_all(lambda part: part.resume_queue())

    def set_limit(
        self,
        meta_key: str,
        *,
        value: int | None = None,
        max: int | None = None,  # noqa: A002 as in MaxSimultaneous
        per_second: float | None = None,
        burst: int | None = None,
    ) -> None:
        """Set limits in each partition; see `Queue.set_limit`."""
        self.tell_all(
            lambda part: part.set_limit(
                meta_key, value=value, max=max, per_second=per_second, burst=burst
            )
        )

    def remove_limit(
        self, meta_key: str, *, value: int | None = None, kind: LimitKind | None = None
    ) -> None:
        """Let the strategies' own numbers hold again, in all partitions."""
        self.tell_all(lambda part: part.remove_limit(meta_key, value=value, kind=kind))

    def set_retention(self, retention_ms: int | None) -> None:
        """Set in all partitions for how long ended submissions are kept."""
        self.tell_all(lambda part: part.set_retention(retention_ms))

    def upgrade_queue(self) -> tuple[int, int]:
        """Raise the format of all partitions; see `Queue.upgrade_queue`."""
        formats: list[tuple[int, int]] = []
        self.tell_all(lambda part: formats.append(part.upgrade_queue()))
        return min(formats)

    def forget_submissions(
        self, *, limit: int = 100, deleted_prefixes: Iterable[str] = ()
    ) -> Forgotten:
        """Remove ended submissions whose retention is over, of all partitions."""
        deleted = list(deleted_prefixes)
        forgotten = [
            part.forget_submissions(limit=limit, deleted_prefixes=deleted) for part in self.parts()
        ]
        prefixes = dict.fromkeys(prefix for one in forgotten for prefix in one.prefixes)
        return Forgotten(sum(one.submissions for one in forgotten), tuple(prefixes))

    def discard_prefixes(
        self, prefixes: Sequence[str], *, step: Literal["discard", "hold", "let_go"] = "discard"
    ) -> list[str]:
        """Make prefixes that no submission has in any partition garbage.

        An insert that comes now is refused, or keeps its objects, whichever partition it goes to:
        first all are told to refuse, and only what all refuse is discarded.
        """
        parts = self.parts_now()
        if len(parts) == 1 or step != "discard":
            return parts[0].discard_prefixes(prefixes, step=step)
        refused = set(prefixes)
        for part in parts:
            refused &= set(part.discard_prefixes(prefixes, step="hold"))
        others = [prefix for prefix in prefixes if prefix not in refused]
        discarded = [prefix for prefix in prefixes if prefix in refused]
        for part in parts:
            part.discard_prefixes(discarded)
            part.discard_prefixes(others, step="let_go")
        return discarded
