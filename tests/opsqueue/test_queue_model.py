"""`Queue` and the model of queue_model.py do the same, step by step, whatever is done in any order.

Time is a variable. After each step the raw keys in Redis are read and held against the model, so
that a chunk in two places, or in none, is found at the step that put it there.

OPSQUEUE_HYPOTHESIS_EXAMPLES=2000 makes longer runs, by chance instead of always the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from opsqueue.answers import Reserved
from opsqueue.chunk import ChunkFailure, Completed, Token
from opsqueue.exceptions import (
    InvalidArgumentError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
)
from opsqueue.new_submission import Backoff, NewSubmission
from opsqueue.queue import Queue
from opsqueue.strategy import AnyStrategy, parse_strategy
from opsqueue.submission import SubmissionId, SubmissionState
from tests.opsqueue.queue_model import Chunk, Model, Place, entry_of, order_of
from tests.opsqueue.queue_snapshot import Snapshot, has_bit
from tests.opsqueue.steps import Clock, Raw

EXAMPLES = int(os.environ.get("OPSQUEUE_HYPOTHESIS_EXAMPLES", "0"))

WORKERS = st.sampled_from(["w1", "w2", "w3"])
META_KEYS = ("customer", "region")
PAIRS = st.dictionaries(st.sampled_from(META_KEYS), st.integers(-1, 2), max_size=2)
CHANGES = st.dictionaries(
    st.sampled_from(META_KEYS), st.none() | st.integers(-1, 2), min_size=1, max_size=2
)
STRATEGIES = st.sampled_from(
    [
        parse_strategy(text)
        for text in (
            "Oldest",
            "Newest",
            "Random",
            "PreferDistinct(customer, Oldest)",
            "PreferDistinct(customer, Newest)",
            "PreferDistinct(region, Random)",
            "PreferDistinct(customer, PreferDistinct(region, Oldest))",
            "SelectOnly(customer, 1, Newest)",
            "Highest(region, Oldest)",
            "Lowest(region, Newest)",
            "Highest(customer, Random)",
            "Highest(region, PreferDistinct(customer, Oldest))",
            "MaxSimultaneous(customer, 2, Oldest)",
            "MaxSimultaneous(region, 1, PreferDistinct(customer, Newest))",
            "MaxSimultaneous(customer, 1, MaxSimultaneous(region, 2, Oldest))",
            "RateLimit(customer, 0.5, 2, Oldest)",
            "RateLimit(region, 2, 3, PreferDistinct(customer, Oldest), operations)",
            "OrElse(SelectOnly(customer, 2, Oldest), MaxSimultaneous(region, 2, Newest))",
            "PreferDistinct(customer, SelectOnly(region, 1, Oldest))",
        )
    ]
)
PICK = st.integers(0, 59)
"""An index into whatever there is to choose from, taken modulo its length."""
TOKENS = st.lists(PICK, min_size=1, max_size=5)
JITTER = st.sampled_from([0, 1, 333, 500, 999, 1_000])
NEW = st.fixed_dictionaries(
    {
        "chunks": st.sampled_from([0, 1, 2, 3, 5, 8, 9, 17, 25]),
        "chunk_size": st.integers(1, 3),
        "is_short": st.booleans(),
        "max_attempts": st.sampled_from([1, 2, 3, 3]),
        "backoff": st.sampled_from([(0, 0), (0, 5_000), (1_000, 1_000), (1_000, 4_000), (1, 3)]),
        "pairs": PAIRS,
        "max_failed": st.sampled_from([None, None, 0, 1, 2, 0.1, 1.0]),
        "retention_ms": st.sampled_from([0, 5_000, 10**9, None]),
        "deletes_inputs": st.booleans(),
        "is_inline": st.booleans(),
        "key": st.sampled_from([*[""] * 6, "k1", "k2"]),
        "old_prefix": st.sampled_from([*[None] * 8, 0, 1, 2]),
    }
)
TIMEOUT_MS = st.sampled_from([0, 1_000, 30_000, 60_000])
RESERVE: dict[str, st.SearchStrategy[Any]] = {
    "worker": WORKERS,
    "limit": st.sampled_from([1, 2, 3, 6, 1_000]),
    "reservation_ms": st.sampled_from([1, 1, 1_000, 50_000]),
    "strategy": STRATEGIES,
    "timeout_ms": TIMEOUT_MS,
}
LIMIT = st.sampled_from([1, 2, 5, 1_000])

# One rule that draws among these, not a rule for each: Hypothesis would leave out half of the rules
# in each example, and without reserves there is little to see. (weight, method, arguments)
ACTIONS: list[tuple[int, str, dict[str, st.SearchStrategy[Any]]]] = [
    (2, "insert", {"new": NEW}),
    (2, "cancel", {"pick": PICK}),
    (2, "retry", {"pick": PICK}),
    (1, "update_metadata", {"pick": PICK, "changes": CHANGES}),
    (1, "forget", {"limit": st.integers(1, 3), "picks": st.lists(PICK, max_size=2)}),
    (1, "set_retention", {"retention_ms": st.sampled_from([None, 0, 2_000])}),
    (
        1,
        "delete_inputs",
        {"limit": st.integers(1, 3), "picks": TOKENS, "index": st.integers(0, 30)},
    ),
    (1, "discard_prefixes", {"picks": TOKENS}),
    (4, "reserve", RESERVE),
    (
        3,
        "reserve_and_report",
        {**RESERVE, "reports": st.lists(PICK, max_size=12), "jitter": JITTER},
    ),
    (3, "complete", {"picks": TOKENS, "failed": st.integers(0, 2)}),
    (3, "fail", {"pick": PICK, "jitter": JITTER}),
    (2, "release", {"picks": TOKENS, "delay_ms": st.sampled_from([0, 0, 1, 2_000])}),
    (
        2,
        "heartbeat",
        {
            "worker": WORKERS,
            "picks": st.lists(PICK, max_size=8),
            "unknown_ms": st.sampled_from([0, 500, 30_000]),
            "timeout_ms": TIMEOUT_MS,
        },
    ),
    (1, "retire", {"worker": WORKERS, "limit": LIMIT}),
    (1, "reclaim_dead", {"limit": LIMIT}),
    (2, "reclaim_expired", {"limit": LIMIT}),
    (1, "pause_or_resume", {"is_paused": st.sampled_from([False, False, False, True])}),
    (3, "pass_time", {"ms": st.sampled_from([1, 10, 999, 1_000, 5_000, 60_000, -1, -3_000])}),
    (1, "lose", {"stream_too": st.booleans()}),
    (
        2,
        "repair",
        {"limit": st.sampled_from([1, 1, 2, 1_000]), "steps": st.sampled_from([1, 3, 500])},
    ),
    (1, "begin_repair", {"limit": st.sampled_from([1, 1_000])}),
]
ACTION = st.one_of(
    *(
        st.tuples(st.just(name), st.fixed_dictionaries(arguments))
        for weight, name, arguments in ACTIONS
        for _ in range(weight)
    )
)


class QueueMachine(RuleBasedStateMachine):
    """Random steps, done by the queue and by the model alike."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        name = f"model-{secrets.token_hex(8)}"
        self.clock = Clock()
        self.queue = Queue(self.client, name, clock=self.clock)
        self.raw = Raw(self.client, name)
        self.model = Model()
        self.ids: list[SubmissionId] = []
        self.prefixes: list[str] = []
        self.tokens: list[Token] = []
        self.sleepers: dict[str, tuple[str, int | None, AnyStrategy]] = {}
        self.sweep_from = "-"
        self.completed: set[Chunk] = set()

    # What to choose from

    def _id(self, pick: int) -> SubmissionId:
        """Of any submission that there is, and now and then of one that is not any more."""
        pool = [*self.model.subs, *self.ids[:1], SubmissionId(1)]
        return pool[pick % len(pool)]

    def _tokens(self, picks: list[int]) -> list[Token]:
        """Three of four are pending; the others may be old ones. The same may come twice."""
        pending = [token for token, entry in self.model.stream.items() if entry.is_pending]
        pools = [pending, pending, pending, self.tokens]
        chosen = [(pools[pick % 4] or self.tokens, pick // 4) for pick in picks]
        return [pool[pick % len(pool)] if pool else Token("1-1") for pool, pick in chosen]

    # Submissions

    @initialize(news=st.lists(NEW, min_size=1, max_size=3))
    def begin(self, news: list[dict[str, Any]]) -> None:
        for new in news:
            self._insert(**new)

    @rule(action=ACTION)
    def act(self, action: tuple[str, dict[str, Any]]) -> None:
        name, arguments = action
        getattr(self, name)(**arguments)

    def insert(self, new: dict[str, Any]) -> None:
        self._insert(**new)

    def _insert(
        self,
        chunks: int,
        chunk_size: int,
        *,
        is_short: bool,
        max_attempts: int,
        backoff: tuple[int, int],
        pairs: dict[str, int],
        max_failed: float | None,
        retention_ms: int | None,
        deletes_inputs: bool,
        is_inline: bool,
        key: str,
        old_prefix: int | None,
    ) -> None:
        prefix = f"p{len(self.prefixes)}"
        if old_prefix is not None and self.prefixes:
            prefix = self.prefixes[old_prefix % len(self.prefixes)]
        operations = chunks * chunk_size - (chunk_size - 1 if is_short and chunks else 0)
        new = NewSubmission(
            prefix=prefix,
            chunks_total=chunks,
            chunk_size=chunk_size,
            operations_total=operations,
            max_attempts=max_attempts,
            max_failed_operations=max_failed,
            backoff=Backoff(first_ms=backoff[0], max_ms=backoff[1]),
            strategic_metadata=pairs,
            retention_ms=retention_ms,
            delete_inputs_at_completion=deletes_inputs,
            inline=[b"in %d" % index for index in range(chunks)] if is_inline else None,
        )
        try:
            inserted = self.queue.insert_submission(new, idempotency_key=key)
        except InvalidArgumentError:
            assert self.model.insert(self.clock.now, new, key) is None
            return
        is_new = not key or key not in self.model.idempotency
        assert self.model.insert(self.clock.now, new, key) == inserted.id
        assert is_new == inserted.is_new
        if is_new:
            self.ids.append(inserted.id)
            self.prefixes.append(prefix)

    def cancel(self, pick: int) -> None:
        id_ = self._id(pick)
        is_cancelled = self.model.cancel(self.clock.now, id_)
        try:
            self.queue.cancel_submission(id_)
        except (SubmissionNotCancellableError, SubmissionNotFoundError):
            assert not is_cancelled
        else:
            assert is_cancelled

    def retry(self, pick: int) -> None:
        id_ = self._id(pick)
        is_retried = self.model.retry(self.clock.now, id_)
        try:
            self.queue.retry_submission(id_)
        except (SubmissionNotRetryableError, SubmissionNotFoundError):
            assert not is_retried
        else:
            assert is_retried

    def update_metadata(self, pick: int, changes: dict[str, int | None]) -> None:
        id_ = self._id(pick)
        is_updated = self.model.update_metadata(id_, changes)
        try:
            self.queue.update_metadata(id_, changes)
        except (SubmissionNotCancellableError, SubmissionNotFoundError):
            assert not is_updated
        else:
            assert is_updated

    def forget(self, limit: int, picks: list[int]) -> None:
        deleted = [self.prefixes[pick % len(self.prefixes)] for pick in picks if self.prefixes]
        forgotten = self.queue.forget_submissions(limit=limit, deleted_prefixes=deleted)
        expected = self.model.forget(self.clock.now, limit, deleted, set(forgotten.prefixes))
        assert expected == (forgotten.submissions, len(forgotten.prefixes))

    def set_retention(self, retention_ms: int | None) -> None:
        self.queue.set_retention(retention_ms)
        self.model.retention_ms = retention_ms
        assert retention_ms == self.queue.get_retention()

    def delete_inputs(self, limit: int, picks: list[int], index: int) -> None:
        deleted = {self._id(pick): index for pick in picks}
        expected = self.model.delete_inputs(limit, deleted)
        assert expected == self.queue.delete_inputs(limit=limit, deleted=deleted)

    def discard_prefixes(self, picks: list[int]) -> None:
        """Some of submissions, some of uploads that nobody handed in."""
        pool = [*self.prefixes, "orphan"]
        prefixes = sorted({pool[pick % len(pool)] for pick in picks})
        unknown = self.queue.unknown_prefixes(prefixes)
        assert [prefix for prefix in prefixes if prefix not in self.model.prefixes] == unknown
        assert self.model.discard_prefixes(prefixes) == self.queue.discard_prefixes(prefixes)
        if "orphan" in self.model.prefixes and "orphan" not in self.prefixes:
            self.prefixes.append("orphan")

    # Chunks

    def reserve_and_report(
        self,
        reports: list[int],
        jitter: int,
        **reserve: Any,
    ) -> None:
        """What workers do all day; some chunks stay in hand."""
        for token, pick in zip(self.reserve(**reserve), reports, strict=False):
            match pick % 6:
                case 0 | 1 | 2:
                    self._complete([token], pick % 2)
                case 3 | 4:
                    self._fail(token, jitter)
                case _:
                    self._release([token], 1_000 * (pick % 2))

    def reserve(
        self,
        worker: str,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        timeout_ms: int,
    ) -> list[Token]:
        now = self.clock.now
        reserved = self.queue.reserve_chunks(
            worker,
            limit=limit,
            reservation_ms=reservation_ms,
            strategy=strategy,
            heartbeat_timeout_ms=timeout_ms,
        )
        self.model.reserve(
            now, worker, limit, reservation_ms, strategy, timeout_ms, reserved.chunks
        )
        assert self.model.is_paused == reserved.is_paused
        if "RateLimit" not in str(strategy):
            assert self._expected_due() == reserved.next_due_in_ms
        self.sleepers.pop(worker, None)
        if not reserved.chunks:
            self._fall_asleep(worker, reserved, strategy)
        tokens = [chunk.token for chunk in reserved.chunks]
        self.tokens += tokens
        return tokens

    def _expected_due(self) -> int | None:
        due = self.model.next_due()
        if due is None or self.model.is_paused:
            return None
        return max(0, due - self.clock.now)

    def _fall_asleep(self, worker: str, reserved: Reserved, strategy: AnyStrategy) -> None:
        due = reserved.next_due_in_ms
        self.sleepers[worker] = (
            reserved.wake_id,
            None if due is None else self.clock.now + due,
            strategy,
        )

    def complete(self, picks: list[int], failed: int) -> None:
        self._complete(self._tokens(picks), failed)

    def _complete(self, tokens: list[Token], failed: int) -> None:
        held = {t: (e.id, e.index) for t, e in self.model.stream.items()}
        # As a worker reports them: a chunk has no more errors than operations.
        operations_failed = {
            token: min(failed, self.model.subs[id_].operations_in(index))
            for token, (id_, index) in held.items()
            if token in tokens and id_ in self.model.subs
        }
        # Of small submissions every second output goes along, the others are stored.
        outputs = {
            token: f"out of {token}".encode()
            for token in tokens
            if token in held and held[token][1] % 2 and self._is_inline(held[token][0])
        }
        outcomes = self.queue.complete_chunks(
            tokens, operations_failed=operations_failed, outputs=outputs
        )
        now = self.clock.now
        expected = [self.model.complete(now, t, failed, outputs.get(t)) for t in tokens]
        assert expected == outcomes
        for token, outcome in zip(tokens, outcomes, strict=True):
            if isinstance(outcome, Completed):
                assert held[token] not in self.completed
                self.completed.add(held[token])

    def _is_inline(self, id_: SubmissionId) -> bool:
        return id_ in self.model.subs and bool(self.model.subs[id_].new.inline)

    def fail(self, pick: int, jitter: int) -> None:
        self._fail(self._tokens([pick])[0], jitter)

    def _fail(self, token: Token, jitter: int) -> None:
        failure = ChunkFailure(type="E", message=f"at {self.clock.now}")
        outcome = self.queue.fail_chunk(token, failure, jitter=jitter)
        assert self.model.fail(self.clock.now, token, "E", jitter) == outcome

    def release(self, picks: list[int], delay_ms: int) -> None:
        self._release(self._tokens(picks), delay_ms)

    def _release(self, tokens: list[Token], delay_ms: int) -> None:
        outcomes = self.queue.release_chunks(tokens, delay_ms=delay_ms)
        assert [self.model.release(self.clock.now, t, delay_ms) for t in tokens] == outcomes

    # Workers

    def heartbeat(self, worker: str, picks: list[int], unknown_ms: int, timeout_ms: int) -> None:
        tokens = self._tokens(picks)
        alive = self.queue.heartbeat(
            worker, tokens=tokens, unknown_ms=unknown_ms, timeout_ms=timeout_ms
        )
        expected = self.model.heartbeat(self.clock.now, worker, tokens, unknown_ms, timeout_ms)
        assert expected == (set(alive.void), alive.released)

    def retire(self, worker: str, limit: int) -> None:
        assert self.queue.retire_worker(worker, limit=limit) == self.model.retire(worker, limit)

    def reclaim_dead(self, limit: int) -> None:
        swept = self.queue.reclaim_dead("sweeper", limit=limit)
        assert swept is not None
        assert self.model.reclaim_dead(self.clock.now, limit) == swept.chunks

    def reclaim_expired(self, limit: int) -> None:
        swept = self.queue.reclaim_expired("sweeper", page_from=self.sweep_from, limit=limit)
        assert swept is not None
        after = (0, 0) if self.sweep_from == "-" else order_of(self.sweep_from.removeprefix("("))
        reclaimed, last = self.model.reclaim_expired(self.clock.now, after, limit)
        next_from = None if last is None else f"({entry_of(last)}"
        assert (reclaimed, next_from) == (swept.chunks, swept.next_from)
        self.sweep_from = swept.next_from or "-"

    # The queue, the world

    def pause_or_resume(self, *, is_paused: bool) -> None:
        if is_paused:
            self.queue.pause_queue()
        else:
            self.queue.resume_queue()
        self.model.is_paused = is_paused

    def pass_time(self, ms: int) -> None:
        self.clock.advance(ms)
        # Who sleeps until an instant wakes up at it; a clock that steps back does not put it to
        # sleep again.
        self.sleepers = {
            worker: (wake_id, due, strategy)
            for worker, (wake_id, due, strategy) in self.sleepers.items()
            if due is None or due > self.clock.now
        }

    def lose(self, *, stream_too: bool) -> None:
        if not self.model.has_group:
            return
        if stream_too:
            self.raw.lose_stream()
        else:
            self.raw.lose_group()
        self.model.lose(stream_too=stream_too)

    def repair(self, limit: int, steps: int) -> None:
        for _ in range(steps):
            if self.model.is_repairing:
                self._repair_step(limit, begin=False)
        assert steps < 500 or not self.model.is_repairing

    def begin_repair(self, limit: int) -> None:
        self.model.is_repairing = True
        self._repair_step(limit, begin=True)

    def _repair_step(self, limit: int, *, begin: bool) -> None:
        swept = self.queue.repair(begin=begin, limit=limit)
        assert swept is not None
        after = self._snapshot()
        freed = {
            (id_, index)
            for id_, sub in self.model.subs.items()
            for index, place in enumerate(sub.places)
            if place is Place.LOST and index in after.submissions[id_].redo
        }
        in_hand = {i: keys.number("chunks_in_hand") for i, keys in after.submissions.items()}
        self.model.repair_step(freed, in_hand, is_over=swept.next_from is None)
        assert len(freed) == swept.chunks

    # What holds after each step

    def _snapshot(self) -> Snapshot:
        states = [state.value for state in SubmissionState]
        return Snapshot.of(
            self.client, self.queue.name, ids=self.ids, meta_keys=META_KEYS, states=states
        )

    @invariant()
    def redis_holds_what_the_model_holds(self) -> None:
        now = self._snapshot()
        self.every_chunk_is_in_exactly_one_place(now)
        self.reservations_are_the_pending_entries(now)
        self.a_lost_chunk_is_found_by_a_repair(now)
        self.in_hand_counts_are_right(now)
        self.indexes_and_totals_are_right(now)
        self.submissions_are_as_they_should_be(now)
        self.nobody_sleeps_while_there_is_work(now)

    def every_chunk_is_in_exactly_one_place(self, now: Snapshot) -> None:
        assert self.model.subs.keys() == now.submissions.keys()
        for id_, sub in self.model.subs.items():
            keys = now.submissions[id_]
            is_completed = sub.state is SubmissionState.COMPLETED
            assert not (is_completed and (keys.done or keys.redo))
            cursor = keys.number("cursor")
            reserved = {index for owner, index in now.entries.values() if owner == str(id_)}
            for index, place in enumerate(sub.places):
                places = [
                    *([Place.DONE] if keys.is_done(index) or is_completed else []),
                    *([Place.REDO] if index in keys.redo else []),
                    *([Place.CURSOR] if index >= cursor else []),
                    *([Place.DELAYED] if f"{id_}:{index}" in now.delayed else []),
                    *([Place.RESERVED] if index in reserved and now.pending is not None else []),
                ]
                assert places == ([] if place is Place.LOST else [place])

    def reservations_are_the_pending_entries(self, now: Snapshot) -> None:
        stream = {entry_of(token): entry for token, entry in self.model.stream.items()}
        assert {t: (str(e.id), e.index) for t, e in stream.items()} == now.entries
        pending = {t: e.worker for t, e in stream.items() if e.is_pending}
        assert now.pending == (pending if self.model.has_group else None)

    def a_lost_chunk_is_found_by_a_repair(self, now: Snapshot) -> None:
        is_lost = any(Place.LOST in sub.places for sub in self.model.subs.values())
        assert self.model.is_repairing == now.is_repairing
        assert not is_lost or now.is_repairing or now.pending is None

    def in_hand_counts_are_right(self, now: Snapshot) -> None:
        assert {key: self.model.in_hand_by(key) for key in META_KEYS} == now.in_hand
        for id_, sub in self.model.subs.items():
            assert now.submissions[id_].number("chunks_in_hand") == sub.in_hand
            if self.model.has_group and not self.model.is_repairing:
                assert self.model.entries_of(id_) == sub.in_hand

    def indexes_and_totals_are_right(self, now: Snapshot) -> None:
        assert [str(id_) for id_ in self.model.ready()] == now.ready
        assert {f"{id_}:{n}": at for (id_, n), at in self.model.delayed.items()} == now.delayed
        assert self.model.workers == now.workers
        assert self.model.dead_at == now.dead_at
        assert self.model.is_paused == now.is_paused
        assert {name: number for name, number in self.model.stats.items() if number} == now.stats
        for state in SubmissionState:
            ids = sorted(id_ for id_, sub in self.model.subs.items() if sub.state is state)
            assert [str(id_) for id_ in ids] == now.by_state[state.value]
        running = [sub for sub in self.model.subs.values() if sub.is_running]
        assert sum(len(s.places) - s.done for s in running) == now.stats.get("backlog_chunks", 0)

    def submissions_are_as_they_should_be(self, now: Snapshot) -> None:
        for id_, sub in self.model.subs.items():
            keys = now.submissions[id_]
            assert sub.state.value == keys.fields["state"]
            assert (sub.done, sub.operations_done, sub.operations_failed) == tuple(
                keys.number(name)
                for name in ("chunks_done", "operations_done", "operations_failed")
            )
            for index in range(len(sub.places)):
                assert (index in sub.failed_in) == has_bit(keys.errors, index)
            assert sub.meta == keys.meta
            assert (sub.inputs, sub.outputs) == (keys.inputs, keys.outputs)
            assert (None if sub.ended_at is None else str(sub.ended_at)) == keys.fields.get(
                "ended_at"
            )
            index, attempt, kind = sub.last_failure or (None, None, None)
            assert [str(part) for part in (index, attempt, kind)] == [
                str(keys.failure.get(name)) for name in ("chunk_index", "attempt", "type")
            ]

    def nobody_sleeps_while_there_is_work(self, now: Snapshot) -> None:
        due = None if self.model.is_paused else self.model.next_due()
        for wake_id, sleeps_until, strategy in self.sleepers.values():
            if order_of(now.last_wake_id) > order_of(wake_id):
                continue
            is_awake = sleeps_until is not None and sleeps_until <= self.clock.now
            assert is_awake or not self.model.can_reserve(strategy, self.clock.now)
            if due is not None:
                assert sleeps_until is not None
                assert sleeps_until <= max(due, self.clock.now)

    def teardown(self) -> None:
        """Read as users read, once an example: ended submissions are accounted for."""
        for id_ in self.model.subs:
            read = self.queue.get_submission(id_)
            if read.state is not SubmissionState.IN_PROGRESS:
                ended = read.chunks_done + read.chunks_failed + read.chunks_dropped
                assert read.chunks_total == ended
                assert self.model.subs[id_].chunks_failed == read.chunks_failed
                assert read.operations_total == (
                    read.operations_succeeded + read.operations_failed + read.operations_dropped
                )
                if read.state is SubmissionState.COMPLETED:
                    assert read.operations_dropped == 0
            page = self.queue.chunks_with_errors(id_)
            assert sorted(self.model.subs[id_].failed_in) == list(page.indexes)
        self.raw.lose_everything()


def _run(make_client: Callable[[], redis.Redis], *, examples: int, steps: int) -> None:
    class Machine(QueueMachine):
        def __init__(self) -> None:
            self.client = make_client()
            super().__init__()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=steps,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        ),
    )


@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_queue_and_model_agree_on_fakeredis() -> None:
    """All transitions, interleaved at random."""

    def fresh() -> redis.Redis:
        return fakeredis.FakeRedis(server=fakeredis.FakeServer(server_type="valkey"), protocol=2)

    _run(fresh, examples=20, steps=40)


@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_queue_and_model_agree_on_a_real_server(real_client: redis.Redis) -> None:
    """All transitions, interleaved at random."""
    _run(lambda: real_client, examples=80, steps=60)
