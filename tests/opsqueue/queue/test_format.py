"""A queue with a newer format: every access is refused, and nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from opsqueue.exceptions import FormatTooNewError
from opsqueue.model.names import base_key
from opsqueue.model.version import __version__
from opsqueue.queue import commands
from opsqueue.queue.durability import Durability
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Raw, insert, new_submission


@pytest.fixture
def too_new(client: redis.Redis, queue_name: str) -> Queue:
    """A queue with a submission, of a later format."""
    queue = Queue(client, queue_name)
    insert(queue, 2)
    client.set(Raw(client, queue_name).key("format"), 4)
    return queue


def dump(client: Any, queue: Queue) -> dict[bytes, bytes]:
    """All keys of the queue, as the server keeps them."""
    return {key: client.dump(key) for key in client.keys(f"{base_key(queue.name)}*")}


def test_a_call_is_refused_naming_both_versions(client: redis.Redis, too_new: Queue) -> None:
    """Nothing of the queue changes."""
    before = dump(client, too_new)

    with pytest.raises(FormatTooNewError) as caught:
        too_new.reserve_chunks("w1")

    assert str(caught.value) == (
        f"queue {too_new.name} has format 4, and opsqueue {__version__} reads formats up to 3: "
        "upgrade that program"
    )
    assert (4, 3) == (caught.value.found, caught.value.readable)
    assert before == dump(client, too_new)


def test_calls_in_one_round_trip_are_refused(client: redis.Redis, too_new: Queue) -> None:
    """Each refusal takes the place of the answer."""
    before = dump(client, too_new)
    reserve = commands.reserve_chunks("w1", limit=1, reservation_ms=1_000)

    answers = too_new.pipeline([reserve, reserve])

    assert [FormatTooNewError] * 2 == [type(answer) for answer in answers]
    assert before == dump(client, too_new)


def test_an_insert_that_waits_for_a_replica_is_refused(
    real_client: redis.Redis, queue_name: str
) -> None:
    """It is followed by other commands."""
    real_client.set(Raw(real_client, queue_name).key("format"), 4)

    with pytest.raises(FormatTooNewError):
        Queue(real_client, queue_name, durability=Durability.REPLICA).insert_submission(
            new_submission(queue_name)
        )


def test_a_queue_without_a_format_has_the_first(client: redis.Redis, queue_name: str) -> None:
    """Queues that are older than format numbers have none; an upgrade changes nothing else."""
    queue = Queue(client, queue_name)
    insert(queue, 1, strategic_metadata={"customer-1.A_": 1})
    before = dump(client, queue)

    assert (1, 3) == queue.upgrade_queue()
    assert (3, 3) == queue.upgrade_queue()
    after = dump(client, queue)
    assert b"3" == client.get(key := Raw(client, queue_name).key("format"))
    assert before == {name: data for name, data in after.items() if name != key.encode()}


def test_an_upgrade_raises_the_format_of_every_partition(
    client: redis.Redis, queue_name: str
) -> None:
    """Each has keys of its own."""
    queue = Queue(client, queue_name)
    queue.set_partitions(3)
    keys = [f"{part.base}format" for part in queue.parts()]
    for key in keys:
        client.set(key, 0)

    assert (0, 3) == queue.upgrade_queue()
    assert [b"3"] * 3 == [client.get(key) for key in keys]


@pytest.mark.parametrize("key", ["a b", "größe", "a:b", "%41"])
def test_a_key_that_older_versions_lack_raises_the_format(
    client: redis.Redis, queue_name: str, key: str
) -> None:
    """They would give handlers the encoded key; at the insert, and at a change."""
    queue = Queue(client, queue_name)
    id_ = insert(queue, 1, strategic_metadata={"customer": 1})
    before = client.get(Raw(client, queue_name).key("format"))

    queue.update_metadata(id_, {key: 1})

    assert (None, b"2") == (before, client.get(Raw(client, queue_name).key("format")))
