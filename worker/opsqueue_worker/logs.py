"""Logging of the worker's processes: to stderr, plain."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """Send everything from `level` on to stderr, with time, level, process and logger."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s",
        force=True,
    )
