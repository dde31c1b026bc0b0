"""A queue in several partitions is one queue: for lists, chunks, reports, waits."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import redis

from opsqueue.exceptions import (
    InvalidArgumentError,
    RedisUnavailableError,
    SubmissionNotFoundError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.model.chunk import Completed, FinallyFailed, Lost, Released, Token
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue import commands
from opsqueue.queue.partitions import taken_apart
from opsqueue.queue.queue import Queue
from tests.opsqueue.partitions.steps import PARTITIONS
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Ear,
    Sleeper,
    insert,
    new_submission,
    prefix_of,
    take,
    tokens_of,
)


def spread(queue: Queue, submissions: int = 40, **fields: object) -> list[SubmissionId]:
    """Insert until each partition has at least one."""
    ids = [insert(queue, 1, **fields) for _ in range(submissions)]
    assert {id_.partition for id_ in ids} == set(range(PARTITIONS))
    return ids


def test_submissions_go_to_all_partitions_and_are_found_by_their_ids(
    queue: Queue,
) -> None:
    ids = spread(queue)

    assert len(set(ids)) == len(ids)
    assert [queue.get_submission(id_).id for id_ in ids] == ids
    queue.cancel_submission(ids[0])
    assert queue.get_submission(ids[0]).state is SubmissionState.CANCELLED
    with pytest.raises(SubmissionNotFoundError):
        queue.get_submission(SubmissionId(int(ids[0]) // 100 * 100 + 99))


def test_lists_look_ups_and_counts_are_of_all_partitions(queue: Queue) -> None:
    ids = spread(queue, strategic_metadata={"customer": 7})

    pages, after = [], None
    while True:
        page = queue.list_submissions(after=after, order="oldest", limit=7)
        pages += [submission.id for submission in page.submissions]
        after = page.next
        if after is None:
            break
    assert pages == sorted(ids)
    assert sorted(ids) == queue.lookup_submissions({"customer": 7})
    with pytest.raises(TooManyMatchingSubmissionsError):
        queue.lookup_submissions({"customer": 7}, limit=len(ids) - 1)
    counts = queue.count_queue()
    assert counts.submissions[SubmissionState.IN_PROGRESS] == len(ids)
    assert (len(ids), len(ids)) == (counts.backlog_chunks, counts.stats["submissions_inserted"])


def test_chunks_of_all_partitions_are_reserved_and_reported(queue: Queue) -> None:
    """Each report goes to its chunk's partition, and outcomes keep the order of the call."""
    ids = spread(queue)

    chunks = take(queue, limit=100)
    outcomes = queue.complete_chunks(tokens_of(chunks))

    assert len(chunks) == len(set(tokens_of(chunks))) == len(ids)
    assert {chunk.source.submission_id for chunk in chunks} == set(ids)
    completed = [outcome for outcome in outcomes if isinstance(outcome, Completed)]
    assert completed == outcomes
    assert [chunk.source.submission_id for chunk in chunks] == [o.submission_id for o in completed]
    assert {Lost} == {type(o) for o in queue.complete_chunks(tokens_of(chunks))}
    counts = queue.count_queue()
    assert (0, 0, len(ids)) == (
        counts.backlog_chunks, counts.chunks_in_hand, counts.stats["chunks_completed"],
    )  # fmt: skip


def test_failures_and_releases_go_to_their_partitions(queue: Queue) -> None:
    spread(queue, max_attempts=1)
    chunks = take(queue, limit=100)
    half = len(chunks) // 2

    failed = queue.fail_chunks([(token, FAILURE) for token in tokens_of(chunks[:half])])
    one = queue.fail_chunk(chunks[half].token, FAILURE)
    released = queue.release_chunks(tokens_of(chunks[half + 1 :]))

    assert {FinallyFailed} == {type(outcome) for outcome in [*failed, one]}
    assert {Released} == {type(outcome) for outcome in released}
    assert half + 1 == queue.count_queue().submissions[SubmissionState.FAILED]
    assert len(take(queue, limit=100)) == len(chunks) - half - 1


def test_tokens_that_are_alike_in_two_partitions_are_told_apart(
    queue: Queue, client: redis.Redis
) -> None:
    """Each partition has a stream of its own, whose ids may be another's."""
    for part in queue.parts():
        insert(part, 1)
        client.xadd(f"{part.base}reservations", {"s": "none"}, id="9000000000000-0")
        client.xdel(f"{part.base}reservations", "9000000000000-0")

    chunks = take(queue, limit=10)

    assert len(chunks) == PARTITIONS
    assert len({chunk.token.partition(":")[0] for chunk in chunks}) == 1
    held = queue.get_reservations(tokens_of(chunks))
    assert {token: chunk.source.submission_id for token, chunk in held.items()} == {
        chunk.token: chunk.source.submission_id for chunk in chunks
    }
    assert {Completed} == {type(o) for o in queue.complete_chunks(tokens_of(chunks))}


@pytest.mark.parametrize("token", ["1-1@01", "1-1:1:0", f"1:{1:019}:0", f"1-1:{1:020}:0", ":", ""])
def test_what_is_no_token_is_refused(queue: Queue, token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="token"):
        queue.complete_chunks([Token(token)])


def test_a_token_of_a_partition_that_is_not_there_is_lost(queue: Queue) -> None:
    assert queue.complete_chunks([Token("1-1:0000000000000000098:0")]) == [Lost()]


def test_a_heartbeat_reports_what_is_revoked_in_all_partitions(queue: Queue) -> None:
    spread(queue)
    chunks = take(queue, limit=100)
    gone = {chunk.token for chunk in chunks[::3]}
    for chunk in chunks[::3]:
        queue.cancel_submission(chunk.source.submission_id)

    alive = queue.heartbeat(
        "w1", tokens=[*tokens_of(chunks), Token(f"1-1:{77:019}:0"), Token("nonsense")]
    )

    assert {*gone, f"1-1:{77:019}:0", "nonsense"} == alive.revoked
    (worker,) = queue.list_workers()
    assert ("w1", len(chunks)) == (worker.name, worker.chunks_in_hand)
    queue.retire_worker("w1")
    assert (queue.list_workers(), queue.count_queue().chunks_in_hand) == ([], 0)


def test_a_report_of_what_has_begun_and_a_suspect_are_of_their_partitions(
    client: redis.Redis, queue_name: str
) -> None:
    """Chunks that have begun are charged in each of them; a suspect comes alone."""
    clock = Clock()
    queue = Queue(client, queue_name, clock=clock)
    queue.set_partitions(PARTITIONS)
    for part in queue.parts():
        insert(part, 2)
    chunks = take(queue, limit=100, worker="dead")
    begun = [chunk for chunk in chunks if chunk.chunk_index == 0][:2]
    assert queue.note_begun("dead", tokens_of(begun))
    clock.advance(30_000)
    queue.heartbeat("w1", begun=[])
    queue.reclaim_dead("sweeper")

    others = queue.reserve_chunks("w2", limit=100)
    first = queue.reserve_chunks("w1", limit=100, alone=True)
    second = queue.reserve_chunks("w3", limit=100, alone=True)

    assert (True, False, True) == (first.is_suspect, others.is_suspect, second.is_suspect)
    suspects = [*first.chunks, *second.chunks]
    assert sorted((str(chunk), 2) for chunk in begun) == sorted(
        (str(chunk), chunk.attempt) for chunk in suspects
    )
    assert {(1, True)} == {(chunk.attempt, chunk.again) for chunk in others.chunks}
    assert len(chunks) == len(others.chunks) + 2


def test_a_prefix_is_discarded_only_if_no_partition_has_it(queue: Queue) -> None:
    """And then no partition takes an insert with it any more."""
    taken = [new_submission(part) for part in queue.parts()]
    for part, new in zip(queue.parts(), taken, strict=True):
        part.insert_submission(new)
    orphans = [prefix_of(queue, "0"), prefix_of(queue, "1")]

    unknown = queue.unknown_prefixes([*(new.prefix for new in taken), *orphans])
    discarded = queue.discard_prefixes([*(new.prefix for new in taken), *orphans])

    assert unknown == discarded == orphans
    for part in queue.parts():
        for prefix in orphans:
            with pytest.raises(InvalidArgumentError, match="is being deleted"):
                part.insert_submission(new_submission(part, prefix=prefix))
    assert set(orphans) == set(queue.forget_submissions().prefixes)
    assert queue.forget_submissions(deleted_prefixes=orphans).prefixes == ()
    for part, new in zip(queue.parts(), taken, strict=True):
        assert queue.lookup_prefix(new.prefix) == part.lookup_prefix(new.prefix) is not None
        # Let go again where it was not theirs.
        other = queue.parts()[part.partition - 1]
        assert other.unknown_prefixes([new.prefix]) == [new.prefix]


def test_a_prefix_belongs_to_one_submission_of_all_partitions(queue: Queue) -> None:
    """The partition of an insert with a key is the key's: the others may have the prefix."""
    new = new_submission(queue)
    first = queue.insert_submission(new, idempotency_key="first")

    for number in range(20):
        with pytest.raises(InvalidArgumentError, match=f"belongs to submission {first.id}"):
            queue.insert_submission(new, idempotency_key=f"other-{number}")
    again = queue.insert_submission(new, idempotency_key="first")

    assert (first.id, False) == (again.id, again.is_new)


def test_who_died_between_holding_and_discarding_leaves_an_orphan_that_is_found_again(
    queue: Queue,
) -> None:
    part, orphan = queue.parts()[1], prefix_of(queue, "orphan")
    part.discard_prefixes([orphan], step="hold")

    assert queue.unknown_prefixes([orphan]) == [orphan]
    assert queue.forget_submissions().prefixes == ()
    assert queue.discard_prefixes([orphan]) == [orphan]


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_who_waits_is_woken_by_any_partition(queue: Queue, partition: int) -> None:
    events = queue.last_event_id()
    with Sleeper(queue) as sleeper:
        id_ = insert(queue.parts()[partition], 1)

        assert sleeper.found.chunks == ()
        assert sleeper.hears()
    later, seen = queue.wait_for_events(events, block_ms=40)
    assert [(id_, "created")] == seen
    assert queue.wait_for_events(later, block_ms=40) == (later, [])
    assert taken_apart(later).keys() == set(range(PARTITIONS))


def test_a_submission_tells_its_news_in_its_partition(queue: Queue) -> None:
    id_ = insert(queue.parts()[3], 1)
    chunks = take(queue, limit=1)
    with Ear(queue.parts()[3], f"sub:{id_}:news") as ear:
        assert queue.watch_submission(id_)

        queue.complete_chunks(tokens_of(chunks))

        assert ear.hears()


def test_chunks_in_hand_are_listed_partition_by_partition(queue: Queue) -> None:
    """A page that has room for all has those of all."""
    spread(queue)
    chunks = take(queue, limit=100)

    listed_, from_ = [], None
    while True:
        page = queue.list_reservations(from_=from_, limit=5)
        listed_ += [chunk.submission_id for chunk in page.chunks]
        from_ = page.next_from
        if from_ is None:
            break

    assert sorted(chunk.source.submission_id for chunk in chunks) == sorted(listed_)
    whole = queue.list_reservations(limit=len(chunks)).chunks
    assert sorted(listed_) == sorted(chunk.submission_id for chunk in whole)
    assert list(whole) == sorted(whole, key=lambda chunk: chunk.reserved_at)
    with pytest.raises(InvalidArgumentError, match="limit"):
        queue.list_reservations(limit=0)
    (one,) = queue.list_reservations(chunks[0].source.submission_id).chunks
    assert one.submission_id == chunks[0].source.submission_id


def test_what_dead_workers_held_is_taken_back_in_all_partitions(
    client: redis.Redis, queue_name: str
) -> None:
    clock = Clock()
    queue = Queue(client, queue_name, clock=clock)
    queue.set_partitions(PARTITIONS)
    spread(queue)
    take(queue, 40)
    clock.advance(60_000)

    swept = queue.reclaim_dead("s")

    assert swept is not None
    assert swept.chunks == 40
    assert queue.count_queue().chunks_in_hand == 0


def test_expired_reservations_are_taken_back_partition_by_partition(
    client: redis.Redis, queue_name: str
) -> None:
    clock = Clock()
    queue = Queue(client, queue_name, clock=clock)
    queue.set_partitions(PARTITIONS)
    spread(queue)
    queue.reserve_chunks("w", limit=40, reservation_ms=1_000)
    clock.advance(2_000)

    page_from, pages, chunks = "-", 0, 0
    while page_from:
        swept = queue.reclaim_expired("s", page_from=page_from, limit=5)
        assert swept is not None
        page_from, pages, chunks = swept.next_from or "", pages + 1, chunks + swept.chunks

    assert chunks == 40
    assert pages > PARTITIONS
    assert queue.count_queue().chunks_in_hand == 0


def test_a_repair_goes_on_while_a_partition_has_more(queue: Queue, client: redis.Redis) -> None:
    spread(queue)
    take(queue, 40)
    for part in queue.parts():
        client.delete(f"{part.base}reservations")

    step = queue.repair(begin=True)
    while step is not None and step.next_from is not None:
        step = queue.repair()

    assert step is not None
    assert step.freed == 40
    assert len(take(queue, 40)) == 40


def test_inputs_of_all_partitions_are_deleted(queue: Queue) -> None:
    ids = spread(queue, delete_inputs_at_completion=True)
    queue.complete_chunks(tokens_of(take(queue, 40)))

    spent = queue.delete_inputs()
    left = queue.delete_inputs(deleted=dict.fromkeys(ids[1:], 1))

    assert sorted(ids) == sorted(inputs.submission_id for inputs in spent)
    assert ids[:1] == [inputs.submission_id for inputs in left]


def test_one_partition_alone_is_a_queue_too(queue: Queue) -> None:
    """It answers for itself, and still finds what an id or a token names elsewhere."""
    ids = spread(queue)
    part = queue.part(2)
    mine = [id_ for id_ in ids if id_.partition == 2]

    assert sorted(mine) == part.lookup_submissions({})
    assert part.count_queue().submissions[SubmissionState.IN_PROGRESS] == len(mine)
    assert insert(part, 1).partition == 2
    assert part.get_submission(ids[0]).id == ids[0]
    part.pause_queue()
    assert [False, False, True, False] == [p.count_queue().is_paused for p in queue.parts()]


def test_commands_of_several_partitions_go_in_one_pipeline(queue: Queue) -> None:
    spread(queue)
    tokens = tokens_of(take(queue, 40))
    queue.run(commands.complete_chunks([]))  # the server knows its script from now on
    id_ = queue.get_reservations(tokens[:1])[tokens[0]].source.submission_id

    *completed, submission, failed = queue.pipeline(
        [
            *(commands.complete_chunks([token]) for token in tokens),
            commands.get_submission(id_),
            commands.count_queue(),
        ]
    )

    assert [[Completed]] * 40 == [[type(outcome) for outcome in answer] for answer in completed]
    assert submission.chunks_done == 1
    assert failed.chunks_in_hand == 0


def test_a_look_up_needs_no_partition_behind_the_one_that_answers(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master of a later partition may be down."""
    first = next(id_ for id_ in spread(queue) if id_.partition == 0)
    prefix = queue.get_submission(first).prefix
    no_answer = Mock(side_effect=RedisUnavailableError("no answer"))
    monkeypatch.setattr(queue._scripts_of(PARTITIONS - 1), "call", no_answer)

    assert queue.lookup_prefix(prefix) == first
    with pytest.raises(RedisUnavailableError):
        queue.lookup_prefix(f"{queue.name}/{'0' * 32}")


def test_a_page_of_another_partition_is_refused(queue: Queue) -> None:
    """It would look like the last page."""
    id_ = next(id_ for id_ in spread(queue) if id_.partition == 1)

    with pytest.raises(InvalidArgumentError, match="was not requested"):
        queue.list_reservations(id_, from_="-@03")


def test_a_heartbeat_of_one_partition_stays_in_it(queue: Queue) -> None:
    spread(queue)
    tokens = tokens_of(take(queue, 40))

    alive = queue.part(1).heartbeat("w2", tokens=tokens)

    assert [[], ["w2"], [], []] == [
        [worker.name for worker in part.list_workers() if worker.name == "w2"]
        for part in queue.parts()
    ]
    assert alive.revoked == frozenset(tokens)
