"""The end of a process that has done its work, whatever users' code has left in it.

The interpreter waits without limit for threads that are no daemons, and then for the functions of
`atexit`. A worker whose app starts such a thread would never end, and a child would never be gone.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final

logger = logging.getLogger("opsqueue.worker")

_THREADS_END_WITHIN_S: Final = 2.0
_FUNCTIONS_END_WITHIN_S: Final = 3.0
"""Longer than the export of the last spans may take."""
_IN_ANY_CASE_WITHIN_S: Final = 7.0


def end_soon(code: int) -> None:
    """Start the end of this process: from now on it has some seconds, and then ends with `code`."""
    are_threads_over = threading.Event()
    # The last one to be registered is the first one to be called, after all threads have ended.
    atexit.register(are_threads_over.set)

    def watch() -> None:
        held_by = "functions of atexit"
        if are_threads_over.wait(_THREADS_END_WITHIN_S):
            time.sleep(_FUNCTIONS_END_WITHIN_S)
        else:
            main = threading.main_thread()
            held_by = ", ".join(
                f"thread {thread.name!r}, which is no daemon"
                for thread in threading.enumerate()
                if not (thread.daemon or thread is main)
            )
        try:
            logger.warning("it ends all the same: %s held it up", held_by or "an event loop")
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(code)

    threading.Thread(target=watch, name="ending", daemon=True).start()
    with suppress(OSError, ValueError, AttributeError):  # a program without stderr
        # In C, also while code of a library lets no Python run.
        faulthandler.dump_traceback_later(_IN_ANY_CASE_WITHIN_S, exit=True)
