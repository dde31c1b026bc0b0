"""A queue in several partitions: one queue to who uses it, on a server and on fakeredis."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import Mock
from zlib import crc32

import pytest
import redis

from opsqueue.chunk import Completed, FinallyFailed, Lost, Released, Token
from opsqueue.exceptions import (
    InvalidArgumentError,
    OpsqueueInternalError,
    RedisUnavailableError,
    SubmissionNotFoundError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.partition import taken_apart
from opsqueue.partitioned import PartitionedQueue
from opsqueue.partitions import KNOWN_FOR_S
from opsqueue.queue import Queue
from opsqueue.strategy import MaxSimultaneous, Oldest
from opsqueue.submission import SubmissionId, SubmissionState
from tests.opsqueue.steps import FAILURE, insert, listed, new_submission, take, tokens_of

PARTITIONS = 4
# About one partition at a time, or about a single submission: these need no method of their own.
INHERITED = {
    "reclaim_dead", "reclaim_expired", "repair", "delete_inputs", "together",
    "get_submission", "done_chunks", "inline_contents", "chunks_with_errors", "count_cells",
    "list_delayed", "cancel_submission", "retry_submission", "update_metadata",
    "watch_submission",
}  # fmt: skip


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> PartitionedQueue:
    queue = PartitionedQueue(client, queue_name)
    queue.set_partitions(PARTITIONS)
    return queue


def spread(queue: Queue, submissions: int = 40, **fields: object) -> list[SubmissionId]:
    """Insert until each partition has at least one."""
    ids = [insert(queue, 1, **fields) for _ in range(submissions)]
    assert {id_.partition for id_ in ids} == set(range(PARTITIONS))
    return ids


def key_for(partition: int, *, of: int) -> str:
    """An idempotency key that goes to a partition."""
    return next(key for n in range(1000) if crc32((key := f"key-{n}").encode()) % of == partition)


def test_each_method_of_a_queue_is_one_of_all_partitions_or_fails_loudly() -> None:
    """A method that is forgotten here would speak of the first partition alone."""
    for name, method in inspect.getmembers(Queue, inspect.isfunction):
        if not name.startswith("_"):
            is_own = getattr(PartitionedQueue, name) is not method
            assert is_own != (name in INHERITED), name


def test_submissions_go_to_all_partitions_and_are_found_by_their_ids(
    queue: PartitionedQueue,
) -> None:
    ids = spread(queue)

    assert len(set(ids)) == len(ids)
    assert [queue.get_submission(id_).id for id_ in ids] == ids
    queue.cancel_submission(ids[0])
    assert queue.get_submission(ids[0]).state is SubmissionState.CANCELLED
    with pytest.raises(SubmissionNotFoundError):
        queue.get_submission(SubmissionId(int(ids[0]) // 100 * 100 + 99))


def test_lists_look_ups_and_counts_are_of_all_partitions(queue: PartitionedQueue) -> None:
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


def test_an_insert_with_a_key_is_done_once_also_after_there_are_more_partitions(
    client: redis.Redis, queue_name: str
) -> None:
    """The key's home is another one then."""
    queue = PartitionedQueue(client, queue_name)
    key = key_for(1, of=2)
    first = queue.insert_submission(new_submission(), idempotency_key=key)
    queue.set_partitions(2)

    again = queue.insert_submission(new_submission(), idempotency_key=key)
    other = queue.insert_submission(new_submission(), idempotency_key=f"{key}-other")

    assert (first.id, False) == (again.id, again.is_new)
    assert other.is_new
    assert queue.lookup_key(key) == first.id
    assert len(listed(queue, SubmissionState.IN_PROGRESS)) == 2


def test_an_insert_with_a_key_is_done_once_also_by_who_has_not_heard_of_more_partitions(
    client: redis.Redis, queue_name: str
) -> None:
    """One API process answered and the answer was lost; another one is asked again."""
    behind, ahead = PartitionedQueue(client, queue_name), PartitionedQueue(client, queue_name)
    assert len(behind.parts()) == 1
    ahead.set_partitions(PARTITIONS)
    key = key_for(3, of=PARTITIONS)

    first = ahead.insert_submission(new_submission(), idempotency_key=key)
    again = behind.insert_submission(new_submission(), idempotency_key=key)

    assert (again.id, again.is_new) == (first.id, False)


def test_chunks_of_all_partitions_are_reserved_and_reported(queue: PartitionedQueue) -> None:
    """Each report goes where its chunk is, in the order of the call."""
    ids = spread(queue)

    chunks = take(queue, limit=100)
    outcomes = queue.complete_chunks(tokens_of(chunks))

    assert len(chunks) == len(set(tokens_of(chunks))) == len(ids)
    assert {chunk.source.submission_id for chunk in chunks} == set(ids)
    assert [Completed] * len(ids) == [type(outcome) for outcome in outcomes]
    assert [chunk.source.submission_id for chunk in chunks] == [o.submission_id for o in outcomes]
    assert {Lost} == {type(o) for o in queue.complete_chunks(tokens_of(chunks))}
    counts = queue.count_queue()
    assert (0, 0, len(ids)) == (
        counts.backlog_chunks, counts.chunks_in_hand, counts.stats["chunks_completed"],
    )  # fmt: skip


def test_failures_and_releases_go_to_their_partitions(queue: PartitionedQueue) -> None:
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
    queue: PartitionedQueue, client: redis.Redis
) -> None:
    """Each partition has a stream of its own, whose ids may be another's."""
    for part in queue.parts():
        insert(part, 1)
        key = f"{part.label}"
        client.xadd(f"oq:{{{key}}}:reservations", {"s": "none"}, id="9000000000000-0")
        client.xdel(f"oq:{{{key}}}:reservations", "9000000000000-0")

    chunks = take(queue, limit=10)

    assert len(chunks) == PARTITIONS
    assert len({chunk.token.partition(":")[0] for chunk in chunks}) == 1
    held = queue.get_reservations(tokens_of(chunks))
    assert {token: chunk.source.submission_id for token, chunk in held.items()} == {
        chunk.token: chunk.source.submission_id for chunk in chunks
    }
    assert {Completed} == {type(o) for o in queue.complete_chunks(tokens_of(chunks))}


@pytest.mark.parametrize("token", ["1-1@01", "1-1:1:0", f"1:{1:019}:0", f"1-1:{1:020}:0", ":", ""])
def test_what_is_no_token_is_refused(queue: PartitionedQueue, token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="token"):
        queue.complete_chunks([Token(token)])


def test_a_token_of_a_partition_that_is_not_there_is_lost(queue: PartitionedQueue) -> None:
    assert queue.complete_chunks([Token("1-1:0000000000000000098:0")]) == [Lost()]


def test_a_heartbeat_says_of_all_partitions_what_is_void(queue: PartitionedQueue) -> None:
    spread(queue)
    chunks = take(queue, limit=100)
    gone = {chunk.token for chunk in chunks[::3]}
    for chunk in chunks[::3]:
        queue.cancel_submission(chunk.source.submission_id)

    alive = queue.heartbeat(
        "w1", tokens=[*tokens_of(chunks), Token(f"1-1:{77:019}:0"), Token("nonsense")]
    )

    assert {*gone, f"1-1:{77:019}:0", "nonsense"} == alive.void
    (worker,) = queue.list_workers()
    assert ("w1", len(chunks)) == (worker.name, worker.chunks_in_hand)
    while not queue.retire_worker("w1"):
        pass
    assert (queue.list_workers(), queue.count_queue().chunks_in_hand) == ([], 0)


def test_what_is_set_holds_in_all_partitions_and_in_those_that_come(
    queue: PartitionedQueue,
) -> None:
    queue.set_limit("api", max=1)
    queue.set_retention(5_000)
    queue.pause_queue()
    queue.set_partitions(PARTITIONS + 2)

    parts = queue.parts()
    assert len(parts) == PARTITIONS + 2
    for part in parts:
        assert part.get_retention() == 5_000
        assert part.count_queue().is_paused
        assert part.list_limits() == queue.list_limits()
    queue.resume_queue()
    for part in parts:
        for _ in range(3):
            insert(part, 1, strategic_metadata={"api": 1})
    limited = queue.reserve_chunks("w", limit=100, strategy=MaxSimultaneous("api", 9))
    assert len(limited.chunks) == PARTITIONS + 2  # one in each: limits hold within a partition
    queue.remove_limit("api")
    assert [part.list_limits() for part in parts] == [[]] * len(parts)


@pytest.mark.parametrize("partitions", [0, -1, 101, 3])
def test_partitions_are_never_fewer_and_at_most_a_hundred(
    queue: PartitionedQueue, partitions: int
) -> None:
    with pytest.raises(InvalidArgumentError, match="partitions"):
        queue.set_partitions(partitions)

    assert queue.get_partitions()[-1] == PARTITIONS
    queue.set_partitions(PARTITIONS)
    assert [1, PARTITIONS] == queue.get_partitions()


def test_a_prefix_is_discarded_only_if_no_partition_has_it(queue: PartitionedQueue) -> None:
    """And then no partition takes an insert with it any more."""
    taken = [new_submission(prefix=f"taken/{part.partition}") for part in queue.parts()]
    for part, new in zip(queue.parts(), taken, strict=True):
        part.insert_submission(new)
    orphans = ["orphan/0", "orphan/1"]

    unknown = queue.unknown_prefixes([*(new.prefix for new in taken), *orphans])
    discarded = queue.discard_prefixes([*(new.prefix for new in taken), *orphans])

    assert unknown == discarded == orphans
    for part in queue.parts():
        for prefix in orphans:
            with pytest.raises(InvalidArgumentError, match="is being deleted"):
                part.insert_submission(new_submission(prefix=prefix))
    assert set(orphans) == set(queue.forget_submissions().prefixes)
    assert queue.forget_submissions(deleted_prefixes=orphans).prefixes == ()
    for part, new in zip(queue.parts(), taken, strict=True):
        assert queue.lookup_prefix(new.prefix) == part.lookup_prefix(new.prefix) is not None
        # Let go again where it was not theirs.
        other = queue.parts()[part.partition - 1]
        assert other.unknown_prefixes([new.prefix]) == [new.prefix]


def test_who_died_between_holding_and_discarding_leaves_an_orphan_that_is_found_again(
    queue: PartitionedQueue,
) -> None:
    part = queue.parts()[1]
    part.discard_prefixes(["orphan"], step="hold")

    assert queue.unknown_prefixes(["orphan"]) == ["orphan"]
    assert queue.forget_submissions().prefixes == ()
    assert queue.discard_prefixes(["orphan"]) == ["orphan"]


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_who_waits_is_woken_by_any_partition(queue: PartitionedQueue, partition: int) -> None:
    reserved = queue.reserve_chunks("w", limit=1)
    events = queue.last_event_id()
    id_ = insert(queue.parts()[partition], 1)

    assert reserved.chunks == ()
    assert queue.wait_for_wake(reserved.wake_id, block_ms=40)
    later, seen = queue.wait_for_events(events, block_ms=40)
    assert [(id_, "created")] == seen
    assert queue.wait_for_events(later, block_ms=40) == (later, [])
    assert taken_apart(later).keys() == set(range(PARTITIONS))


def test_a_submission_tells_its_news_in_its_partition(queue: PartitionedQueue) -> None:
    id_ = insert(queue.parts()[3], 1)
    news = queue.watch_submission(id_)
    queue.complete_chunks(tokens_of(take(queue, limit=1)))

    assert news is not None
    assert queue.wait_for_news(id_, news, block_ms=40)


def test_chunks_in_hand_are_listed_partition_by_partition(queue: PartitionedQueue) -> None:
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


def test_a_program_that_knows_of_fewer_partitions_reads_and_reports_all(
    queue: PartitionedQueue, client: redis.Redis
) -> None:
    """Ids and tokens name theirs."""
    behind = PartitionedQueue(client, queue.name)
    behind.parts()
    queue.set_partitions(9)
    id_ = insert(queue.parts()[8], 1)
    (chunk,) = take(queue, limit=1)

    assert len(behind.parts()) == PARTITIONS
    assert behind.get_submission(id_).chunks_total == 1
    assert behind.heartbeat("w1", tokens=[chunk.token]).void == frozenset()
    assert [Completed] == [type(o) for o in behind.complete_chunks([chunk.token])]


@pytest.mark.parametrize("name", ["reclaim_dead", "reclaim_expired"])
def test_what_is_of_one_partition_is_not_asked_of_all(queue: PartitionedQueue, name: str) -> None:
    with pytest.raises(OpsqueueInternalError, match=r"goes to each of Queue\.parts"):
        getattr(queue, name)("sweeper")


def test_pauses_of_all_partitions_are_the_queues(queue: PartitionedQueue) -> None:
    queue.pause_queue()
    insert(queue.parts()[2], 1)

    assert queue.reserve_chunks("w", strategy=Oldest()).is_paused
    assert queue.count_queue().is_paused


def test_what_is_set_holds_in_partitions_that_a_program_has_not_heard_of(
    client: redis.Redis, queue_name: str
) -> None:
    """Nothing would set it there later: what is set is copied once, when a partition comes."""
    behind, ahead = behind_and_ahead(client, queue_name)

    behind.set_limit("api", max=1)
    ahead.set_partitions(PARTITIONS + 1)
    behind.set_retention(5_000)
    ahead.set_partitions(PARTITIONS + 2)
    behind.pause_queue()

    for part in ahead.parts():
        assert [1] == [limit.max for limit in part.list_limits()]
        assert part.get_retention() == 5_000
        assert part.count_queue().is_paused
    ahead.set_partitions(PARTITIONS + 3)
    behind.resume_queue()
    ahead.set_partitions(PARTITIONS + 4)
    behind.remove_limit("api")
    for part in ahead.parts():
        assert not part.count_queue().is_paused
        assert part.list_limits() == []


def test_what_is_set_while_partitions_are_added_holds_in_them_too(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who looked before they were there, behind the copy of what was set then."""
    behind, ahead = behind_and_ahead(client, queue_name)
    behind.set_limit("api", max=1)
    behind.pause_queue()
    add = ahead.part_zero.set_partitions

    def set_others(partitions: int) -> None:
        monkeypatch.undo()
        behind.resume_queue()
        behind.remove_limit("api")
        behind.set_limit("api", value=3, per_second=7, burst=9)
        behind.set_retention(5_000)
        add(partitions)

    monkeypatch.setattr(ahead.part_zero, "set_partitions", set_others)
    ahead.set_partitions(PARTITIONS + 2)

    assert len(ahead.parts()) == PARTITIONS + 2
    assert_all_have_what_the_first_has(ahead)
    assert [3] == [limit.value for limit in ahead.list_limits()]


def test_partitions_that_come_while_all_are_told_are_told_too(
    client: redis.Redis, queue_name: str
) -> None:
    """What was copied to them is what the first one had before."""
    behind, ahead = behind_and_ahead(client, queue_name)

    def add_and_pause(part: Queue) -> None:
        if part is behind.part_zero:
            ahead.set_partitions(PARTITIONS + 2)
        part.pause_queue()

    behind.tell_all(add_and_pause)

    assert len(ahead.parts()) == PARTITIONS + 2
    assert ahead.part_zero.count_queue().is_paused
    assert_all_have_what_the_first_has(ahead)


def test_partitions_that_come_are_told_though_one_does_not_answer(
    client: redis.Redis, queue_name: str
) -> None:
    behind, ahead = behind_and_ahead(client, queue_name)
    ahead.set_partitions(PARTITIONS + 1)

    def add_and_pause(part: Queue) -> None:
        if part is behind.part_zero:
            ahead.set_partitions(PARTITIONS + 2)
            message = "no answer"
            raise RedisUnavailableError(message)
        part.pause_queue()

    with pytest.raises(RedisUnavailableError, match="no answer"):
        behind.tell_all(add_and_pause)

    assert [False] + [True] * (PARTITIONS + 1) == [
        part.count_queue().is_paused for part in ahead.parts()
    ]


def test_partitions_set_again_have_what_the_first_has(queue: PartitionedQueue) -> None:
    """Whatever kept them from it."""
    queue.part_zero.set_limit("api", max=1)
    queue.part_zero.set_limit("api", max=1, per_second=4, burst=4, value=3)
    queue.parts()[1].set_limit("api", max=2, per_second=7, burst=9)
    queue.parts()[2].pause_queue()

    queue.set_partitions(PARTITIONS)

    assert len(queue.list_limits()) == 3
    assert_all_have_what_the_first_has(queue)


def test_a_limit_that_is_changed_is_never_away(
    queue: PartitionedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition is in use: more than the old and the new number would be handed out."""
    queue.set_limit("api", max=1)
    queue.set_limit("other", max=1)
    queue.part_zero.set_limit("api", max=2)
    queue.part_zero.remove_limit("other")
    removed: list[str] = []
    part = queue.parts()[1]
    remove = part.remove_limit

    def remember(meta_key: str, **of: Any) -> None:
        removed.append(meta_key)
        remove(meta_key, **of)

    monkeypatch.setattr(part, "remove_limit", remember)
    queue.set_partitions(PARTITIONS)

    assert removed == ["other"]
    assert_all_have_what_the_first_has(queue)


def test_an_answer_that_is_late_takes_no_partition_away(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two threads that ask, the second one's answer may come first."""
    behind, _ = behind_and_ahead(client, queue_name)

    def answer_late() -> list[int]:
        monkeypatch.undo()
        assert len(behind.parts_now()) == PARTITIONS
        return [1]

    monkeypatch.setattr(behind.part_zero, "get_partitions", answer_late)

    assert len(behind.parts_now()) == PARTITIONS


def test_a_queue_whose_redis_was_lost_has_one_partition_again(
    queue: PartitionedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what goes to the others would wait for workers that have not heard of them."""
    assert len(queue.parts()) == PARTITIONS
    monkeypatch.setattr(queue.part_zero, "get_partitions", Mock(return_value=[1]))

    assert len(queue.parts_now()) == 1


def assert_all_have_what_the_first_has(queue: PartitionedQueue) -> None:
    for part in queue.parts():
        assert part.list_limits() == queue.part_zero.list_limits()
        assert part.get_retention() == queue.part_zero.get_retention()
        assert part.count_queue().is_paused == queue.part_zero.count_queue().is_paused


def test_a_prefix_is_not_discarded_that_a_partition_has_which_is_not_heard_of(
    client: redis.Redis, queue_name: str
) -> None:
    """The objects of a submission in progress would be deleted."""
    behind, ahead = behind_and_ahead(client, queue_name)
    new = new_submission()
    ahead.parts()[3].insert_submission(new)

    assert behind.discard_prefixes([new.prefix]) == []


def test_an_insert_with_a_key_is_not_sent_anywhere_by_who_can_not_ask_how_many_there_are(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was lost in between must not make it two submissions."""
    behind, ahead = behind_and_ahead(client, queue_name)
    key = key_for(3, of=PARTITIONS)
    first = ahead.insert_submission(new_submission(), idempotency_key=key)

    with monkeypatch.context() as patch:
        no_answer = Mock(side_effect=RedisUnavailableError("no answer"))
        patch.setattr(behind.part_zero, "get_partitions", no_answer)
        with pytest.raises(RedisUnavailableError):
            behind.insert_submission(new_submission(), idempotency_key=key)

    again = behind.insert_submission(new_submission(), idempotency_key=key)
    assert (first.id, False) == (again.id, again.is_new)


def test_the_others_are_used_while_the_first_partition_does_not_answer(
    queue: PartitionedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once in a while, not with each call: it may take long to fail."""
    get_partitions = Mock(side_effect=RedisUnavailableError("no answer"))
    monkeypatch.setattr(queue.part_zero, "get_partitions", get_partitions)
    queue._looked_at -= KNOWN_FOR_S

    assert [PARTITIONS] * 3 == [len(queue.parts()) for _ in range(3)]
    assert get_partitions.call_count == 1


def behind_and_ahead(client: redis.Redis, name: str) -> tuple[PartitionedQueue, PartitionedQueue]:
    """A program that knows of the first partition alone, and one that has added others."""
    behind, ahead = PartitionedQueue(client, name), PartitionedQueue(client, name)
    assert len(behind.parts()) == 1
    ahead.set_partitions(PARTITIONS)
    return behind, ahead


def test_the_others_are_paused_though_the_first_partition_does_not_answer(
    queue: PartitionedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("get_partitions", "pause_queue"):
        no_answer = Mock(side_effect=RedisUnavailableError("no answer"))
        monkeypatch.setattr(queue.part_zero, name, no_answer)

    with pytest.raises(RedisUnavailableError):
        queue.pause_queue()

    assert all(part.count_queue().is_paused for part in queue.parts()[1:])
