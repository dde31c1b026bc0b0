"""Handlers that return their trace, for tests with real processes."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import baggage, trace

from opsqueue import Chunk, Opsqueue

app = Opsqueue()
tracer = trace.get_tracer("app")


@app.operation_handler(os.environ.get("TEST_QUEUE", "traced"))
def see(operation: Any, chunk: Chunk) -> list[Any]:
    """Return the trace and the baggage; "raise" raises in its first attempt."""
    if operation == "raise" and chunk.attempt == 1:
        message = "once"
        raise ValueError(message)
    with tracer.start_as_current_span("work of the app"):
        found = trace.get_current_span().get_span_context()
        return [operation, f"{found.trace_id:032x}", baggage.get_baggage("tenant")]


@app.operation_handler(os.environ.get("TEST_QUEUE", "traced") + "-async")
async def see_async(operation: Any, chunk: Chunk) -> list[Any]:
    """Do the same on a loop."""
    return see(operation, chunk)
