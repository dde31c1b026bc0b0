"""A trace across real processes, sent to the test's collector when they end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opsqueue.model.submission import SubmissionId
from opsqueue.producer import Backoff, ProducerClient
from tests.system.conftest import Start

pytestmark = pytest.mark.system


class Collector:
    """A collector that accepts spans as OTLP over HTTP."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                collector.received.append(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.received: list[ExportTraceServiceRequest] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Nothing is sent before a program ends."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}

    def spans(self, service: str) -> list[Span]:
        """Of a service, by its name."""
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            if service in {pair.value.string_value for pair in resource.resource.attributes}
            for span in chain.from_iterable(scope.spans for scope in resource.scope_spans)
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def environment(
    collector: Collector, redis_url: str, store_url: str, queue_name: str
) -> dict[str, str]:
    return {
        **collector.environment,
        "OPSQUEUE_REDIS_URL": redis_url,
        "OPSQUEUE_STORE_URL": f"{store_url}?durable=false",
        "TEST_QUEUE": queue_name,
    }


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def attributes_of(span: Span) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes
    }


def test_one_trace_from_producer_to_store(
    start: Start,
    collector: Collector,
    recorded: InMemorySpanExporter,
    environment: dict[str, str],
    queue_name: str,
) -> None:
    """Two submissions: a trace each, a reservation of both linked to each, a failure recorded."""
    api = start("opsqueue_api", "--port", "0", **environment)
    url = api.wait_for_line("ready on ").rpartition(" ")[2]
    producer = ProducerClient(
        url, environment["OPSQUEUE_STORE_URL"], queue=queue_name, inline_bytes=0
    )

    def insert(*operations: Any) -> SubmissionId:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        try:
            return producer.insert_submission(
                operations, chunk_size=1, backoff=Backoff(first_ms=0, max_ms=0)
            )
        finally:
            context.detach(token)

    ids = insert(1, "raise"), insert(2)
    worker = start(
        *("opsqueue_worker", "traced:app", "-c", "1", "--prefetch", "3", "-Q", queue_name),
        *("--strategy", "Oldest", "--burst"),
        **environment,
    )
    results = [list(producer.blocking_stream_completed_submission(id_)) for id_ in ids]
    assert worker.wait() == 0
    producer.close()
    api.signal(signal.SIGTERM)
    assert api.wait() == 0

    sent = [span for span in recorded.get_finished_spans() if span.name == f"send {queue_name}"]
    trace_ids = [f"{span.context.trace_id:032x}" for span in sent]
    assert results == [
        [[1, trace_ids[0], "acme"], ["raise", trace_ids[0], "acme"]],
        [[2, trace_ids[1], "acme"]],
    ]
    calls = {span.context.span_id for span in recorded.get_finished_spans() if span.name == "POST"}
    inserts = named(collector.spans("opsqueue-api"), "POST /v1/queues/{queue}/submissions")
    assert {int.from_bytes(span.parent_span_id) for span in inserts} == calls
    assert trace_ids == [span.trace_id.hex() for span in inserts]

    of_worker = collector.spans("opsqueue-worker")
    processed = named(of_worker, f"process {queue_name}")
    own = {span.context.span_id for span in sent}
    assert {int.from_bytes(span.parent_span_id) for span in processed} == own
    (failed,) = (span for span in processed if span.status.code == 2)
    assert failed.status.message == "ValueError: once"
    assert failed.events[0].name == "exception"
    assert attributes_of(failed)["opsqueue.chunk.attempt"] == 1
    done = {span.span_id: span.trace_id for span in processed if span is not failed}
    stored = named(of_worker, "store output")
    assert {span.parent_span_id: span.trace_id for span in stored} == done
    in_app = named(of_worker, "work of the app")
    assert {span.parent_span_id: span.trace_id for span in in_app} == done
    of_both = [span for span in named(of_worker, f"receive {queue_name}") if span.links]
    assert [own] == [{int.from_bytes(to.span_id) for to in span.links} for span in of_both]
    assert attributes_of(of_both[0])["messaging.batch.message_count"] == 3
    reported = sum(
        attributes_of(span)["messaging.batch.message_count"]
        for span in named(of_worker, f"settle {queue_name}")
    )
    assert reported == len(processed) == 4


@pytest.mark.parametrize(("pool", "suffix"), [("thread", ""), ("async", "-async")])
def test_every_pool_continues_the_trace(
    start: Start,
    collector: Collector,
    recorded: InMemorySpanExporter,
    producer_of: Any,
    environment: dict[str, str],
    queue_name: str,
    pool: str,
    suffix: str,
) -> None:
    """Each chunk is in its own submission's trace, although they run side by side."""
    producer = producer_of(suffix)
    ids = [producer.insert_submission(range(3), chunk_size=1) for _ in range(2)]

    worker = start(
        *("opsqueue_worker", "traced:app", "--pool", pool, "-c", "4", "--burst"),
        *("-Q", queue_name + suffix),
        **environment,
        OTEL_SERVICE_NAME="tests",
    )
    results = [list(producer.blocking_stream_completed_submission(id_)) for id_ in ids]
    assert worker.wait() == 0

    sent = [span for span in recorded.get_finished_spans() if span.name.startswith("send")]
    trace_ids = [f"{span.context.trace_id:032x}" for span in sent]
    assert results == [[[n, trace_id, None] for n in range(3)] for trace_id in trace_ids]
    assert len(named(collector.spans("tests"), f"process {queue_name}{suffix}")) == 6
