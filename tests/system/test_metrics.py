"""Metrics of real processes: equal to what was submitted, after kills and retries."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from opsqueue.model.new_submission import Backoff
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.store import open_store
from opsqueue.testing.embedded import EmbeddedServer
from tests.served_metrics import documented, served
from tests.system.conftest import Process, Start
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CHUNKS = 100
QUICK = ("--heartbeat-interval", "0.3", "--heartbeat-timeout", "1.5")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a separate server, since a scrape counts every queue and other tests have thousands."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis"), is_durable=False) as server:
        yield server.url


@pytest.fixture
def api_url(start: Start, redis_url: str, store_url: str) -> str:
    """An API of two processes."""
    api = start(
        *("opsqueue_api", "--port", "0", "--workers", "2", "--heartbeat-timeout", "1.5"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
    )
    return api.wait_for_line("ready on ").rpartition(" ")[2]


def metrics_url(worker: Process) -> str:
    """What the worker's banner says."""
    return next(line.split()[-1] for line in worker.lines if "  metrics " in line)


Ask = Callable[[str], float | None]


def scraped(urls: list[str]) -> Ask:
    """Read the metrics at such ports."""

    def ask(metric: str) -> float | None:
        lines = "".join(httpx.get(url, timeout=10).text for url in urls).splitlines()
        found = [line for line in lines if line.startswith(f"{metric} ")]
        return float(found[0].split()[-1]) if found else None

    return ask


def queried(server: str) -> Ask:
    """Query a real Prometheus that scrapes them."""

    def ask(metric: str) -> float | None:
        answer = httpx.get(f"{server}/api/v1/query", params={"query": metric}, timeout=10)
        result = answer.raise_for_status().json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    return ask


def start_prometheus(start: Start, folder: Path, urls: list[str]) -> str:
    """One that looks at them twice a second; its URL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    targets = [url.removeprefix("http://").removesuffix("/metrics") for url in urls]
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "opsqueue", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    server = start(
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--web.listen-address=127.0.0.1:0",
        program=program,
    )
    line = server.wait_for_line('msg="Listening on"')
    url = f"http://{line.rpartition('address=')[2].split()[0]}"
    # It logs that it is ready before or after that it listens.
    until(lambda: httpx.get(f"{url}/-/ready").is_success)
    return url


def test_what_is_scraped_equals_what_was_submitted_after_a_kill_and_retries(
    api_url: str,
    store_url: str,
    queue_name: str,
    tmp_path: Path,
    start: Start,
    start_worker: Start,
) -> None:
    """100 chunks, one of which raises at first, with one of two workers killed; and one that fails.

    The totals are Redis's, so that no process's end takes any of them away.
    """
    log = tmp_path / "log"
    doomed, left = (start_worker(*QUICK, "--metrics-port", "0") for _ in range(2))
    with ProducerClient(api_url, f"{store_url}?durable=false", queue=queue_name) as producer:
        operations = [["log", str(log)]] * (CHUNKS - 1) + [["raise_once", str(log)]]
        id_ = producer.insert_submission(
            operations, chunk_size=1, backoff=Backoff(first_ms=1, max_ms=1)
        )
        until(lambda: log.exists() and len(log.read_text().splitlines()) >= 10)
        doomed.signal(signal.SIGKILL)
        producer.wait_for_submission(id_, timeout=60)
        failing = producer.insert_submission([["raise", "it"]] * 2, chunk_size=2, max_attempts=1)
        producer.wait_for_submission(failing, timeout=60)

    urls = [f"{api_url}/metrics", metrics_url(left)]
    of = f'{{queue="{queue_name}"'
    expected = {
        f"opsqueue_submissions_inserted_total{of}}}": 2,
        f'opsqueue_submissions_ended_total{of},state="completed"}}': 1,
        f'opsqueue_submissions_ended_total{of},state="failed"}}': 1,
        f"opsqueue_chunks_inserted_total{of}}}": CHUNKS + 1,
        f'opsqueue_chunks_ended_total{of},state="completed"}}': CHUNKS,
        f'opsqueue_chunks_ended_total{of},state="failed"}}': 1,
        f'opsqueue_chunks_ended_total{of},state="dropped"}}': 0,
        f"opsqueue_operations_inserted_total{of}}}": CHUNKS + 2,
        f"opsqueue_operations_completed_total{of}}}": CHUNKS,
        f"opsqueue_backlog_chunks{of}}}": 0,
        f"opsqueue_chunks_in_hand{of}}}": 0,
        f"opsqueue_workers{of}}}": 1,
    }
    completed = (
        f'opsqueue_worker_chunk_duration_seconds_count{{outcome="completed",queue="{queue_name}"}}'
    )

    def is_told(ask: Callable[[str], float | None], metric: str, value: float) -> bool:
        return ask(metric) == value

    # The second one skips where there is no Prometheus.
    for ask_of in (scraped, lambda urls: queried(start_prometheus(start, tmp_path, urls))):
        ask = ask_of(urls)
        for metric, value in expected.items():
            until(partial(is_told, ask, metric, value))
        reclaimed = ask(f"opsqueue_chunks_reclaimed_total{of}}}")
        assert reclaimed is not None
        assert reclaimed >= 1
        # Of the reclaimed ones, those that had begun and were known to have: at most its two slots.
        retried = ask(f"opsqueue_chunks_retried_total{of}}}")
        assert retried in (1, 2, 3)
        assert 0 < (ask(completed) or 0) <= CHUNKS


def test_requests_are_counted_over_all_processes_of_an_api(api_url: str) -> None:
    """Each request is counted once, whichever process answers."""
    count = (
        'opsqueue_http_request_duration_seconds_count{method="GET",route="/version",status="200"}'
    )

    for _ in range(20):
        # A connection each: they are spread over the processes.
        httpx.get(f"{api_url}/version")
    texts = [httpx.get(f"{api_url}/metrics").text for _ in range(4)]

    assert all(f"{count} 20.0" in text for text in texts)


def test_a_worker_measures_its_children_and_survives_their_deaths(
    start_worker: Start, redis_url: str, store_url: str, queue_name: str
) -> None:
    """A chunk that kills its process is counted, and what is documented is served."""
    worker = start_worker(*QUICK, "--metrics-port", "0")
    api, store = RedisBackend(connect(redis_url)), open_store(f"{store_url}?durable=false")
    producer = ProducerClient.over(api, store, queue=queue_name, inline_bytes=0)

    id_ = producer.insert_submission([1, 2, ["kill"]], chunk_size=1, max_attempts=1)
    producer.wait_for_submission(id_, timeout=60)
    text = ""

    def is_counted() -> bool:
        nonlocal text
        text = httpx.get(metrics_url(worker)).text
        return 'children_ended_total{reason="crashed"} 1.0' in text

    until(is_counted)
    assert "opsqueue_worker_slots 2.0" in text
    assert served(text) == documented("Metrics of a worker")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_new_children(pid: int, before: list[int]) -> bool:
    return len(set(children_of(pid)) - set(before)) == len(before)


def is_there(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_killed_processes_of_an_api_leave_no_metrics_and_lose_none(
    start: Start, redis_url: str, store_url: str, tmp_path: Path
) -> None:
    """A process goes on with the file of the one whose place it takes; the next API cleans up."""

    def start_api() -> tuple[Process, str]:
        api = start(
            *("opsqueue_api", "--port", "0", "--workers", "2"),
            OPSQUEUE_REDIS_URL=redis_url,
            OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
            TMPDIR=str(tmp_path),
        )
        return api, api.wait_for_line("ready on ").rpartition(" ")[2]

    api, url = start_api()
    answered = 'opsqueue_http_request_duration_seconds_count{method="GET",route="/v1/queues",'
    for _ in range(20):
        httpx.get(f"{url}/v1/queues", timeout=10)
    for _ in range(3):
        before = children_of(api.pid)
        for child in before:
            os.kill(child, signal.SIGKILL)
        until(partial(has_new_children, api.pid, before), "both are replaced")
        assert httpx.get(f"{url}/v1/queues", timeout=10).status_code == 200

    assert 23 == scraped([f"{url}/metrics"])(f'{answered}status="200"}}')
    (folder,) = tmp_path.glob("opsqueue-*")
    assert len(list(folder.glob("histogram_*.db"))) <= 2

    children = children_of(api.pid)
    os.killpg(api.pid, signal.SIGKILL)
    api.popen.wait()
    until(lambda: not is_there(children), "its processes are gone")
    start_api()

    (other,) = tmp_path.glob("opsqueue-*")
    assert other != folder
