"""Detection of changed source files for `--reload`, by watchfiles, which is an extra."""

from __future__ import annotations

import threading
from pathlib import Path

from opsqueue.exceptions import IncorrectUsageError


class SourceWatch:
    """A watch on the Python files below the current folder.

    Raises:
        IncorrectUsageError: watchfiles is not installed.
    """

    def __init__(self) -> None:
        try:
            from watchfiles import PythonFilter, watch  # noqa: PLC0415 an extra
        except ImportError as exc:
            message = "--reload needs watchfiles: install opsqueue-redis[dev]"
            raise IncorrectUsageError(message) from exc
        self._changed: set[str] = set()
        self._lock = threading.Lock()

        def follow() -> None:
            for changes in watch(Path.cwd(), watch_filter=PythonFilter(), debounce=200):
                with self._lock:
                    self._changed |= {Path(path).name for _, path in changes}

        threading.Thread(target=follow, name="sources", daemon=True).start()

    def changed(self) -> str:
        """Return the names of the files that changed since the last call; '' if none did."""
        with self._lock:
            names, self._changed = self._changed, set()
        return ", ".join(sorted(names))
