"""Clients, consumers and stores that were created and used before a fork."""

from __future__ import annotations

import asyncio
import atexit
import gc
import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis

from opsqueue.consumer import ConsumerClient
from opsqueue.contents.codec import PRODUCER_CODEC, open_codec
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import run_on_all
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from opsqueue.strategy import Oldest
from tests import redis_sets
from tests.forks import Child, error_in_child, in_child
from tests.redis_sets import Place
from tests.system.conftest import ProducerOf, Start
from tests.waiting import until

pytestmark = pytest.mark.system

ROUNDS = 20
Expected = dict[SubmissionId, list[int]]


@pytest.fixture
def client(module_api_url: str, module_store_url: str, queue_name: str) -> Iterator[ProducerClient]:
    """Over HTTP."""
    with ProducerClient(module_api_url, module_store_url, queue=queue_name) as client:
        yield client


@pytest.fixture
def queue(real_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(real_client, queue_name)


@pytest.fixture
def completed(client: ProducerClient, queue: Queue) -> Expected:
    """Submissions that are completed, each with results of its own."""
    return complete_some(client, queue, 12)


def complete_some(client: ProducerClient, queue: Queue, count: int) -> Expected:
    expected: Expected = {}
    for number in range(count):
        operations = [number * 100 + index for index in range(5)]
        id_ = client.insert_submission(operations, chunk_size=5, serialization_format=None)
        (chunk,) = queue.reserve_chunks("w", strategy=Oldest()).chunks
        results = [operation + 1 for operation in operations]
        output = open_codec(chunk.source.codec).encode(results)
        queue.complete_chunks([chunk.token], outputs={chunk.token: output})
        expected[id_] = results
    return expected


def mistakes(client: ProducerClient, expected: Expected, *, seed: int, count: int = 5) -> list[str]:
    """Read some submissions' results, two threads at a time; return the errors."""

    def read(id_: SubmissionId) -> str | None:
        try:
            results = list(client.blocking_stream_completed_submission(id_))
        except Exception as exc:  # noqa: BLE001 whatever it is, it is a mistake
            return f"{type(exc).__name__}: {exc}"
        return None if results == expected[id_] else f"{id_} has {results}"

    ids = random.Random(seed).choices(list(expected), k=count)
    with ThreadPoolExecutor(2) as threads:
        return [found for found in threads.map(read, ids) if found]


# Producers over HTTP


def test_each_process_gets_the_answers_to_its_own_requests(
    client: ProducerClient, completed: Expected
) -> None:
    """The parent and three children read at once, 20 times, with connections that were open."""
    for seed in range(ROUNDS):
        assert mistakes(client, completed, seed=seed, count=2) == []  # opens connections
        children = [
            Child(partial(mistakes, client, completed, seed=100 * seed + n)) for n in range(3)
        ]
        found = mistakes(client, completed, seed=seed)
        assert [found, *(child.result() for child in children)] == [[], [], [], []]


def test_a_fork_in_the_middle_of_other_threads_requests_leaves_no_lock_behind(
    client: ProducerClient, completed: Expected
) -> None:
    """The parent has several requests in progress at every fork."""
    is_over = threading.Event()

    def read_on() -> list[str]:
        found: list[str] = []
        while not is_over.is_set():
            found += mistakes(client, completed, seed=1, count=2)
        return found

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read_on) for _ in range(3)]
        try:
            found = [in_child(partial(mistakes, client, completed, seed=n)) for n in range(ROUNDS)]
        finally:
            is_over.set()
        assert found == [[]] * ROUNDS
        assert [reader.result() for reader in readers] == [[], [], []]


_SHARED: list[ProducerClient] = []


def _read_in_pool(id_: SubmissionId) -> list[int]:
    return list(_SHARED[0].blocking_stream_completed_submission(id_))


def test_a_pool_of_forked_processes_shares_a_client(
    client: ProducerClient, completed: Expected
) -> None:
    """The pools are those of `multiprocessing` and `concurrent.futures` with the context "fork"."""
    _SHARED[:] = [client]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        found = dict(zip(completed, pool.map(_read_in_pool, completed, timeout=30), strict=True))

    assert found == completed


def test_a_child_of_a_child_starts_afresh_too(client: ProducerClient, completed: Expected) -> None:
    """As a program that makes itself a daemon does."""

    def fork_again() -> list[list[str]]:
        child = Child(partial(mistakes, client, completed, seed=2))
        return [mistakes(client, completed, seed=3), child.result()]

    mistakes(client, completed, seed=1)

    assert in_child(fork_again) == [[], []]
    assert mistakes(client, completed, seed=4) == []


def test_what_a_child_closes_or_collects_stays_open_in_its_parent(
    module_api_url: str, module_store_url: str, completed: Expected, queue_name: str
) -> None:
    """Also its second close, and the end of the child's last reference."""
    shared = [ProducerClient(module_api_url, module_store_url, queue=queue_name)]
    assert mistakes(shared[0], completed, seed=1) == []

    def close() -> str:
        with shared[0] as client:
            client.close()
        return error_of(client.count_submissions)

    def collect() -> None:
        shared.clear()
        gc.collect()

    assert "closed already" in in_child(close)
    in_child(collect)

    assert mistakes(shared[0], completed, seed=2) == []
    shared[0].close()


def test_a_client_closed_before_a_fork_stays_closed(
    module_api_url: str, module_store_url: str, queue_name: str
) -> None:
    client = ProducerClient(module_api_url, module_store_url, queue=queue_name)
    client.close()

    assert "closed" in error_in_child(client.count_submissions)


def test_an_iterator_begun_before_a_fork_is_an_error_in_the_child(
    client: ProducerClient, completed: Expected
) -> None:
    """It says which processes and what helps; the parent's own goes on."""
    id_ = next(iter(completed))
    for begin in (client.iter_results, client.blocking_stream_completed_submission):
        results = begin(id_)
        first = next(results)

        said = error_in_child(partial(list, results))

        assert said.startswith("OtherProcessError: an iterator belongs to process ")
        assert "call the client's method again" in said
        assert [first, *results] == completed[id_]


def test_a_list_begun_before_a_fork_is_an_error_in_the_child(
    client: ProducerClient, completed: Expected
) -> None:
    listed = client.list_submissions()
    next(listed)

    assert "OtherProcessError" in error_in_child(lambda: next(listed))
    assert len(list(listed)) == len(completed) - 1


def test_a_child_that_drops_an_iterator_does_not_wait_for_threads_of_its_parent(
    client: ProducerClient, completed: Expected
) -> None:
    """Its `close`, too."""
    shared = [client.iter_results(id_) for id_ in completed]
    for results in shared:
        next(results)

    def drop() -> None:
        shared.pop().close()
        shared.clear()
        gc.collect()

    in_child(drop, within_s=10)

    for id_, results in zip(completed, shared, strict=True):
        assert list(results) == completed[id_][1:]


def test_asynchronous_calls_work_in_parent_and_child(
    client: ProducerClient, completed: Expected
) -> None:
    """Each has its own threads."""

    async def read_all() -> Expected:
        async def read(id_: SubmissionId) -> list[int]:
            return [result async for result in await client.async_iter_results(id_)]

        found = await asyncio.gather(*(read(id_) for id_ in completed))
        return dict(zip(completed, found, strict=True))

    assert asyncio.run(read_all()) == completed
    child = Child(lambda: asyncio.run(read_all()))
    assert asyncio.run(read_all()) == completed
    assert child.result() == completed


def test_a_coroutine_that_waits_at_a_fork_is_an_error_in_the_child(client: ProducerClient) -> None:
    """It waits for a thread of the parent's, which would never answer."""
    id_ = client.insert_submission([1], chunk_size=1)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(client.async_wait_for_submission(id_))
    loop.run_until_complete(asyncio.sleep(0.1))

    said = error_in_child(lambda: loop.run_until_complete(waiting), within_s=10)

    assert said.startswith("OtherProcessError: an asynchronous call belongs to process ")
    client.cancel_submission(id_)
    loop.run_until_complete(waiting)
    loop.close()


def test_a_child_forked_by_the_iterable_of_operations_leaves_the_uploads_alone(
    client: ProducerClient, queue: Queue, store_url: str
) -> None:
    """Whether it exits in there, or comes back from it."""
    statuses: list[int] = []

    def forking(leave: Callable[[], object]) -> Iterator[str]:
        for number in range(40):
            yield os.urandom(50_000).hex()  # too much to travel without the store
            if number == 20:
                pid = os.fork()
                if pid == 0:
                    leave()
                else:
                    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def insert(leave: Callable[[], object]) -> SubmissionId:
        parent = os.getpid()
        try:
            return client.insert_submission(forking(leave), chunk_size=2)
        except BaseException as exc:
            if os.getpid() == parent:
                raise
            os._exit({"SystemExit": 7, "OtherProcessError": 8}.get(type(exc).__name__, 1))

    for leave in (sys.exit, lambda: None):
        id_ = insert(leave)
        submission = client.get_submission(id_)
        stored = {k for k in client._store.list_prefix(submission.prefix) if k.endswith("-in")}
        assert len(stored) == submission.chunks_total == 20
    assert statuses == [7, 8]


# A preforked server


def test_a_preloaded_application_under_load(
    start: Start,
    module_api_url: str,
    module_store_url: str,
    completed: Expected,
    queue_name: str,
    tmp_path: Path,
) -> None:
    """gunicorn --preload with a client that was used at import; every answer is the asked one."""
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    server = start(
        *("gunicorn", "--preload", "--workers", "3", "--threads", "4", "--bind", "127.0.0.1:0"),
        *("--worker-class", "gthread", "--log-level", "info", "preloaded:application"),
        cwd=tmp_path,
        TEST_API=module_api_url,
        TEST_STORE=module_store_url,
        TEST_QUEUE=queue_name,
        TEST_ID=str(next(iter(completed))),
    )
    url = server.wait_for_line("Listening at: ").partition("at: ")[2].partition(" ")[0]
    for _ in range(3):
        server.wait_for_line("Booting worker")
    ids = list(completed) * 20
    # Else those that accept first would have all of the few connections.
    limits = httpx.Limits(max_keepalive_connections=0)

    with (
        httpx.Client(base_url=url, timeout=30, limits=limits) as http,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(lambda id_: http.get(f"/{id_}"), ids))

    assert [answer.status_code for answer in answers] == [200] * len(ids)
    assert [answer.json()["results"] for answer in answers] == [completed[id_] for id_ in ids]
    assert len({answer.json()["pid"] for answer in answers}) > 1


def test_a_preloaded_api_answers_every_request_with_its_own_answer(
    start: Start, redis_url: str, module_store_url: str, queue_name: str, queue: Queue
) -> None:
    """Its connections to Redis and its store were made before the fork."""
    server = start(
        *("gunicorn", "--preload", "--workers", "3", "--threads", "4", "--bind", "127.0.0.1:0"),
        *("--log-level", "info", "opsqueue_api.wsgi:application()"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=module_store_url,
    )
    url = server.wait_for_line("Listening at: ").partition("at: ")[2].partition(" ")[0]

    with ProducerClient(url, module_store_url, queue=queue_name) as client:
        completed = complete_some(client, queue, 6)
        assert mistakes(client, completed, seed=1, count=60) == []


PRELOADED = """
import json, os
from concurrent.futures import ThreadPoolExecutor
from opsqueue.producer import ProducerClient, SubmissionId

client = ProducerClient(
    os.environ["TEST_API"], os.environ["TEST_STORE"], queue=os.environ["TEST_QUEUE"]
)
with ThreadPoolExecutor(8) as threads:
    ids = [SubmissionId(os.environ["TEST_ID"])] * 50
    list(threads.map(client.get_submission, ids))  # opens as many connections


def application(environ, start_response):
    id_ = SubmissionId(environ["PATH_INFO"][1:])
    for _ in range(3):
        results = list(client.blocking_stream_completed_submission(id_))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"results": results, "pid": os.getpid()}).encode()]
"""


# Over Redis


@pytest.fixture(params=["server", "cluster", "sentinel"])
def any_redis(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[str]:
    if request.param == "server":
        yield redis_url
        return
    make: dict[str, Place] = {
        "cluster": redis_sets.cluster,
        "sentinel": redis_sets.behind_sentinels,
    }
    with make[request.param](tmp_path) as servers:
        yield servers.url


def test_clients_of_redis_start_afresh_in_children(
    any_redis: str, queue_name: str, store_url: str
) -> None:
    """One server, a cluster and Sentinels; while other threads are in the middle of calls."""
    redis_client = connect(any_redis)
    queue = Queue(redis_client, queue_name)
    client = ProducerClient.over(
        RedisBackend(redis_client), open_store(store_url), queue=queue_name
    )
    ids = [client.insert_submission([n], chunk_size=1) for n in range(10)]
    is_over = threading.Event()

    def ask() -> list[SubmissionId]:
        return [id_ for id_ in ids * 5 if client.get_submission(id_).id != id_]

    def ask_on() -> list[SubmissionId]:
        wrong = []
        while not is_over.is_set():
            wrong += ask()
        return wrong

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask_on) for _ in range(3)]
        try:
            children = [Child(ask) for _ in range(8)]
            found = [child.result() for child in children]
        finally:
            is_over.set()
        assert [*found, *(each.result() for each in asking)] == [[]] * 11
    assert len(queue.parts()) == 1
    redis_client.close()


def test_a_pool_that_was_locked_at_a_fork_is_not_in_the_child(any_redis: str) -> None:
    """redis-py takes that lock in the child, before it begins anew there."""
    redis_client = connect(any_redis)
    run_on_all(redis_client, lambda server: server.ping())
    pools = run_on_all(redis_client, lambda server: server.connection_pool)
    is_locked, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as locks:
            for pool in pools:
                locks.enter_context(pool._lock)
                locks.enter_context(pool._fork_lock)
            is_locked.set()
            is_over.wait()

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        is_locked.wait()
        try:
            answers = in_child(lambda: run_on_all(redis_client, lambda server: server.ping()))
        finally:
            is_over.set()
        held.result()
    assert set(answers) == {True}
    redis_client.close()


# Consumers


@pytest.fixture(params=["redis", "http"])
def opsqueue_url(request: pytest.FixtureRequest, redis_url: str, module_api_url: str) -> str:
    return {"redis": redis_url, "http": module_api_url}[request.param]


@pytest.fixture
def consumer(opsqueue_url: str, module_store_url: str, queue_name: str) -> Iterator[ConsumerClient]:
    with ConsumerClient(
        opsqueue_url, module_store_url, queue=queue_name, heartbeat_interval_s=0.1
    ) as consumer:
        yield consumer


def holders(queue: Queue) -> dict[str, int]:
    return {worker.name: worker.chunks_in_hand for worker in queue.list_workers()}


def test_a_consumer_in_a_child_is_a_worker_of_its_own(
    consumer: ConsumerClient, client: ProducerClient, queue: Queue
) -> None:
    """It has its own name and heartbeat, and neither can report the other's chunks."""
    id_ = client.insert_submission([1, 2], chunk_size=1)
    (mine,) = consumer.reserve_chunks(strategy=Oldest())

    def work() -> tuple[str, int, int, str]:
        (chunk,) = consumer.reserve_chunks(strategy=Oldest())
        said = error_of(
            lambda: consumer.complete_chunk(mine.submission_id, None, mine.chunk_index, b"no")
        )
        seen_ms = min(w.seen_ms_ago for w in queue.list_workers() if w.name == consumer.name)
        until(lambda: seen_again(queue, consumer.name, seen_ms))
        consumer.complete_chunk(
            chunk.submission_id, None, chunk.chunk_index, open_codec(PRODUCER_CODEC).encode([20])
        )
        consumer.close()
        return consumer.name, chunk.chunk_index, len(queue.list_workers()), said

    name, index, workers, said = in_child(work)

    assert name != consumer.name
    assert (index, workers) == (1, 1)
    assert said.startswith("ChunkNotFoundError")
    assert holders(queue) == {consumer.name: 1}
    output = open_codec(PRODUCER_CODEC).encode([10])
    consumer.complete_chunk(id_, None, mine.chunk_index, output)
    assert client.is_completed(id_)


def seen_again(queue: Queue, name: str, before_ms: int) -> bool:
    now_ms = next(w.seen_ms_ago for w in queue.list_workers() if w.name == name)
    return now_ms <= before_ms + 100


@pytest.mark.parametrize("leave", ["exit", "close", "collect"])
def test_a_childs_end_does_not_sign_its_parents_worker_off(
    consumer: ConsumerClient, client: ProducerClient, queue: Queue, leave: str
) -> None:
    """By sys.exit with all handlers of atexit, by `close`, or by the garbage collector."""
    id_ = client.insert_submission([1], chunk_size=1)
    (chunk,) = consumer.reserve_chunks()
    shared = [consumer]

    def work() -> None:
        if leave == "close":
            shared[0].close()
        elif leave == "collect":
            shared.clear()
            gc.collect()
        atexit._run_exitfuncs()

    in_child(work)

    assert holders(queue) == {consumer.name: 1}
    consumer.complete_chunk(id_, None, chunk.chunk_index, open_codec(PRODUCER_CODEC).encode([2]))
    assert client.is_completed(id_)


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as exc:  # noqa: BLE001 given to the caller
        return f"{type(exc).__name__}: {exc}"
    return "none"


@pytest.mark.parametrize("leave", ["return", "sys.exit", "error", "interrupt"])
def test_a_child_forked_by_a_callback_reports_nothing(
    consumer: ConsumerClient, client: ProducerClient, queue: Queue, leave: str
) -> None:
    """However it leaves the callback; the parent's own results are stored, once."""
    id_ = client.insert_submission([1], chunk_size=1)
    statuses = []

    def callback(operation: int) -> int:
        pid = os.fork()
        if pid == 0:
            match leave:
                case "return":
                    return -1
                case "sys.exit":
                    sys.exit(5)
                case "interrupt":
                    raise KeyboardInterrupt
                case _:
                    raise ValueError(operation)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        consumer.stop()
        return operation + 1

    consumer.run_each_op(callback)

    assert statuses == [5 if leave == "sys.exit" else 1]
    assert list(client.try_stream_completed_submission(id_)) == [2]
    assert client.get_submission(id_).chunks_failed == 0


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_a_child_forked_by_a_handler_ends_instead_of_reporting(
    start_worker: Start, producer_of: ProducerOf, tmp_path: Path, pool: str
) -> None:
    """In every pool, however it leaves; the results are those of the process that has the chunk."""
    (tmp_path / "forking.py").write_text(FORKING)
    start_worker("--pool", pool, app="forking:app", cwd=tmp_path)
    producer = producer_of()

    for leave, code in (("return", 1), ("exit", 3), ("raise", 1)):
        assert list(producer.run_submission([leave] * 3, chunk_size=3)) == [code] * 3


FORKING = """
import os, sys
from opsqueue import Opsqueue

app = Opsqueue()


@app.operation_handler(os.environ["TEST_QUEUE"], concurrency=1)
def fork(leave):
    pid = os.fork()
    if pid == 0:
        match leave:
            case "return":
                return "the child's"
            case "exit":
                sys.exit(3)
            case _:
                raise ValueError("the child's")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
