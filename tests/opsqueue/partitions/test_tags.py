"""Partitions with chosen tags: they are found by all programs, and no tag ever changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha1

import pytest
import redis

from opsqueue.exceptions import FormatTooNewError, RedisUnavailableError
from opsqueue.model.names import base_key
from opsqueue.queue import commands, script
from opsqueue.queue.partitions import History
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import Script, load_script
from tests.opsqueue.partitions.steps import choose_tags
from tests.opsqueue.steps import insert, take


@pytest.fixture
def chosen(client: redis.Redis, queue_name: str) -> Queue:
    """A queue of three partitions, one of which has another tag than its number."""
    queue = Queue(client, queue_name)
    choose_tags(queue, {1: "01", 2: "02.5"})
    queue.set_partitions(3)
    return queue


def test_a_single_server_has_the_tags_that_it_always_had(
    client: redis.Redis, queue_name: str
) -> None:
    """Programs of earlier versions go on to read them."""
    queue = Queue(client, queue_name)

    queue.set_partitions(3)
    insert(queue.part(2), 1)

    assert queue.get_partitions() == History([1, 3], {})
    assert client.exists(f"{base_key(queue_name, 2)}submissions:in_progress")
    assert not client.exists(f"{base_key(queue_name)}format")


def test_the_keys_of_a_partition_have_its_tag(client: redis.Redis, chosen: Queue) -> None:
    insert(chosen.part(2), 1)

    assert chosen.get_partitions() == History([1, 3], {1: "01", 2: "02.5"})
    assert client.exists(f"oq:{{{chosen.name}/02.5}}:submissions:in_progress")
    assert client.keys(f"{base_key(chosen.name, 2)}*") == []


def test_a_program_that_sees_an_id_first_asks_where_it_is(
    client: redis.Redis, chosen: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: it never asks again, as the tag never changes."""
    id_ = insert(chosen.part(2), 2)
    fresh = Queue(client, chosen.name)

    assert fresh.get_submission(id_).chunks_total == 2
    assert fresh.part(2).get_submission(id_).chunks_total == 2
    assert Queue(client, chosen.name, partition=2).get_submission(id_).chunks_total == 2

    def refuse() -> History:
        raise AssertionError

    monkeypatch.setattr(fresh.partitions, "ask", refuse)
    assert fresh.get_submission(id_).chunks_total == 2


def test_who_can_not_ask_where_a_partition_is_sends_nothing(
    client: redis.Redis, chosen: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look at other keys, and report that there is no such submission."""
    id_ = insert(chosen.part(2), 1)
    (chunk,) = take(chosen, limit=1)
    fresh = Queue(client, chosen.name)

    def fail() -> History:
        message = "no answer"
        raise RedisUnavailableError(message)

    monkeypatch.setattr(fresh.partitions, "ask", fail)

    with pytest.raises(RedisUnavailableError):
        fresh.get_submission(id_)
    answers = fresh.pipeline([commands.release_chunks([chunk.token]), commands.get_partitions()])
    assert isinstance(answers[0], RedisUnavailableError)
    assert isinstance(answers[1], History)


def test_numbers_that_are_heard_of_without_their_tags_are_asked_for(
    client: redis.Redis, chosen: Queue
) -> None:
    """An insert's answer has the numbers only; an answer with the tags may be older than that."""
    id_ = insert(chosen.part(2), 1)
    fresh = Queue(client, chosen.name)
    first, second = fresh.partitions.next_question(), fresh.partitions.next_question()
    fresh.partitions.learn([1, 3], second)
    fresh.partitions.learn([1], first, found=History([1]))

    assert fresh.partitions.history == [1, 3]
    assert fresh.get_submission(id_).chunks_total == 1


def test_a_tag_never_changes(client: redis.Redis, chosen: Queue) -> None:
    """Two programs may choose at the same time, or one may try again."""
    choose_tags(chosen, {1: "01.1", 2: "02.2", 3: "03.3"})
    choose_tags(chosen, {3: "03.4"})

    assert chosen.get_partitions().tags == {1: "01", 2: "02.5", 3: "03.3"}


def test_a_partition_in_use_gets_no_tag(client: redis.Redis, queue_name: str) -> None:
    """Its keys have names already."""
    queue = Queue(client, queue_name)
    queue.set_partitions(3)

    choose_tags(queue, {2: "02.1", 3: "03.1"})

    assert queue.get_partitions().tags == {3: "03.1"}


def test_a_queue_that_is_created_again_has_the_same_tags(
    client: redis.Redis, chosen: Queue
) -> None:
    """Other programs remember them."""
    chosen.set_partitions(3)
    chosen.delete_queue()
    choose_tags(chosen, {1: "01.7", 2: "02.7"})
    chosen.set_partitions(4)

    assert chosen.get_partitions() == History([1, 4], {1: "01", 2: "02.5"})
    assert client.get(f"{base_key(chosen.name)}format") == b"3"


def test_partitions_that_were_numbers_stay_so_when_the_queue_is_created_again(
    client: redis.Redis, queue_name: str
) -> None:
    """Programs may remember that nothing was chosen for them, too."""
    queue = Queue(client, queue_name)
    queue.set_partitions(3)
    queue.delete_queue()

    choose_tags(queue, {1: "01.7", 2: "02.7"})

    assert queue.get_partitions() == History([1], {1: "01", 2: "02"})
    assert not client.exists(f"{base_key(queue_name)}format")


def test_programs_that_know_no_tags_refuse_the_queue(
    client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they are only asked about a submission of such a partition."""
    queue, earlier = Queue(client, queue_name), Queue(client, queue_name)
    monkeypatch.setattr("opsqueue.queue.queue.ask_slot_map", lambda _: {0: "one"})
    monkeypatch.setattr("opsqueue.queue.queue.choose_tags", lambda *_: {1: "01", 2: "02.1"})
    queue.set_partitions(3)
    id_ = insert(queue.part(2), 1)

    monkeypatch.setattr(script, "load_script", of_format_2)
    monkeypatch.setattr(earlier.partitions, "tag_of", lambda _: "")

    refused: list[Callable[[], object]] = [
        earlier.partitions.look,
        lambda: earlier.get_submission(id_),
        lambda: earlier.set_partitions(9),
        earlier.delete_queue,
        lambda: insert(earlier, 1),
    ]
    for call in refused:
        with pytest.raises(FormatTooNewError):
            call()


def of_format_2(name: str) -> Script:
    """Return a script as it was when format 2 was the newest."""
    now = load_script(name)
    text = now.text.replace("local FORMAT = 3", "local FORMAT = 2")
    assert text != now.text
    return replace(now, text=text, sha=sha1(text.encode(), usedforsecurity=False).hexdigest())
