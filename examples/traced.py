"""A trace from the producer through API and worker to the handler, with OpenTelemetry.

    pip install "opsqueue-redis[dev,otel]"
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 opsqueue dev traced:app
    python traced.py produce http://127.0.0.1:3999 STORE_URL
    python traced.py consume http://127.0.0.1:3999 STORE_URL     # takes chunks as the app does

Worker and API are configured by OpenTelemetry's own variables (OTEL_TRACES_EXPORTER=console prints
spans); your own program sets up the SDK itself. The handler needs no code for it: its span and the
producer's baggage are current there. See docs/tracing.md.
"""

import signal
import sys
from collections.abc import Sequence

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from opsqueue import Opsqueue, consumer
from opsqueue.producer import ProducerClient

QUEUE = "traced"
app = Opsqueue()
tracer = trace.get_tracer("example")


@app.operation_handler(QUEUE)
def double(number: int) -> str:
    with tracer.start_as_current_span("double"):  # below `process traced`
        return f"{baggage.get_baggage('tenant')}: {number * 2}"


def double_all(numbers: Sequence[int], _chunk: consumer.Chunk) -> list[str]:
    return [double(number) for number in numbers]


def line_of(span: ReadableSpan) -> str:
    parent = f"{span.parent.span_id:016x}" if span.parent else "none"
    return (
        f"{span.name} trace={span.context.trace_id:032x} "
        f"span={span.context.span_id:016x} parent={parent}\n"
    )


def print_spans() -> None:
    """Print spans; a real program adds `BatchSpanProcessor(OTLPSpanExporter())` instead."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line_of)))
    trace.set_tracer_provider(provider)


def produce(api_url: str, store_url: str) -> None:
    with (
        ProducerClient(api_url, store_url, queue=QUEUE) as producer,
        tracer.start_as_current_span("nightly run"),
    ):
        context.attach(baggage.set_baggage("tenant", "acme"))
        print(list(producer.run_submission([1, 2, 3], chunk_size=2)))


def consume(api_url: str, store_url: str) -> None:
    with consumer.ConsumerClient(api_url, store_url, queue=QUEUE) as client:
        signal.signal(signal.SIGTERM, lambda *_: client.stop())
        client.run_each_chunk(double_all)


if __name__ == "__main__":
    print_spans()
    {"produce": produce, "consume": consume}[sys.argv[1]](*sys.argv[2:])
