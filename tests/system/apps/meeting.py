"""A handler that goes on only once workers of both versions have begun: both take part.

The test starts the same app under the release and under the working tree, and names each in ROLE.
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
    """Return the next number, and which version computed it."""
    role = os.environ["ROLE"]
    wait_for_the_other(role)
    return [number + 1, role, str(opsqueue.__file__)]


@cache
def wait_for_the_other(role: str) -> None:
    """Wait, once, until a worker of the other role is here: a FIFO opens when it has both ends."""
    (Path(os.environ["MEETING"]) / role).touch()
    with Path(os.environ["GATE"]).open("w" if role == "old" else "r", encoding="utf-8"):
        pass
