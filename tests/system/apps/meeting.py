"""A handler that goes on only once workers of both versions have begun: both take part.

The test starts the same app under the release and under the working tree, and names each in ROLE.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import opsqueue
from opsqueue import Opsqueue

app = Opsqueue()


@app.operation_handler(os.environ["TEST_QUEUE"])
def meet(number: int) -> list[str | int]:
    """Return the next number, and which version computed it."""
    folder, role = Path(os.environ["MEETING"]), os.environ["ROLE"]
    (folder / role).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return [number + 1, role, str(opsqueue.__file__)]
