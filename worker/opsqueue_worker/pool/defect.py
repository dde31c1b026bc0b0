"""Threads of a child that must not end unseen: a defect in one ends the process.

Its parent notices that, gives the chunks back and starts another; a child that goes on with a slot
less, or deaf, helps nobody. Not by threading.excepthook: handlers may have threads of their own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import ParamSpec

logger = logging.getLogger("opsqueue.worker")
Arguments = ParamSpec("Arguments")


def ends_process(work: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Let whatever `work` raises end this process at once, with exit code 1."""

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            work(*args, **kwargs)
        except BaseException:
            logger.critical("a defect: this process ends", exc_info=True)
            os._exit(1)

    return run
