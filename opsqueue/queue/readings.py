"""The readings of a queue: what it holds and what became of it, without changing anything.

`Queue` has them all; each is one Lua script, or a blocking read of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from opsqueue.contents.inline import Kind
from opsqueue.exceptions import (
    SubmissionNotFoundError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.model.answers import Counts, ErrorChunks, Limit, Progress, SubmissionPage, WorkerSeen
from opsqueue.model.checks import checked_whole
from opsqueue.model.chunk import MAX_BATCH, Reservation, Token
from opsqueue.model.new_submission import MAX_CHUNKS, check_strategic_metadata
from opsqueue.model.submission import (
    MAX_LOOKED_UP,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.queue import calls
from opsqueue.queue.grid import GridReadings
from opsqueue.queue.replies import (
    read_counts,
    read_inline,
    read_limits,
    read_progress,
    read_reservations,
    read_submission,
    unexpected,
)

_ERROR_PAGE_BYTES: Final = 64 * 1024
"""Of the bitmap of chunks with errors, in one reading: some 500,000 chunks."""


MAX_WINDOW: int = 65_536
"""Chunks that one reading of progress answers for: 8 KiB."""


class Readings(GridReadings):
    """What can be asked of a queue."""

    def get_submission(self, submission_id: SubmissionId) -> Submission:
        """Give a submission as it is now.

        Raises:
            SubmissionNotFoundError: also after its retention.
        """
        answer = self._scripts.call("get_submission", id=str(submission_id))
        match answer:
            case [b"found", fields, meta, failure]:
                return read_submission(self.name, str(submission_id), fields, meta, failure)
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    def done_chunks(
        self, submission_id: SubmissionId, *, start: int = 0, limit: int = MAX_WINDOW
    ) -> Progress:
        """Give how far a submission is, and which of `limit` chunks from `start` on are done.

        Args:
            submission_id: its id.
            start: the first chunk of the window; behind the last one: an empty window.
            limit: at most MAX_WINDOW.

        Raises:
            SubmissionNotFoundError: also after its retention.
        """
        first = min(checked_whole("start", start, most=2**63 - 1), MAX_CHUNKS)
        limit = min(calls.checked_limit(limit), MAX_WINDOW)
        answer = self._scripts.call(
            "done_chunks",
            id=str(submission_id),
            first_byte=first // 8,
            bytes=-(-(first + limit) // 8) - first // 8,
        )
        match answer:
            case [b"found", state, numbers, bits]:
                return read_progress(state, numbers, bits, first=first, limit=limit)
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    def get_reservations(self, tokens: Sequence[Token]) -> dict[Token, Reservation]:
        """Give what the reservations of these tokens are for; those that have ended are left out.

        Args:
            tokens: at most MAX_BATCH.
        """
        answer = self._scripts.call("get_reservations", rest=calls.checked_tokens(tokens))
        return {chunk.token: chunk for chunk in read_reservations(answer, self.name)}

    def list_submissions(
        self,
        wanted: SubmissionFilter | None = None,
        *,
        after: SubmissionId | None = None,
        order: Literal["newest", "oldest"] = "newest",
        limit: int = 100,
    ) -> SubmissionPage:
        """List submissions by creation, at most MAX_BATCH, from after an id on.

        Where `wanted` has pairs, a page may be shorter than `limit`, or empty, and still have a
        `next`: each call looks at a bounded number.
        """
        wanted = wanted or SubmissionFilter()
        limit = min(calls.checked_limit(limit), MAX_BATCH)
        states = [wanted.state] if wanted.state else list(SubmissionState)
        return merged_pages(
            [self._list_page(state, wanted, after, order, limit) for state in states],
            is_newest=order == "newest",
            limit=limit,
        )

    def _list_page(
        self,
        state: SubmissionState,
        wanted: SubmissionFilter,
        after: SubmissionId | None,
        order: str,
        limit: int,
    ) -> SubmissionPage:
        least, below = wanted.id_range(after, is_newest=order == "newest")
        answer = self._scripts.call(
            "list_submissions",
            state=state.value,
            below="" if below is None else str(below),
            order=order,
            limit=limit,
            rest=[part for pair in wanted.strategic_metadata.items() for part in pair],
            **{"from": "" if least is None else str(least)},
        )
        match answer:
            case [b"listed", rows, last]:
                page = tuple(
                    read_submission(self.name, id_.decode(), fields, meta, failure)
                    for fields, meta, failure, id_ in rows
                )
                after = SubmissionId(last.decode()) if last else None
                return SubmissionPage(submissions=page, next=after)
        raise unexpected(answer)

    def lookup_submissions(
        self,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState] = (SubmissionState.IN_PROGRESS,),
        limit: int = MAX_LOOKED_UP,
    ) -> list[SubmissionId]:
        """Give the submissions that have all pairs of strategic metadata, ascending.

        Args:
            pairs: none: all submissions.
            states: that they may be in.
            limit: at most.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """
        check_strategic_metadata(pairs)
        calls.checked_limit(limit)
        wanted = ",".join(state.value for state in states)
        found: list[SubmissionId] = []
        # Without pairs each state has an index of its own; with them one index has all states.
        for group in [wanted] if pairs else wanted.split(","):
            after = ""
            while True:
                ids, next_after = self._lookup_page(pairs, group, after)
                found += ids
                if len(found) > limit:
                    raise TooManyMatchingSubmissionsError(limit)
                if next_after in ("", after):
                    break
                after = next_after
        return sorted(found)

    def _lookup_page(
        self, pairs: Mapping[str, int], states: str, after: str
    ) -> tuple[list[SubmissionId], str]:
        answer = self._scripts.call(
            "lookup_submissions",
            after=after,
            limit=MAX_BATCH,
            states=states,
            rest=[part for pair in pairs.items() for part in pair],
        )
        match answer:
            case [b"found", ids, next_after]:
                return [SubmissionId(id_.decode()) for id_ in ids], next_after.decode()
        raise unexpected(answer)

    def inline_contents(
        self, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> dict[int, bytes]:
        """Give what a small submission has in Redis, encoded, by chunk: 1 MiB at most.

        With `index` only what there is of that chunk.

        Raises:
            SubmissionNotFoundError.
        """
        which = "in" if kind == "inputs" else "out"
        wanted = "" if index is None else index
        match self._scripts.call(
            "inline_contents", id=str(submission_id), kind=which, index=wanted
        ):
            case [b"found", flat]:
                return read_inline(flat)
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
            case answer:
                raise unexpected(answer)

    def lookup_prefix(self, prefix: str) -> SubmissionId | None:
        """Give the submission whose contents lie below a prefix of objects."""
        match self._scripts.call("lookup_prefix", prefix=prefix):
            case [b"found", id_]:
                return SubmissionId(id_.decode())
            case [b"unknown"]:
                return None
            case answer:
                raise unexpected(answer)

    def lookup_key(self, idempotency_key: str) -> SubmissionId | None:
        """Give the submission that was inserted with a key, as long as the key is remembered."""
        match self._scripts.call("lookup_key", idempotency=idempotency_key):
            case [b"found", id_]:
                return SubmissionId(id_.decode())
            case [b"unknown"]:
                return None
            case answer:
                raise unexpected(answer)

    def get_partitions(self) -> list[int]:
        """Give the numbers of partitions that the queue has had; the last one holds."""
        match self._scripts.call("get_partitions"):
            case [b"partitions", numbers]:
                return [int(number) for number in numbers]
            case answer:
                raise unexpected(answer)

    def chunks_with_errors(
        self, submission_id: SubmissionId, *, first_index: int = 0, limit: int = MAX_BATCH
    ) -> ErrorChunks:
        """Give a page of the finished chunks that have operations that failed, ascending.

        A page may be empty though it is not the last: one looks at a bounded number of chunks.

        Raises:
            SubmissionNotFoundError.
        """
        checked_whole("first_index", first_index, most=MAX_CHUNKS)
        answer = self._scripts.call(
            "chunks_with_errors",
            id=str(submission_id),
            first_index=first_index,
            limit=min(calls.checked_limit(limit), MAX_BATCH),
            most_bytes=_ERROR_PAGE_BYTES,
        )
        match answer:
            case [b"listed", indexes, int(next_index)]:
                return ErrorChunks(tuple(indexes), None if next_index < 0 else next_index)
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    def list_limits(self) -> list[Limit]:
        """List the limits set while running."""
        match self._scripts.call("list_limits"):
            case [b"listed", flat]:
                return read_limits(flat)
            case answer:
                raise unexpected(answer)

    def get_retention(self) -> int | None:
        """Give the milliseconds for which ended submissions are kept; None: not set, a day."""
        match self._scripts.call("get_retention"):
            case [b"retention", ms]:
                return int(ms) if ms else None
            case answer:
                raise unexpected(answer)

    def unknown_prefixes(self, prefixes: Sequence[str]) -> list[str]:
        """Give those prefixes that no submission has; at most MAX_BATCH are looked up."""
        match self._scripts.call("unknown_prefixes", rest=calls.checked_prefixes(prefixes)):
            case [b"unknown", unknown]:
                return [prefix.decode() for prefix in unknown]
            case answer:
                raise unexpected(answer)

    def list_workers(self, *, limit: int = 1_000) -> list[WorkerSeen]:
        """List workers that have not gone, the ones seen last first."""
        answer = self._scripts.call("list_workers", limit=calls.checked_limit(limit))
        match answer:
            case [b"listed", int(now), rows]:
                return [
                    WorkerSeen(
                        name=name.decode(),
                        seen_ms_ago=max(0, now - seen),
                        info=msgspec.json.decode(info) if info else {},
                        chunks_in_hand=held,
                        oldest_ms=max(0, now - reserved_at) if reserved_at else None,
                        is_alive=now < dead_at,
                    )
                    for name, seen, info, held, reserved_at, dead_at in rows
                ]
        raise unexpected(answer)

    def count_queue(self) -> Counts:
        """Count what the queue holds now, and give its totals."""
        answer = self._scripts.call("count_queue")
        match answer:
            case [b"counted", numbers, stats]:
                return read_counts(self.name, numbers, stats)
        raise unexpected(answer)

    def wait_for_wake(self, wake_id: str, *, block_ms: int) -> bool:
        """Sleep until a chunk may have become free since the reserve that gave `wake_id`."""
        return bool(self._scripts.read_after("wake", wake_id, block_ms=block_ms, limit=1))

    def wait_for_news(self, submission_id: SubmissionId, news_id: str, *, block_ms: int) -> bool:
        """Sleep until a watched submission changed since the watch that gave `news_id`."""
        stream = f"sub:{submission_id}:news"
        return bool(self._scripts.read_after(stream, news_id, block_ms=block_ms, limit=1))

    def last_event_id(self) -> str:
        """Give where the events stand now; `wait_for_events` after it misses nothing."""
        return self._scripts.last_id("events")

    def wait_for_events(
        self, last_id: str, *, block_ms: int
    ) -> tuple[str, list[tuple[SubmissionId, str]]]:
        """Sleep until submissions change; give the new last id, and (id, event) pairs."""
        entries = self._scripts.read_after("events", last_id, block_ms=block_ms)
        events = [
            (SubmissionId(row[b"submission"].decode()), row[b"event"].decode())
            for _, row in entries
        ]
        return (entries[-1][0].decode() if entries else last_id), events


def merged_pages(pages: Iterable[SubmissionPage], *, is_newest: bool, limit: int) -> SubmissionPage:
    """Make one page of several, each of other submissions."""
    pages = list(pages)
    # Where one page ends, the others must not go further: the next page goes on there.
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
