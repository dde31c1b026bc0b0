"""A span for each request: a child of the caller's span, named after the route."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import falcon
import msgspec

from opsqueue.http.bodies import InsertBody
from opsqueue.tracing import HEADERS, NO_SPAN, Span, current_carrier, sane_carrier, spans

_POLLED: Final = ("/healthz", "/readyz", "/metrics", "/chunks/reserve", "/heartbeat")
"""Paths that are polled every few seconds; they get a span only as part of a client's trace."""


class Spans:
    """Falcon middleware; it comes first so that the span covers the answers of all others."""

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Begin the span."""
        req.context.span = NO_SPAN
        headers = _headers(req)
        if req.path.endswith(_POLLED) and "traceparent" not in headers:
            return
        span = spans.serve(req.method, req.path, req.scheme, headers)
        req.context.span = span.__enter__()  # `process_response` leaves it

    def process_resource(
        self,
        req: falcon.Request,
        _resp: falcon.Response,
        _resource: object,
        params: dict[str, Any],
    ) -> None:
        """Name the span after the route."""
        span: Span = req.context.span
        span.rename(f"{req.method} {req.uri_template}")
        span.note({"http.route": req.uri_template or ""})
        for name, attribute in _PARAMETERS.items():
            if name in params:
                span.note({attribute: params[name]})

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: object
    ) -> None:
        """End the span, or for a stream, arrange for its end."""
        span: Span = req.context.span
        spans.answered(span, resp.status_code, is_error=resp.status_code >= 500)
        if resp.stream is None:
            span.__exit__(None, None, None)
        else:
            # The stream is produced after this method has returned, on the same thread.
            resp.stream = _Sent(cast(Iterable[bytes], resp.stream), span)


_PARAMETERS: Final = {
    "queue": "messaging.destination.name",
    "submission_id": "opsqueue.submission.id",
}


class _Sent:
    """A stream that is being sent, and its span."""

    def __init__(self, parts: Iterable[bytes], span: Span) -> None:
        self._parts = parts
        self._span = span

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts

    def close(self) -> None:
        """Close the stream, then end the span; the server calls this in any case."""
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        finally:
            self._span.__exit__(None, None, None)


def traced(body: InsertBody, req: falcon.Request) -> InsertBody:
    """Return the body with the request's trace context, unless it has its own."""
    if body.trace_context:
        return body
    # Without opentelemetry the request's headers are used.
    carrier = current_carrier() or sane_carrier(_headers(req))
    return msgspec.structs.replace(body, trace_context=carrier)


def _headers(req: falcon.Request) -> dict[str, str]:
    found = {name: req.get_header(name) for name in HEADERS}
    return {name: value for name, value in found.items() if value}
