"""`/metrics` and `…/scaling`: the counts in Redis, and the durations of the API's requests."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from opsqueue.model.chunk import ChunkFailure, Completed, Token
from opsqueue.model.names import QUEUES_KEY, UPKEEP, base_key
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue.strategy import Oldest
from opsqueue_api.app import App, create_app
from opsqueue_api.http.tokens import parse_tokens
from opsqueue_api.resources import metrics
from tests.opsqueue_api.conftest import Work
from tests.served_metrics import documented, served

SECRETS = {scope: f"{scope}-0123456789abcdef" for scope in ("metrics", "produce", "consume")}


ID = "1795000000000000000"


@pytest.fixture
def scrape(app: App, queue_name: str) -> Callable[[], dict[str, float]]:
    """The test queue's values, by name and label."""

    def run() -> dict[str, float]:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as http:
            text = http.get("/metrics").raise_for_status().text
        values = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.pop("queue", None) == queue_name:
                    values[" ".join([sample.name, *sample.labels.values()])] = sample.value
        return values

    return run


def insert(http: httpx.Client, operations: list[int], **fields: object) -> str:
    body = {"operations": operations, "chunk_size": 2, **fields}
    id_: str = http.post("/submissions", json=body).raise_for_status().json()["id"]
    return id_


def reserve(http: httpx.Client, **fields: object) -> list[str]:
    """Reserve as a consumer does; gives the tokens."""
    body = {"worker": "c1", "reservation_ms": 60_000, **fields}
    answer = http.post("/chunks/reserve", json=body).raise_for_status()
    return [chunk["token"] for chunk in answer.json()["chunks"]]


def complete(http: httpx.Client, tokens: list[str]) -> None:
    chunks = [{"token": token, "results": [0]} for token in tokens]
    http.post("/chunks/complete", json={"chunks": chunks}).raise_for_status()


def test_an_answer_has_the_metrics_of_so_many_queues_and_counts_the_others(
    http: httpx.Client,
    app: App,
    client: redis.Redis,
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The busiest first, whatever their names."""
    monkeypatch.setattr(metrics, "MAX_QUEUES", 2)
    client.delete(f"{base_key(UPKEEP)}due")  # other tests' queues
    others = [f"{letter}-{queue_name}" for letter in "0123"]
    for name in others:
        Queue(client, name).pause_queue()
        client.sadd(QUEUES_KEY, name)
    insert(http, [1, 2])
    reserve(http)

    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as root:
        families = {
            family.name: family
            for family in text_string_to_metric_families(root.get("/metrics").text)
        }

    shown = {sample.labels["queue"] for sample in families["opsqueue_backlog_chunks"].samples}
    (known,) = families["opsqueue_queues"].samples
    (left_out,) = families["opsqueue_queues_left_out"].samples
    assert queue_name in shown
    assert len(shown) == 2
    assert known.value == left_out.value + 2
    for name in others:
        Queue(client, name).resume_queue()


def test_chunk_durations_of_too_many_queues_share_a_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its memory is bounded, too."""
    monkeypatch.setattr(metrics, "MAX_QUEUES", 1)
    registry = CollectorRegistry()
    durations = metrics.ChunkDurations(registry)
    token = Token(f"1-1:{ID}:0")
    held = {token: Mock(held_ms=1_000)}

    for queue in ("a", "b", "c", "a"):
        durations.count(queue, held, [(token, Completed(SubmissionId(ID), 0))])

    def counted(queue: str) -> float | None:
        labels = {"queue": queue, "outcome": "completed"}
        return registry.get_sample_value("opsqueue_chunk_duration_seconds_count", labels)

    assert [counted("a"), counted(""), counted("b")] == [2, 2, None]


def test_totals_are_what_became_of_submissions_chunks_and_operations(
    http: httpx.Client,
    scrape: Callable[[], dict[str, float]],
    work: Work,
    fail_a_chunk: Callable[[], None],
    queue: Queue,
) -> None:
    """One completed, one failed with a chunk dropped, one cancelled with two of them in it."""
    insert(http, [1, 2, 3])
    work(lambda number: number + 1)
    insert(http, [1, 2, 3], max_attempts=1)
    fail_a_chunk()
    cancelled = insert(http, [1, 2, 3])
    http.post(f"/submissions/{cancelled}/cancel").raise_for_status()

    values = scrape()

    assert {
        "opsqueue_submissions_inserted_total": 3,
        "opsqueue_submissions_ended_total completed": 1,
        "opsqueue_submissions_ended_total failed": 1,
        "opsqueue_submissions_ended_total cancelled": 1,
        "opsqueue_submission_duration_seconds_count completed": 1,
        "opsqueue_submission_duration_seconds_count failed": 1,
        "opsqueue_submission_duration_seconds_count cancelled": 1,
        "opsqueue_chunks_inserted_total": 6,
        "opsqueue_chunks_ended_total completed": 2,
        "opsqueue_chunks_ended_total failed": 1,
        "opsqueue_chunks_ended_total dropped": 3,
        "opsqueue_chunks_retried_total": 0,
        "opsqueue_operations_inserted_total": 9,
        "opsqueue_operations_completed_total": 3,
        "opsqueue_operations_failed_total": 0,
        "opsqueue_backlog_chunks": 0,
        "opsqueue_backlog_operations": 0,
        "opsqueue_oldest_waiting_seconds": 0,
        "opsqueue_workers": 1,
    }.items() <= values.items()


def test_chunks_of_consumers_are_timed_from_reservation_to_report(
    http: httpx.Client, scrape: Callable[[], dict[str, float]], queue: Queue
) -> None:
    """Each report that counts, once; what a worker tells Redis itself, never."""
    insert(http, list(range(5)), chunk_size=1)
    done, failed, lost = reserve(http, max=3)
    (own,) = queue.reserve_chunks("w1", limit=1, strategy=Oldest()).chunks
    http.post("/chunks/release", json={"tokens": [lost]}).raise_for_status()

    complete(http, [done, lost])
    complete(http, [done])
    failures = [{"token": failed, "type": "ValueError", "message": "bad"}]
    http.post("/chunks/fail", json={"chunks": failures * 2}).raise_for_status()
    queue.complete_chunks([own.token])

    values = scrape()
    name = "opsqueue_chunk_duration_seconds"
    assert (1, 1) == (values[f"{name}_count completed"], values[f"{name}_count failed"])
    assert 0 <= values[f"{name}_sum completed"] < 60


def test_a_backlog_is_ready_delayed_or_in_hand(
    http: httpx.Client, scrape: Callable[[], dict[str, float]], queue: Queue
) -> None:
    """Of five chunks one is in a back-off, one in hand, and the oldest is some time old."""
    insert(http, list(range(10)), backoff={"first_ms": 60_000, "max_ms": 60_000})
    failing, _ = queue.reserve_chunks("w1", limit=2, strategy=Oldest()).chunks
    queue.fail_chunk(failing.token, ChunkFailure(type="ValueError", message="bad"))

    values = scrape()
    scaling = http.get("/scaling").json()
    queue.pause_queue()
    paused = scrape()

    assert {
        "opsqueue_submissions_in_progress": 1,
        "opsqueue_backlog_chunks": 5,
        "opsqueue_backlog_operations": 10,
        "opsqueue_chunks_ready": 3,
        "opsqueue_chunks_delayed": 1,
        "opsqueue_chunks_in_hand": 1,
        "opsqueue_chunks_retried_total": 1,
        "opsqueue_queue_paused": 0,
    }.items() <= values.items()
    assert 0 < values["opsqueue_oldest_waiting_seconds"] < 60
    assert {"queue": queue.name, "value": 5} == scaling
    assert paused["opsqueue_queue_paused"] == 1
    assert http.get("/scaling").json()["value"] == 1


def test_the_oldest_waiting_is_found_among_all_metadata(
    http: httpx.Client, scrape: Callable[[], dict[str, float]], queue: Queue
) -> None:
    """Submissions with metadata are in an index of their own."""
    insert(http, [1], strategic_metadata={"customer": 7})
    first = scrape()["opsqueue_oldest_waiting_seconds"]
    insert(http, [1])

    assert first <= scrape()["opsqueue_oldest_waiting_seconds"]


def test_without_redis_a_scrape_says_so(store: ObjectStore) -> None:
    """And gives what the API knows itself."""
    app = create_app(connect("redis://127.0.0.1:1/0"), store)

    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as http:
        http.get("/healthz")
        text = http.get("/metrics").raise_for_status().text

    assert "opsqueue_redis_up 0.0" in text
    assert "opsqueue_submissions_inserted_total{" not in text
    assert 'route="/healthz",status="200"' in text


def test_requests_are_counted_by_route_and_never_by_path(http: httpx.Client, app: App) -> None:
    """Clients choose the paths, which would fill Prometheus."""
    http.get("/submissions/1795000000000000000")
    http.get("/submissions/x")
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as root:
        root.request("BREW", "/tea/4711")
        text = root.get("/metrics").text

    route = "/v1/queues/{queue}/submissions/{submission_id}"
    count = "opsqueue_http_request_duration_seconds_count"
    assert f'{count}{{method="GET",route="{route}",status="404"}} 2.0' in text
    assert 'method="other"' in text
    assert "/tea" not in text


def test_what_is_served_is_what_is_documented(http: httpx.Client, app: App) -> None:
    """Names, types and labels, in both directions."""
    insert(http, [1])
    complete(http, reserve(http))
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as root:
        text = root.get("/metrics").text

    assert documented("Metrics of the API") == served(text)


def test_openmetrics_is_given_to_who_accepts_it(app: App) -> None:
    """As newer Prometheus versions do."""
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as root:
        accept = {"accept": "application/openmetrics-text;version=1.0.0"}
        answer = root.get("/metrics", headers=accept)

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("scope", "metrics", "scaling"),
    [("metrics", 200, 200), ("consume", 403, 200), ("produce", 403, 403)],
)
def test_tokens_read_metrics_by_scope(
    fake_client: redis.Redis, store: ObjectStore, scope: str, metrics: int, scaling: int
) -> None:
    """A scraper's token does nothing else."""
    tokens = parse_tokens(";".join(f"{name}:{secret}:{name}" for name, secret in SECRETS.items()))
    app = create_app(fake_client, store, tokens=tokens)
    headers = {"authorization": f"Bearer {SECRETS[scope]}"}

    with httpx.Client(
        transport=httpx.WSGITransport(app), base_url="http://api", headers=headers
    ) as http:
        answers = [http.get(path).status_code for path in ("/metrics", "/v1/queues/q/scaling")]
        listed = http.get("/v1/queues/q/submissions").status_code

    assert [metrics, scaling] == answers
    assert listed == (200 if scope == "produce" else 403)
