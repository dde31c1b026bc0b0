"""Spans of a submission with an SDK, and none without one."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opsqueue import Opsqueue, tracing
from opsqueue.contents.codec import open_codec
from opsqueue.exceptions import SubmissionFailedError
from opsqueue.handlers.execute import Done, Failed, GivenBack, execute
from opsqueue.model.chunk import Reservation, Source, Token
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.store import input_key, open_store
from opsqueue.store.memory import MemoryStore
from opsqueue.store.parallel import create_many, get_many
from opsqueue.testing import local
from opsqueue.tracing import context as own_context
from opsqueue.tracing import spans

SENT = {"traceparent": f"00-{7:032x}-{8:016x}-01", "baggage": "tenant=acme"}
CODEC = open_codec("msgpack")
DOCS = Path(__file__).parents[3] / "docs" / "tracing.md"


def named(recorded: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in recorded.get_finished_spans() if span.name == name]


def parents(spans: list[ReadableSpan]) -> set[int | None]:
    return {span.parent.span_id if span.parent else None for span in spans}


def reservation(*, id_: int = 41, index: int = 0, carrier: Any = None) -> Reservation:
    source = Source(
        submission_id=SubmissionId(id_),
        queue="q",
        prefix="p",
        codec="msgpack",
        chunks_total=2,
        chunk_size=1,
        operations_total=2,
        max_attempts=10,
        trace_context=SENT if carrier is None else carrier,
    )
    return Reservation(
        token=Token("1-0"), source=source, chunk_index=index, attempt=2, expires_at_ms=0
    )


@contextlib.contextmanager
def with_baggage(**pairs: str) -> Iterator[None]:
    inside = context.get_current()
    for name, value in pairs.items():
        inside = baggage.set_baggage(name, value, inside)
    token = context.attach(inside)
    try:
        yield
    finally:
        context.detach(token)


def app_of(function: Callable[..., Any], **options: Any) -> Opsqueue:
    app = Opsqueue()
    app.operation_handler("q", **options)(function)
    return app


def see(_: object) -> list[object]:
    """The trace context of a handler: a trace, a parent for its spans, baggage."""
    found = trace.get_current_span().get_span_context()
    return [f"{found.trace_id:032x}", f"{found.span_id:016x}", baggage.get_baggage("tenant")]


async def see_async(operation: object) -> list[object]:
    return see(operation)


@pytest.mark.parametrize(
    ("function", "options"),
    [(see, {}), (see, {"concurrency": 2}), (see_async, {}), (see_async, {"concurrency": 2})],
)
def test_one_trace_and_its_baggage_reach_the_handler(
    recorded: InMemorySpanExporter, function: Any, options: Any
) -> None:
    """Of every kind, however many operations it works on at a time."""
    with local(app_of(function, **options)) as opsqueue, with_baggage(tenant="acme"):
        results = list(opsqueue.run_submission("q", [1, 2, 3], chunk_size=2))

    (sent,) = named(recorded, "send q")
    processed = named(recorded, "process q")
    assert {sent.context.span_id} == parents(processed)
    assert {f"{sent.context.trace_id:032x}"} == {trace_id for trace_id, _, _ in results}
    own = [f"{span.context.span_id:016x}" for span in processed]
    assert [own[0], own[0], own[1]] == [span_id for _, span_id, _ in results]
    assert {"acme"} == {tenant for _, _, tenant in results}


def test_a_context_without_an_sdk_reaches_the_handler_all_the_same() -> None:
    """Nothing is recorded here, and the handler's own calls still join the producer's trace."""
    with local(app_of(see)) as opsqueue:
        token = context.attach(propagate.extract(SENT))
        id_ = opsqueue.producer("q").insert_submission([1], chunk_size=1)
        context.detach(token)
        results = list(opsqueue.producer("q").blocking_stream_completed_submission(id_))

    assert [[f"{7:032x}", f"{8:016x}", "acme"]] == results


def test_nothing_is_made_where_nothing_is_recorded() -> None:
    """One object stands for every span of a chunk without a context."""
    chunk = reservation(carrier={})

    made = [
        spans.send("q"),
        spans.store_inputs(),
        spans.fetch_input(chunk),
        spans.process(chunk),
        spans.store_output(chunk, None),
        spans.wait("q", SubmissionId(1)),
        spans.call("GET", "http://a/", "a", None, resends=0),
    ]

    assert {id(tracing.NO_SPAN)} == {id(span) for span in made}


def test_all_works_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    for name in ("contexts", "propagate", "trace"):
        monkeypatch.setattr(own_context, name, None)

    with local(app_of(lambda n: n + 1)) as opsqueue:
        id_ = opsqueue.producer("q").insert_submission([1], chunk_size=1)
        results = list(opsqueue.producer("q").blocking_stream_completed_submission(id_))
        submission = opsqueue.producer("q").get_submission(id_)

    assert (results, submission.trace_context) == ([2], {})


def test_what_the_store_s_library_records_is_in_the_trace(recorded: InMemorySpanExporter) -> None:
    """Objects go up and down in threads, each with the span of who wants them."""
    seen: list[tuple[str, int]] = []

    class Traced(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            seen.append(("create", trace.get_current_span().get_span_context().span_id))
            return super().create(key, data)

        def get(self, key: str) -> bytes:
            seen.append(("get", trace.get_current_span().get_span_context().span_id))
            return super().get(key)

    store = Traced("threads")

    with tracing.span("up"):
        create_many(store, [("a", b""), ("b", b"")])
    with tracing.span("down"):
        list(get_many(store, ["a", "b"]))

    (up,), (down,) = named(recorded, "up"), named(recorded, "down")
    assert seen == [("create", up.context.span_id)] * 2 + [("get", down.context.span_id)] * 2


def test_what_a_handler_raises_is_recorded(recorded: InMemorySpanExporter) -> None:
    """With its traceback, in each attempt's span."""

    def fail(_: int) -> None:
        message = "bad row 7"
        raise ValueError(message)

    with local(app_of(fail)) as opsqueue, pytest.raises(SubmissionFailedError):
        opsqueue.run_submission("q", [1], chunk_size=1, max_attempts=2)

    first, second = named(recorded, "process q")
    assert [1, 2] == [attribute(span, "opsqueue.chunk.attempt") for span in (first, second)]
    (event,) = second.events
    assert attribute(event, "exception.type") == "ValueError"
    assert "in fail" in attribute(event, "exception.stacktrace")
    assert (second.status.status_code, second.status.description) == (
        trace.StatusCode.ERROR,
        "ValueError: bad row 7",
    )
    assert attribute(second, "error.type") == "ValueError"


def test_an_exception_that_has_no_text_is_recorded_all_the_same(
    recorded: InMemorySpanExporter,
) -> None:
    """Nothing that its class does comes out of the recording."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise SystemExit

    def fail(_: int) -> None:
        raise MuteError

    store = open_store("memory://mute")
    store.create(input_key("p", 0), CODEC.encode([1]))

    report = execute(reservation(), app_of(fail).handler_of("q"), store)

    assert isinstance(report, Failed)
    (span,) = named(recorded, "process q")
    assert span.status.description == "MuteError: its __str__ raised SystemExit"


def test_an_output_is_stored_below_its_chunk_and_an_input_fetched_beside_it(
    recorded: InMemorySpanExporter,
) -> None:
    """Since it is fetched ahead."""
    store = open_store("memory://traced")
    store.create(input_key("p", 0), CODEC.encode([1]))

    report = execute(reservation(), app_of(see).handler_of("q"), store, worker="w")

    (processed,) = named(recorded, "process q")
    assert isinstance(report, Done)
    assert attribute(processed, "messaging.client.id") == "w"
    assert attribute(processed, "code.function.name") == f"{see.__module__}.see"
    assert {processed.context.span_id} == parents(named(recorded, "store output"))
    assert {8} == parents([processed, *named(recorded, "fetch input")])
    assert {7} == {span.context.trace_id for span in recorded.get_finished_spans()}


def test_a_store_out_of_order_is_seen_in_its_span(recorded: InMemorySpanExporter) -> None:
    """A missing input."""
    report = execute(reservation(index=1), app_of(see).handler_of("q"), open_store("memory://none"))

    (fetched,) = named(recorded, "fetch input")
    assert isinstance(report, Failed)
    assert attribute(fetched, "error.type") == "InputMissing"
    assert not named(recorded, "process q")


def test_a_chunk_that_nobody_wants_is_not_processed(recorded: InMemorySpanExporter) -> None:
    """There is no span for processing it."""
    store = open_store("memory://void")
    store.create(input_key("p", 0), CODEC.encode([1]))

    report = execute(reservation(), app_of(see).handler_of("q"), store, is_revoked=lambda: True)

    assert isinstance(report, GivenBack)
    assert not named(recorded, "process q")


def test_a_reservation_of_one_submission_is_its_child(recorded: InMemorySpanExporter) -> None:
    """However many chunks."""
    spans.received("q", "w", [reservation(), reservation(index=1)], began_ns=1_000)

    (received,) = named(recorded, "receive q")
    assert {8} == parents([received])
    assert received.start_time == 1_000
    assert attribute(received, "messaging.batch.message_count") == 2
    assert attribute(received, "opsqueue.submission.id") == str(SubmissionId(41))


def test_a_reservation_of_several_submissions_has_a_link_to_each(
    recorded: InMemorySpanExporter,
) -> None:
    """It is a trace of its own; who carries none has no link."""
    other = {"traceparent": f"00-{9:032x}-{10:016x}-01"}
    chunks = [
        reservation(),
        reservation(index=1),
        reservation(id_=42, carrier=other),
        reservation(id_=43, carrier={}),
    ]

    spans.received("q", "w", chunks, began_ns=1)

    (received,) = named(recorded, "receive q")
    assert received.parent is None
    assert [(7, 8), (9, 10)] == [(to.context.trace_id, to.context.span_id) for to in received.links]


def test_a_look_that_finds_nothing_has_no_span(recorded: InMemorySpanExporter) -> None:
    """An idle worker records nothing."""
    spans.received("q", "w", [], began_ns=1)
    spans.settled("q", "w", [], began_ns=1)

    assert () == recorded.get_finished_spans()


def attribute(told: ReadableSpan | Event, name: str) -> Any:
    assert told.attributes is not None
    return told.attributes[name]


def test_the_reference_s_names_work() -> None:
    """Programs written for it import these."""
    sent = tracing.carrier_to_opentelemetry_tracecontext(SENT)
    assert sent is not None
    token = context.attach(sent)
    carrier = tracing.current_opentelemetry_tracecontext_to_carrier()
    context.detach(token)

    assert carrier == SENT
    assert tracing.otel_propagator() is propagate


def test_an_asynchronous_producer_hands_its_trace_in(recorded: InMemorySpanExporter) -> None:
    """Though its calls run in threads."""
    del recorded

    async def insert(producer: ProducerClient) -> SubmissionId:
        token = context.attach(propagate.extract(SENT))
        try:
            return await producer.async_insert_submission([1], chunk_size=1)
        finally:
            context.detach(token)

    with local(app_of(see)) as opsqueue:
        producer = opsqueue.producer("q")
        id_ = asyncio.run(insert(producer))

        submission = producer.get_submission(id_)

    assert submission.trace_context["traceparent"].startswith(f"00-{7:032x}-")
    assert submission.trace_context["baggage"] == "tenant=acme"


def test_the_docs_handler_runs() -> None:
    """With the baggage that it reads."""
    (snippet,) = re.findall("```python\n(.+?)```", DOCS.read_text(), re.DOTALL)
    app = Opsqueue()
    exec(snippet, {"app": app, "__name__": "docs"})  # noqa: S102 our own

    with local(app) as opsqueue, with_baggage(tenant="acme"):
        results = list(opsqueue.run_submission("images", ["a.png"]))

    assert ["a.png of acme"] == results
