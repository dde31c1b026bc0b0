"""Optional extras of the distribution, and the message that names a missing one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

DISTRIBUTION = "opsqueue-redis"


def missing(error: ModuleNotFoundError, extra: str, *, by: str) -> str | None:
    """Return what is missing and what installs it; None: a module of opsqueue's own is."""
    if str(error.name).partition(".")[0].startswith("opsqueue"):
        return None
    return f"{by} needs {error.name}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'"


@contextmanager
def needing(extra: str, *, by: str) -> Iterator[None]:
    """End a program that can't be imported with a line that says why, and exit code 2."""
    try:
        yield
    except ModuleNotFoundError as exc:
        text = missing(exc, extra, by=by)
        if text is None:
            raise
        sys.stderr.write(f"Error: {text}\n")
        sys.exit(2)
