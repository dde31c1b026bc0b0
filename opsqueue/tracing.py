"""The producer's trace, carried with a submission: W3C trace context and baggage.

Without opentelemetry installed, or without a span, there is nothing to carry, and it costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

try:
    from opentelemetry import propagate
except ImportError:  # an extra
    propagate = None  # type: ignore[assignment]  # as when it is not there

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["current_carrier", "extract_context"]

_MAX_VALUE: Final = 1_000
"""What the API takes; longer baggage is left behind rather than a submission refused."""


def current_carrier() -> dict[str, str]:
    """Give the headers of the current span: `traceparent`, `tracestate`, `baggage`."""
    if propagate is None:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name: value for name, value in carrier.items() if len(value) <= _MAX_VALUE}


def extract_context(carrier: Mapping[str, str]) -> Context | None:
    """Give the context that a carrier was made of, as parent of a span of one's own.

    None without opentelemetry.
    """
    return None if propagate is None else propagate.extract(carrier)
