"""Sets of embedded servers on loopback: a cluster, and a master with a replica behind Sentinels."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from opsqueue.model.process import die_with_parent
from opsqueue.queue.connection import server_client
from opsqueue.testing.embedded import EmbeddedServer, binary
from tests import waiting

MASTERS = 3
SLOTS = 16_384
WITHIN_S = 60.0


def free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def until(is_so: Callable[[], bool], what: str) -> None:
    """Poll until the condition holds; servers that find each other take some time."""
    waiting.until(is_so, what, within_s=WITHIN_S)


@dataclass(frozen=True)
class ClusterSet:
    """Three masters, each with a replica."""

    servers: tuple[EmbeddedServer, ...]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{s.port}" for s in self.servers[:MASTERS])

    def master_of(self, key: str) -> EmbeddedServer:
        """The running server that has the key's slot."""
        slot = key_slot(key.encode())
        rows = ask(self.living()[0].port, "CLUSTER", "SLOTS")
        port = next(row[2][1] for row in rows if row[0] <= slot <= row[1])
        return next(server for server in self.servers if server.port == port)

    def living(self) -> list[EmbeddedServer]:
        return [server for server in self.servers if server.is_running]

    def is_whole(self) -> bool:
        """Return whether every slot has a running master, according to all running servers."""
        alive = {server.port for server in self.living()}
        return all(self._is_whole_for(port, alive) for port in alive)

    def _is_whole_for(self, port: int, alive: set[int]) -> bool:
        rows = ask(port, "CLUSTER", "SLOTS")
        return (
            b"cluster_state:ok" in ask(port, "CLUSTER", "INFO")
            and sum(last - first + 1 for first, last, *_ in rows) == SLOTS
            and all(row[2][1] in alive for row in rows)
        )


def ask(port: int, *command: str | int) -> Any:
    """Send a command to a server and return its raw answer."""
    client = server_client(f"redis://127.0.0.1:{port}/0", max_connections=1)
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it
    finally:
        client.close()


@contextmanager
def cluster(folder: Path) -> Iterator[ClusterSet]:
    """Three masters and three replicas that have formed a cluster."""
    with ExitStack() as stack:
        ports = free_ports(4 * MASTERS)
        servers = [
            stack.enter_context(
                EmbeddedServer(
                    folder / str(port),
                    port=port,
                    arguments=(
                        *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                        *("--cluster-node-timeout", "1500", "--repl-diskless-sync-delay", "0"),
                    ),
                )
            )
            for port, bus in zip(ports[::2], ports[1::2], strict=True)
        ]
        whole = ClusterSet(tuple(servers))
        _form(servers, ports[1::2])
        until(whole.is_whole, "the cluster is formed")
        yield whole


def _form(servers: list[EmbeddedServer], bus_ports: list[int]) -> None:
    ports = [server.port for server in servers]
    masters, replicas = ports[:MASTERS], ports[MASTERS:]
    for number, port in enumerate(masters):
        first, end = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS
        ask(port, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for port, bus in zip(ports[1:], bus_ports[1:], strict=True):
        ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
    ids = {port: ask(port, "CLUSTER", "MYID").decode() for port in masters}
    for port, replica in zip(masters, replicas, strict=True):
        until(partial(_knows, replica, ids[port]), "the replica knows its master")
        ask(replica, "CLUSTER", "REPLICATE", ids[port])
        until(partial(_is_linked, replica), "the replica has its master's data")


def _knows(port: int, node_id: str) -> bool:
    return node_id.encode() in ask(port, "CLUSTER", "NODES")


def _is_linked(port: int) -> bool:
    return bool(ask(port, "INFO", "replication").get("master_link_status") == "up")


@dataclass(frozen=True)
class SentinelSet:
    """A master, a replica, and three Sentinels that watch them."""

    servers: tuple[EmbeddedServer, ...]
    sentinel_ports: tuple[int, ...]
    service: str = "mymaster"

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{hosts}/{self.service}"

    def master(self) -> EmbeddedServer:
        """The master that the Sentinels name."""
        _, port = ask(self.sentinel_ports[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.port == int(port))


@contextmanager
def behind_sentinels(folder: Path) -> Iterator[SentinelSet]:
    """Start a master and a replica, and Sentinels that know them and each other."""
    with ExitStack() as stack:
        master = stack.enter_context(EmbeddedServer(folder / "master"))
        replica = stack.enter_context(
            EmbeddedServer(
                folder / "replica",
                arguments=(
                    "--replicaof",
                    f"127.0.0.1 {master.port}",
                    "--repl-diskless-sync-delay",
                    "0",
                ),
            )
        )
        until(lambda: _is_linked(replica.port), "the replica has its master's data")
        ports = tuple(free_ports(3))
        for port in ports:
            stack.enter_context(_sentinel(folder / f"sentinel-{port}", port, master.port))
        whole = SentinelSet((master, replica), ports)
        until(lambda: all(_is_watched(whole, port) for port in ports), "all Sentinels know all")
        yield whole


def _is_watched(whole: SentinelSet, port: int) -> bool:
    others = ask(port, "SENTINEL", "SENTINELS", whole.service)
    return len(others) == 2 and len(ask(port, "SENTINEL", "REPLICAS", whole.service)) == 1


Place = Callable[[Path], AbstractContextManager[ClusterSet | SentinelSet]]
"""Where a set of servers is started: `cluster` or `behind_sentinels`."""


@contextmanager
def _sentinel(folder: Path, port: int, master_port: int) -> Iterator[None]:
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {folder}\nlogfile {folder}/log\n"
        f"sentinel monitor mymaster 127.0.0.1 {master_port} 2\n"
        "sentinel down-after-milliseconds mymaster 1000\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    pid = os.getpid()
    process = subprocess.Popen(
        [binary(), str(config), "--sentinel"],
        preexec_fn=lambda: die_with_parent(pid),  # noqa: PLW1509 touches no locks
    )
    try:
        until(lambda: _answers(port), "the Sentinel answers")
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return bool(ask(port, "PING"))
    except redis.ConnectionError:
        return False
