"""Two handlers in one app, whose results tell whose they are."""

from __future__ import annotations

import os

from opsqueue import Opsqueue

app = Opsqueue()
queue = os.environ["TEST_QUEUE"]


@app.operation_handler(f"{queue}-a")
def a(number: int) -> str:
    """Of the one."""
    return f"a{number}"


@app.operation_handler(f"{queue}-b", on_error="collect")
def b(number: int) -> str:
    """Of the other, which has errors."""
    if number % 2:
        raise ValueError(number)
    return f"b{number}"
