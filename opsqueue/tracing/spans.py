"""The spans that we record: names, kinds and attributes. The table of docs/tracing.md is tested.

They follow OpenTelemetry's semantic conventions of messaging and HTTP, where a chunk is a message
and a queue is a destination. Attributes outside these conventions are named `opsqueue.…`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from opsqueue.tracing import NO_SPAN, Attributes, Span
from opsqueue.tracing import context as tracing

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from opsqueue.model.answers import Inserted
    from opsqueue.model.chunk import ChunkFailure, Reservation
    from opsqueue.model.submission import SubmissionId

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}
)


def send(queue: str) -> Span:
    """Start the span of a submission's insert; its context is read inside."""
    if not tracing.is_recording():
        return NO_SPAN
    return tracing.span(f"send {queue}", "producer", attributes=_messaging("send", queue))


def sent(inserted: Inserted) -> Attributes:
    """Return the attributes of a submission that are known after its insert."""
    known: Attributes = {"opsqueue.submission.id": str(inserted.id)}
    if inserted.submission is not None:
        known = {
            **known,
            "messaging.batch.message_count": inserted.submission.chunks_total,
            "opsqueue.submission.operations": inserted.submission.operations_total,
            "opsqueue.submission.inline": inserted.submission.is_inline,
        }
    return known


def store_inputs() -> Span:
    """Start the span in which a submission's operations are cut, encoded and stored."""
    return tracing.span("store inputs")


def wait(queue: str, submission_id: SubmissionId) -> Span:
    """Start the span of waiting for a submission's end."""
    if not tracing.is_recording():
        return NO_SPAN
    return tracing.span(
        f"wait {queue}",
        attributes={
            "messaging.destination.name": queue,
            "opsqueue.submission.id": str(submission_id),
        },
    )


def call(method: str, url: str, host: str, port: int | None, *, resends: int) -> Span:
    """Start the span of a request to the API if it is part of a trace; heartbeats are not."""
    if not tracing.has_current_span():
        return NO_SPAN
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "url.full": url,
        "server.address": host,
    }
    if port is not None:
        attributes["server.port"] = port
    if resends:
        attributes["http.request.resend_count"] = resends
    return tracing.span(method, "client", attributes=attributes)


def answered(span: Span, status: int, *, is_error: bool) -> None:
    """Set a request's status."""
    span.note({"http.response.status_code": status})
    if is_error:
        span.fail(str(status), "")


def serve(method: str, path: str, scheme: str, headers: Mapping[str, str]) -> Span:
    """Start the span in which a request is answered, as a child of its sender's."""
    parent = tracing.context_of_caller(headers)
    known = method if method in _METHODS else "_OTHER"
    attributes = {"http.request.method": known, "url.path": path, "url.scheme": scheme}
    return tracing.span(
        known if known == method else "HTTP", "server", attributes=attributes, parent=parent
    )


def fetch_input(reservation: Reservation) -> Span:
    """Start the span in which a chunk's input is fetched; it is ahead of `process`, so not in it.

    There is no span for an input that came with the reservation.
    """
    if reservation.input is not None or not tracing.is_recording():
        return NO_SPAN
    return tracing.span(
        "fetch input",
        attributes=_chunk(reservation),
        parent=tracing.carried(reservation.source.trace_context),
    )


def process(reservation: Reservation, *, function: str = "", worker: str = "") -> Span:
    """Start the span in which a chunk is processed: a child of the context of its submission.

    Without an SDK that context, if there is one, is current nevertheless.
    """
    source = reservation.source
    parent = tracing.carried(source.trace_context)
    if not tracing.is_recording():
        return tracing.within(parent)
    return tracing.span(
        f"process {source.queue}",
        "consumer",
        attributes={
            **_messaging("process", source.queue, worker),
            "messaging.message.id": str(reservation),
            **_chunk(reservation),
            "opsqueue.chunk.operations": source.operations_in(reservation.chunk_index),
            **({"code.function.name": function} if function else {}),
        },
        parent=parent,
    )


def store_output(reservation: Reservation, parent: Context | None) -> Span:
    """Start the span in which an output is stored, possibly while the next chunk is processed."""
    if not tracing.is_recording():
        return NO_SPAN
    return tracing.span(
        "store output",
        attributes=_chunk(reservation),
        parent=parent or tracing.carried(reservation.source.trace_context),
    )


def received(
    queue: str, worker: str, reservations: Sequence[Reservation], *, began_ns: int
) -> None:
    """Record a reserve that returned chunks; one that returned none has no span."""
    if reservations and tracing.is_recording():
        attributes = {
            **_messaging("receive", queue, worker),
            "messaging.batch.message_count": len(reservations),
        }
        _record("receive", queue, reservations, attributes, began_ns)


def settled(
    queue: str,
    worker: str,
    reports: Sequence[tuple[Reservation, ChunkFailure | None]],
    *,
    began_ns: int,
) -> None:
    """Record reports of chunks, with the failures; each round trip is one span."""
    if reports and tracing.is_recording():
        attributes = _settlement(queue, worker, [failure for _, failure in reports])
        _record("settle", queue, [chunk for chunk, _ in reports], attributes, began_ns)


def settle(queue: str, worker: str, reservation: Reservation, failure: ChunkFailure | None) -> Span:
    """Start the span in which one chunk is reported."""
    if not tracing.is_recording():
        return NO_SPAN
    return tracing.span(
        f"settle {queue}",
        "client",
        attributes={
            **_settlement(queue, worker, [failure]),
            "opsqueue.submission.id": str(reservation.source.submission_id),
        },
        parent=tracing.carried(reservation.source.trace_context),
    )


def _settlement(queue: str, worker: str, reported: Sequence[ChunkFailure | None]) -> Attributes:
    failures = [failure for failure in reported if failure is not None]
    attributes = {
        **_messaging("settle", queue, worker),
        "messaging.batch.message_count": len(reported),
    }
    if failures:
        # Not an error of this span: it is about the report, which was sent.
        attributes["opsqueue.chunks.failed"] = len(failures)
        attributes["opsqueue.failure.type"] = failures[0].type
    return attributes


def _record(
    verb: str,
    queue: str,
    chunks: Iterable[Reservation],
    attributes: Attributes,
    began_ns: int,
) -> None:
    sources = {chunk.source.submission_id: chunk.source for chunk in chunks}
    if len(sources) == 1:
        attributes = {**attributes, "opsqueue.submission.id": str(next(iter(sources)))}
    tracing.record_past(
        f"{verb} {queue}",
        "client",
        attributes=attributes,
        carriers=[source.trace_context for source in sources.values()],
        began_ns=began_ns,
    )


def _messaging(verb: str, queue: str, worker: str = "") -> dict[str, str | int | float | bool]:
    return {
        "messaging.system": "opsqueue",
        "messaging.operation.name": verb,
        "messaging.operation.type": verb,
        "messaging.destination.name": queue,
        **({"messaging.client.id": worker} if worker else {}),
    }


def _chunk(reservation: Reservation) -> dict[str, str | int | float | bool]:
    return {
        "opsqueue.submission.id": str(reservation.source.submission_id),
        "opsqueue.chunk.index": reservation.chunk_index,
        "opsqueue.chunk.attempt": reservation.attempt,
    }
