"""One trace from the producer to the handler and to a consumer, with OpenTelemetry.

    pip install "opsqueue-redis[otel]"
    opsqueue dev traced:app
    python traced.py produce http://127.0.0.1:3999 STORE_URL
    python traced.py consume http://127.0.0.1:3999 STORE_URL     # takes chunks as the app does

A submission carries the context of the span in which it was inserted. Spans are printed here; give
the provider an exporter of yours.
"""

import signal
import sys
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from opsqueue import Chunk, Opsqueue, consumer
from opsqueue.producer import ProducerClient
from opsqueue.tracing import extract_context

QUEUE = "traced"
app = Opsqueue()
tracer = trace.get_tracer("example")


def line_of(span: ReadableSpan) -> str:
    parent = f"{span.parent.span_id:016x}" if span.parent else "none"
    return f"{span.name} trace={span.context.trace_id:032x} parent={parent}\n"


@app.on_worker_start
def print_spans() -> None:
    """Once a process: exporters have threads and connections, which don't survive a fork."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line_of)))
    trace.set_tracer_provider(provider)


@app.chunk_handler(QUEUE)
def double(numbers: list[int], chunk: Chunk) -> list[int]:
    parent = extract_context(chunk.trace_context)
    with tracer.start_as_current_span("handler", context=parent) as span:
        span.set_attribute("opsqueue.chunk_index", chunk.chunk_index)
        return [number * 2 for number in numbers]


def double_for_consumer(numbers: Sequence[int], chunk: consumer.Chunk) -> list[int]:
    parent = extract_context(chunk.submission_otel_trace_carrier)
    with tracer.start_as_current_span("consumer", context=parent):
        return [number * 2 for number in numbers]


def produce(api_url: str, store_url: str) -> None:
    with (
        ProducerClient(api_url, store_url, queue=QUEUE) as producer,
        tracer.start_as_current_span("producer"),
    ):
        print(list(producer.run_submission([1, 2, 3], chunk_size=2)))


def consume(api_url: str, store_url: str) -> None:
    with consumer.ConsumerClient(api_url, store_url, queue=QUEUE) as client:
        signal.signal(signal.SIGTERM, lambda *_: client.stop())
        client.run_each_chunk(double_for_consumer)


if __name__ == "__main__":
    print_spans()
    {"produce": produce, "consume": consume}[sys.argv[1]](*sys.argv[2:])
