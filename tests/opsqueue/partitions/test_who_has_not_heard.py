"""Programs that do not know of a new partition yet, or can't ask for it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import redis

from opsqueue.exceptions import (
    RedisUnavailableError,
)
from opsqueue.model.chunk import Completed
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.partitions import KNOWN_FOR_S, History
from opsqueue.queue.queue import Queue
from tests.opsqueue.partitions.steps import PARTITIONS, behind_and_ahead, key_for
from tests.opsqueue.steps import insert, listed, new_submission, take


def test_an_insert_with_a_key_is_done_once_also_after_there_are_more_partitions(
    client: redis.Redis, queue_name: str
) -> None:
    """The key then belongs to another partition."""
    queue = Queue(client, queue_name)
    key = key_for(1, of=2)
    first = queue.insert_submission(new_submission(queue), idempotency_key=key)
    queue.set_partitions(2)

    again = queue.insert_submission(new_submission(queue), idempotency_key=key)
    other = queue.insert_submission(new_submission(queue), idempotency_key=f"{key}-other")

    assert (first.id, False) == (again.id, again.is_new)
    assert other.is_new
    assert queue.lookup_key(key) == first.id
    assert len(listed(queue, SubmissionState.IN_PROGRESS)) == 2


def test_an_insert_with_a_key_is_done_once_also_by_who_has_not_heard_of_more_partitions(
    client: redis.Redis, queue_name: str
) -> None:
    """One API process answered and the answer was lost; another one is asked again."""
    behind, ahead = Queue(client, queue_name), Queue(client, queue_name)
    assert len(behind.parts()) == 1
    ahead.set_partitions(PARTITIONS)
    key = key_for(3, of=PARTITIONS)

    first = ahead.insert_submission(new_submission(ahead), idempotency_key=key)
    again = behind.insert_submission(new_submission(behind), idempotency_key=key)

    assert (again.id, again.is_new) == (first.id, False)


def test_a_program_that_knows_of_fewer_partitions_reads_and_reports_all(
    queue: Queue, client: redis.Redis
) -> None:
    """Ids and tokens contain their partition."""
    behind = Queue(client, queue.name)
    behind.parts()
    queue.set_partitions(9)
    id_ = insert(queue.parts()[8], 1)
    (chunk,) = take(queue, limit=1)

    assert len(behind.parts()) == PARTITIONS
    assert behind.get_submission(id_).chunks_total == 1
    assert behind.heartbeat("w1", tokens=[chunk.token]).revoked == frozenset()
    assert [Completed] == [type(o) for o in behind.complete_chunks([chunk.token])]


def test_a_prefix_is_not_discarded_that_a_partition_has_which_is_not_heard_of(
    client: redis.Redis, queue_name: str
) -> None:
    """The objects of a submission in progress would be deleted."""
    behind, ahead = behind_and_ahead(client, queue_name)
    new = new_submission(ahead)
    ahead.parts()[3].insert_submission(new)

    assert behind.discard_prefixes([new.prefix]) == []


def test_an_insert_with_a_key_is_not_sent_anywhere_by_who_can_not_ask_how_many_there_are(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was lost in between must not make it two submissions."""
    behind, ahead = behind_and_ahead(client, queue_name)
    key = key_for(3, of=PARTITIONS)
    first = ahead.insert_submission(new_submission(ahead), idempotency_key=key)

    with monkeypatch.context() as patch:
        no_answer = Mock(side_effect=RedisUnavailableError("no answer"))
        patch.setattr(behind.partitions, "ask", no_answer)
        with pytest.raises(RedisUnavailableError):
            behind.insert_submission(new_submission(behind), idempotency_key=key)

    again = behind.insert_submission(new_submission(behind), idempotency_key=key)
    assert (first.id, False) == (again.id, again.is_new)


def test_the_others_are_used_while_the_first_partition_does_not_answer(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once in a while, not with each call: it may take long to fail."""
    get_partitions = Mock(side_effect=RedisUnavailableError("no answer"))
    monkeypatch.setattr(queue.partitions, "ask", get_partitions)
    queue.partitions._asked_at -= KNOWN_FOR_S

    assert [PARTITIONS] * 3 == [len(queue.parts()) for _ in range(3)]
    assert get_partitions.call_count == 1


def test_an_answer_that_is_late_takes_no_partition_away(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that arrives late does not replace a newer one."""
    behind, _ = behind_and_ahead(client, queue_name)

    def answer_late() -> History:
        monkeypatch.undo()
        assert len(behind.parts_now()) == PARTITIONS
        return History([1])

    monkeypatch.setattr(behind.partitions, "ask", answer_late)

    assert len(behind.parts_now()) == PARTITIONS


def test_a_queue_whose_redis_was_lost_has_one_partition_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what goes to the others would wait for workers that have not heard of them."""
    assert len(queue.parts()) == PARTITIONS
    monkeypatch.setattr(queue.partitions, "ask", Mock(return_value=History([1])))

    assert len(queue.parts_now()) == 1


def test_an_insert_that_meets_more_partitions_does_not_hide_still_later_ones(
    client: redis.Redis, queue_name: str
) -> None:
    """Its script's answer is as old as its question, whenever it is read."""
    queue = Queue(client, queue_name)
    question = queue.partitions.next_question()
    queue.set_partitions(3)

    queue.partitions.learn([1, 2], question)

    assert [1, 3] == queue.partitions.history
