"""A real `opsqueue-api` process under gunicorn on loopback."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from click.testing import CliRunner

from opsqueue.contents.codec import open_codec
from opsqueue.exceptions import ApiUnavailableError
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import input_key, open_store, output_key
from opsqueue.strategy import Oldest
from opsqueue_api.cli import main

pytestmark = pytest.mark.system

PROGRAM = [sys.executable, "-m", "opsqueue_api"]


def environment(**more: str) -> dict[str, str]:
    """The environment without OPSQUEUE_*, which the machine may have set."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OPSQUEUE")}
    return clean | more


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *arguments], env=environment(**more), stderr=subprocess.PIPE, text=True
    )


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def url_of(process: subprocess.Popen[str]) -> str:
    """Read its log up to the line that says it listens."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        if line.startswith("ready on "):
            return line.removeprefix("ready on ").strip()
        seen.append(line)
    pytest.fail(f"it ended without getting ready: {''.join(seen)}")


@pytest.fixture
def process(redis_url: str, store_url: str) -> Iterator[subprocess.Popen[str]]:
    process = start("--port", "0", OPSQUEUE_REDIS_URL=redis_url, OPSQUEUE_STORE_URL=store_url)
    yield process
    process.terminate()
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def work(queue: Queue, store_url: str, chunks: int) -> None:
    """Process a number of chunks by adding one to each operation."""
    store = open_store(store_url)
    while chunks:
        reserved = queue.reserve_when_free(
            "tiny",
            limit=10,
            reservation_ms=60_000,
            strategy=Oldest(),
            heartbeat_timeout_ms=None,
            wait_s=5,
            is_gone=lambda: False,
        )
        for chunk in reserved.chunks:
            codec, prefix = open_codec(chunk.source.codec), chunk.source.prefix
            data = chunk.input
            if data is None:
                data = store.get(input_key(prefix, chunk.chunk_index))
            operations: list[Any] = codec.decode(data)
            results = codec.encode([operation + 1 for operation in operations])
            store.create(output_key(prefix, chunk.chunk_index), results)
            queue.complete_chunks([chunk.token])
        chunks -= len(reserved.chunks)


def curl(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_curl_alone_can_use_it(
    module_api_url: str, module_store_url: str, real_client: redis.Redis, queue_name: str
) -> None:
    """Post ten operations, wait, get ten results."""
    submissions = f"{module_api_url}/v1/queues/{queue_name}/submissions"
    body = json.dumps({"operations": list(range(10)), "chunk_size": 3})
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, Queue(real_client, queue_name), module_store_url, 4)

        id_ = json.loads(curl("--json", body, submissions))["id"]
        state = json.loads(curl(f"{submissions}/{id_}?wait=30"))["state"]
        results = curl(f"{submissions}/{id_}/results")

        working.result(timeout=30)
    assert state == "completed"
    assert list(range(1, 11)) == [json.loads(line) for line in results.splitlines()]


def test_the_client_can_use_it(
    module_api_url: str, module_store_url: str, real_client: redis.Redis, queue_name: str
) -> None:
    """Contents do not pass through the API."""
    with (
        ProducerClient(module_api_url, module_store_url, queue=queue_name) as producer,
        ThreadPoolExecutor(1) as pool,
    ):
        working = pool.submit(work, Queue(real_client, queue_name), module_store_url, 11)

        results = list(producer.run_submission(range(1_010), chunk_size=100))

        working.result(timeout=30)
    assert list(range(1, 1_011)) == results


def test_it_is_ready_when_it_says_so(process: subprocess.Popen[str]) -> None:
    """Redis and the store answer."""
    response = httpx.get(f"{url_of(process)}/readyz")

    assert response.json() == {"status": "ready", "redis": "ok", "store": "ok"}


def test_a_large_body_is_refused_by_the_process(module_api_url: str, queue_name: str) -> None:
    """413 as a problem; curl sends no length with a chunked body."""
    url = f"{module_api_url}/v1/queues/{queue_name}/submissions"
    body = b'{"chunk_size": 1, "operations": ["' + b"x" * (17 * 1024 * 1024) + b'"]}'

    response = httpx.post(
        url, content=iter([body]), headers={"content-type": "application/json"}, timeout=30
    )

    assert (
        response.status_code,
        response.json()["type"],
    ) == (413, "urn:opsqueue:problem:too-large")


def test_a_stream_that_breaks_has_no_end(
    module_api_url: str, module_store_url: str, real_client: redis.Redis, queue_name: str
) -> None:
    """A client can't take the first results for all of them."""
    queue, store = Queue(real_client, queue_name), open_store(module_store_url)
    with ProducerClient(module_api_url, module_store_url, queue=queue_name) as producer:
        id_ = producer.insert_submission(range(3), chunk_size=1)
    work(queue, module_store_url, 3)
    prefix = queue.get_submission(id_).prefix
    folder = Path(module_store_url.removeprefix("file://").partition("?")[0])
    (folder / output_key(prefix, 2)).unlink()
    assert not store.exists(output_key(prefix, 2))

    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{module_api_url}/v1/queues/{queue_name}/submissions/{id_}/results")


def test_the_log_names_the_request_that_broke_and_no_other(
    process: subprocess.Popen[str], store_url: str, real_client: redis.Redis, queue_name: str
) -> None:
    """The thread's next line, which is about a malformed request, has no id."""
    url = url_of(process)
    queue = Queue(real_client, queue_name)
    with ProducerClient(url, store_url, queue=queue_name) as producer:
        id_ = producer.insert_submission(range(2), chunk_size=1)
    work(queue, store_url, 2)
    prefix = queue.get_submission(id_).prefix
    (Path(store_url.removeprefix("file://")) / output_key(prefix, 1)).unlink()
    results = f"{url}/v1/queues/{queue_name}/submissions/{id_}/results"
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(results, headers={"x-request-id": "broken-1"})
    with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0)) as garbage:
        garbage.sendall(b"GARBAGE\r\n\r\n")
        assert b" 400 " in garbage.recv(65_536)

    process.terminate()
    _, log = process.communicate(timeout=20)

    (failed,) = [line for line in log.splitlines() if "Error handling request" in line]
    (invalid,) = [line for line in log.splitlines() if "GARBAGE" in line]
    assert "request_id=broken-1" in failed
    assert "request_id" not in invalid


def test_sigterm_ends_it_with_exit_code_0_and_ends_waits(
    process: subprocess.Popen[str], store_url: str, queue_name: str
) -> None:
    """A long poll is answered with the current status."""
    url = url_of(process)
    with ProducerClient(url, store_url, queue=queue_name) as producer:
        id_ = producer.insert_submission([1], chunk_size=1)
    with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0)) as waiting:
        path = f"/v1/queues/{queue_name}/submissions/{SubmissionId(id_)}?wait=60"
        waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        # It is answered after the request above was taken: the process reads in order.
        assert httpx.get(f"{url}/readyz").status_code == 200

        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)

        answer = waiting.recv(65_536)
    assert code == 0
    assert b"in_progress" in answer


def test_signals_that_are_not_ours_change_nothing(process: subprocess.Popen[str]) -> None:
    """They start no second API and stop, replace or kill no process."""
    url = url_of(process)
    children = psutil.Process(process.pid).children()

    for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
        process.send_signal(number)
        for child in children:
            child.send_signal(number)

    assert {200} == {httpx.get(f"{url}/healthz").status_code for _ in range(3)}
    assert children == psutil.Process(process.pid).children()


def answer_on(connection: socket.socket) -> bytes:
    """Read an answer of /healthz, whose head and body may arrive separately; b"" at the end."""
    answer = b""
    while not answer.endswith(b"}"):
        part = connection.recv(65_536)
        if not part and not answer:
            return b""
        assert part, answer
        answer += part
    return answer


def test_idle_clients_do_not_hold_it_up_and_are_not_cut_off(
    process: subprocess.Popen[str],
) -> None:
    """Those that had an answer, and those that only connected; a request under way is answered."""
    url = httpx.URL(url_of(process))
    address = (url.host, url.port or 0)
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        socket.create_connection(address),
        socket.create_connection(address) as idle,
        socket.create_connection(address) as busy,
    ):
        for kept in (idle, busy):
            kept.sendall(request)
            assert answer_on(kept).startswith(b"HTTP/1.1 200")

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answers = list(answers_until_the_end(busy, request))
        end = idle.recv(65_536)
        code = process.wait(timeout=20)

    assert time.monotonic() - began < 5  # of which the end of two processes takes most
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert (b"", 0) == (end, code)


def answers_until_the_end(busy: socket.socket, request: bytes) -> Iterator[bytes]:
    """Send requests one after the other until an answer announces the end, or it has come."""
    # Between two requests the connection is idle, so it may be closed just before the next one.
    with suppress(ConnectionError):
        while True:
            busy.sendall(request)
            answer = answer_on(busy)
            if not answer:
                return
            yield answer
            if b"connection: close" in answer.lower():
                assert busy.recv(65_536) == b""
                return


def ask_for(seconds: float, client: httpx.Client) -> None:
    """Send a request on the existing connection."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        client.get("/healthz")
        time.sleep(0.05)


def test_what_serves_ends_soon_when_its_supervising_process_was_killed(
    process: subprocess.Popen[str],
) -> None:
    """The port is then free for the next API, even while clients still send requests."""
    url = url_of(process)
    children = psutil.Process(process.pid).children()

    with httpx.Client(base_url=url) as client:
        client.get("/healthz")
        process.kill()
        with pytest.raises(httpx.TransportError):
            ask_for(10, client)
    _, alive = psutil.wait_procs(children, timeout=5)

    lives = [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    for child in lives:
        child.kill()
    assert children
    assert [] == lives


def test_ctrl_c_ends_it_with_exit_code_0(process: subprocess.Popen[str]) -> None:
    """There is no traceback."""
    url_of(process)

    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=20)

    assert process.returncode == 0
    assert "Traceback" not in log


def test_it_does_not_start_without_redis(store_url: str) -> None:
    """Exit code 3; the message says what helps, and no password."""
    done = run("--redis-url", "redis://:hidden@127.0.0.1:1/0", OPSQUEUE_STORE_URL=store_url)

    assert done.returncode == 3
    assert "is it running, and is the URL right? Set OPSQUEUE_REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr


def test_it_does_not_start_without_a_store(redis_url: str, tmp_path: Path) -> None:
    """The exit code is 3 for a folder that can't be a store."""
    (tmp_path / "file").write_text("no folder")

    done = run("--redis-url", redis_url, "--store-url", f"file://{tmp_path}/file/store")

    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_it_does_not_start_on_a_port_in_use(redis_url: str, store_url: str) -> None:
    """Exit code 3 naming the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        done = run("--redis-url", redis_url, "--store-url", store_url, "--port", port)

    assert done.returncode == 3
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--store-url", "ftp://host/folder"],
        ["--store-url", "memory://x", "--redis-url", "http://host"],
        ["--store-url", "memory://x", "--port", "x"],
        ["--store-url", "memory://x", "--host", "0.0.0.0"],  # noqa: S104 the point
        ["--store-url", "memory://x", "--tokens-file", "/nonexistent"],
    ],
)
def test_wrong_options_end_it_with_exit_code_2(arguments: list[str]) -> None:
    """click prints the usage."""
    done = CliRunner().invoke(main, arguments)

    assert done.exit_code == 2
    assert "Usage:" in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_tokens_access_log_and_gzip_work_in_the_process(redis_url: str, store_url: str) -> None:
    """What stands between a request and its resource, under the real server."""
    secret = "0123456789abcdef"  # noqa: S105 nobody's
    process = subprocess.Popen(
        [*PROGRAM, "--port", "0", "--access-log", "--log-format", "json"],
        env=environment(
            OPSQUEUE_REDIS_URL=redis_url,
            OPSQUEUE_STORE_URL=store_url,
            OPSQUEUE_API_TOKENS=f"web:{secret}:produce@mine",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    bearer = {"authorization": f"Bearer {secret}"}
    body = gzip.compress(
        json.dumps({"operations": [], "chunk_size": 1, "metadata": "QUJD" * 500}).encode()
    )
    try:
        url = url_of(process)
        with httpx.Client(base_url=f"{url}/v1/queues", headers={"x-request-id": "r-1"}) as http:
            inserted = http.post(
                "/mine/submissions",
                content=body,
                headers=bearer | {"content-type": "application/json", "content-encoding": "gzip"},
            )
            denied = [http.get("/mine"), http.get("/yours", headers=bearer)]
    finally:
        process.terminate()
        access_log, log = process.communicate(timeout=20)

    assert (inserted.status_code, inserted.headers["content-encoding"]) == (201, "gzip")
    assert inserted.json()["metadata"] == "QUJD" * 500
    assert [(401, "r-1"), (403, "r-1")] == [
        (response.status_code, response.json()["request_id"]) for response in denied
    ]
    lines = [json.loads(line) for line in access_log.splitlines()]
    assert [("web", 201, "r-1"), ("-", 401, "r-1"), ("web", 403, "r-1")] == [
        (line["token"], line["status"], line["request_id"]) for line in lines
    ]
    assert lines[0]["bytes"] == int(inserted.headers["content-length"]) < 2_000
    assert secret not in access_log + log


def test_a_client_of_an_api_that_is_gone_says_what_helps() -> None:
    """Nothing listens on that port."""
    api = HttpBackend("http://127.0.0.1:1", pause=lambda _s: None)

    with pytest.raises(ApiUnavailableError, match="is opsqueue-api running"):
        api.version()
