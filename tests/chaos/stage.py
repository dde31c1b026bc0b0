"""The stage: Redis, store, API, workers and a consumer as real processes behind proxies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import redis

from opsqueue.queue.connection import server_client
from opsqueue.queue.queue import Queue
from opsqueue.testing.embedded import EmbeddedServer
from tests.chaos.program import Program
from tests.chaos.proxy import WELL, Loop, Proxy, StoreProxy
from tests.chaos.schedule import PROGRAMS
from tests.chaos.values import (
    API,
    CONSUMER,
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_S,
    QUEUES,
    WORKERS,
    Cast,
)

_APPS: Final = Path(__file__).parent / "apps"
_ROOT: Final = Path(__file__).parents[2]
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "chaos",
    "AWS_SECRET_ACCESS_KEY": "chaos",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}


@dataclass
class Stage:
    """All possible targets of faults."""

    folder: Path
    cast: Cast
    server: EmbeddedServer
    client: redis.Redis
    """A direct connection to the server, for the checker and for faults."""
    redis_proxies: dict[str, Proxy]
    """One proxy per program, so that a connection can break for one machine alone."""
    store_proxy: StoreProxy
    store: Program
    store_port: int
    """Its own, behind the proxy."""
    programs: dict[str, Program]
    api_url: str
    store_url: str
    is_server_up: bool = True

    @property
    def log_folder(self) -> Path:
        return self.folder / "executions"

    def clock_file(self, program: str) -> Path:
        """The file with the seconds by which the clock of a program's machine is shifted."""
        return self.folder / f"{program}.clock"

    def supervise(self) -> list[str]:
        """Restart the programs that ended; return those that ended without a cause."""
        return [text for one in self.programs.values() if (text := one.supervise())]

    def heal(self) -> None:
        """Remove all disturbances."""
        for queue in QUEUES:
            Queue(self.client, queue).resume_queue()
        for proxy in (*self.redis_proxies.values(), self.store_proxy):
            proxy.set(WELL)


@contextmanager
def staged(folder: Path, cast: Cast, *, seed: int) -> Iterator[Stage]:
    """Start everything and wait until it is ready; end all of it afterwards."""
    (folder / "executions").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(
            EmbeddedServer(folder / "redis", arguments=("--appendfsync", cast.appendfsync))
        )
        client = server_client(server.url)
        stack.callback(client.close)
        loop = stack.enter_context(Loop())
        redis_proxies = {name: stack.enter_context(Proxy(loop, server.port)) for name in PROGRAMS}
        store = Program(
            "store",
            [sys.executable, str(_APPS / "s3_server.py")],
            folder=folder,
            environment=CREDENTIALS,
        )
        stack.callback(store.end)
        store.start()
        store_port = int(store.wait_for_line("ready on").rpartition(" ")[2])
        store_proxy = stack.enter_context(StoreProxy(loop, store_port, seed=f"store {seed}"))
        stage = Stage(
            folder=folder,
            cast=cast,
            server=server,
            client=client,
            redis_proxies=redis_proxies,
            store_proxy=store_proxy,
            store=store,
            store_port=store_port,
            programs={},
            api_url="",
            store_url=f"s3://chaos/run?endpoint_url=http://127.0.0.1:{store_proxy.port}",
        )
        _start_programs(stage, stack)
        yield stage


def _start_programs(stage: Stage, stack: ExitStack) -> None:
    def add(name: str, *command: str) -> Program:
        program = Program(
            name,
            [sys.executable, *command],
            folder=stage.folder,
            environment={
                **CREDENTIALS,
                "PYTHONPATH": f"{_APPS}:{_APPS / 'clock'}:{_ROOT}",
                "OPSQUEUE_REDIS_URL": f"redis://127.0.0.1:{stage.redis_proxies[name].port}/0",
                "OPSQUEUE_STORE_URL": stage.store_url,
                "CHAOS_PROGRAM": name,
                "CHAOS_LOG": str(stage.log_folder),
                "CHAOS_CLOCK": str(stage.clock_file(name)),
            },
        )
        stack.callback(program.end)
        stage.programs[name] = program
        return program

    api = add(API, "-m", "opsqueue_api", "--port", "0", "--workers", str(stage.cast.api_processes))
    api.start()
    stage.api_url = api.wait_for_line("ready on ").rpartition(" ")[2]
    # At the next start on the same port, as clients know it.
    api.restart_with("--port", str(urlsplit(stage.api_url).port))
    for name, pool in zip(WORKERS, stage.cast.pools, strict=True):
        add(
            *(name, "-m", "opsqueue_worker", "handlers:app", "-c", "2", "--pool", pool),
            *("--heartbeat-interval", str(HEARTBEAT_INTERVAL_S)),
            *("--heartbeat-timeout", str(HEARTBEAT_TIMEOUT_S)),
        ).start()
    url = stage.api_url
    if stage.cast.consumer_via == "redis":
        url = f"redis://127.0.0.1:{stage.redis_proxies[CONSUMER].port}/0"
    add(CONSUMER, str(_APPS / "consume.py"), url, stage.store_url).start()
    for name in (*WORKERS, CONSUMER):
        stage.programs[name].wait_for_line("ready")
