"""Servers that tests share: a real one for all, and fakeredis for the state machine."""

from __future__ import annotations

import gc
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, settings
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opsqueue.queue.connection import connect
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue.tracing import context as tracing
from tests.documents import PAGES, Dev, file_of, running_dev

README = PAGES[0]

# Else its assertions would not say what was unequal.
pytest.register_assert_rewrite("tests.opsqueue.queue_invariants")

# A busy machine may take its time.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# What a shell runs in the background ignores SIGINT, and so would the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that the last tests are short and no core is idle.

    While long tests wait for processes, other pytest-xdist workers use the cores.
    """
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


def pytest_collection_finish() -> None:
    """Keep thousands of collected tests out of each collection, in forked children, too."""
    gc.freeze()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a real server: the one that OPSQUEUE_TEST_REDIS_URL names, or an embedded one."""
    given = os.environ.get("OPSQUEUE_TEST_REDIS_URL")
    if given:
        yield given
        return
    with EmbeddedServer(tmp_path_factory.mktemp("redis"), is_durable=False) as server:
        yield server.url


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Run `opsqueue dev` as in the README, with the README's handlers."""
    folder = tmp_path_factory.mktemp("dev")
    for name in ("tasks.py", "prices.py"):
        (folder / name).write_text(file_of(README, name))
    with running_dev(folder) as dev:
        yield dev


@pytest.fixture(scope="session")
def real_client(redis_url: str) -> Iterator[redis.Redis]:
    client = connect(redis_url)
    assert isinstance(client, redis.Redis)
    yield client
    client.close()


@pytest.fixture
def fake_client() -> redis.Redis:
    """Return a fresh fake server for each test, so that an error does not affect the next one."""
    server = fakeredis.FakeServer(server_type="valkey")
    return fakeredis.FakeRedis(server=server, protocol=2)


@pytest.fixture(params=["server", "fakeredis"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    """Return a client of each kind of server in turn."""
    name = {"server": "real_client", "fakeredis": "fake_client"}[request.param]
    client: redis.Redis = request.getfixturevalue(name)
    return client


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record the spans of this process, as if an SDK were set up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("opsqueue")
    monkeypatch.setattr(tracing, "_tracer", lambda: tracer)
    return exporter


@pytest.fixture
def queue_name() -> str:
    """Return a new name for each test: tests share a server, never a queue."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the store's system calls by those of a case-insensitive disk."""

    def folded(name: str, dir_fd: int | None) -> str:
        within, last = os.path.split(name)
        with suppress(FileNotFoundError, NotADirectoryError):
            folder = os.open(within or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
            try:
                for found in os.listdir(folder):  # noqa: PTH208 of a descriptor
                    if found.lower() == last.lower():
                        return name[: len(name) - len(last)] + found
            finally:
                os.close(folder)
        return name

    def fold(call: Callable[..., Any]) -> Callable[..., Any]:
        def with_folded(name: str, *args: Any, dir_fd: int | None = None, **named: Any) -> Any:
            return call(folded(name, dir_fd), *args, dir_fd=dir_fd, **named)

        return with_folded

    calls = {name: fold(getattr(os, name)) for name in ("mkdir", "open", "rmdir", "stat", "unlink")}
    monkeypatch.setattr("opsqueue.store.local.os", SimpleNamespace(**{**vars(os), **calls}))
