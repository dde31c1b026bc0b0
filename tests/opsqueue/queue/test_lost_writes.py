"""A server that restarted without its last writes: the chunks reported then run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Done, execute
from opsqueue.http.bodies import ChunkBody
from opsqueue.model.chunk import ChunkFailure, Completed, Lost, Released, Token
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import server_client
from opsqueue.queue.queue import Queue
from opsqueue.store.local import LocalStore
from opsqueue.strategy import Newest, Oldest
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue_worker.pool.messages import reservation_of, works_of
from opsqueue_worker.pool.waiting import PoolChunk
from tests.opsqueue.steps import insert, take
from tests.redis_sets import until
from tests.servers import lose_writes_since, replica_of, saved, wait_for_replica


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = server_client(server.url)
    yield client
    client.close()


@pytest.fixture
def queue(client: redis.Redis, queue_name: str) -> Queue:
    return Queue(client, queue_name)


def again(server: EmbeddedServer, copy: Path, client: redis.Redis) -> None:
    # Two starts within a second look alike (_history.lua).
    until(lambda: client.time()[0] > client.lastsave().timestamp(), "a second is over")
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
    client.execute_command("XSETID", base_key(queue.name) + "reservations", "9000000000000-0")  # type: ignore[no-untyped-call]  # redis-py has no type for it
    copy = saved(server, tmp_path / "copy")
    (late,) = take(queue, worker="w1", strategy=Oldest())

    again(server, copy, client)
    (other,) = take(queue, worker="w2", strategy=Newest())

    assert "9000000000000-1" == other.token.split(":")[0] == late.token.split(":")[0]
    assert frozenset({late.token}) == queue.heartbeat("w1", tokens=[late.token]).revoked
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
    assert (
        frozenset() == queue.heartbeat("w1", tokens=[old, renewed, released], unknown_ms=0).revoked
    )
    assert [Completed(chunks[0].source.submission_id, 2)] == queue.complete_chunks([old])
    assert [Released(chunks[0].source.submission_id)] == queue.release_chunks([released])


class Work:
    """A submission in the store, and a handler that counts."""

    def __init__(self, client: redis.Redis, queue: Queue, folder: Path) -> None:
        self.queue = queue
        self.store = LocalStore(str(folder), durable=False)
        self.runs: list[int] = []
        self.producer = ProducerClient.over(
            RedisBackend(client), self.store, queue=queue.name, inline_bytes=0
        )
        app = Opsqueue()

        @app.operation_handler(queue.name)
        def double(number: int) -> int:
            self.runs.append(number)
            return 2 * number

        self.handler = app.handler_of(queue.name)

    def insert(self, chunks: int) -> SubmissionId:
        return self.producer.insert_submission(range(chunks), chunk_size=1)

    def do(self, limit: int, queue: Queue | None = None) -> None:
        on = queue or self.queue
        for chunk in take(on, limit, worker="w1"):
            done = execute(chunk, self.handler, self.store)
            assert isinstance(done, Done)
            on.complete_chunks([done.token])


@pytest.fixture
def work(client: redis.Redis, queue: Queue, tmp_path: Path) -> Work:
    return Work(client, queue, tmp_path / "store")


def test_a_chunk_whose_completion_was_lost_does_not_run_again(
    server: EmbeddedServer, client: redis.Redis, work: Work, tmp_path: Path
) -> None:
    """Its output is there, and counted once more; the others run."""
    id_ = work.insert(10)
    work.do(2)
    copy = saved(server, tmp_path / "copy")
    work.do(5)

    again(server, copy, client)
    done_before = work.queue.get_submission(id_).chunks_done
    work.do(10)

    assert 2 == done_before
    assert list(range(10)) == work.runs
    assert [2 * n for n in range(10)] == list(work.producer.try_stream_completed_submission(id_))
    counts = work.queue.count_queue()
    assert (10, 0) == (counts.stats["chunks_completed"], counts.backlog_chunks)


def test_an_output_of_a_submission_that_was_there_alone_is_looked_for(
    server: EmbeddedServer, client: redis.Redis, work: Work, tmp_path: Path
) -> None:
    """Others pay no request: nothing of them can be lost."""
    work.insert(1)
    (before,) = take(work.queue)

    again(server, saved(server, tmp_path / "copy"), client)
    assert [] == take(work.queue)
    work.insert(2)
    after = take(work.queue, 2, strategy=Newest())
    work.queue.release_chunks([before.token])
    (old,) = take(work.queue)

    assert [False, False, False, True] == [c.source.is_suspect for c in (before, *after, old)]


def test_a_suspicion_reaches_those_who_look_for_the_output(queue: Queue) -> None:
    """A worker's child, and a consumer over HTTP; also that the chunk was in hand before."""
    insert(queue, 1)
    (chunk,) = take(queue)
    suspected = replace(chunk, source=replace(chunk.source, is_suspect=True))
    again = replace(chunk, again=True)

    given = [
        (PoolChunk(reservation=one, reserved_at=0.0, begin_by=0.0), 0.0)
        for one in (chunk, suspected, again)
    ]
    works = works_of(given)
    came = [reservation_of(c, w.source) for w in works if w.source for c in w.chunks]
    assert came == [chunk, suspected, again]
    assert [False, True] == [
        ChunkBody.of(c).to_reservation(queue.name, None).source.is_suspect
        for c in (chunk, suspected)
    ]
    assert [False, True] == [
        ChunkBody.of(c).to_reservation(queue.name, None).again for c in (chunk, again)
    ]


def test_a_replica_that_takes_over_does_not_run_again_what_it_lacks(
    server: EmbeddedServer, client: redis.Redis, work: Work, tmp_path: Path
) -> None:
    """It lagged: its primary's last words never came."""
    with replica_of(server, tmp_path / "replica") as replica:
        wait_for_replica(client)
        heir = server_client(replica.url)
        after = Queue(heir, work.queue.name)
        id_ = work.insert(10)
        work.do(2)
        client.wait(1, 20_000)
        heir.replicaof("NO", "ONE")
        work.do(5)
        died_at = client.time()[0]
        server.kill()

        # As long as a fail-over takes at least (_history.lua).
        until(lambda: heir.time()[0] > died_at + 1, "a second is over")
        work.do(10, after)

        assert list(range(10)) == work.runs
        assert SubmissionState.COMPLETED is after.get_submission(id_).state


def test_a_user_who_may_not_ask_suspects_nobody(
    server: EmbeddedServer, client: redis.Redis, queue: Queue
) -> None:
    """Reserving works; INFO and LASTSAVE are @dangerous."""
    insert(queue, 2)
    take(queue)
    client.acl_setuser(
        "worker",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        categories=["+@all", "-@dangerous"],
    )
    theirs = Queue(server_client(server.url.replace("//", "//worker:secret@")), queue.name)

    (chunk,) = take(theirs)

    assert chunk.source.is_suspect is False
