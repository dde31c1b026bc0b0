"""The partition of a submission is chosen by its strategic metadata."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import IdempotencyKeyReusedError, InvalidArgumentError
from opsqueue.model.names import base_key
from opsqueue.queue.queue import Queue
from opsqueue.strategy import MaxSimultaneous
from tests.opsqueue.partitions.steps import PARTITIONS, key_for
from tests.opsqueue.steps import insert, new_submission

CUSTOMERS = range(12)


@pytest.fixture
def by_customer(queue: Queue) -> Queue:
    queue.set_partitions(PARTITIONS, by="customer")
    return queue


def test_submissions_of_a_customer_share_a_partition(
    client: redis.Redis, by_customer: Queue
) -> None:
    """Whichever program inserts them; customers are in all partitions."""
    programs = (by_customer, Queue(client, by_customer.name))
    homes = {
        customer: {
            insert(program, 1, strategic_metadata={"customer": customer, "n": n}).partition
            for program in programs
            for n in range(3)
        }
        for customer in CUSTOMERS
    }

    assert {len(used) for used in homes.values()} == {1}
    assert len(set.union(*homes.values())) == PARTITIONS


def test_a_limit_for_each_customer_holds_over_the_whole_queue(by_customer: Queue) -> None:
    """Without this it would hold in each partition."""
    for _ in range(9):
        insert(by_customer, 2, strategic_metadata={"customer": 7})

    chunks = by_customer.reserve_chunks(
        "w", limit=100, strategy=MaxSimultaneous("customer", 3)
    ).chunks

    assert len(chunks) == 3


def test_submissions_without_the_key_go_to_any_partition(by_customer: Queue) -> None:
    used = {insert(by_customer, 1, strategic_metadata={"other": 1}).partition for _ in range(60)}

    assert used == set(range(PARTITIONS))


@pytest.mark.parametrize("number", range(PARTITIONS))
def test_an_idempotency_key_is_found_wherever_it_was_before(queue: Queue, number: int) -> None:
    """Inserts before and after the change, and with another customer by mistake."""
    key = key_for(number, of=PARTITIONS)
    new = new_submission(queue, strategic_metadata={"customer": number + 5})
    before = queue.insert_submission(new, idempotency_key=key)
    queue.set_partitions(PARTITIONS, by="customer")

    again = queue.insert_submission(new, idempotency_key=key)
    first = queue.insert_submission(
        new_submission(queue, strategic_metadata={"customer": 1}), idempotency_key=f"{key}-new"
    )

    assert (again.id, again.is_new) == (before.id, False)
    for customer in CUSTOMERS:
        other = new_submission(queue, strategic_metadata={"customer": customer})
        if customer == 1:
            repeated = queue.insert_submission(other, idempotency_key=f"{key}-new")
            assert (repeated.id, repeated.is_new) == (first.id, False)
        else:
            with pytest.raises(IdempotencyKeyReusedError):
                queue.insert_submission(other, idempotency_key=f"{key}-new")


def test_programs_learn_of_it_though_numbers_come_by_other_ways(
    client: redis.Redis, queue: Queue
) -> None:
    """Such as a heartbeat's answer, which does not have the key."""
    other = Queue(client, queue.name)
    other.partitions.learn([1, PARTITIONS], other.partitions.next_question())
    queue.set_partitions(PARTITIONS, by="customer")

    ids = [insert(other, 1, strategic_metadata={"customer": 3}) for _ in range(9)]

    assert len({id_.partition for id_ in ids}) == 1


def test_it_stays_when_there_are_more_partitions_and_goes_with_the_queue(
    client: redis.Redis, by_customer: Queue
) -> None:
    """Earlier programs, which would look for keys elsewhere, refuse the queue."""
    by_customer.set_partitions(PARTITIONS + 1)
    kept = by_customer.get_partitions().by
    by_customer.delete_queue()

    assert (kept, by_customer.get_partitions().by) == ("customer", "")
    assert client.get(f"{base_key(by_customer.name)}format") == b"3"


def test_what_can_not_be_a_key_is_refused(queue: Queue) -> None:
    with pytest.raises(InvalidArgumentError, match="strategic metadata key"):
        queue.set_partitions(PARTITIONS, by="x" * 300)
