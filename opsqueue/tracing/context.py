"""Traces: the producer's, carried with its submission, and our own spans. See docs/tracing.md.

A submission carries W3C trace context and baggage. Spans are recorded if opentelemetry is installed
and has an SDK; otherwise `span` returns one object that does nothing. spans.py defines the spans,
tracing/export.py sends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from opsqueue.model import raised
from opsqueue.model.chunk import ChunkFailure, encodable

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
except ImportError:  # an extra
    contexts = propagate = trace = None  # type: ignore[assignment]  # as if not installed

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Tracer, TracerProvider

__all__ = [
    "carrier_to_opentelemetry_tracecontext",
    "current_carrier",
    "current_opentelemetry_tracecontext_to_carrier",
    "extract_context",
    "otel_propagator",
]

HEADERS: Final = ("traceparent", "tracestate", "baggage")
Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client", "producer", "consumer"]
_MAX_VALUE: Final = 1_000
"""Characters that the API accepts. Longer baggage is dropped, so that no submission is refused."""


def current_carrier() -> dict[str, str]:
    """Return the headers of the current span: `traceparent`, `tracestate`, `baggage`."""
    if propagate is None:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name: value for name, value in carrier.items() if len(value) <= _MAX_VALUE}


def sane_carrier(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return those headers of a request that a submission may carry."""
    found = {name: given.get(name) for name in HEADERS}
    return {name: value for name, value in found.items() if value and len(value) <= _MAX_VALUE}


def extract_context(carrier: Mapping[str, str]) -> Context | None:
    """Return the context from which a carrier was made, as a parent for one's own span.

    Returns None without opentelemetry.
    """
    return None if propagate is None else propagate.extract(carrier)


# The reference's names for the same functions


def current_opentelemetry_tracecontext_to_carrier() -> dict[str, str]:
    """Return the same as `current_carrier`."""
    return current_carrier()


def carrier_to_opentelemetry_tracecontext(carrier: Mapping[str, str]) -> Context | None:
    """Return the same as `extract_context`."""
    return extract_context(carrier)


def otel_propagator() -> Any:  # noqa: ANN401 a module
    """Return `opentelemetry.propagate`, which OTEL_PROPAGATORS configures; None without it."""
    return propagate


# Spans


class Span:
    """A span that is not recorded, and the base of those that are. A context manager."""

    __slots__ = ()

    @property
    def context(self) -> Context | None:
        """The context inside the span, as parent of work elsewhere; None: it is not recorded."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def note(self, attributes: Attributes) -> None:
        """Add attributes."""

    def rename(self, name: str) -> None:
        """Change the span's name."""

    def fail(self, type_: str, message: str) -> None:
        """Mark the span's work as failed."""

    def record(self, error: BaseException) -> None:
        """Mark the span's work as failed, with the exception and its traceback."""


NO_SPAN: Final = Span()


class _Attached(Span):
    """A context without a span of ours, so that the producer's context reaches the handler."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._token: Any = None

    def __enter__(self) -> Self:
        self._token = contexts.attach(self._context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        contexts.detach(self._token)


class _Recorded(Span):
    """A span of the SDK, which is the current one inside."""

    __slots__ = ("_attached", "_context", "_span")

    def __init__(self, span: trace.Span, parent: Context | None) -> None:
        self._span = span
        self._context = trace.set_span_in_context(span, parent)
        self._attached = _Attached(self._context)

    @property
    def context(self) -> Context | None:
        return self._context

    def __enter__(self) -> Self:
        self._attached.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._attached.__exit__(kind, error, trace)
        if error is not None:
            self.record(error)
        self._span.end()

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, type_: str, message: str) -> None:
        self._span.set_attribute("error.type", type_)
        self._span.set_status(trace.StatusCode.ERROR, message[:_MAX_VALUE])

    def record(self, error: BaseException) -> None:
        # Not the SDK's record_exception: it reads the error's text, which may raise anything.
        failure, name = ChunkFailure.of(error), encodable(raised.name_of(type(error)))
        attributes = {
            "exception.type": failure.type,
            "exception.message": failure.message,
            "exception.stacktrace": f"{failure.traceback}{failure.type}: {failure.message}\n",
        }
        self._span.add_event("exception", attributes)
        self.fail(name, f"{name}: {failure.message}")


def is_recording() -> bool:
    """Return whether there is an SDK; without one, nothing has to be prepared for a span."""
    return _tracer() is not None


def has_current_span() -> bool:
    """Return whether the current span, if any, is recorded."""
    return trace is not None and trace.get_current_span().is_recording()


def span(
    name: str,
    kind: Kind = "internal",
    *,
    attributes: Attributes | None = None,
    parent: Context | None = None,
) -> Span:
    """Start a span that is current within `with`; `parent` None: a child of the current span."""
    tracer = _tracer()
    if tracer is None:
        return within(parent)
    begun = tracer.start_span(
        name, parent, trace.SpanKind[kind.upper()], attributes=dict(attributes or {})
    )
    return _Recorded(begun, parent)


def within(context: Context | None) -> Span:
    """Make a context current without a span of ours."""
    return NO_SPAN if context is None else _Attached(context)


def carried(carrier: Mapping[str, str]) -> Context | None:
    """Return the context that a submission carries; None if it carries none."""
    return extract_context(carrier) if carrier else None


def context_of_caller(headers: Mapping[str, str]) -> Context | None:
    """Return the context of a request's sender, without anything else."""
    # Not on top of the current context: a server's thread may have any.
    return None if propagate is None else propagate.extract(headers, context=contexts.Context())


def record_past(
    name: str,
    kind: Kind,
    *,
    attributes: Attributes,
    carriers: Sequence[Mapping[str, str]],
    began_ns: int,
) -> None:
    """Record a past event: as child of the one span that it concerns, or linked to several.

    Args:
        name: the span's name.
        kind: the span's kind.
        attributes: the span's attributes.
        carriers: the carriers of the submissions that it concerns, each once.
        began_ns: `time.time_ns()` at its start; it ends now.
    """
    tracer = _tracer()
    if tracer is None:
        return
    parent, links = contexts.Context(), []
    if len(carriers) == 1:
        parent = propagate.extract(carriers[0], context=parent)
    else:
        links = [link for carrier in carriers if (link := _link_to(carrier)) is not None]
    tracer.start_span(
        name,
        parent,
        trace.SpanKind[kind.upper()],
        attributes=dict(attributes),
        links=links,
        start_time=began_ns,
    ).end()


def _link_to(carrier: Mapping[str, str]) -> Link | None:
    context = propagate.extract(carrier, context=contexts.Context())
    found = trace.get_current_span(context).get_span_context()
    return trace.Link(found) if found.is_valid else None


def _tracer() -> Tracer | None:
    return None if trace is None else _tracer_of(trace.get_tracer_provider())


@lru_cache(1)
def _tracer_of(provider: TracerProvider) -> Tracer | None:
    # The provider until an SDK sets its own.
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("opsqueue")
