"""`Queue` and the model of queue_model.py behave the same in any sequence of steps.

Time is a variable. After each step the raw keys in Redis are compared with the model, so that a
chunk in two places, or in none, is found at the step that caused it.

OPSQUEUE_HYPOTHESIS_EXAMPLES=2000 makes longer runs, which are random instead of always the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

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
from msgspec.structs import replace

from opsqueue.exceptions import (
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    SubmissionForgottenError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
)
from opsqueue.model.answers import Reserved
from opsqueue.model.chunk import ChunkFailure, Completed, Token
from opsqueue.model.new_submission import Backoff, NewSubmission
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue, wake_channel
from opsqueue.strategy import AnyStrategy
from tests.opsqueue.queue_actions import ACTION, META_KEYS, NEW
from tests.opsqueue.queue_invariants import (
    a_lost_chunk_is_found_by_a_repair,
    every_chunk_is_in_exactly_one_place,
    in_hand_counts_are_right,
    indexes_and_totals_are_right,
    reservations_are_the_pending_entries,
    submissions_are_as_they_should_be,
)
from tests.opsqueue.queue_model import Model
from tests.opsqueue.queue_snapshot import Snapshot
from tests.opsqueue.steps import Clock, Raw, prefix_of
from tests.opsqueue.submission_model import Chunk, entry_of, order_of

EXAMPLES = int(os.environ.get("OPSQUEUE_HYPOTHESIS_EXAMPLES", "0"))


@dataclass
class Asleep:
    """A worker that found nothing."""

    strategy: AnyStrategy
    alarm_at: int | None = None
    """When it comes back by itself."""

    @property
    def group(self) -> str:
        return commands.group_of(self.strategy.wire())


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
        self.sleepers: dict[str, Asleep] = {}
        self.unheard: set[str] = set()
        """Groups of which a worker was woken that has not asked, and never will."""
        self.ears: Any = cast("Any", self.client).pubsub()
        self.sweep_from = "-"
        self.completed: set[Chunk] = set()

    # What to choose from

    def _id(self, pick: int) -> SubmissionId:
        """Choose any submission, and occasionally one that no longer exists."""
        pool = [*self.model.subs, *self.ids[:1], SubmissionId(1)]
        return pool[pick % len(pool)]

    def _tokens(self, picks: list[int]) -> list[Token]:
        """Choose tokens, of which three of four are pending and the others old; some may repeat."""
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
        max_attempts: int | None,
        backoff: tuple[int | None, int | None],
        pairs: dict[str, int],
        max_failed: float | None,
        retention_ms: int | None,
        deletes_inputs: bool,
        is_inline: bool,
        key: str,
        old_prefix: int | None,
    ) -> None:
        prefix = prefix_of(self.queue, f"p{len(self.prefixes)}")
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
        except (InvalidArgumentError, IdempotencyKeyReusedError, SubmissionForgottenError):
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

    def set_defaults(self, changes: dict[str, int | None]) -> None:
        try:
            self.queue.set_defaults(changes)
        except InvalidArgumentError:
            with pytest.raises(InvalidArgumentError):
                replace(self.model.defaults, **changes)
        else:
            self.model.defaults = replace(self.model.defaults, **changes)
        assert self.model.defaults == self.queue.get_defaults()

    def delete_inputs(self, limit: int, picks: list[int], index: int) -> None:
        deleted = {self._id(pick): index for pick in picks}
        expected = self.model.delete_inputs(limit, deleted)
        assert expected == self.queue.delete_inputs(limit=limit, deleted=deleted)

    def discard_prefixes(self, picks: list[int]) -> None:
        """Choose prefixes of submissions and of uploads that were never submitted."""
        orphan = prefix_of(self.queue, "orphan")
        pool = [*self.prefixes, orphan]
        prefixes = sorted({pool[pick % len(pool)] for pick in picks})
        unknown = self.queue.unknown_prefixes(prefixes)
        assert [prefix for prefix in prefixes if prefix not in self.model.prefixes] == unknown
        assert self.model.discard_prefixes(prefixes) == self.queue.discard_prefixes(prefixes)
        if orphan in self.model.prefixes and orphan not in self.prefixes:
            self.prefixes.append(orphan)

    # Chunks

    def reserve_and_report(
        self,
        reports: list[int],
        jitter: int,
        **reserve: Any,
    ) -> None:
        """Reserve and report chunks as workers do; some chunks stay reserved."""
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
        begun: list[int] | None,
        *,
        alone: bool,
    ) -> list[Token]:
        self._listen(worker, strategy)
        now = self.clock.now
        reported = None if begun is None else self._tokens(begun)
        reserved = self.queue.reserve_chunks(
            worker,
            limit=limit,
            reservation_ms=reservation_ms,
            strategy=strategy,
            heartbeat_timeout_ms=timeout_ms,
            begun=reported,
            alone=alone,
            sleeps=True,
        )
        self.model.reserve(
            now,
            worker,
            limit,
            reservation_ms,
            strategy,
            timeout_ms,
            reported,
            reserved,
            alone=alone,
        )
        assert self.model.is_paused == reserved.is_paused
        has_suspects = bool(self.model.suspects or self.model.hosts)
        if "RateLimit" not in str(strategy) and not has_suspects:
            assert self._expected_due() == reserved.next_due_in_ms
        elif (due := self._expected_due()) is not None:
            assert reserved.next_due_in_ms is not None
            assert reserved.next_due_in_ms <= due
        self.sleepers.pop(worker, None)
        self.unheard.discard(commands.group_of(strategy.wire()))
        is_alone = reserved.must_drain or reserved.is_suspect
        if len(reserved.chunks) < limit and not (is_alone or reserved.is_cut):
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
        due, asleep = reserved.next_due_in_ms, Asleep(strategy)
        if due is not None and reserved.has_alarm:
            asleep.alarm_at = self.clock.now + due
        self.sleepers[worker] = asleep

    def _listen(self, worker: str, strategy: AnyStrategy) -> None:
        """Subscribe before it asks; nobody listens to what it subscribed to before."""
        channel = self.raw.key(wake_channel(worker, strategy)).encode()
        others = {c for c in self.ears.shard_channels if c.endswith(f":{worker}".encode())}
        if channel in others:
            return
        for other in others:
            self.ears.sunsubscribe(other)
        self.ears.ssubscribe(channel)
        while (heard := self.ears.get_message(timeout=5)) is not None:
            if heard["type"] == "ssubscribe":
                return
        raise AssertionError

    @contextmanager
    def _some_may_go(self) -> Iterator[None]:
        """Note which workers are removed meanwhile; one that was woken has not asked."""
        woken = [w for w, asleep in self.sleepers.items() if not self._is_in_redis(w, asleep)]
        yield
        known = set(self.raw.workers())
        for worker in self.sleepers.keys() - known:
            asleep = self.sleepers.pop(worker)
            if worker in woken:
                self.unheard.add(asleep.group)

    def _is_in_redis(self, worker: str, asleep: Asleep) -> bool:
        key = self.raw.key(f"sleepers:{asleep.group}")
        return self.client.zscore(key, worker) is not None

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
        assert self.model.complete(self.clock.now, tokens, failed, outputs) == outcomes
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

    def heartbeat(
        self,
        worker: str,
        picks: list[int],
        unknown_ms: int,
        timeout_ms: int,
        begun: list[int] | None,
    ) -> None:
        tokens = self._tokens(picks)
        reported = None if begun is None else self._tokens(begun)
        alive = self.queue.heartbeat(
            worker, tokens=tokens, unknown_ms=unknown_ms, timeout_ms=timeout_ms, begun=reported
        )
        lost_before = self.model.stats["reservations_lost"]
        expected = self.model.heartbeat(
            self.clock.now, worker, tokens, unknown_ms, timeout_ms, reported
        )
        assert expected == (set(alive.revoked), alive.released)
        assert self.model.stats["reservations_lost"] - lost_before == alive.lost

    def note_begun(self, worker: str, begun: list[int]) -> None:
        tokens = self._tokens(begun)
        assert self.model.note_begun(worker, tokens) == self.queue.note_begun(worker, tokens)

    def die(self, worker: str, begun: list[int] | None) -> None:
        """A worker runs what it holds, or says nothing, and is reclaimed when its time is over."""
        if worker not in self.model.workers:
            return
        if begun is not None:
            held = [t for t, e in self.model.stream.items() if e.worker == worker]
            chosen = [held[pick % len(held)] for pick in begun] if held else []
            assert self.model.note_begun(worker, chosen) == self.queue.note_begun(worker, chosen)
        self.pass_time(max(0, self.model.dead_at[worker] - self.clock.now))
        self.reclaim_dead(1_000)

    def retire(self, worker: str, limit: int) -> None:
        with self._some_may_go():
            is_done = self.queue.run(commands.retire_worker(worker, limit=limit))
        assert is_done == self.model.retire(self.clock.now, worker, limit)

    def reclaim_dead(self, limit: int) -> None:
        with self._some_may_go():
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

    def lose(self, *, stream_too: bool) -> None:
        if not self.model.has_group:
            return
        if stream_too:
            self.raw.lose_stream()
        else:
            self.raw.lose_group()
        self.model.lose(stream_too=stream_too)

    def repair(self, limit: int, steps: int) -> None:
        for step in range(steps):
            if self.model.is_repairing:
                # Each is followed by a look at all keys.
                self._repair_step(limit if step < 40 else 1_000, begin=False)
        assert steps < 500 or not self.model.is_repairing

    def begin_repair(self, limit: int) -> None:
        self.model.begin_repair()
        self._repair_step(limit, begin=True)

    def _repair_step(self, limit: int, *, begin: bool) -> None:
        step = self.queue.repair(begin=begin, limit=limit)
        assert step is not None
        after = self._snapshot()
        in_redo = {(id_, n) for id_, keys in after.submissions.items() for n in keys.redo}
        freed = self.model.repair_step(
            in_redo, set(after.entries), set(after.pending or ()), is_over=step.next_from is None
        )
        assert freed == step.chunks

    # What an operator does to the stream

    def _reserved(self, picks: list[int]) -> list[Token]:
        """Reservations that are whole; without a group, those whose entries are left."""
        whole = [
            token
            for token, entry in self.model.stream.items()
            if entry.is_there and (entry.is_pending or not self.model.has_group)
        ]
        return sorted({whole[pick % len(whole)] for pick in picks}) if whole else []

    def remove_entries(self, picks: list[int]) -> None:
        tokens = self._reserved(picks)
        if tokens:
            self.client.xdel(self.raw.key("reservations"), *map(entry_of, tokens))
            self.model.remove_entries(tokens)

    def trim(self, left: int) -> None:
        there = [token for token, entry in self.model.stream.items() if entry.is_there]
        if self.model.has_group and not all(self.model.stream[t].is_pending for t in there):
            return  # nobody would ever meet an entry that nobody held and that is not there either
        there.sort(key=order_of)
        self.client.xtrim(self.raw.key("reservations"), maxlen=left, approximate=False)
        self.model.remove_entries(there[: len(there) - left] if left < len(there) else [])

    def acknowledge(self, picks: list[int]) -> None:
        tokens = self._reserved(picks) if self.model.has_group else []
        if tokens:
            self.client.xack(self.raw.key("reservations"), "workers", *map(entry_of, tokens))
            self.model.acknowledge(tokens)

    def delete_consumer(self, worker: str) -> None:
        held = [t for t, e in self.model.stream.items() if e.worker == worker and e.is_pending]
        if self.model.has_group and all(self.model.stream[token].is_there for token in held):
            self.client.xgroup_delconsumer(self.raw.key("reservations"), "workers", worker)
            self.model.acknowledge(held)

    # What holds after each step

    def _snapshot(self) -> Snapshot:
        states = [state.value for state in SubmissionState]
        return Snapshot.of(
            self.client, self.queue.name, ids=self.ids, meta_keys=META_KEYS, states=states
        )

    @invariant()
    def redis_holds_what_the_model_holds(self) -> None:
        now = self._snapshot()
        every_chunk_is_in_exactly_one_place(self.model, now)
        reservations_are_the_pending_entries(self.model, now)
        a_lost_chunk_is_found_by_a_repair(self.model, now)
        in_hand_counts_are_right(self.model, now)
        indexes_and_totals_are_right(self.model, now)
        submissions_are_as_they_should_be(self.model, now)
        self.nobody_sleeps_while_there_is_work()

    def nobody_sleeps_while_there_is_work(self) -> None:
        """Each group has a worker that was woken, or comes by itself, or there is nothing for it.

        A woken one that is gone is made good by the look with each heartbeat.
        """
        due = None if self.model.is_paused else self.model.next_due()
        groups: dict[str, list[tuple[str, Asleep]]] = {}
        for worker, asleep in self.sleepers.items():
            groups.setdefault(asleep.group, []).append((worker, asleep))
        for group, members in groups.items():
            if group in self.unheard or not all(self._is_in_redis(*one) for one in members):
                continue
            alarms = [asleep.alarm_at for _, asleep in members if asleep.alarm_at is not None]
            comes_at = min(alarms, default=None)
            if comes_at is not None and comes_at <= self.clock.now:
                continue
            assert not self.model.can_reserve(members[0][1].strategy, self.clock.now)
            assert due is None or (comes_at is not None and comes_at <= max(due, self.clock.now))

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

    _run(fresh, examples=10, steps=40)


@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_queue_and_model_agree_on_a_real_server(real_client: redis.Redis) -> None:
    """All transitions, interleaved at random."""
    _run(lambda: real_client, examples=30, steps=60)
