"""Optional extras of the distribution, and the message that names a missing one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

DISTRIBUTION = "opsqueue-redis"


def missing(error: ModuleNotFoundError, extra: str, *, by: str) -> str | None:
    """Return which module is missing and how to install it; None: it is one of opsqueue's own."""
    if str(error.name).partition(".")[0].startswith("opsqueue"):
        return None
    return f"{by} needs {error.name}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'"


@contextmanager
def needing(extra: str, *, by: str) -> Iterator[None]:
    """Exit with code 2 and a line with the reason if the program can't be imported."""
    try:
        yield
    except ModuleNotFoundError as exc:
        text = missing(exc, extra, by=by)
        if text is None:
            raise
        sys.stderr.write(f"Error: {text}\n")
        sys.exit(2)
