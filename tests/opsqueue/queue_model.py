"""A model of the state machine in plain Python, without Redis, to compare the scripts with.

Every chunk has one place, and a transition moves it. Where Redis may choose (the submission that
Random picks, the size of a step of a repair), the model gets the choice and refuses it if it is not
allowed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from opsqueue.model.answers import Reserved, SpentInputs
from opsqueue.model.chunk import (
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
    Token,
)
from opsqueue.model.new_submission import BUILT_IN, Defaults, NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.strategy import AnyStrategy, Layer
from tests.opsqueue.strategy_model import Buckets, allowed
from tests.opsqueue.submission_model import (
    Chunk,
    Entry,
    ModelSubmission,
    Place,
    entry_of,
    order_of,
)

POSTPONED_MS = 300_000
"""How far ahead a waiting suspect is in `delayed`."""


class Model:
    """The expected queue. Methods take `now` first and return the expected answer of Redis."""

    def __init__(self) -> None:
        self.subs: dict[SubmissionId, ModelSubmission] = {}
        self.stream: dict[Token, Entry] = {}
        self.tokens: set[Token] = set()
        self.has_stream = False
        self.has_group = False
        self.is_repairing = False
        self.delayed: dict[Chunk, int] = {}
        self.workers: dict[str, int] = {}
        self.dead_at: dict[str, int] = {}
        self.begun: dict[str, set[str]] = {}
        """Entries of the stream, as each worker has reported them."""
        self.suspects: dict[Chunk, int] = {}
        """Since when those wait that are delayed; others are only remembered."""
        self.hosts: dict[str, Token] = {}
        self.expiring: dict[SubmissionId, int] = {}
        self.prefixes: dict[str, SubmissionId] = {}
        self.garbage: set[str] = set()
        self.spent_inputs: dict[SubmissionId, int] = {}
        self.defaults = Defaults()
        self.idempotency: dict[str, SubmissionId] = {}
        self.is_paused = False
        self.last_stamp = (0, 0)
        self.stats: Counter[str] = Counter()
        self.buckets = Buckets()

    # Readings

    def ready(self) -> list[SubmissionId]:
        return sorted(id_ for id_, sub in self.subs.items() if sub.is_ready)

    def in_hand_by(self, key: str) -> dict[int, int]:
        counts: Counter[int] = Counter()
        for sub in self.subs.values():
            if key in sub.meta:
                counts[sub.meta[key]] += sub.in_hand
        return {value: count for value, count in counts.items() if count > 0}

    @property
    def entries(self) -> int:
        """As many as the stream has."""
        return sum(entry.is_there for entry in self.stream.values())

    def next_due(self) -> int | None:
        """Return when the next chunk is due that waits for an instant; suspects don't."""
        times = [at for chunk, at in self.delayed.items() if chunk not in self.suspects]
        return min(times, default=None)

    def can_reserve(self, strategy: AnyStrategy, now: int) -> bool:
        """Return whether a reserve would return a chunk now."""
        due = {id_ for (id_, _), at in self.delayed.items() if at <= now and id_ in self.subs}
        free = {*self.ready(), *(id_ for id_ in due if self.subs[id_].is_running)}
        may_be, _ = self._allowed(strategy, self.entries, now, free)
        return not self.is_paused and bool(may_be)

    # Small steps

    def _end(self, now: int, sub: ModelSubmission, state: SubmissionState) -> None:
        sub.state, sub.ended_at = state, now
        assert sub.options.retention_ms is not None
        self.expiring[sub.id] = now + sub.options.retention_ms
        self.stats[f"submissions_{state.value}"] += 1
        if state is SubmissionState.COMPLETED and sub.places:
            self._let_inputs_go(sub)

    def _let_inputs_go(self, sub: ModelSubmission) -> None:
        if sub.new.delete_inputs_at_completion and sub.new.inline:
            sub.inputs = {}
        elif sub.new.delete_inputs_at_completion:
            self.spent_inputs[sub.id] = 0

    def _count_dropped(self, sub: ModelSubmission, failed: int) -> None:
        left = len(sub.places) - sub.done
        self.stats["chunks_dropped"] += left - failed
        self.stats["backlog_chunks"] -= left
        self.stats["backlog_operations"] -= sub.new.operations - sub.operations_done

    def _end_reservation(self, token: Token) -> tuple[ModelSubmission, int] | None:
        entry = self.stream.pop(token, None)
        if entry is None:
            return None
        if not entry.is_there:
            self.is_repairing = True
            self.stats["reservations_lost"] += 1
            return None
        sub = self.subs[entry.id]
        sub.in_hand -= 1
        is_lost = not self.has_group
        assert sub.places[entry.index] is (Place.LOST if is_lost else Place.RESERVED)
        sub.places[entry.index] = Place.REDO
        if not entry.is_pending:
            self.stats["reservations_lost"] += 1
            self._mark_again(sub, entry.index)
            return None
        return sub, entry.index

    def _mark_again(self, sub: ModelSubmission, index: int) -> None:
        if sub.is_running:
            sub.was_in_hand.add(index)

    def _isolate(self, now: int, sub: ModelSubmission, index: int, delay_ms: int = 0) -> None:
        sub.places[index] = Place.DELAYED
        self.delayed[sub.id, index] = now + POSTPONED_MS
        self.suspects[sub.id, index] = now + delay_ms

    def _release_unbegun(self, now: int, token: Token, sub: ModelSubmission, index: int) -> None:
        if sub.is_running and token in self.hosts.values():
            self._isolate(now, sub, index)

    def has_begun(self, worker: str, token: Token) -> bool:
        """Return whether a chunk is charged to a worker."""
        return worker not in self.begun or entry_of(token) in self.begun[worker]

    def _use_attempt(
        self, now: int, sub: ModelSubmission, index: int, kind: str, jitter: int | None
    ) -> FailOutcome:
        if not sub.is_running:
            return Dropped(sub.id)
        sub.attempts[index] += 1
        sub.was_in_hand.add(index)
        attempt = sub.attempts[index]
        sub.last_failure = (index, attempt, kind)
        if attempt == sub.options.max_attempts:
            self.stats["chunks_failed"] += 1
            sub.chunks_failed = 1
            self._end(now, sub, SubmissionState.FAILED)
            self._count_dropped(sub, 1)
            return FinallyFailed(sub.id, attempt)
        self.stats["chunks_retried"] += 1
        first_ms, max_ms = sub.options.backoff_first_ms or 0, sub.options.backoff_max_ms or 0
        full = 0 if jitter is None else min(max_ms, first_ms * 2 ** (attempt - 1))
        if full == 0:
            return Retried(sub.id, attempt, now)
        due = now + math.floor(full / 2 + full / 2 * (jitter or 0) / 1000)
        sub.places[index] = Place.DELAYED
        self.delayed[sub.id, index] = due
        return Retried(sub.id, attempt, due)

    def _notice_loss(self) -> None:
        if not self.has_group:
            self.stats["reservations_lost"] += self.entries
            self.stream.clear()
            self.has_stream = self.has_group = self.is_repairing = True

    # Submissions

    def insert(self, now: int, new: NewSubmission, idempotency_key: str) -> SubmissionId | None:
        """None: the prefix is taken, or the key is another one's."""
        if idempotency_key and idempotency_key in self.idempotency:
            id_ = self.idempotency[idempotency_key]
            return id_ if self._is_repetition(new, self.subs.get(id_)) else None
        if new.prefix in self.prefixes:
            return None
        ms, sequence = self.last_stamp
        if now > ms:
            ms, sequence = now, 0
        else:
            ms, sequence = (ms, sequence + 1) if sequence < 9999 else (ms + 1, 0)
        self.last_stamp = ms, sequence
        id_ = SubmissionId(f"{ms:013}{sequence:04}00")
        places = [Place.CURSOR] * new.chunks_total
        sub = ModelSubmission(id_, new, dict(new.strategic_metadata), now, places)
        sub.options = new.own_defaults.over(self.defaults.over(BUILT_IN))
        sub.limit = new.failed_operations_limit
        sub.inputs = dict(enumerate(new.inline or ()))
        self.subs[id_] = sub
        self.prefixes[new.prefix] = id_
        if idempotency_key:
            self.idempotency[idempotency_key] = id_
        self.stats["submissions_inserted"] += 1
        self.stats["chunks_inserted"] += new.chunks_total
        self.stats["operations_inserted"] += new.operations
        if new.chunks_total == 0:
            self._end(now, sub, SubmissionState.COMPLETED)
            return id_
        self.stats["backlog_chunks"] += new.chunks_total
        self.stats["backlog_operations"] += new.operations
        if not self.has_stream:
            self._notice_loss()
        return id_

    def _is_repetition(self, new: NewSubmission, first: ModelSubmission | None) -> bool:
        if first is None:
            return False  # forgotten
        old, now = first.new, new.own_defaults.over(self.defaults.over(BUILT_IN))
        return (
            (old.operations, old.chunk_size, old.failed_operations_limit)
            == (new.operations, new.chunk_size, new.failed_operations_limit)
            and (old.delete_inputs_at_completion, old.strategic_metadata)
            == (new.delete_inputs_at_completion, new.strategic_metadata)
            and (None in (old.inline, new.inline) or old.inline == new.inline)
            and all(
                getattr(first.options, name) == getattr(now, name)
                or (getattr(old.own_defaults, name), getattr(new.own_defaults, name))
                == (None, None)
                for name in Defaults.__struct_fields__
            )
        )

    def cancel(self, now: int, id_: SubmissionId) -> bool:
        sub = self.subs.get(id_)
        if sub is None or not sub.is_running:
            return False
        self._end(now, sub, SubmissionState.CANCELLED)
        self._count_dropped(sub, 0)
        return True

    def retry(self, now: int, id_: SubmissionId) -> bool:
        sub = self.subs.get(id_)
        if sub is None or sub.state not in (SubmissionState.FAILED, SubmissionState.CANCELLED):
            return False
        sub.state, sub.ended_at, sub.last_failure = SubmissionState.IN_PROGRESS, None, None
        sub.attempts.clear()
        sub.was_in_hand = set(range(sub.cursor))
        for chunk in [chunk for chunk in self.delayed if chunk[0] == id_]:
            del self.delayed[chunk]
            self.suspects.pop(chunk, None)
            sub.places[chunk[1]] = Place.REDO
        sub.limit, sub.chunks_failed = None, 0
        del self.expiring[id_]
        self.stats["submissions_retried"] += 1
        self.stats["backlog_chunks"] += len(sub.places) - sub.done
        self.stats["backlog_operations"] += sub.new.operations - sub.operations_done
        if sub.done == len(sub.places):
            self._end(now, sub, SubmissionState.COMPLETED)
        return True

    def update_metadata(self, id_: SubmissionId, changes: dict[str, int | None]) -> bool:
        sub = self.subs.get(id_)
        if sub is None or not sub.is_running:
            return False
        for key, value in changes.items():
            if value is None:
                sub.meta.pop(key, None)
            else:
                sub.meta[key] = value
        return True

    def forget(
        self, now: int, limit: int, deleted_prefixes: list[str], answered: set[str]
    ) -> tuple[int, int]:
        """Return the numbers of submissions and prefixes; any prefix pending deletion may come."""
        for prefix in deleted_prefixes:
            if prefix in self.garbage:
                self.garbage.remove(prefix)
                del self.prefixes[prefix]
        due = sorted((at, id_) for id_, at in self.expiring.items() if at <= now)
        forgotten = 0
        for _, id_ in due[:limit]:
            sub = self.subs[id_]
            if sub.in_hand > 0:
                self.expiring[id_] = now + 60_000
            else:
                self.garbage.add(sub.new.prefix)
                self.spent_inputs.pop(id_, None)
                del self.expiring[id_], self.subs[id_]
                forgotten += 1
        assert answered <= self.garbage
        return forgotten, min(limit, len(self.garbage))

    def delete_inputs(self, limit: int, deleted: dict[SubmissionId, int]) -> list[SpentInputs]:
        for id_, index in deleted.items():
            if id_ in self.spent_inputs:
                self.spent_inputs[id_] = max(index, self.spent_inputs[id_])
                if index >= len(self.subs[id_].places):
                    del self.spent_inputs[id_]
        left = sorted((index, id_) for id_, index in self.spent_inputs.items())
        return [
            SpentInputs(
                submission_id=id_,
                prefix=self.subs[id_].new.prefix,
                first_index=index,
                chunks_total=len(self.subs[id_].places),
            )
            for index, id_ in left[:limit]
        ]

    def discard_prefixes(self, prefixes: list[str]) -> list[str]:
        self.garbage |= {prefix for prefix in prefixes if prefix not in self.prefixes}
        self.prefixes |= {p: SubmissionId(0) for p in prefixes if p not in self.prefixes}
        return [prefix for prefix in prefixes if prefix in self.garbage]

    # Chunks

    def reserve(
        self,
        now: int,
        worker: str,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        timeout_ms: int,
        begun: list[Token] | None,
        answer: Reserved,
        *,
        alone: bool,
    ) -> None:
        """Check each reserved chunk against the submissions that the strategy allows."""
        given = answer.chunks
        self._note_reserve(now, worker, timeout_ms)
        if begun is not None:
            self.begun[worker] = set(map(entry_of, begun))
        if self.is_paused:
            assert (given, answer.must_drain) == ((), False)
            return
        self._free_due(now)
        if self.hosts.get(worker) not in self.stream:
            self.hosts.pop(worker, None)
        if answer.must_drain:
            assert given == ()
            assert not alone
            assert worker in self.hosts or (worker in self.begun and self._waiting())
            return
        if answer.is_suspect:
            assert alone
            self._host(now, worker, reservation_ms, strategy, given)
            return
        if alone and not self.hosts and self._live(now) > 1:
            assert not self._permitted(strategy, now)
        stream_length = self.entries
        if given:
            self._notice_loss()
        for number, chunk in enumerate(given):
            may_be, layers = self._allowed(strategy, stream_length + number, now)
            sub = self.subs[chunk.source.submission_id]
            index = chunk.chunk_index
            assert sub.id in may_be
            assert sub.next_index == index
            self._deliver(now, worker, reservation_ms, layers, chunk)
        may_be, _ = self._allowed(strategy, stream_length + len(given), now)
        assert len(given) == limit or not may_be

    def _free_due(self, now: int) -> None:
        due = sorted((at, f"{id_}:{i}", id_, i) for (id_, i), at in self.delayed.items())
        for at, _, id_, index in due[:100]:
            is_running = id_ in self.subs and self.subs[id_].is_running
            if at <= now and is_running and (id_, index) in self.suspects and self.begun:
                self.delayed[id_, index] = now + POSTPONED_MS
            elif at <= now:
                del self.delayed[id_, index]
                self.suspects.pop((id_, index), None)
                if id_ in self.subs:
                    self.subs[id_].places[index] = Place.REDO

    def _deliver(
        self,
        now: int,
        worker: str,
        reservation_ms: int,
        layers: Sequence[Layer],
        chunk: Reservation,
    ) -> None:
        sub, index = self.subs[chunk.source.submission_id], chunk.chunk_index
        assert sub.attempts[index] + 1 == chunk.attempt
        assert (index in sub.was_in_hand) == chunk.again
        assert now + reservation_ms == chunk.expires_at_ms
        assert sub.meta == chunk.source.strategic_metadata
        assert sub.inputs.get(index) == chunk.input
        sub.places[index] = Place.RESERVED
        sub.in_hand += 1
        for layer in layers:
            if layer[0] == "rate" and layer[1] in sub.meta:
                value = sub.meta[str(layer[1])]
                self.buckets.take(layer, value, sub.operations_in(index), now)
        assert chunk.token not in self.tokens
        self.tokens.add(chunk.token)
        self.stream[chunk.token] = Entry(sub.id, index, worker, now, chunk.expires_at_ms)

    # Suspects

    def _waiting(self) -> list[Chunk]:
        """Return the suspects that can be reserved, in the order of their waiting."""
        self.suspects = {
            chunk: since
            for chunk, since in self.suspects.items()
            if chunk in self.delayed and self.subs[chunk[0]].is_running
        }
        return sorted(self.suspects, key=lambda c: (self.suspects[c], f"{c[0]}:{c[1]}"))

    def _live(self, now: int) -> int:
        return sum(at > now for at in self.dead_at.values())

    def _permitted(self, strategy: AnyStrategy, now: int) -> tuple[Chunk, Sequence[Layer]] | None:
        """Return the first suspect whose submission the filters permit, and that alternative."""
        for chunk in self._waiting():
            if self.suspects[chunk] > now:
                break
            may_be, layers = self._allowed(strategy, self.entries, now, [chunk[0]])
            if may_be:
                return chunk, layers
        return None

    def _host(
        self,
        now: int,
        worker: str,
        reservation_ms: int,
        strategy: AnyStrategy,
        given: tuple[Reservation, ...],
    ) -> None:
        (chunk,) = given
        found = self._permitted(strategy, now)
        assert found is not None
        suspect, layers = found
        assert suspect == (chunk.source.submission_id, chunk.chunk_index)
        del self.suspects[suspect], self.delayed[suspect]
        self._notice_loss()
        hosting = [w for w, t in self.hosts.items() if t in self.stream and w in self.dead_at]
        assert len(hosting) < max(1, self._live(now) // 2)
        self.hosts = {host: token for host, token in self.hosts.items() if host in self.dead_at}
        self._deliver(now, worker, reservation_ms, layers, chunk)
        self.hosts[worker] = chunk.token

    def _allowed(
        self,
        strategy: AnyStrategy,
        in_stream: int,
        now: int,
        free: Iterable[SubmissionId] | None = None,
    ) -> tuple[set[SubmissionId], list[Layer]]:
        def in_hand(key: str, value: int | None) -> int:
            counts = self.in_hand_by(key)
            return in_stream - sum(counts.values()) if value is None else counts.get(value, 0)

        return allowed(
            strategy,
            {id_: self.subs[id_].meta for id_ in (self.ready() if free is None else free)},
            in_hand=in_hand,
            buckets=self.buckets,
            now=now,
        )

    def complete(
        self, now: int, tokens: list[Token], operations_failed: int, outputs: dict[Token, bytes]
    ) -> list[CompleteOutcome]:
        """Where some are pending, those that only the stream has are taken as well."""
        named = [self.stream[token] for token in tokens if token in self.stream]
        held = [entry for entry in named if entry.is_there]
        if any(entry.is_pending for entry in held):
            for entry in held:
                entry.is_pending = True
        return [self._complete(now, t, operations_failed, outputs.get(t)) for t in tokens]

    def _complete(
        self, now: int, token: Token, operations_failed: int, output: bytes | None
    ) -> CompleteOutcome:
        ended = self._end_reservation(token)
        if ended is None:
            return Lost()
        sub, index = ended
        if not sub.is_running:
            return Dropped(sub.id)
        sub.places[index] = Place.DONE
        operations_failed = min(operations_failed, sub.operations_in(index))
        if operations_failed:
            sub.failed_in[index] = operations_failed
        if output is not None:
            sub.outputs[index] = output
        self.stats["chunks_completed"] += 1
        self.stats["operations_completed"] += sub.operations_in(index)
        self.stats["operations_failed"] += operations_failed
        self.stats["backlog_chunks"] -= 1
        self.stats["backlog_operations"] -= sub.operations_in(index)
        left = len(sub.places) - sub.done
        if operations_failed and sub.limit is not None and sub.operations_failed > sub.limit:
            sub.last_failure = (index, sub.attempts[index] + 1, "TooManyFailedOperations")
            self._end(now, sub, SubmissionState.FAILED)
            self._count_dropped(sub, 0)
            return Completed(sub.id, left, is_limit_passed=True)
        if left == 0:
            self._end(now, sub, SubmissionState.COMPLETED)
        return Completed(sub.id, left)

    def fail(self, now: int, token: Token, kind: str, jitter: int) -> FailOutcome:
        ended = self._end_reservation(token)
        if ended is None:
            return Lost()
        return self._use_attempt(now, *ended, kind, jitter)

    def release(self, now: int, token: Token, delay_ms: int) -> ReleaseOutcome:
        ended = self._end_reservation(token)
        if ended is None:
            return Lost()
        sub, index = ended
        if not sub.is_running:
            return Dropped(sub.id)
        if delay_ms:
            self._mark_again(sub, index)
            if token in self.hosts.values():
                self._isolate(now, sub, index, delay_ms)
            else:
                sub.places[index] = Place.DELAYED
                self.delayed[sub.id, index] = now + delay_ms
        else:
            self._release_unbegun(now, token, sub, index)
        self.stats["chunks_released"] += 1
        return Released(sub.id)

    # Workers

    def pending_of(self, worker: str, limit: int) -> list[Token]:
        self._notice_loss()
        tokens = [t for t, e in self.stream.items() if e.worker == worker and e.is_pending]
        return sorted(tokens, key=order_of)[:limit]

    def note_begun(self, worker: str, begun: list[Token]) -> bool:
        if worker in self.workers:
            self.begun[worker] = set(map(entry_of, begun))
        return worker in self.workers

    def heartbeat(
        self,
        now: int,
        worker: str,
        tokens: list[Token],
        unknown_ms: int,
        timeout_ms: int,
        begun: list[Token] | None,
    ) -> tuple[set[Token], int]:
        self._note_sign_of_life(now, worker, timeout_ms)
        if begun is not None:
            self.begun[worker] = set(map(entry_of, begun))
        pending = self.pending_of(worker, 10_000)
        there = {t for t in pending if self.stream[t].is_there}
        held = {t for t in there if t in tokens and self.subs[self.stream[t].id].is_running}
        released = 0
        for token in pending:
            if token not in there:
                self._end_reservation(token)
            elif token not in tokens and now - self.stream[token].reserved_at >= unknown_ms:
                ended = self._end_reservation(token)
                if ended is not None:
                    self._release_unbegun(now, token, *ended)
                self.stats["chunks_released"] += 1
                released += 1
        return set(tokens) - held, released

    def retire(self, now: int, worker: str, limit: int) -> bool:
        pending = self.pending_of(worker, limit)
        for token in pending:
            if (ended := self._end_reservation(token)) is not None:
                self.stats["chunks_released"] += 1
                if self.has_begun(worker, token):
                    self._mark_again(*ended)
                self._release_unbegun(now, token, *ended)
        if len(pending) == limit and self.pending_of(worker, 1):
            return False
        self._forget_worker(worker)
        return True

    def _note_reserve(self, now: int, worker: str, timeout_ms: int) -> None:
        if worker not in self.workers:
            self._note_sign_of_life(now, worker, timeout_ms)
        seen_at = self.workers[worker]
        own_ms = self.dead_at[worker] - seen_at
        if abs(now - seen_at) >= own_ms / 30:  # before, the last one is as good
            self._note_sign_of_life(now, worker, own_ms)

    def _note_sign_of_life(self, now: int, worker: str, timeout_ms: int) -> None:
        self.workers[worker] = now
        self.dead_at[worker] = now + timeout_ms

    def _forget_worker(self, worker: str) -> None:
        self.workers.pop(worker, None)
        self.dead_at.pop(worker, None)
        self.begun.pop(worker, None)
        self.hosts.pop(worker, None)

    def reclaim_dead(self, now: int, limit: int) -> int:
        dead = sorted((at, worker) for worker, at in self.dead_at.items() if at <= now)
        left, reclaimed = limit, 0
        for _, worker in dead[:10]:
            if left == 0:
                break
            for token in self.pending_of(worker, left):
                left -= 1
                ended = self._end_reservation(token)
                if ended is not None:
                    reclaimed += 1
                    self.stats["chunks_reclaimed"] += 1
                    self._charge(now, worker, token, *ended, "WorkerDied")
            if left > 0:
                self._forget_worker(worker)
        return reclaimed

    def reclaim_expired(
        self, now: int, after: tuple[int, int], limit: int
    ) -> tuple[int, Token | None]:
        """Return the number, and the last token of a full page."""
        there = [t for t, entry in self.stream.items() if entry.is_there and order_of(t) > after]
        page = sorted(there, key=order_of)[:limit]
        reclaimed = 0
        for token in page:
            if self.stream[token].expires_at <= now:
                worker = self.stream[token].worker
                ended = self._end_reservation(token)
                if ended is not None:
                    reclaimed += 1
                    self.stats["chunks_reclaimed"] += 1
                    self._charge(now, worker, token, *ended, "ReservationExpired")
        if len(page) == limit:
            return reclaimed, page[-1]
        pending = sum(entry.is_pending for entry in self.stream.values())
        if not self.has_group and self.entries:
            self._notice_loss()
        elif self.has_group and pending != self.entries:
            self.is_repairing = True
        return reclaimed, None

    def _charge(
        self, now: int, worker: str, token: Token, sub: ModelSubmission, index: int, kind: str
    ) -> None:
        """Use an attempt of what has begun; if its worker died, it is a suspect."""
        if not self.has_begun(worker, token):
            self._mark_again(sub, index)
            self._release_unbegun(now, token, sub, index)
            return
        outcome = self._use_attempt(now, sub, index, kind, None)
        if kind == "WorkerDied" and worker in self.begun and isinstance(outcome, Retried):
            self._isolate(now, sub, index)

    # Losses

    def lose(self, *, stream_too: bool) -> None:
        for token, entry in list(self.stream.items()):
            if not entry.is_there or stream_too:
                del self.stream[token]
            if entry.is_there:
                self.subs[entry.id].places[entry.index] = Place.LOST
            entry.is_pending = False
        self.has_group = False
        self.has_stream = not stream_too

    def remove_entries(self, tokens: list[Token]) -> None:
        """What XTRIM and XDEL do: they stay pending."""
        for token in tokens:
            entry = self.stream[token]
            entry.is_there = False
            self.subs[entry.id].places[entry.index] = Place.LOST
            if not entry.is_pending:
                del self.stream[token]

    def acknowledge(self, tokens: list[Token]) -> None:
        """What XACK and XGROUP DELCONSUMER do: the entries stay."""
        for token in tokens:
            self.stream[token].is_pending = False

    def begin_repair(self) -> None:
        self.is_repairing = True

    def repair_step(
        self, in_redo: set[Chunk], entries: set[str], pending: set[str], *, is_over: bool
    ) -> int:
        """Adopt the effect of a step from Redis; refuse an effect that is not allowed.

        Return the number of chunks that it freed.
        """
        self._notice_loss()
        freed = 0
        for token, entry in list(self.stream.items()):
            name = entry_of(token)
            if entry.is_there and not entry.is_pending and name not in entries:
                self._end_reservation(token)
                freed += 1
            elif not entry.is_there and name not in pending:
                del self.stream[token]
                self.stats["reservations_lost"] += 1
        there = {(entry.id, entry.index) for entry in self.stream.values() if entry.is_there}
        for id_, sub in self.subs.items():
            for index, place in enumerate(sub.places):
                if place is Place.LOST and (id_, index) in in_redo:
                    assert (id_, index) not in there
                    sub.places[index] = Place.REDO
                    self._mark_again(sub, index)
                    sub.in_hand -= 1
                    freed += 1
        self.stats["chunks_repaired"] += freed
        if is_over:
            self.is_repairing = False
        return freed
