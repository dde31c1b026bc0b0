"""repair: lost -> ready. What happens when the stream, its group or everything is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from opsqueue.model.chunk import Completed, Lost, Token
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    indexes_of,
    insert,
    listed,
    repair_wholly,
    take,
    take_one,
    tokens_of,
)


@pytest.fixture(params=["group", "stream"])
def lose(request: pytest.FixtureRequest, raw: Raw) -> Callable[[], None]:
    """Lose the group alone, or the stream with it."""
    return raw.lose_group if request.param == "group" else raw.lose_stream


def test_a_whole_queue_needs_no_repair(queue: Queue) -> None:
    """No done, ready, delayed or reserved chunk is freed."""
    insert(queue, 10)
    chunks = take(queue, 6)
    queue.complete_chunks(tokens_of(chunks[:2]))
    queue.release_chunks([chunks[2].token])
    queue.release_chunks([chunks[3].token], delay_ms=1_000)

    swept = queue.repair(begin=True)

    assert swept is not None
    assert (swept.chunks, swept.next_from) == (0, None)
    assert indexes_of(take(queue, 10, worker="w2")) == [2, 6, 7, 8, 9]


def test_without_a_loss_there_is_nothing_to_repair(queue: Queue) -> None:
    """The answer is None, so that workers may ask regularly."""
    insert(queue)
    repair_wholly(queue)

    assert queue.repair() is None


def test_a_report_of_a_lost_reservation_is_lost(queue: Queue, lose: Callable[[], None]) -> None:
    """Nobody can say any more who holds the chunk."""
    insert(queue, 1)
    token = take_one(queue).token

    lose()

    assert [Lost()] == queue.complete_chunks([token])
    assert frozenset({token}) == queue.heartbeat("w1", tokens=[token]).revoked


@pytest.mark.parametrize("notice", ["reserve", "heartbeat", "retire", "reclaim"])
def test_a_loss_is_noticed_by_whoever_comes_next(
    queue: Queue, lose: Callable[[], None], clock: Clock, notice: str
) -> None:
    """Reserve, heartbeat, retire and reclaim_dead make the stream anew and begin the repair."""
    insert(queue, 3)
    repair_wholly(queue)
    take(queue, 2)
    lose()

    match notice:
        case "reserve":
            assert indexes_of(take(queue, 5, worker="w2")) == [2]
        case "heartbeat":
            queue.heartbeat("w2")
        case "retire":
            queue.retire_worker("w1")
        case _:
            clock.advance(60_000)
            queue.reclaim_dead("w2")

    assert repair_wholly(queue) == 2
    assert indexes_of(take(queue, 2, worker="w3")) == [0, 1]


def test_a_lost_stream_is_noticed_by_an_insert(queue: Queue, raw: Raw) -> None:
    """Its first submission makes a queue's stream."""
    insert(queue, 2)
    repair_wholly(queue)
    take(queue, 2)
    raw.lose_stream()

    insert(queue, 1)

    assert repair_wholly(queue) == 2


def test_repair_frees_exactly_the_chunks_that_were_in_hand(
    queue: Queue, lose: Callable[[], None]
) -> None:
    """Finished, released, delayed and never reserved chunks are not freed."""
    insert(queue, 12)
    chunks = take(queue, 10)
    queue.complete_chunks(tokens_of(chunks[0:2]))
    queue.release_chunks(tokens_of(chunks[2:4]))
    queue.release_chunks(tokens_of(chunks[4:6]), delay_ms=1_000)
    lose()
    queue.heartbeat("w1")

    freed = repair_wholly(queue)

    assert freed == 4
    assert indexes_of(take(queue, 20)) == [2, 3, 6, 7, 8, 9, 10, 11]


def test_what_is_reserved_between_the_loss_and_its_repair_stays_reserved(
    queue: Queue, lose: Callable[[], None]
) -> None:
    """A chunk taken for lost would be run twice."""
    id_ = insert(queue, 4)
    take(queue, 2, worker="before")
    lose()
    after = take_one(queue, worker="after")

    freed = repair_wholly(queue)

    assert freed == 2
    assert indexes_of(take(queue, 10)) == [0, 1, 3]
    assert [Completed(id_, 3)] == queue.complete_chunks([after.token])


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1_000])
def test_repair_in_steps_of_any_size_comes_to_the_same_end(
    queue: Queue, lose: Callable[[], None], limit: int
) -> None:
    """Steps are bounded; more of them are the same."""
    running = [insert(queue, 9), insert(queue, 1), insert(queue, 5)]
    cancelled, failed = insert(queue, 3), insert(queue, 3, max_attempts=1)
    chunks = take(queue, 100)
    queue.cancel_submission(cancelled)
    queue.fail_chunk(chunks[-1].token, FAILURE)
    queue.complete_chunks(tokens_of(chunks[3:6]))
    lose()
    queue.heartbeat("w1")

    freed = repair_wholly(queue, limit=limit)

    assert freed == 9 + 1 + 5 + 3 + 3 - 3 - 1
    assert [queue.get_submission(id_).chunks_in_hand for id_ in [*running, cancelled, failed]] == [
        0
    ] * 5
    assert indexes_of(take(queue, 100)) == [0, 1, 2, 6, 7, 8, 0, 0, 1, 2, 3, 4]


def test_repair_counts_what_is_in_hand_anew(
    queue: Queue, raw: Raw, lose: Callable[[], None]
) -> None:
    """By submission and by strategic metadata."""
    first = insert(queue, 3, strategic_metadata={"customer": 7})
    second = insert(queue, 3, strategic_metadata={"customer": 7})
    take(queue, 4, worker="before")
    lose()
    take(queue, 1, worker="after")
    stale = raw.in_hand("customer")

    repair_wholly(queue)

    assert stale == {7: 5}
    assert raw.in_hand("customer") == {7: 1}
    assert [queue.get_submission(id_).chunks_in_hand for id_ in (first, second)] == [0, 1]


def test_chunks_of_ended_submissions_wait_in_repair_for_a_retry(
    queue: Queue, lose: Callable[[], None]
) -> None:
    """They are not handed out, but a retry finds them."""
    id_ = insert(queue, 2)
    take(queue, 2)
    queue.cancel_submission(id_)
    lose()
    queue.heartbeat("w1")

    repair_wholly(queue)

    assert take(queue, 5) == []
    queue.retry_submission(id_)
    assert indexes_of(take(queue, 5)) == [0, 1]


def test_a_submission_that_is_retried_during_the_repair_is_repaired_too(
    client: redis.Redis, queue: Queue, raw: Raw, lose: Callable[[], None]
) -> None:
    """It moves to where the walk has been already."""
    id_ = insert(queue, 2)
    insert(queue, 2)
    take(queue, 3)
    queue.cancel_submission(id_)
    lose()
    queue.heartbeat("w1")
    while client.hget(raw.key("repair"), "from") != b"(" + str(id_).encode():
        queue.repair(limit=1)

    queue.retry_submission(id_)
    repair_wholly(queue, limit=1)

    of_it = [c.chunk_index for c in take(queue, 10) if c.source.submission_id == id_]
    assert of_it == [0, 1]
    assert queue.get_submission(id_).chunks_in_hand == 2


def test_a_token_from_before_the_loss_never_becomes_anothers(
    queue: Queue, lose: Callable[[], None]
) -> None:
    """Stream ids begin again in a millisecond, so a late report could complete another chunk."""
    insert(queue, 200)
    tokens: list[Token] = []

    for _ in range(20):
        tokens += tokens_of(take(queue, 2))
        lose()

    assert len(set(tokens)) == 40


def test_a_flushed_server_starts_anew(queue: Queue, raw: Raw) -> None:
    """Workers that were there before go on asking, and get what comes after."""
    id_ = insert(queue, 3)
    token = take_one(queue).token
    raw.lose_everything()

    lost = queue.complete_chunks([token])
    alive = queue.heartbeat("w1", tokens=[token])
    empty = queue.reserve_chunks("w1")
    new = insert(queue, 2)

    assert ([Lost()], frozenset({token}), ()) == (lost, alive.revoked, empty.chunks)
    assert indexes_of(take(queue, 5)) == [0, 1]
    assert id_ != new or queue.get_submission(new).chunks_total == 2
    assert [new] == [s.id for s in listed(queue, SubmissionState.IN_PROGRESS)]


def test_flushall_with_scripts_is_survived(own_client: redis.Redis, queue_name: str) -> None:
    """The server knows neither keys nor scripts: both come back with use."""
    queue = Queue(own_client, queue_name)
    insert(queue, 1)
    token = take_one(queue).token
    own_client.flushall()
    own_client.script_flush()

    assert [Lost()] == queue.complete_chunks([token])
    insert(queue, 1)
    assert take_one(queue).chunk_index == 0


def test_a_killed_server_with_its_append_only_file_keeps_reservations(
    tmp_path_factory: pytest.TempPathFactory, queue_name: str
) -> None:
    """Group, pending entries and tokens come back with it: no repair is needed."""
    folder = tmp_path_factory.mktemp("crash")
    arguments = ("--appendfsync", "always")
    with EmbeddedServer(folder, arguments=arguments) as server:
        queue = Queue(connect(server.url), queue_name)
        id_ = insert(queue, 3)
        repair_wholly(queue)
        tokens = tokens_of(take(queue, 2))
        server.kill()

    with EmbeddedServer(folder, arguments=arguments) as server:
        queue = Queue(connect(server.url), queue_name)

        assert queue.repair() is None
        assert frozenset() == queue.heartbeat("w1", tokens=tokens).revoked
        assert [Completed(id_, 2), Completed(id_, 1)] == queue.complete_chunks(tokens)
        assert indexes_of(take(queue, 5)) == [2]
