"""A handler that continues only when workers of both versions have begun, so that both take part.

The test starts the same app with the release and with the working tree; ROLE names the version.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import opsqueue
from opsqueue import Opsqueue

app = Opsqueue()


@app.operation_handler(os.environ["TEST_QUEUE"])
def meet(number: int) -> list[str | int]:
    """Return the next number and the version that computed it."""
    role = os.environ["ROLE"]
    wait_for_the_other(role)
    return [number + 1, role, str(opsqueue.__file__)]


@cache
def wait_for_the_other(role: str) -> None:
    """Wait once for a worker of the other role: a FIFO opens when both ends are opened."""
    (Path(os.environ["MEETING"]) / role).touch()
    with Path(os.environ["GATE"]).open("w" if role == "old" else "r", encoding="utf-8"):
        pass
