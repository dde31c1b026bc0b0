"""A few kilobytes that decompress to gigabytes, sent to a real API process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis
import zstandard

from opsqueue.contents.codec import open_codec
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.store import input_key, open_store, output_key
from tests.system.conftest import Process

pytestmark = pytest.mark.system
MIB = 1 << 20


def packed(head: bytes, byte: bytes, count: int) -> bytes:
    """Compress a head and that many bytes without holding them."""
    compressor = zstandard.ZstdCompressor().compressobj(size=len(head) + count * len(byte))
    parts = [compressor.compress(head)]
    whole, rest = divmod(count, MIB)
    parts += [compressor.compress(byte * MIB) for _ in range(whole)]
    return b"".join([*parts, compressor.compress(byte * rest), compressor.flush()])


# Made when a test wants one: each takes a second.
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a list of too many": (
        "msgpack+zstd",
        partial(packed, b"\xdd\x10\x00\x00\x00", b"\xc0", 1 << 28),
    ),
    "an operation of many": (
        "msgpack+zstd",
        partial(packed, b"\x91\xdd\x10\x00\x00\x00", b"\x80", 1 << 28),
    ),
    "small dicts": (
        "msgpack+zstd",
        partial(packed, b"\x91\xdd\x01\x00\x00\x00", b"\x80", 1 << 24),
    ),
    "a gigabyte of bytes": (
        "msgpack+zstd",
        partial(packed, b"\x91\xc6\x3f\xff\xff\x00", b"\x00", 0x3FFFFF00),
    ),
    "cbor of many": ("cbor+zstd", partial(packed, b"\x81\x9a\x10\x00\x00\x00", b"\xa0", 1 << 28)),
    "cbor that is cut short": ("cbor", lambda: b"\x81\x9a\xff\xff\xff\xff"),
    "cbor that shares": ("cbor", lambda: b"\x81" + b"\xd8\x1c\x82" * 100 + b"\xd8\x1d\x00" * 101),
    "json of many": ("json+zstd", partial(packed, b"[[", b"[]," * 16, MIB)),
    "two gigabytes": ("raw+zstd", partial(packed, b"", b"\x00", 2 << 30)),
}


@pytest.fixture
def http(module_api_url: str, queue_name: str) -> Iterator[httpx.Client]:
    """Return a client of the test's queue on an API with default limits."""
    with httpx.Client(base_url=f"{module_api_url}/v1/queues/{queue_name}", timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def bytes_at_first(module_api: Process, module_api_url: str) -> int:
    """Return the memory of the API before any request."""
    assert module_api_url
    return peak_bytes(module_api)


def peak_bytes(api: Process) -> int:
    """Return the most memory that one of its processes has had since `forget_peaks`."""
    texts = [(folder / "status").read_text() for folder in folders(api)]
    return max(int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) * 1024 for text in texts)


def forget_peaks(api: Process) -> int:
    """Reset the peaks to the current memory of its processes, and return the new peak."""
    for folder in folders(api):
        (folder / "clear_refs").write_text("5")
    return peak_bytes(api)


def folders(api: Process) -> list[Path]:
    """Return the folders of its processes in /proc."""
    return [Path(f"/proc/{pid}") for pid in (api.pid, *(child.pid for child in api.children()))]


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_refused_and_the_api_goes_on(
    module_api: Process,
    bytes_at_first: int,
    http: httpx.Client,
    real_client: redis.Redis,
    module_store_url: str,
    queue_name: str,
    name: str,
) -> None:
    """As input and as result; memory stays below half a gigabyte, and others are answered."""
    codec, make = BOMBS[name]
    bomb = make()
    assert len(bomb) < 300_000
    store, queue = open_store(module_store_url), Queue(real_client, queue_name)
    new = NewSubmission(
        prefix=f"{queue_name}/{'0' * 32}",
        chunks_total=1,
        operations_total=1,
        chunk_size=1,
        codec=codec,
    )
    store.create(input_key(new.prefix, 0), bomb)
    store.create(output_key(new.prefix, 0), bomb)
    id_ = queue.insert_submission(new).id
    forget_peaks(module_api)

    shown = http.get(f"/submissions/{id_}/chunks/0/input?as=json")
    body = {"worker": "w", "max": 1, "reservation_ms": 60_000, "include_operations": True}
    reserved = http.post("/chunks/reserve", json=body).json()["chunks"][0]
    queue.complete_chunks([reserved["token"]])
    results = http.get(f"/submissions/{id_}/results")

    assert shown.status_code in (413, 422), shown.text[:200]
    assert results.status_code in (413, 422), results.text[:200]
    assert not reserved.get("operations")
    for answer in (shown, results):
        if answer.status_code == 413:
            assert "max-chunk-bytes" in answer.json()["detail"]
    assert peak_bytes(module_api) - bytes_at_first < 400 * MIB
    assert http.get("").status_code < 500


@pytest.mark.parametrize("codec", ["msgpack+zstd", "cbor+zstd", "json+zstd"])
def test_results_larger_than_the_limit_are_streamed(
    module_api: Process,
    http: httpx.Client,
    real_client: redis.Redis,
    module_store_url: str,
    queue_name: str,
    codec: str,
) -> None:
    """A chunk of 200 MB, with memory for a part of it beside what earlier requests left."""
    store, queue = open_store(module_store_url), Queue(real_client, queue_name)
    count = 2_000
    new = NewSubmission(
        prefix=f"{queue_name}/{'0' * 32}",
        chunks_total=1,
        operations_total=count,
        chunk_size=count,
        codec=codec,
    )
    data = open_codec(codec).encode([[i, "x" * 100_000] for i in range(count)])
    store.create(input_key(new.prefix, 0), data)
    store.create(output_key(new.prefix, 0), data)
    id_ = queue.insert_submission(new).id
    tokens = [chunk.token for chunk in queue.reserve_chunks("w", limit=1).chunks]
    queue.complete_chunks(tokens)
    before = forget_peaks(module_api)

    with http.stream("GET", f"/submissions/{id_}/results") as response:
        assert response.status_code == 200
        lines = sum(1 for line in response.iter_lines() if line.endswith('x"]'))

    assert lines == count
    assert peak_bytes(module_api) - before < 100 * MIB
