"""A server that came back without its last writes: what was reported then is done again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from opsqueue.chunk import ChunkFailure, Completed, Lost, Released, Token
from opsqueue.connection import connect
from opsqueue.embedded import EmbeddedServer
from opsqueue.keys import base_key
from opsqueue.queue import Queue
from opsqueue.strategy import Newest, Oldest
from tests.opsqueue.steps import insert, take
from tests.servers import lose_writes_since, saved


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = connect(server.url)
    yield client
    client.close()


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> Queue:
    return Queue(client, queue_name)


def again(server: EmbeddedServer, copy: Path, client: redis.Redis) -> None:
    lose_writes_since(server, copy)
    client.connection_pool.disconnect()


def test_a_token_that_is_lost_does_not_stand_for_another_chunk(
    server: EmbeddedServer, client: redis.Redis, queue: Queue, tmp_path: Path
) -> None:
    """Its entry's id is given a second time where the server's clock is behind the stream.

    So it is for two seconds after the stream was made, too.
    """
    insert(queue, 1)
    second = insert(queue, 1)
    client.execute_command("XSETID", base_key(queue.name) + "reservations", "9000000000000-0")
    copy = saved(server, tmp_path / "copy")
    (late,) = take(queue, worker="w1", strategy=Oldest())

    again(server, copy, client)
    (other,) = take(queue, worker="w2", strategy=Newest())

    assert "9000000000000-1" == other.token.split(":")[0] == late.token.split(":")[0]
    assert frozenset({late.token}) == queue.heartbeat("w1", tokens=[late.token]).void
    assert [] == list(queue.get_reservations([late.token]))
    assert [Lost()] == queue.complete_chunks([late.token])
    assert Lost() == queue.fail_chunk(late.token, ChunkFailure(type="E", message=""))
    assert [Lost()] == queue.release_chunks([late.token])
    assert [Completed(second, 0)] == queue.complete_chunks([other.token])


def test_a_token_without_its_chunk_is_taken_too(queue: Queue) -> None:
    """As the version before gave them: a consumer holds one while the API is replaced."""
    insert(queue, 3)
    chunks = take(queue, 3)
    old, renewed, released = (Token(chunk.token.partition(":")[0]) for chunk in chunks)

    found = queue.get_reservations([old])

    assert [chunks[0].chunk_index] == [found[old].chunk_index]
    assert frozenset() == queue.heartbeat("w1", tokens=[old, renewed, released], unknown_ms=0).void
    assert [Completed(chunks[0].source.submission_id, 2)] == queue.complete_chunks([old])
    assert [Released(chunks[0].source.submission_id)] == queue.release_chunks([released])
