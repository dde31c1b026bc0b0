"""The handlers of the soak's workers."""

from __future__ import annotations

from typing import Any

from opsqueue import Opsqueue, Strategy

app = Opsqueue()


@app.operation_handler("soak", strategy=Strategy.RateLimit("customer", 1_000, 1_000))
def double(operation: Any) -> Any:
    """Twice as much; nothing below zero."""
    if operation == -1:
        message = "below zero"
        raise ValueError(message)
    return operation * 2
