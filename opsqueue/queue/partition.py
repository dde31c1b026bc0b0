"""Partitions as values: how tokens and streams' ids name theirs, and how answers become one.

No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from msgspec.structs import replace

from opsqueue.model.answers import Counts, WorkerSeen
from opsqueue.model.chunk import Token
from opsqueue.model.submission import SubmissionState

Item = TypeVar("Item")

_SEPARATOR: Final = "@"
"""Between the id of an entry and the partition whose stream has it."""
_IN_TOKEN: Final = re.compile(r"[0-9]+-[0-9]+:[0-9]{17}([0-9]{2}):")


def partition_of(token: Token) -> int:
    """Give the partition that a token is of: its submission's. What is no token is the first's."""
    found = _IN_TOKEN.match(token)
    return int(found[1]) if found else 0


def grouped(items: Iterable[Item], tokens: Iterable[Token]) -> dict[int, list[Item]]:
    """Group items by the partitions of their tokens."""
    groups: dict[int, list[Item]] = {}
    for item, token in zip(items, tokens, strict=True):
        groups.setdefault(partition_of(token), []).append(item)
    return groups


def placed(entry_id: str, partition: int) -> str:
    """Name an entry of a partition's stream."""
    return f"{entry_id}{_SEPARATOR}{partition:02}"


def place_of(text: str) -> tuple[int, str]:
    """Give partition and entry of what `placed` named; without a partition it is the first's."""
    entry_id, _, partition = text.partition(_SEPARATOR)
    return int(partition or 0), entry_id


def joined(ids: Mapping[int, str]) -> str:
    """Write streams' ids by partition as one text; the first partition's alone as it is."""
    if ids.keys() == {0}:
        return ids[0]
    return ",".join(placed(id_, partition) for partition, id_ in sorted(ids.items()))


def taken_apart(text: str) -> dict[int, str]:
    """Give streams' ids by partition, of what `joined` wrote."""
    return dict(map(place_of, text.split(",")))


def merged_worker(a: WorkerSeen, b: WorkerSeen) -> WorkerSeen:
    """Give one worker as it is seen in two partitions."""
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
    """Give the counts of a queue of those of its partitions."""
    oldest = [c.oldest_waiting_at for c in counted if c.oldest_waiting_at is not None]
    return Counts(
        queue=counted[0].queue,
        submissions={s: sum(c.submissions.get(s, 0) for c in counted) for s in SubmissionState},
        submissions_ready=sum(c.submissions_ready for c in counted),
        chunks_delayed=sum(c.chunks_delayed for c in counted),
        chunks_in_hand=sum(c.chunks_in_hand for c in counted),
        # Workers are in all partitions, but for those that do not know of a new one yet.
        workers=max(c.workers for c in counted),
        chunks_per_second=sum(c.chunks_per_second for c in counted),
        operations_per_second=sum(c.operations_per_second for c in counted),
        is_paused=all(c.is_paused for c in counted),
        oldest_waiting_at=min(oldest, default=None),
        stats={
            name: sum(c.stats.get(name, 0) for c in counted) for c in counted for name in c.stats
        },
    )
