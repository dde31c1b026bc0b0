"""The API for other WSGI servers: `gunicorn 'opsqueue_api.wsgi:application()'`.

Settings are OPSQUEUE_* variables. It is a function because importing a module must not connect to
anything.
"""

from __future__ import annotations

from wsgiref.types import WSGIApplication

from opsqueue.tracing.export import export_spans
from opsqueue_api.cli import settings_of_environment
from opsqueue_api.server import make_app


def application() -> WSGIApplication:
    """Create the app from the environment alone; click's errors name the variable that is wrong."""
    export_spans("opsqueue-api")
    return make_app(settings_of_environment())
