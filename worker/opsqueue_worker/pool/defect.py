"""Threads of a child that must not end unnoticed: an exception in one ends the process.

The parent notices the end, releases the chunks and starts another child. A child that continued
would have a slot less, or would no longer read messages. threading.excepthook is not used because
handlers may have threads of their own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import ParamSpec

logger = logging.getLogger("opsqueue.worker")
Arguments = ParamSpec("Arguments")


def ends_process(work: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Wrap `work` so that any exception ends this process at once with exit code 1."""

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            work(*args, **kwargs)
        except BaseException:  # noqa: BLE001 of any kind
            try:
                logger.critical("a defect in a thread: this process ends", exc_info=True)
            finally:
                os._exit(1)  # also if the log can't be written

    return run
