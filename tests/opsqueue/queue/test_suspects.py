"""A chunk whose handler ran when its worker died waits for a worker that holds nothing else."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
import redis

from opsqueue.model.answers import Reserved
from opsqueue.model.chunk import Reservation, Token
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.strategy import (
    AnyStrategy,
    MaxSimultaneous,
    Oldest,
    OrElse,
    PreferDistinct,
    RateLimit,
    SelectOnly,
)
from tests.opsqueue.steps import FAILURE, Clock, Raw, Sleeper, indexes_of, insert, take, tokens_of

TIMEOUT_MS = 30_000
WAITED_MS = 10_000
"""After this time a worker that holds chunks is told to make room for a suspect."""


def ask(
    queue: Queue,
    worker: str = "w1",
    *,
    alone: bool = True,
    limit: int = 10,
    strategy: AnyStrategy | None = None,
    begun: list[Token] | None = None,
) -> Reserved:
    """Reserve as a worker does that reports what has begun."""
    return queue.reserve_chunks(
        worker,
        limit=limit,
        strategy=strategy or Oldest(),
        begun=begun or [],
        alone=alone,
    )


def die(queue: Queue, clock: Clock, worker: str, begun: list[Reservation]) -> None:
    """A worker dies of what it runs; `w1` lives on."""
    queue.note_begun(worker, tokens_of(begun))
    clock.advance(TIMEOUT_MS)
    queue.heartbeat("w1")
    assert queue.reclaim_dead("sweeper") is not None


def make_suspects(queue: Queue, clock: Clock, number: int = 1, *, others: int = 0) -> None:
    """Insert chunks; the worker that runs the first of them dies."""
    insert(queue, number + others)
    die(queue, clock, "dead", take(queue, number, worker="dead"))


def test_a_suspect_goes_only_to_a_worker_that_holds_nothing_and_goes_alone(
    queue: Queue, clock: Clock
) -> None:
    """Its first attempt is used, and ordinary chunks go on meanwhile."""
    make_suspects(queue, clock, others=5)

    ordinary = ask(queue, alone=False, limit=2)
    suspect = ask(queue)

    assert ([1, 2], False, False) == (
        indexes_of(list(ordinary.chunks)),
        ordinary.is_suspect,
        ordinary.must_drain,
    )
    assert [(0, 2, True)] == [(c.chunk_index, c.attempt, c.again) for c in suspect.chunks]
    assert (True, False) == (suspect.is_suspect, suspect.must_drain)


def test_a_suspect_that_completes_is_forgotten_as_one(queue: Queue, clock: Clock, raw: Raw) -> None:
    """Nothing remains after the next reserve."""
    make_suspects(queue, clock, others=1)
    queue.complete_chunks(tokens_of(list(ask(queue).chunks)))

    after = ask(queue)

    assert ([1], False) == (indexes_of(list(after.chunks)), after.is_suspect)
    assert [] == [k for k in ("suspects", "hosts", "isolating") if raw.client.exists(raw.key(k))]
    assert 0 == queue.count_queue().chunks_delayed


def test_a_suspect_that_fails_in_its_own_process_is_ordinary_again(
    queue: Queue, clock: Clock
) -> None:
    """Its worker has survived it."""
    make_suspects(queue, clock)
    (chunk,) = ask(queue).chunks
    queue.fail_chunk(chunk.token, FAILURE, jitter=0)
    clock.advance(60_000)

    assert [(0, 3)] == [(c.chunk_index, c.attempt) for c in ask(queue, alone=False).chunks]


def test_a_chunk_that_kills_every_worker_ends_after_max_attempts(
    queue: Queue, clock: Clock
) -> None:
    """Each death uses one attempt, and the failure is the death."""
    id_ = insert(queue, 1, max_attempts=3)
    for attempt in (1, 2, 3):
        chunks = list(ask(queue, f"w{attempt + 1}").chunks)
        assert [attempt] == [chunk.attempt for chunk in chunks]
        die(queue, clock, f"w{attempt + 1}", chunks)

    found = queue.get_submission(id_)
    assert SubmissionState.FAILED is found.state
    assert found.last_failure is not None
    assert ("WorkerDied", 3) == (found.last_failure.type, found.last_failure.attempt)
    assert () == ask(queue).chunks


def test_what_an_older_worker_held_is_no_suspect(queue: Queue, clock: Clock) -> None:
    """It never reports what has begun: all is charged, as before, and free at once."""
    insert(queue, 3)
    take(queue, 3, worker="older")
    clock.advance(TIMEOUT_MS)
    queue.reclaim_dead("sweeper")

    assert [2, 2, 2] == [chunk.attempt for chunk in ask(queue, alone=False).chunks]


# How a suspect's reservation ends without its handler


@pytest.mark.parametrize("how", ["release", "retire", "heartbeat", "death", "expiry"])
def test_a_suspect_that_did_not_begin_remains_one_and_uses_no_attempt(
    queue: Queue, clock: Clock, how: str
) -> None:
    """Whatever ends its reservation."""
    make_suspects(queue, clock)
    reserved = queue.reserve_chunks("host", alone=True, begun=[], reservation_ms=20_000)
    (chunk,) = reserved.chunks
    match how:
        case "release":
            queue.release_chunks([chunk.token])
        case "retire":
            queue.retire_worker("host")
        case "heartbeat":
            queue.heartbeat("host", unknown_ms=0, begun=[])
        case "death":
            die(queue, clock, "host", [])
        case _:
            clock.advance(20_000)
            queue.reclaim_expired("sweeper")

    assert () == ask(queue, alone=False).chunks
    again = ask(queue)
    assert (True, [(0, 2)]) == (
        again.is_suspect,
        [(one.chunk_index, one.attempt) for one in again.chunks],
    )


def test_a_suspect_that_has_expired_while_it_ran_is_ordinary_again(
    queue: Queue, clock: Clock
) -> None:
    """Its worker has survived it."""
    make_suspects(queue, clock)
    reserved = queue.reserve_chunks("w1", alone=True, reservation_ms=1_000)
    queue.note_begun("w1", tokens_of(list(reserved.chunks)))
    clock.advance(1_000)
    queue.reclaim_expired("sweeper")

    assert [3] == [chunk.attempt for chunk in ask(queue, "w2", alone=False).chunks]


# Who hosts


def fleet(queue: Queue, number: int) -> list[str]:
    workers = [f"w{index}" for index in range(1, number + 1)]
    for worker in workers:
        queue.heartbeat(worker, begun=[])
    return workers


@pytest.mark.parametrize(("workers", "hosts"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_ordinary_chunks_keep_at_least_half_of_the_workers(
    queue: Queue, clock: Clock, workers: int, hosts: int
) -> None:
    """Even if every worker is idle."""
    make_suspects(queue, clock, 10)

    answers = [ask(queue, worker) for worker in fleet(queue, workers)]

    assert hosts == sum(answer.is_suspect for answer in answers)
    assert hosts == sum(len(answer.chunks) for answer in answers)


def test_the_suspect_that_has_waited_longest_is_next(queue: Queue, clock: Clock) -> None:
    """Whatever its submission, and before ordinary chunks of the same host."""
    make_suspects(queue, clock)
    make_suspects(queue, clock, others=3)
    fleet(queue, 2)
    order = []
    for _ in range(3):
        answer = ask(queue)
        order.append((str(answer.chunks[0]), answer.is_suspect))
        queue.complete_chunks(tokens_of(list(answer.chunks)))

    ids = sorted(submission.id for submission in queue.list_submissions().submissions)
    assert [(f"{ids[0]}/0", True), (f"{ids[1]}/0", True), (f"{ids[1]}/1", False)] == order


def test_an_only_worker_alternates_between_suspects_and_ordinary_chunks(
    queue: Queue, clock: Clock
) -> None:
    """When nothing ordinary is free, it runs suspects in a row."""
    make_suspects(queue, clock, 5, others=4)
    kinds = []
    while (answer := ask(queue, limit=2)).chunks:
        kinds.append((answer.is_suspect, indexes_of(list(answer.chunks))))
        queue.complete_chunks(tokens_of(list(answer.chunks)))

    assert [
        (True, [0]), (False, [5, 6]), (True, [1]), (False, [7, 8]), (True, [2]), (True, [3]),
        (True, [4]),
    ] == kinds  # fmt: skip


def test_an_only_worker_that_is_killed_and_replaced_alternates_too(
    queue: Queue, clock: Clock
) -> None:
    """While the dead one still counts as alive, and after that."""
    make_suspects(queue, clock, 2, others=4)
    killed = ask(queue, "w2")
    before = ask(queue, "w3", limit=1)
    die(queue, clock, "w2", list(killed.chunks))
    queue.retire_worker("w1")
    after = ask(queue, "w3")

    assert [True, False, True] == [answer.is_suspect for answer in (killed, before, after)]


def test_a_host_that_asks_for_more_is_told_to_hold_nothing_else(queue: Queue, clock: Clock) -> None:
    """One that holds nothing has not received the answer: it gets ordinary chunks."""
    make_suspects(queue, clock, 2, others=2)
    (suspect,) = ask(queue).chunks

    busy = ask(queue, alone=False)
    idle = ask(queue, limit=1)
    queue.heartbeat("w1", tokens=tokens_of(list(idle.chunks)), unknown_ms=0)

    assert (True, ()) == (busy.must_drain, busy.chunks)
    assert (False, [2]) == (idle.is_suspect, indexes_of(list(idle.chunks)))
    assert suspect.chunk_index in {
        chunk.chunk_index for worker in ("w2", "w3") for chunk in ask(queue, worker).chunks
    }


def test_a_host_that_hangs_does_not_keep_its_place(queue: Queue, clock: Clock) -> None:
    """When its suspect has expired, another one hosts the next: who holds nothing does at once."""
    make_suspects(queue, clock, 3, others=100)
    fleet(queue, 3)
    queue.reserve_chunks("w1", alone=True, begun=[], reservation_ms=5_000)
    clock.advance(5_000)
    queue.reclaim_expired("sweeper")

    idle = ask(queue, "w2")
    queue.complete_chunks(tokens_of(list(idle.chunks)))
    clock.advance(25_000)
    fleet(queue, 3)
    early = ask(queue, "w3", alone=False, limit=1)
    clock.advance(30_000)
    fleet(queue, 3)
    late = ask(queue, "w3", alone=False, limit=1)

    assert [True, False, False] == [a.is_suspect for a in (idle, early, late)]
    assert [False, True] == [a.must_drain for a in (early, late)]


# Making room


def test_after_a_while_one_worker_is_told_to_make_room(queue: Queue, clock: Clock) -> None:
    """One only; when it holds nothing it gets the suspect, and the others go on."""
    make_suspects(queue, clock, 1, others=100)
    fleet(queue, 4)
    early = ask(queue, "w1", alone=False, limit=1)
    clock.advance(WAITED_MS)

    told = ask(queue, "w1", alone=False, limit=1)
    others = [ask(queue, worker, alone=False, limit=1) for worker in ("w2", "w3", "w4")]
    repeated = ask(queue, "w1", alone=False, limit=1)
    hosting = ask(queue, "w1")

    assert (1, False) == (len(early.chunks), early.must_drain)
    assert [(True, ()), (True, ())] == [(a.must_drain, a.chunks) for a in (told, repeated)]
    assert [(1, False)] * 3 == [(len(a.chunks), a.must_drain) for a in others]
    assert (True, [0]) == (hosting.is_suspect, indexes_of(list(hosting.chunks)))


@pytest.mark.parametrize("how", ["time", "death", "retirement"])
def test_if_that_worker_does_not_come_back_another_one_is_told(
    queue: Queue, clock: Clock, how: str
) -> None:
    """A long chunk, or its death, must not keep the suspect waiting for ever."""
    make_suspects(queue, clock, 1, others=100)
    fleet(queue, 3)
    clock.advance(WAITED_MS)
    assert ask(queue, "w1", alone=False).must_drain
    match how:
        case "time":
            clock.advance(600_000)
            fleet(queue, 3)
        case "death":
            clock.advance(TIMEOUT_MS)
            queue.heartbeat("w2")
            queue.heartbeat("w3")
            queue.reclaim_dead("sweeper")
        case _:
            queue.retire_worker("w1")

    assert ask(queue, "w2", alone=False).must_drain


def test_one_that_does_not_report_what_has_begun_is_not_told(queue: Queue, clock: Clock) -> None:
    """A consumer, or a worker of an older version, would not know what to do."""
    make_suspects(queue, clock, 1, others=100)
    clock.advance(WAITED_MS)

    answer = queue.reserve_chunks("older", strategy=Oldest())

    assert (False, [1]) == (answer.must_drain, indexes_of(list(answer.chunks)))


# What else holds for them


@pytest.mark.parametrize(
    "strategy",
    [
        SelectOnly("customer", 2, Oldest()),
        MaxSimultaneous("customer", 1, Oldest()),
        MaxSimultaneous("customer", 1, PreferDistinct("customer", Oldest())),
        RateLimit("customer", 0.001, 1, Oldest()),
    ],
    ids=str,
)
def test_filters_hold_for_suspects(queue: Queue, clock: Clock, strategy: AnyStrategy) -> None:
    """Those that let no ordinary chunk of the submission through; an alternative may."""
    insert(queue, 3, strategic_metadata={"customer": 1})
    fleet(queue, 4)
    die(queue, clock, "dead", take(queue, 1, worker="dead"))
    assert 1 == len(ask(queue, "w2", alone=False, limit=1, strategy=Oldest()).chunks)
    if isinstance(strategy, RateLimit):
        assert 1 == len(ask(queue, "w2", alone=False, limit=1, strategy=strategy).chunks)

    refused = ask(queue, "w3", strategy=strategy)
    permitted = ask(queue, "w3", strategy=OrElse(strategy, Oldest()))

    assert () == refused.chunks
    assert (True, [0]) == (permitted.is_suspect, indexes_of(list(permitted.chunks)))


def test_a_worker_does_not_wait_for_a_suspect_that_its_strategy_excludes(
    queue: Queue, clock: Clock
) -> None:
    """One that works until its queues are empty would never end."""
    insert(queue, 1, strategic_metadata={"customer": 1})
    die(queue, clock, "dead", take(queue, 1, worker="dead"))

    excluded = ask(queue, strategy=SelectOnly("customer", 2, Oldest()))
    others = ask(queue, alone=False)

    assert excluded.next_due_in_ms is None
    assert others.next_due_in_ms is not None


def test_a_delayed_chunk_is_due_though_suspects_wait(queue: Queue, clock: Clock) -> None:
    make_suspects(queue, clock, 2)
    insert(queue, 1)
    (ordinary,) = ask(queue, alone=False, limit=1).chunks
    queue.release_chunks([ordinary.token], delay_ms=400_000)

    answer = ask(queue, "w2", strategy=SelectOnly("customer", 1, Oldest()))

    assert answer.next_due_in_ms == 400_000


def test_a_suspect_that_is_released_with_a_delay_stays_one(queue: Queue, clock: Clock) -> None:
    """Its input could not be read, say: it has still killed its last worker."""
    make_suspects(queue, clock, others=1)
    (suspect,) = ask(queue).chunks
    queue.release_chunks([suspect.token], delay_ms=5_000)

    early = ask(queue)
    queue.complete_chunks(tokens_of(list(early.chunks)))
    before = ask(queue)
    clock.advance(5_000)
    after = ask(queue)

    assert (False, [1]) == (early.is_suspect, indexes_of(list(early.chunks)))
    assert ((), 5_000) == (before.chunks, before.next_due_in_ms)
    assert (True, [0]) == (after.is_suspect, indexes_of(list(after.chunks)))


def test_a_suspect_counts_for_limits(queue: Queue, clock: Clock) -> None:
    """While it is in hand, no other chunk of its value is reserved; then one is."""
    insert(queue, 3, strategic_metadata={"customer": 1})
    die(queue, clock, "dead", take(queue, 1, worker="dead"))
    strategy = MaxSimultaneous("customer", 1, Oldest())
    (suspect,) = ask(queue, strategy=strategy).chunks

    during = ask(queue, "w2", strategy=strategy)
    queue.complete_chunks([suspect.token])
    after = ask(queue, "w2", strategy=strategy)

    assert ([], [1]) == (indexes_of(list(during.chunks)), indexes_of(list(after.chunks)))


def test_a_paused_queue_hands_out_no_suspect(queue: Queue, clock: Clock) -> None:
    """Nor does it tell a worker to make room."""
    make_suspects(queue, clock)
    queue.pause_queue()
    clock.advance(WAITED_MS)

    answers = [ask(queue), ask(queue, alone=False)]
    queue.resume_queue()

    assert [(), ()] == [answer.chunks for answer in answers]
    assert [False, False] == [answer.must_drain for answer in answers]
    assert ask(queue).is_suspect


def test_a_suspect_of_a_cancelled_submission_is_not_handed_out(queue: Queue, clock: Clock) -> None:
    """After a retry it is an ordinary chunk."""
    make_suspects(queue, clock)
    id_ = queue.list_submissions().submissions[0].id
    queue.cancel_submission(id_)
    during = ask(queue)
    queue.retry_submission(id_)
    after = ask(queue, alone=False)

    assert () == during.chunks
    assert ([0], [1], [True]) == (
        indexes_of(list(after.chunks)),
        [chunk.attempt for chunk in after.chunks],
        [chunk.again for chunk in after.chunks],
    )
    assert 0 == queue.count_queue().chunks_delayed


def test_a_retry_makes_waiting_suspects_ordinary(queue: Queue, clock: Clock) -> None:
    """The cause is fixed, whoever retries says."""
    make_suspects(queue, clock, 2)
    id_ = queue.list_submissions().submissions[0].id
    queue.cancel_submission(id_)
    queue.retry_submission(id_)

    assert [0, 1] == indexes_of(list(ask(queue, alone=False).chunks))
    assert not ask(queue, "w2").is_suspect


def test_a_waiting_suspect_is_shown_as_one(queue: Queue, clock: Clock) -> None:
    """With the attempts that it has used; it counts as delayed, not as ready."""
    make_suspects(queue, clock, others=2)
    id_ = queue.list_submissions().submissions[0].id

    (shown,) = queue.list_delayed(id_).chunks

    counts = queue.count_queue()
    assert (0, 1, True) == (shown.index, shown.attempts_used, shown.is_suspect)
    assert (1, 2) == (counts.chunks_delayed, counts.chunks_ready)


def test_a_queue_with_suspects_that_is_emptied_can_be_deleted(
    queue: Queue, clock: Clock, raw: Raw
) -> None:
    """Nothing of them stays."""
    make_suspects(queue, clock, 2)
    ask(queue)
    queue.cancel_submission(queue.list_submissions().submissions[0].id)
    queue.retire_worker("w1")
    clock.advance(48 * 3_600_000)
    forgotten = queue.forget_submissions()
    queue.forget_submissions(deleted_prefixes=forgotten.prefixes)
    queue.delete_queue()

    names = ("suspects", "hosts", "isolating", "drainer", "begun", "delayed")
    assert [] == [name for name in names if raw.client.exists(raw.key(name))]


def test_a_repair_leaves_waiting_suspects_where_they_are(queue: Queue, clock: Clock) -> None:
    """They are not lost."""
    make_suspects(queue, clock, 2)
    while (step := queue.repair(begin=True)) is None or step.next_from:
        pass

    assert 0 == step.freed
    assert ask(queue).is_suspect


# Waking, and being due


def test_a_suspect_wakes_idle_workers(queue: Queue, clock: Clock) -> None:
    """Also one that holds something, which learns when it may be told to make room."""
    insert(queue, 1)
    fleet(queue, 2)
    chunks = take(queue, 1, worker="dead")
    with Sleeper(queue, "w2", alone=True, begun=[]) as sleeper:
        die(queue, clock, "dead", chunks)

        busy = ask(queue, "w2", alone=False)

        assert sleeper.hears()
    assert WAITED_MS == busy.next_due_in_ms


@pytest.mark.parametrize("how", ["retirement", "death"])
def test_the_end_of_a_host_wakes_the_next_one(queue: Queue, clock: Clock, how: str) -> None:
    """Which asks again within seconds, anyway."""
    make_suspects(queue, clock, 2)
    fleet(queue, 2)
    ask(queue, "w1")
    with Sleeper(queue, "w2", alone=True, begun=[]) as sleeper:
        if how == "retirement":
            queue.retire_worker("w1")
        else:
            clock.advance(TIMEOUT_MS)
            queue.heartbeat("w2")
            queue.reclaim_dead("sweeper")

        found = sleeper.found
        assert ((), WAITED_MS) == (found.chunks, found.next_due_in_ms)
        assert sleeper.hears()
    assert ask(queue, "w2").is_suspect


def test_a_suspect_waits_longer_than_any_back_off(queue: Queue, clock: Clock) -> None:
    """It is not freed as an ordinary chunk, as long as a worker is there that may host it."""
    make_suspects(queue, clock)
    for _ in range(30):
        clock.advance(TIMEOUT_MS)
        queue.heartbeat("w1", begun=[])
        assert () == ask(queue, alone=False).chunks

    assert ask(queue).is_suspect


def test_without_a_worker_that_may_host_a_suspect_is_free_after_some_minutes(
    queue: Queue, clock: Clock
) -> None:
    """Where only consumers or older workers are left, work must go on."""
    make_suspects(queue, clock)
    clock.advance(4 * 60_000)
    early = take(queue, worker="older")
    clock.advance(60_000)

    assert ([], [0]) == (indexes_of(early), indexes_of(take(queue, worker="older")))


def test_what_an_older_version_left_of_a_dead_worker_is_removed(
    queue: Queue, clock: Clock, raw: Raw
) -> None:
    """It does not know the reports of what has begun, nor hosts."""
    make_suspects(queue, clock, 2)
    (suspect,) = ask(queue, "gone").chunks
    raw.client.zrem(raw.key("workers"), "gone")
    raw.client.zrem(raw.key("dead_at"), "gone")
    entry_id = suspect.token.partition(":")[0]
    raw.client.xack(raw.key("reservations"), "workers", entry_id)
    raw.client.xdel(raw.key("reservations"), entry_id)

    for _ in range(20):
        queue.reclaim_dead("sweeper")

    assert 0 == raw.client.exists(raw.key("begun"))
    assert ask(queue).is_suspect


# A whole fleet


@dataclass
class Worker:
    """A worker of ten slots that reserves far ahead."""

    name: str
    held: deque[Reservation] = field(default_factory=deque)
    is_hosting: bool = False
    must_drain: bool = False

    @property
    def running(self) -> list[Reservation]:
        return [chunk for chunk, _ in zip(self.held, range(10), strict=False)]


@dataclass
class Fleet:
    """Workers that take turns. `killers` kill those that run them; a supervisor starts others."""

    queue: Queue
    clock: Clock
    workers: list[Worker] = field(default_factory=list)
    killers: set[int] = field(default_factory=set)
    started: int = 0
    attempts: Counter[int] = field(default_factory=Counter)
    least_ordinary: float = 1.0

    def start(self, number: int) -> None:
        for _ in range(number):
            self.started += 1
            self.workers.append(Worker(f"w{self.started}"))

    def reserve(self, worker: Worker) -> None:
        if worker.is_hosting or (worker.must_drain and worker.held) or len(worker.held) == 100:
            return
        answer = ask(
            self.queue,
            worker.name,
            alone=not worker.held,
            limit=100 - len(worker.held),
            begun=tokens_of(worker.running),
        )
        worker.must_drain, worker.is_hosting = answer.must_drain, answer.is_suspect
        worker.held.extend(answer.chunks)
        for chunk in answer.chunks:
            most = max(self.attempts[chunk.chunk_index], chunk.attempt)
            self.attempts[chunk.chunk_index] = most

    def work(self, worker: Worker) -> bool:
        """Run what is in the slots; return whether the worker lives."""
        running = worker.running
        self.queue.note_begun(worker.name, tokens_of(running))
        if any(chunk.chunk_index in self.killers for chunk in running):
            return False
        self.queue.complete_chunks(tokens_of(running))
        for _ in running:
            worker.held.popleft()
        worker.is_hosting = False
        return True

    def run(self, id_: SubmissionId) -> int:
        """Make steps until a submission has ended; return their number."""
        for step in range(1, 1_000):
            self.step()
            if self.queue.get_submission(id_).state is not SubmissionState.IN_PROGRESS:
                return step
        message = "the submission does not end"
        raise AssertionError(message)

    def step(self) -> None:
        for worker in self.workers:
            self.reserve(worker)
        assert sum(worker.must_drain for worker in self.workers) <= 1
        hosting = sum(worker.is_hosting for worker in self.workers)
        self.least_ordinary = min(self.least_ordinary, 1 - hosting / len(self.workers))
        living = [worker for worker in self.workers if self.work(worker)]
        dead, self.workers = len(self.workers) - len(living), living
        self.start(dead)
        self.clock.advance(1_000)
        for worker in self.workers:
            self.queue.heartbeat(
                worker.name, tokens=tokens_of(list(worker.held)), begun=tokens_of(worker.running)
            )
        self.queue.reclaim_dead("sweeper", limit=1_000)


@pytest.fixture
def real_queue(real_client: redis.Redis, queue_name: str, clock: Clock) -> Queue:
    """A real server, since fakeredis takes a minute for this."""
    return Queue(real_client, queue_name, clock=clock)


def test_a_lost_fleet_is_worked_off_by_the_next_one(real_queue: Queue, clock: Clock) -> None:
    """No chunk uses more than two attempts, and half of the workers do ordinary work throughout."""
    id_ = insert(real_queue, 2_000)
    lost = Fleet(real_queue, clock)
    lost.start(20)
    for worker in lost.workers:
        lost.reserve(worker)
        real_queue.note_begun(worker.name, tokens_of(worker.running))
    assert [100] * 20 == [len(worker.held) for worker in lost.workers]
    clock.advance(TIMEOUT_MS)
    while (swept := real_queue.reclaim_dead("sweeper", limit=1_000)) is None or swept.chunks:
        pass

    following = Fleet(real_queue, clock, started=20)
    following.start(10)
    steps = following.run(id_)

    assert SubmissionState.COMPLETED is real_queue.get_submission(id_).state
    assert steps <= 50
    assert following.least_ordinary >= 0.5
    assert {1: 1_800, 2: 200} == Counter(following.attempts.values())


def test_a_killer_among_a_thousand_chunks_takes_none_of_them_along(
    real_queue: Queue, clock: Clock
) -> None:
    """Only its own submission's attempts end; no other chunk uses more than two."""
    id_ = insert(real_queue, 1_000, max_attempts=4)
    fleet_ = Fleet(real_queue, clock, killers={500})
    fleet_.start(4)
    fleet_.run(id_)

    found = real_queue.get_submission(id_)
    assert found.last_failure is not None
    assert (SubmissionState.FAILED, 999) == (found.state, found.chunks_done)
    assert (500, 4, "WorkerDied") == (
        found.last_failure.chunk_index,
        found.last_failure.attempt,
        found.last_failure.type,
    )
    assert fleet_.attempts.pop(500) == 4
    assert max(fleet_.attempts.values()) <= 2
    assert fleet_.started == 4 + 4
