"""Fixtures that run commands in this process, with a real API and server, and worker steps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
import redis
from click.testing import CliRunner, Result

from opsqueue.cli.commands import main
from opsqueue.contents.codec import open_codec
from opsqueue.model.answers import Reserved
from opsqueue.model.chunk import ChunkFailure
from opsqueue.queue.connection import server_client
from opsqueue.queue.queue import Queue, wake_channel
from opsqueue.store import ObjectStore, input_key, open_store, output_key
from opsqueue.strategy import Oldest
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue_api.app import create_app

Run = Callable[..., Result]
Document = Callable[[Result], Any]
Work = Callable[..., None]


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a separate server for these tests, since many commands read all queues."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis"), is_durable=False) as server:
        yield server.url


@pytest.fixture(scope="module")
def real_client(redis_url: str) -> Iterator[redis.Redis]:
    client = server_client(redis_url)
    yield client
    client.close()


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(f"{store_url}?durable=false")


@pytest.fixture
def api_url(real_client: redis.Redis, store: ObjectStore) -> Iterator[str]:
    app = create_app(real_client, store)
    with make_server("127.0.0.1", 0, app, ThreadingServer, Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def queue(real_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(real_client, queue_name)


@pytest.fixture
def run(api_url: str, store_url: str, queue_name: str) -> Run:
    """Run `opsqueue ARGUMENTS…`; the result has exit_code, stdout and stderr."""
    environment = {
        "OPSQUEUE_API_URL": api_url,
        "OPSQUEUE_STORE_URL": f"{store_url}?durable=false",
        "OPSQUEUE_REDIS_URL": None,
        # The server is shared: to look into the queues of all tests would take long.
        "OPSQUEUE_QUEUE": queue_name,
    }

    def run_command(
        *arguments: str, stdin: str | bytes | None = None, **more: str | None
    ) -> Result:
        runner = CliRunner(env={**environment, **more})
        result = runner.invoke(main, list(arguments), input=stdin, prog_name="opsqueue")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run_command


@pytest.fixture
def document() -> Document:
    """Parse the JSON that a command printed."""

    def read(result: Result) -> Any:
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return read


def do_free_chunks(queue: Queue, store: ObjectStore, limit: int) -> Reserved:
    """Process all ready chunks by adding 1 to each operation; return the last reserve's answer."""
    reserved = queue.reserve_chunks("w1", limit=limit, strategy=Oldest(), sleeps=True)
    for chunk in reserved.chunks:
        codec, prefix = open_codec(chunk.source.codec), chunk.source.prefix
        data = chunk.input
        if data is None:
            data = store.get(input_key(prefix, chunk.chunk_index))
        numbers = cast("list[int]", codec.decode(data))
        results = codec.encode([number + 1 for number in numbers])
        store.create(output_key(prefix, chunk.chunk_index), results)
        queue.complete_chunks([chunk.token])
    return reserved


@pytest.fixture
def work(queue: Queue, store: ObjectStore) -> Work:
    """Process every ready chunk by adding 1 to each operation."""

    def do(*, limit: int = 100) -> None:
        do_free_chunks(queue, store, limit)

    return do


@pytest.fixture
def fail(queue: Queue) -> Callable[[], None]:
    """Fail one chunk."""

    def do() -> None:
        chunk = queue.reserve_chunks("w1", strategy=Oldest()).chunks[0]
        failure = ChunkFailure(type="ValueError", message="bad row 7", traceback="  line 3")
        queue.fail_chunk(chunk.token, failure)

    return do


@pytest.fixture
def worker(queue: Queue, store: ObjectStore) -> Iterator[None]:
    """Process chunks in a thread until the test ends."""
    is_over, bell = threading.Event(), threading.Event()

    def go_on() -> None:
        with queue.watching(wake_channel("w1", Oldest()), bell.set):
            while not is_over.is_set():
                bell.clear()
                if not do_free_chunks(queue, store, 100).chunks:
                    bell.wait(5)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    is_over.set()
    bell.set()
    thread.join()
