"""Upload and download of chunks with an S3 server that has a latency, in parallel and serially.

    python benchmarks/transfer.py
    python benchmarks/transfer.py --chunks 2000 --at-once 16 32 64
    python benchmarks/transfer.py --endpoint http://127.0.0.1:8333    # an S3 server of your own

The server is moto's, in a separate process. A proxy in front of it delays the client's data by
--latency-ms, so each request takes that much longer, as for a bucket in another region. The calls
are those that upload inputs and read results (opsqueue.store.parallel), by default with 16 at the
same time; one at a time is measured with --single chunks. All objects read are compared with the
stored ones.

At best, N at the same time are N times as fast. Otherwise the CPU is the limit: client, server and
proxy share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import boto3
import msgspec
import psutil

from opsqueue.store import open_store
from opsqueue.store.base import ObjectStore
from opsqueue.store.parallel import DEFAULT_AT_ONCE, create_many, get_many
from report import Report

BUCKET = "opsqueue-bench"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--single", type=int, default=200, help="chunks, one at a time")
    parser.add_argument("--operations", type=int, default=1_000, help="of a chunk: integers")
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--at-once", type=int, nargs="+", default=[DEFAULT_AT_ONCE])
    parser.add_argument("--endpoint", help="of an S3 server; credentials from the environment")
    chosen = parser.parse_args()

    report = Report("transfer", options=vars(chosen))
    report.say_where(packages=("boto3", "moto"))
    if not chosen.endpoint:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []

    def run(serve: Any, *arguments: Any) -> int:  # noqa: ANN401 a function and what it takes
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        process.start()
        processes.append(process)
        return int(ours.recv())

    try:
        direct = chosen.endpoint or f"http://127.0.0.1:{run(serve_s3)}"
        make_bucket(direct)
        proxy = run(serve_late, direct.rpartition("/")[2], chosen.latency_ms / 1000)
        measure(report, f"http://127.0.0.1:{proxy}", chosen, [p.pid for p in processes])
    finally:
        for process in processes:
            process.terminate()
            process.join()
    report.save()


def measure(report: Report, endpoint: str, chosen: argparse.Namespace, servers: list[int]) -> None:
    store = open_store(f"s3://{BUCKET}/run?endpoint_url={endpoint}&region=us-east-1")
    store.check()
    table = report.table(
        {
            "": "{what}",
            "at once": "{at_once}",
            "chunks": "{chunks:,}",
            "time": "{took_s:.1f} s",
            "a second": "{rate:,.0f}",
            "against one at a time": "{ratio:.1f} x",
            "client's CPU": "{client_cpu:.0%}",
            "server's and proxy's": "{server_cpu:.0%}",
        }
    )
    single: dict[str, float] = {}
    for at_once in [1, *chosen.at_once]:
        chunks = chosen.single if at_once == 1 else chosen.chunks
        for what, act in (("upload", upload), ("download", download)):
            cpu_s, servers_s, began = (
                cpu_of(os.getpid()),
                sum(map(cpu_of, servers)),
                time.monotonic(),
            )
            act(store, at_once, chunks, chosen.operations)
            took_s = time.monotonic() - began
            rate = chunks / took_s
            single.setdefault(what, rate)
            table.add(
                {
                    "what": what,
                    "at_once": at_once,
                    "chunks": chunks,
                    "took_s": took_s,
                    "rate": rate,
                    "ratio": rate / single[what],
                    "client_cpu": (cpu_of(os.getpid()) - cpu_s) / took_s,
                    "server_cpu": (sum(map(cpu_of, servers)) - servers_s) / took_s,
                }
            )
    store.close()


def key_of(at_once: int, index: int) -> str:
    return f"at-once-{at_once}/{index}-in"


def chunk_of(index: int, operations: int) -> bytes:
    return msgspec.msgpack.encode(list(range(index * operations, (index + 1) * operations)))


def upload(store: ObjectStore, at_once: int, chunks: int, operations: int) -> None:
    def items() -> Iterator[tuple[str, bytes]]:
        for index in range(chunks):
            yield key_of(at_once, index), chunk_of(index, operations)

    create_many(store, items(), at_once=at_once)


def download(store: ObjectStore, at_once: int, chunks: int, operations: int) -> None:
    keys = (key_of(at_once, index) for index in range(chunks))
    count = 0
    for data in get_many(store, keys, at_once=at_once):
        if data != chunk_of(count, operations):
            raise SystemExit(f"chunk {count} is not what was stored")
        count += 1
    if count != chunks:
        raise SystemExit(f"{count:,} chunks of {chunks:,}")


def make_bucket(endpoint: str) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.close()


def serve_s3(ready: Connection) -> None:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 in this process alone

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    ready.send(server.get_host_and_port()[1])
    while True:
        time.sleep(3600)


def serve_late(ready: Connection, address: str, latency_s: float) -> None:
    """Pass bytes on, with a delay for the client's: the same for each request."""

    async def serve() -> None:
        host, port = address.split(":")

        async def pass_on(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait_s: float
        ) -> None:
            try:
                while piece := await reader.read(2**18):
                    if wait_s:
                        await asyncio.sleep(wait_s)
                    writer.write(piece)
                    await writer.drain()
            except ConnectionError:
                pass  # one side is gone, so the other goes, too
            finally:
                writer.close()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pass_on(reader, there[1], latency_s), pass_on(there[0], writer, 0))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def cpu_of(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2])


if __name__ == "__main__":
    main()
