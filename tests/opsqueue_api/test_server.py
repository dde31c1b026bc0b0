"""The server of the app: gunicorn, in any version that pyproject.toml allows."""

from __future__ import annotations

import subprocess
import sys

OLDER = """
import gunicorn.workers.gthread  # which needs those of its own version
from gunicorn.http import errors

for name in ("ExpectationFailed", "InvalidResponseHeader", "InvalidResponseHeaderName"):
    if hasattr(errors, name):
        delattr(errors, name)
import opsqueue_api.server
"""


def test_the_server_is_imported_where_gunicorn_has_fewer_errors() -> None:
    """23.0 lacks those: the API did not start with it."""
    ran = subprocess.run(
        [sys.executable, "-c", OLDER], check=False, capture_output=True, text=True, timeout=60
    )

    assert (0, "") == (ran.returncode, ran.stderr)
