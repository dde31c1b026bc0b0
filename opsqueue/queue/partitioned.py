"""A queue that may be spread over several partitions, as if it were one.

Strategies and limits hold within each partition. A token names the partition that it is of, so that
reports go to the right one; a worker's life is told to all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from opsqueue.exceptions import OpsqueueError, RedisUnavailableError
from opsqueue.model.answers import Alive, Inserted, Reserved
from opsqueue.model.chunk import (
    MAX_BATCH,
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    Finished,
    ReleaseOutcome,
    Reservation,
    Token,
)
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue import calls
from opsqueue.queue.calls import KEY_KEPT_MS
from opsqueue.queue.partition import grouped, joined, partition_of
from opsqueue.queue.partitioned_readings import PartitionedReadings
from opsqueue.queue.partitions import each_part
from opsqueue.queue.queue import Queue, prefix_taken
from opsqueue.strategy import AnyStrategy

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class PartitionedQueue(PartitionedReadings):
    """One queue in Redis, in as many partitions as it has: what clients and the API use.

    A program that does not know of a new partition yet (for KNOWN_FOR_S) reads and reports what is
    in it all the same, since ids and tokens name it.
    """

    # Transitions of submissions

    def insert_submission(
        self,
        new: NewSubmission,
        *,
        idempotency_key: str = "",
        idempotency_ms: int = KEY_KEPT_MS,
    ) -> Inserted:
        """Accept a submission in one of the partitions; see `Queue.insert_submission`.

        Which one its idempotency key says, or else its prefix. So one with a key is looked for in
        the others before, lest two submissions have one prefix.
        """
        if idempotency_key:
            # Another process may have put it into a partition that we don't know of yet, and its
            # answer may have been lost.
            self._look()
        home = self._home_of(idempotency_key or new.prefix)
        if idempotency_key:
            # Where there were fewer partitions, the key had another home.
            for partitions in self._history[:-1]:
                earlier = self._home_of(idempotency_key, partitions)
                if earlier is not home and earlier.lookup_key(idempotency_key):
                    home = earlier
                    break
            if not home.lookup_key(idempotency_key):
                self._check_prefix(new.prefix, home)
        return home.insert_submission(
            new, idempotency_key=idempotency_key, idempotency_ms=idempotency_ms
        )

    def _check_prefix(self, prefix: str, home: Queue) -> None:
        for part in self.parts():
            if part is not home and not part.unknown_prefixes([prefix]):
                owner = part.lookup_prefix(prefix)
                raise prefix_taken(prefix, owner)

    def restore_submission(
        self, new: NewSubmission, finished: Finished, *, idempotency_key: str = ""
    ) -> Inserted:
        """Insert a submission that Redis has lost; see `Queue.restore_submission`.

        Where its insert would go, so that a repetition of that finds it.
        """
        if idempotency_key:
            self._look()
        home = self._home_of(idempotency_key or new.prefix)
        return home.restore_submission(new, finished, idempotency_key=idempotency_key)

    # Transitions of chunks

    def reserve_chunks(
        self,
        worker: str,
        *,
        limit: int = 1,
        reservation_ms: int = 600_000,
        strategy: AnyStrategy | None = None,
        heartbeat_timeout_ms: int = calls.DEFAULT_TIMEOUT_MS,
    ) -> Reserved:
        """Take up to `limit` chunks, of one partition after the other, beginning with any."""
        parts = self.parts()
        first = random.randrange(len(parts))  # noqa: S311 chance needs no cryptography
        found: dict[int, Reserved] = {}
        troubles: list[OpsqueueError] = []
        left = limit
        for part in [*parts[first:], *parts[:first]]:
            try:
                reserved = part.reserve_chunks(
                    worker,
                    limit=left,
                    reservation_ms=reservation_ms,
                    strategy=strategy,
                    heartbeat_timeout_ms=heartbeat_timeout_ms,
                )
            except RedisUnavailableError as exc:
                troubles.append(exc)
                continue
            found[part.partition] = reserved
            left -= len(reserved.chunks)
            if left <= 0:
                break
        if troubles and left == limit:
            raise troubles[0]
        dues = [r.next_due_in_ms for r in found.values() if r.next_due_in_ms is not None]
        return Reserved(
            chunks=tuple(chunk for reserved in found.values() for chunk in reserved.chunks),
            is_paused=all(reserved.is_paused for reserved in found.values()),
            wake_id=joined({n: reserved.wake_id for n, reserved in found.items()}),
            next_due_in_ms=min(dues, default=None),
            is_cut=any(reserved.is_cut for reserved in found.values()),
        )

    def complete_chunks(
        self,
        tokens: Sequence[Token],
        *,
        operations_failed: Mapping[Token, int] | None = None,
        outputs: Mapping[Token, bytes] | None = None,
    ) -> list[CompleteOutcome]:
        """Report chunks as done; see `Queue.complete_chunks`."""
        failed, outputs = operations_failed or {}, outputs or {}

        def complete(part: Queue, named: Sequence[Token]) -> list[CompleteOutcome]:
            return part.complete_chunks(
                named,
                operations_failed={token: failed[token] for token in named if token in failed},
                outputs={token: outputs[token] for token in named if token in outputs},
            )

        return self._by_part(list(tokens), tokens, complete)

    def fail_chunk(
        self, token: Token, failure: ChunkFailure, *, jitter: int | None = None
    ) -> FailOutcome:
        """Report that an attempt failed; see `Queue.fail_chunk`."""
        return self._part(partition_of(token)).fail_chunk(token, failure, jitter=jitter)

    def fail_chunks(self, failures: Sequence[tuple[Token, ChunkFailure]]) -> list[FailOutcome]:
        """Report attempts that failed; see `Queue.fail_chunks`."""
        return self._by_part(
            list(failures),
            [token for token, _ in failures],
            lambda part, rows: part.fail_chunks(rows),
        )

    def release_chunks(self, tokens: Sequence[Token], *, delay_ms: int = 0) -> list[ReleaseOutcome]:
        """Give chunks back without using an attempt; see `Queue.release_chunks`."""
        return self._by_part(
            list(tokens),
            tokens,
            lambda part, named: part.release_chunks(named, delay_ms=delay_ms),
        )

    def get_reservations(self, tokens: Sequence[Token]) -> dict[Token, Reservation]:
        """Give what the reservations of these tokens are for; see `Queue.get_reservations`."""
        found: dict[Token, Reservation] = {}
        for partition, named in grouped(tokens, tokens).items():
            found |= self._part(partition).get_reservations(named)
        return found

    def _by_part(
        self,
        items: Sequence[Item],
        tokens: Sequence[Token],
        report: Callable[[Queue, Sequence[Item]], list[Answer]],
    ) -> list[Answer]:
        """Report items to the partitions that their tokens name; give the answers in order."""
        answers: dict[int, Answer] = {}
        for partition, numbers in grouped(range(len(items)), tokens).items():
            of_part = report(self._part(partition), [items[number] for number in numbers])
            answers |= zip(numbers, of_part, strict=True)
        return [answers[number] for number in range(len(items))]

    # Transitions that workers make for themselves and for each other

    def heartbeat(
        self,
        worker: str,
        *,
        tokens: Iterable[Token] = (),
        info: bytes = b"{}",
        unknown_ms: int = 30_000,
        timeout_ms: int = calls.DEFAULT_TIMEOUT_MS,
    ) -> Alive:
        """Say in every partition that a worker lives; see `Queue.heartbeat`."""
        tokens = list(tokens)
        named = grouped(tokens, tokens)
        parts = {part.partition: part for part in self.parts()}
        parts |= {partition: self._part(partition) for partition in named}

        def beat(part: Queue) -> Alive:
            return part.heartbeat(
                worker,
                tokens=named.get(part.partition, []),
                info=info,
                unknown_ms=unknown_ms,
                timeout_ms=timeout_ms,
            )

        alive = each_part(parts.values(), beat)
        return Alive(
            void=frozenset(token for answer in alive for token in answer.void),
            released=sum(answer.released for answer in alive),
            lost=sum(answer.lost for answer in alive),
        )

    def retire_worker(self, worker: str, *, limit: int = MAX_BATCH) -> bool:
        """Release what a worker holds in any partition; True when nothing is left to do."""
        return all(each_part(self.parts(), lambda part: part.retire_worker(worker, limit=limit)))
