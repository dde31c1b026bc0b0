"""Queue.pipeline: many commands in one round trip, each a transition of its own."""

from __future__ import annotations

import socket

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError, RedisUnavailableError, ScriptError
from opsqueue.model.answers import Reserved
from opsqueue.model.chunk import Completed, FinallyFailed, Lost, Released, Token
from opsqueue.queue import commands
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
from tests.opsqueue.steps import FAILURE, Raw, insert, take, tokens_of


def reserve(queue: Queue, limit: int = 1) -> commands.Command[Reserved]:
    return commands.reserve_chunks("w1", limit=limit, reservation_ms=1_000, strategy=Oldest())


def test_calls_are_made_in_their_order(queue: Queue) -> None:
    """Each answers as the method of its own would have."""
    id_ = insert(queue, 5, max_attempts=1)
    queue.run(commands.release_chunks([]))  # the server knows its script from now on
    first, second, third = tokens_of(take(queue, 3))

    completed, released, reserved, lost, failed = queue.pipeline(
        [
            commands.complete_chunks([first]),
            commands.release_chunks([second]),
            reserve(queue, 2),
            commands.complete_chunks([second]),
            commands.fail_chunk(third, FAILURE),
        ]
    )

    assert [Completed(id_, 4)] == completed
    assert [Released(id_)] == released
    assert [1, 3] == [chunk.chunk_index for chunk in reserved.chunks]
    assert [Lost()] == lost
    assert FinallyFailed(id_, 1) == failed


def test_no_calls_have_no_answers(queue: Queue) -> None:
    """An idle reporter need not ask whether it has something."""
    assert queue.pipeline([]) == []


def test_calls_of_scripts_that_the_server_forgot_are_made_after_the_others(
    own_client: redis.Redis, queue_name: str
) -> None:
    """They did nothing at first; their answers stand in their places."""
    queue = Queue(own_client, queue_name)
    id_ = insert(queue, 3)
    tokens = tokens_of(take(queue, 2))
    own_client.script_flush()
    take(queue, 1)

    completed, released, reserved = queue.pipeline(
        [commands.complete_chunks(tokens[:1]), commands.release_chunks(tokens[1:]), reserve(queue)]
    )

    assert ([Completed(id_, 2)], [Released(id_)]) == (completed, released)
    assert reserved.chunks == ()


def test_a_failure_of_one_call_stands_in_the_place_of_its_answer(
    real_client: redis.Redis, queue_name: str
) -> None:
    """The other calls are still executed."""
    queue = Queue(real_client, queue_name)
    id_ = insert(queue, 2)
    tokens = tokens_of(take(queue, 1))
    real_client.set(Raw(real_client, queue_name).key("delayed"), "not a zset")

    failed, completed = queue.pipeline([reserve(queue), commands.complete_chunks(tokens)])

    assert isinstance(failed, ScriptError)
    assert "lua/_handout.lua" in str(failed)
    assert [Completed(id_, 1)] == completed
    # Other tests count all queues of this server.
    real_client.delete(Raw(real_client, queue_name).key("delayed"))


def test_without_an_answer_each_call_says_so(queue_name: str, own_client: redis.Redis) -> None:
    """Nothing is known about any of them."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = connect(f"redis://127.0.0.1:{closed.getsockname()[1]}/0")
    queue = Queue(own_client, queue_name)
    insert(queue, 1)
    queue._scripts_of(0)._client = gone

    answers = queue.pipeline([reserve(queue), commands.complete_chunks([Token("1-1")])])

    assert all(isinstance(answer, RedisUnavailableError) for answer in answers)
    assert len(answers) == 2


def test_a_call_is_checked_when_it_is_made(queue: Queue) -> None:
    """Not when it is sent, together with others."""
    with pytest.raises(InvalidArgumentError, match="limit is 0"):
        reserve(queue, 0)
    with pytest.raises(InvalidArgumentError, match="give the token"):
        commands.fail_chunk(Token("x"), FAILURE)
