"""The handlers of tasks.py, in a worker that fails, or whose children fail, if a file exists."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tasks import app

from opsqueue_worker.intake import heartbeat
from opsqueue_worker.intake.intake import Intake

__all__ = ["app"]

folder = Path(os.environ["TEST_DEFECTS"])

if (folder / "import").exists():
    sys.exit("an app that broke meanwhile")


def broken_beat(self: heartbeat.Heartbeat, intakes: Iterable[Intake]) -> None:
    if (folder / "heartbeat").exists():
        message = "a defect for a test"
        raise AssertionError(message)
    whole_beat(self, intakes)


whole_beat = heartbeat.Heartbeat.beat
heartbeat.Heartbeat.beat = broken_beat  # type: ignore[method-assign]
