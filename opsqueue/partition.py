"""Partitions as values: how tokens and streams' ids name theirs, and how answers become one.

No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from opsqueue.answers import Counts, WorkerSeen
from opsqueue.chunk import Token
from opsqueue.submission import SubmissionState

Item = TypeVar("Item")

SEPARATOR: Final = "@"
"""Between a token and the partition that it is of; the first partition's have none."""


def token_of(partition: int, raw: Token) -> Token:
    """Give the name that a token of a partition has outside."""
    return raw if partition == 0 else Token(f"{raw}{SEPARATOR}{partition:02}")


def split(token: Token) -> tuple[int, Token]:
    """Give a token's partition, and what it is called there. What is no token is the first's."""
    raw, _, partition = token.partition(SEPARATOR)
    if len(partition) == 2 and partition.isdecimal() and partition.isascii():
        return int(partition), Token(raw)
    return 0, token


def raw_tokens(tokens: Iterable[Token]) -> list[Token]:
    """Give what tokens are called in their partitions."""
    return [split(token)[1] for token in tokens]


def grouped(items: Iterable[Item], tokens: Iterable[Token]) -> dict[int, list[Item]]:
    """Group items by the partitions of their tokens."""
    groups: dict[int, list[Item]] = {}
    for item, token in zip(items, tokens, strict=True):
        groups.setdefault(split(token)[0], []).append(item)
    return groups


def joined(ids: Mapping[int, str]) -> str:
    """Write streams' ids by partition as one text; the first partition's alone as it is."""
    if ids.keys() == {0}:
        return ids[0]
    return ",".join(f"{id_}{SEPARATOR}{partition:02}" for partition, id_ in sorted(ids.items()))


def taken_apart(text: str) -> dict[int, str]:
    """Give streams' ids by partition, of what `joined` wrote."""
    return {partition: str(id_) for partition, id_ in map(split, map(Token, text.split(",")))}


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
