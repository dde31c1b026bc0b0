"""One trace through the API: producer, requests, consumer; and the table of spans in the docs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opsqueue import tracing
from opsqueue.consumer import ConsumerClient, Strategy
from opsqueue.consumer.http_api import HttpChunkQueue
from opsqueue.http.client import HttpClient
from opsqueue.producer import ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue.tracing import context as own_context
from opsqueue_api.app import App

DOCS = Path(__file__).parents[3] / "docs" / "tracing.md"
SENT = {
    "traceparent": f"00-{7:032x}-{8:016x}-01",
    "tracestate": "vendor=1",
    "baggage": "tenant=acme",
}
INSERT = {"operations": [1, 2], "chunk_size": 1}


@pytest.fixture
def client(fake_client: redis.Redis) -> redis.Redis:
    """What is traced does not depend on the server."""
    return fake_client


@pytest.fixture
def producer(app: App, store: ObjectStore, queue_name: str) -> ProducerClient:
    api = HttpBackend("http://api:3999", transport=httpx.WSGITransport(app))
    return ProducerClient.over(api, store, queue=queue_name, inline_bytes=0)


@pytest.fixture
def consumer(app: App, store: ObjectStore, queue_name: str) -> Iterator[ConsumerClient]:
    client = HttpClient("http://api:3999", transport=httpx.WSGITransport(app))
    with ConsumerClient.over(HttpChunkQueue(client, queue_name), store, name="w") as consumer:
        yield consumer


def named(recorded: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in recorded.get_finished_spans() if span.name == name]


def test_a_request_is_a_child_of_its_caller_and_named_by_its_route(
    recorded: InMemorySpanExporter, http: httpx.Client, queue_name: str
) -> None:
    """With the conventions' attributes, and the queue."""
    http.get("/submissions/1", headers=SENT)

    (span,) = named(recorded, "GET /v1/queues/{queue}/submissions/{submission_id}")
    assert (span.context.trace_id, span.parent and span.parent.span_id) == (7, 8)
    assert span.kind is trace.SpanKind.SERVER
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "url.path": f"/v1/queues/{queue_name}/submissions/1",
        "url.scheme": "http",
        "http.route": "/v1/queues/{queue}/submissions/{submission_id}",
        "messaging.destination.name": queue_name,
        "opsqueue.submission.id": "1",
        "http.response.status_code": 404,
    }
    # The client's mistake, says the convention.
    assert span.status.is_unset


def test_no_request_is_in_the_trace_of_the_one_before(
    recorded: InMemorySpanExporter, http: httpx.Client
) -> None:
    """Threads serve many; and what has no route is named by its method alone."""
    http.get("http://api/version", headers=SENT)
    http.get("http://api/nowhere")

    (span,) = named(recorded, "GET")
    assert span.parent is None
    assert span.context.trace_id != 7


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_checks_are_spans_only_in_somebodys_trace(
    recorded: InMemorySpanExporter, http: httpx.Client, path: str
) -> None:
    """They come every few seconds."""
    http.get(f"http://api{path}")
    http.get(f"http://api{path}", headers=SENT)

    assert [8] == [span.parent and span.parent.span_id for span in named(recorded, f"GET {path}")]


def test_a_stream_is_over_when_it_is_sent(
    recorded: InMemorySpanExporter, http: httpx.Client, work: Callable[..., int]
) -> None:
    """Not when its first byte is."""
    id_ = http.post("/submissions", json=INSERT).json()["id"]
    work(lambda x: x)

    name = "GET /v1/queues/{queue}/submissions/{submission_id}/results"
    with http.stream("GET", f"/submissions/{id_}/results") as response:
        before = len(named(recorded, name))
        lines = list(response.iter_lines())

    assert (before, len(lines), len(named(recorded, name))) == (0, 2, 1)


@pytest.mark.parametrize("has_opentelemetry", [True, False])
def test_a_submission_keeps_the_trace_of_a_plain_request(
    monkeypatch: pytest.MonkeyPatch, http: httpx.Client, queue: Queue, *, has_opentelemetry: bool
) -> None:
    """As `curl -H traceparent:…` sends it, also where the API has no opentelemetry."""
    if not has_opentelemetry:
        for name in ("contexts", "propagate", "trace"):
            monkeypatch.setattr(own_context, name, None)

    http.post("/submissions", json=INSERT, headers=SENT)

    reserved = queue.reserve_chunks("w", strategy=Strategy.Oldest())
    assert reserved.chunks[0].source.trace_context == SENT


def test_a_body_s_trace_goes_before_that_of_the_request(http: httpx.Client, queue: Queue) -> None:
    """It was made where the submission was."""
    carrier = {"traceparent": f"00-{1:032x}-{2:016x}-01"}

    http.post("/submissions", json={**INSERT, "trace_context": carrier}, headers=SENT)

    reserved = queue.reserve_chunks("w", strategy=Strategy.Oldest())
    assert reserved.chunks[0].source.trace_context == carrier


@pytest.mark.parametrize("name", ["traceparent", "baggage"])
def test_a_header_that_is_too_long_is_left_behind(
    http: httpx.Client, queue: Queue, name: str
) -> None:
    """Rather than the submission refused."""
    http.post("/submissions", json=INSERT, headers={**SENT, name: "x=" + "y" * 2_000})

    reserved = queue.reserve_chunks("w", strategy=Strategy.Oldest())
    assert name not in reserved.chunks[0].source.trace_context


def test_the_api_s_span_stands_for_the_producer_that_has_none(
    recorded: InMemorySpanExporter, http: httpx.Client, queue: Queue
) -> None:
    """Its chunks are in the trace of the request."""
    http.post("/submissions", json=INSERT)

    (span,) = named(recorded, "POST /v1/queues/{queue}/submissions")
    reserved = queue.reserve_chunks("w", strategy=Strategy.Oldest())
    carrier = reserved.chunks[0].source.trace_context
    assert f"{span.context.trace_id:032x}-{span.context.span_id:016x}" in carrier["traceparent"]


def test_one_trace_from_producer_to_consumer_as_the_docs_have_it(
    recorded: InMemorySpanExporter,
    producer: ProducerClient,
    consumer: ConsumerClient,
    queue_name: str,
) -> None:
    """Every span that is recorded is a row of the table, and every row is recorded."""
    found: list[Any] = []

    def work(operations: Any, _chunk: object) -> list[Any]:
        found.append(baggage.get_baggage("tenant"))
        if len(found) == 1:
            message = "once"
            raise ValueError(message)
        if len(found) == 3:
            consumer.stop()
        return list(operations)

    with tracing.within(tracing.carried(SENT)):
        id_ = producer.insert_submission([1, 2], chunk_size=1)
    consumer.run_each_chunk(work, strategy=Strategy.Oldest())
    consumer.close()
    with tracing.within(tracing.carried(SENT)):
        producer.wait_for_submission(id_)

    assert ["acme"] * 3 == found
    recorded_spans = recorded.get_finished_spans()
    ours = [span for span in recorded_spans if span.context.trace_id == 7]
    alone = {span.name for span in recorded_spans if span.context.trace_id != 7}
    assert alone == {"DELETE /v1/queues/{queue}/workers/{worker}"}
    by_id = {span.context.span_id: span for span in ours}
    rows = dict(documented())
    seen: dict[str, set[str]] = {}
    for span in ours:
        name = span.name.replace(queue_name, "{queue}").replace(span_route(span), "{route}")
        name = re.sub("^(GET|POST)", "{method}", name)
        kind, parent, attributes = rows[name]
        assert span.kind.name.lower() == kind
        # What an error adds is of every span.
        assert set(span.attributes or {}) - {"error.type"} <= attributes, name
        above = by_id.get(span.parent.span_id) if span.parent else None
        assert (above.name.split(" ")[0] if above else "") in PARENTS[parent], name
        seen.setdefault(name, set()).update(span.attributes or {})
    assert seen.keys() == rows.keys()
    never = {name: rows[name][2] - seen[name] for name in rows if rows[name][2] - seen[name]}
    assert never == {
        "{method}": {"http.request.resend_count"},
        "process {queue}": {"opsqueue.chunk.operations_failed"},
    }


PARENTS = {
    "current span": {""},
    "current span; none without one": {"send", "wait", "settle"},
    "the caller's": {"GET", "POST"},
    "`send`": {"send"},
    "`process`": {"process"},
    "the submission's": {"send"},
    "the submission's; several: links to each": {"send"},
}


def span_route(span: ReadableSpan) -> str:
    return str((span.attributes or {}).get("http.route", "\0"))


def documented() -> Iterator[tuple[str, tuple[str, str, set[str]]]]:
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            yield cells[0].strip("`"), (cells[1], cells[2], set(re.findall("`(.+?)`", cells[3])))
