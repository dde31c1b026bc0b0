"""heartbeat: reserved -> ready."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.chunk import Lost, Token
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    indexes_of,
    insert,
    repair_wholly,
    take,
    take_one,
    tokens_of,
)


def test_what_a_worker_rightly_holds_is_not_revoked(queue: Queue) -> None:
    """The worker continues with it."""
    insert(queue, 3)
    tokens = tokens_of(take(queue, 2))

    alive = queue.heartbeat("w1", tokens=tokens)

    assert (frozenset(), 0) == (alive.revoked, alive.released)


def test_chunks_of_a_cancelled_submission_are_revoked(queue: Queue) -> None:
    """The worker can stop early; other submissions' chunks go on."""
    cancelled, running = insert(queue, 2), insert(queue, 1)
    chunks = take(queue, 3)
    queue.cancel_submission(cancelled)

    alive = queue.heartbeat("w1", tokens=tokens_of(chunks))

    revoked = {c.token for c in chunks if c.source.submission_id == cancelled}
    assert revoked == alive.revoked
    assert running == chunks[2].source.submission_id


def test_chunks_of_a_failed_submission_are_revoked(queue: Queue) -> None:
    """Another chunk's failure ended it."""
    insert(queue, 2, max_attempts=1)
    first, second = tokens_of(take(queue, 2))
    queue.fail_chunk(first, FAILURE)

    assert frozenset({second}) == queue.heartbeat("w1", tokens=[second]).revoked


def test_a_lost_reservation_is_revoked(queue: Queue, clock: Clock) -> None:
    """This also holds if another worker holds the chunk by now."""
    insert(queue, 1)
    token = queue.reserve_chunks("w1", reservation_ms=10).chunks[0].token
    clock.advance(10)
    queue.reclaim_expired("sweeper")
    theirs = take_one(queue, worker="w2").token

    alive = queue.heartbeat("w1", tokens=[token, theirs, Token("1-1")])

    assert frozenset({token, theirs, Token("1-1")}) == alive.revoked
    assert queue.heartbeat("w2", tokens=[theirs]).revoked == frozenset()


def test_an_old_reservation_that_the_worker_does_not_know_is_released(
    queue: Queue, clock: Clock
) -> None:
    """The reserve's answer was lost, so nobody works on it; no attempt is used."""
    id_ = insert(queue, 2)
    known, unknown = take(queue, 2)
    clock.advance(30_000)

    alive = queue.heartbeat("w1", tokens=[known.token])

    assert (frozenset(), 1) == (alive.revoked, alive.released)
    assert [Lost()] == queue.complete_chunks([unknown.token])
    assert (take_one(queue, worker="w2").chunk_index, queue.count_queue().workers - 1) == (1, 1)
    assert queue.get_submission(id_).chunks_in_hand == 2


def test_a_young_reservation_that_the_worker_does_not_know_yet_is_kept(
    queue: Queue, clock: Clock
) -> None:
    """The answer of its reserve may still be under way."""
    insert(queue, 1)
    token = take_one(queue).token
    clock.advance(29_999)

    alive = queue.heartbeat("w1", tokens=[])

    assert alive.released == 0
    assert frozenset() == queue.heartbeat("w1", tokens=[token]).revoked


def test_a_released_unknown_chunk_of_a_cancelled_submission_waits_for_a_retry(
    queue: Queue, clock: Clock
) -> None:
    """A worker that stopped early reports nothing: this is how the index comes back."""
    id_ = insert(queue, 1)
    take_one(queue)
    queue.cancel_submission(id_)
    clock.advance(30_000)

    queue.heartbeat("w1", tokens=[])

    assert take(queue, 5) == []
    assert queue.get_submission(id_).chunks_in_hand == 0
    queue.retry_submission(id_)
    assert take_one(queue).chunk_index == 0


def test_another_workers_reservations_are_not_touched(queue: Queue, clock: Clock) -> None:
    """Only the caller's own pending reservations are released."""
    insert(queue, 1)
    token = take_one(queue, worker="w2").token
    clock.advance(60_000)

    alive = queue.heartbeat("w1", tokens=[], unknown_ms=0)

    assert alive.released == 0
    assert frozenset() == queue.heartbeat("w2", tokens=[token]).revoked


def test_a_heartbeat_keeps_a_worker_from_being_taken_for_dead(queue: Queue, clock: Clock) -> None:
    """A heartbeat restarts the worker's timeout."""
    insert(queue, 1)
    token = take_one(queue).token
    clock.advance(25_000)

    queue.heartbeat("w1", tokens=[token])

    clock.advance(25_000)
    swept = queue.reclaim_dead("sweeper")
    assert swept is not None
    assert swept.chunks == 0


def test_a_heartbeat_tells_of_its_worker(client: redis.Redis, queue: Queue, raw: Raw) -> None:
    """What it says of itself is kept until it retires."""
    queue.heartbeat("w1", info=b'{"host":"a"}')

    assert client.hget(raw.key("worker_info"), "w1") == b'{"host":"a"}'
    queue.retire_worker("w1")
    assert client.hget(raw.key("worker_info"), "w1") is None


def test_a_released_chunk_leaves_the_in_hand_counts(queue: Queue, raw: Raw, clock: Clock) -> None:
    """Each exit from reserved undoes what reserve did."""
    insert(queue, 2, strategic_metadata={"customer": 7})
    known, _ = take(queue, 2)
    clock.advance(30_000)

    queue.heartbeat("w1", tokens=[known.token])

    assert raw.in_hand("customer") == {7: 1}


@pytest.mark.parametrize("info", [b"\xff", b"[1]", b"{", b"null"])
def test_what_a_worker_tells_of_itself_is_a_json_object(queue: Queue, info: bytes) -> None:
    """One that is none would make every list of workers fail, the others in it too."""
    queue.heartbeat("w1", info=b'{"host": "a"}')

    with pytest.raises(InvalidArgumentError, match="JSON object"):
        queue.heartbeat("w2", info=info)

    assert ["w1"] == [worker.name for worker in queue.list_workers()]


def test_a_heartbeat_tells_whether_something_may_be_reserved(queue: Queue, clock: Clock) -> None:
    """A worker that is idle then looks at once, although no wake-up reached it."""

    def is_free() -> bool:
        return queue.heartbeat("w2").is_free

    assert not is_free()
    insert(queue, 1, strategic_metadata={"customer": 7})
    assert is_free()
    queue.pause_queue()
    assert not is_free()
    queue.resume_queue()
    token = take_one(queue).token
    assert not is_free()
    queue.release_chunks([token], delay_ms=1_000)
    assert not is_free()
    clock.advance(1_000)
    assert is_free()


def test_a_heartbeat_tells_that_a_suspect_waits(queue: Queue, clock: Clock) -> None:
    """It is free for a worker that holds nothing, whatever its instant in `delayed` is."""
    insert(queue, 1)
    token = take_one(queue).token
    queue.heartbeat("w1", tokens=[token], begun=[token], timeout_ms=1_000)
    clock.advance(1_000)
    queue.reclaim_dead("sweeper")

    assert queue.heartbeat("w2").is_free


def test_a_heartbeat_tells_the_numbers_of_workers_and_of_partitions(queue: Queue) -> None:
    """Only the first partition knows how many there are."""
    queue.heartbeat("w1")
    queue.set_partitions(3)

    alive = queue.heartbeat("w2")

    assert (2, (1, 3)) == (alive.workers, alive.partitions)
    assert (1, ()) == ((one := queue.part(2).heartbeat("w2")).workers, one.partitions)


def create_stream(queue: Queue) -> None:
    """Create the stream of reservations, whose absence begins a repair."""
    queue.repair(begin=True)
    repair_wholly(queue)


def test_a_heartbeat_tells_that_a_dead_worker_waits_for_a_sweeper(
    queue: Queue, clock: Clock
) -> None:
    """Sweepers come within seconds of its death; if they don't, somebody must."""
    create_stream(queue)
    queue.heartbeat("w1", timeout_ms=1_000)
    clock.advance(5_999)
    assert not queue.heartbeat("w2").is_due
    clock.advance(1)
    assert queue.heartbeat("w2").is_due

    queue.reclaim_dead("sweeper")

    assert not queue.heartbeat("w2").is_due


def test_a_heartbeat_tells_that_a_reservation_has_expired(queue: Queue, clock: Clock) -> None:
    """The oldest one stands for all."""
    create_stream(queue)
    insert(queue, 1)
    queue.reserve_chunks("w1", reservation_ms=10)
    clock.advance(5_009)
    assert not queue.heartbeat("w1", unknown_ms=60_000).is_due
    clock.advance(1)
    assert queue.heartbeat("w1", unknown_ms=60_000).is_due

    queue.reclaim_expired("sweeper")

    assert not queue.heartbeat("w1").is_due


def test_a_heartbeat_tells_that_submissions_are_to_be_forgotten(queue: Queue, clock: Clock) -> None:
    """And that their objects are to be deleted."""
    create_stream(queue)
    insert(queue, 0, retention_ms=1_000)
    assert not queue.heartbeat("w1").is_due
    clock.advance(1_000)
    assert queue.heartbeat("w1").is_due

    forgotten = queue.forget_submissions()

    assert queue.heartbeat("w1").is_due
    queue.forget_submissions(deleted_prefixes=forgotten.prefixes)
    assert not queue.heartbeat("w1").is_due


def test_a_heartbeat_tells_of_a_repair(queue: Queue) -> None:
    """It goes on as soon as somebody takes the next step."""
    create_stream(queue)
    insert(queue, 2)
    take(queue, 2)
    queue.repair(begin=True, limit=1)
    assert queue.heartbeat("w1").is_due

    repair_wholly(queue)

    assert not queue.heartbeat("w1").is_due


@pytest.fixture
def page_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("commands", "queue"):
        monkeypatch.setattr(f"opsqueue.queue.{module}.HEARTBEAT_PAGE", 3)


@pytest.mark.usefixtures("page_of_three")
@pytest.mark.parametrize("revoked", range(8))
def test_a_revoked_chunk_is_found_wherever_the_pages_end(queue: Queue, revoked: int) -> None:
    """Seven chunks are three pages; the eighth is of another worker."""
    insert(queue, 7)
    tokens = [*tokens_of(take(queue, 7)), Token("9000000000000-1")]
    if revoked < 7:
        queue.complete_chunks([tokens[revoked]])

    alive = queue.heartbeat("w1", tokens=tokens)

    assert {tokens[revoked], tokens[7]} == alive.revoked
    assert alive.released == alive.lost == 0


@pytest.mark.usefixtures("page_of_three")
@pytest.mark.parametrize("unknown", [{0}, {2}, {3}, {6}, {2, 3}, {0, 1, 2, 3}, set(range(7))])
def test_unknown_chunks_are_found_wherever_the_pages_end(
    queue: Queue, clock: Clock, unknown: set[int]
) -> None:
    """The pages together cover all entries, also those between, before and behind the tokens."""
    insert(queue, 7)
    chunks = take(queue, 7)
    clock.advance(30_000)
    named = [chunk.token for index, chunk in enumerate(chunks) if index not in unknown]

    alive = queue.heartbeat("w1", tokens=reversed(named))

    assert (frozenset(), len(unknown)) == (alive.revoked, alive.released)
    assert sorted(unknown) == indexes_of(take(queue, 7, worker="w2"))


@pytest.mark.usefixtures("page_of_three")
def test_a_chunk_with_two_names_is_not_parted_by_a_page(queue: Queue) -> None:
    """Earlier versions named entries without the chunk."""
    insert(queue, 4)
    tokens = tokens_of(take(queue, 4))
    short = [Token(token.partition(":")[0]) for token in tokens]

    assert frozenset() == queue.heartbeat("w1", tokens=short).revoked
    assert tokens[2] not in queue.heartbeat("w1", tokens=[*tokens, short[3]]).revoked


@pytest.mark.usefixtures("page_of_three")
def test_only_the_first_page_reports_what_has_begun(queue: Queue, clock: Clock, raw: Raw) -> None:
    """It reports all of it."""
    insert(queue, 7)
    tokens = tokens_of(take(queue, 7))

    alive = queue.heartbeat("w1", tokens=tokens, begun=tokens, timeout_ms=1_000)

    begun: Any = raw.client.hget(raw.key("begun"), "w1")
    assert [token.partition(":")[0] for token in tokens] == begun.decode().split()
    assert (1, (1,)) == (alive.workers, alive.partitions)
    clock.advance(1_000)
    swept = queue.reclaim_dead("sweeper")
    assert swept is not None
    assert swept.chunks == 7


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("page", [1, 2, 5])
def test_pages_answer_what_one_page_answers(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch, seed: int, page: int
) -> None:
    """Whatever is lost, revoked, of others, unknown, or no token at all."""

    def answer_of(name: str, size: int) -> tuple[list[int], int, int, list[int]]:
        chance, clock = random.Random(seed), Clock()
        queue, raw = Queue(client, name, clock=clock), Raw(client, name)
        ids = [insert(queue, 8) for _ in range(3)]
        chunks = []
        for _ in range(12):
            worker = chance.choice(["w1", "w1", "w2"])
            chunks += take(queue, chance.randrange(1, 4), worker=worker)
        tokens = tokens_of(chunks)
        queue.complete_chunks(chance.sample(tokens, 4))
        for token in chance.sample(tokens, 3):
            client.xdel(raw.key("reservations"), token.partition(":")[0])
        queue.cancel_submission(chance.choice(ids))
        clock.advance(60_000)
        named = [token for token in tokens if chance.random() < 0.6]
        named += [Token("none"), Token("0-0"), Token("")]
        chance.shuffle(named)
        for module in ("commands", "queue"):
            monkeypatch.setattr(f"opsqueue.queue.{module}.HEARTBEAT_PAGE", size)
        alive = queue.heartbeat("w1", tokens=named)
        left = queue.list_reservations().chunks
        revoked = sorted(named.index(token) for token in alive.revoked)
        return revoked, alive.released, alive.lost, sorted(chunk.index for chunk in left)

    assert answer_of(f"{queue_name}-a", 1_000) == answer_of(f"{queue_name}-b", page)


def test_a_page_ends_where_its_chunks_are_work_enough(queue: Queue, clock: Clock) -> None:
    """Each of these has 64 groups to return to; the next page goes on behind them."""
    for value in range(30):
        insert(queue, 1, strategic_metadata={f"key-{n}": value for n in range(64)})
    tokens: list[Token] = []
    while len(tokens) < 30:
        tokens += tokens_of(take(queue, 30))
    clock.advance(30_000)
    alive, stopped_at = queue.run(
        commands.heartbeat(
            "w1", partition=0, tokens=[], info=b"{}", unknown_ms=0, timeout_ms=60_000
        )
    )
    assert stopped_at
    assert 1 <= alive.released < 30

    rest = queue.heartbeat("w1", tokens=tokens[-1:])

    assert (29, frozenset()) == (alive.released + rest.released, rest.revoked)
