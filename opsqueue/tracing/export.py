"""Set-up of the export of spans in our programs, according to OpenTelemetry's own variables.

OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_TRACES_EXPORTER enables it;
the SDK itself reads the others. Programs of users set up their own SDK.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from opsqueue.model.process import Origin, PerProcess
from opsqueue.tracing import context as tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_SWITCHES: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
_LAST_SPANS_S: Final = 2.0
"""The longest wait at a process's end for a collector that does not answer."""

_LOG: Final = logging.getLogger("opsqueue.tracing")


def export_spans(service: str) -> None:
    """Export this process's spans from now on if the environment asks for it, and the rest at exit.

    Call it once in each process, and after a fork: exporters have threads. An SDK that is already
    set up, by `opentelemetry-instrument` or by the app, is left as it is. If the set-up fails, this
    is logged, and chunks are worked on without traces.

    Args:
        service: service.name, if neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES has it.
    """
    names = _exporter_names()
    if not names or tracing.is_recording():
        return
    try:
        provider = _provider(service, names)
    except Exception as exc:  # noqa: BLE001 whatever a plug-in raises, work goes on without it
        _LOG.warning("no traces are exported: %s", exc)
        return
    from opentelemetry import trace  # noqa: PLC0415 an extra

    trace.set_tracer_provider(provider)


def _exporter_names() -> list[str]:
    """Return the names under which exporters are registered; none: nothing is exported."""
    given = {name: os.environ.get(name, "").strip() for name in _SWITCHES}
    if not any(given.values()):
        return []
    names = (given["OTEL_TRACES_EXPORTER"] or "otlp").split(",")
    return [_full(name.strip()) for name in names if name.strip() not in ("", "none")]


def _full(name: str) -> str:
    if name != "otlp":
        return name
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"


def _provider(service: str, names: list[str]) -> TracerProvider:
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 as above
    except ImportError as exc:
        message = "OTEL_… variables request them: install opsqueue-redis[otel]"
        raise RuntimeError(message) from exc
    exporters = [_Exporter(name) for name in names]
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))  # type: ignore[arg-type]
    _send_the_rest_at_exit(provider, exporters)
    return provider


class _Exporter:
    """A `SpanExporter` with its own connections in each process that a handler forks.

    It is not a subclass, since the SDK may not be installed. The SDK's processor renews itself.
    """

    def __init__(self, name: str) -> None:
        self._exporter = PerProcess(partial(_exporter, name))
        self._exporter.get()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.get().export(spans)

    def shutdown(self) -> None:
        self._exporter.close(lambda exporter: exporter.shutdown())

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.get().force_flush(timeout_millis)


def _send_the_rest_at_exit(provider: TracerProvider, exporters: Sequence[_Exporter]) -> None:
    is_ending = threading.Event()
    origin = Origin()

    def give_up() -> None:
        is_ending.wait()
        time.sleep(_LAST_SPANS_S)
        for exporter in exporters:
            exporter.shutdown()  # otherwise it retries for 10 s, in each process of a worker

    def end() -> None:
        if not origin.is_here():
            return  # a child that a handler forked: the thread above is its parent's
        is_ending.set()
        provider.shutdown()

    # Start it now: at the interpreter's exit no thread can be started any more.
    threading.Thread(target=give_up, name="last-spans", daemon=True).start()
    atexit.register(end)


def _exporter(name: str) -> SpanExporter:
    found = entry_points(group="opentelemetry_traces_exporter", name=name)
    if not found:
        message = (
            f"no exporter {name!r} is installed: set OTEL_TRACES_EXPORTER to otlp, console or none"
        )
        raise RuntimeError(message)
    exporter: SpanExporter = next(iter(found)).load()()
    return exporter
