"""A handler that collects errors, in a child that dies once, between storing and reporting.

A file records whether it has died. Before, odd operations fail; after, all operations fail. So
counts and errors show their attempt.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opsqueue import Opsqueue
from opsqueue.handlers import execute as execution

app = Opsqueue()
has_died = Path(os.environ["TEST_DIED"])
save = execution.save


@app.operation_handler(os.environ["TEST_QUEUE"], on_error="collect")
def refuse_odd(number: int) -> int:
    """Fail odd operations, or all operations once the child has died."""
    if has_died.exists() or number % 2:
        raise ValueError("second" if has_died.exists() else "first")
    return number


def save_and_die(*arguments: Any, is_revoked: Callable[[], bool]) -> Any:
    """Store the output, and be killed before it is reported."""
    report = save(*arguments, is_revoked=is_revoked)
    if not has_died.exists():
        has_died.touch()
        if os.environ["TEST_VICTIM"] == "worker":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return report


vars(execution)["save"] = save_and_die
