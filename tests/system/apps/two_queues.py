"""Two handlers in one app, whose results show the handler."""

from __future__ import annotations

import os

from opsqueue import Opsqueue

app = Opsqueue()
queue = os.environ["TEST_QUEUE"]


@app.operation_handler(f"{queue}-a")
def a(number: int) -> str:
    """Return a result of the first handler."""
    return f"a{number}"


@app.operation_handler(f"{queue}-b", on_error="collect")
def b(number: int) -> str:
    """Return a result of the second handler, which has errors."""
    if number % 2:
        raise ValueError(number)
    return f"b{number}"
