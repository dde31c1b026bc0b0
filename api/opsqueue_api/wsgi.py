"""For other WSGI servers: `gunicorn 'opsqueue_api.wsgi:application()'`, settings as OPSQUEUE_*.

A function and not a value: importing a module must not connect to anything.
"""

from __future__ import annotations

from wsgiref.types import WSGIApplication

from opsqueue.tracing.export import export_spans
from opsqueue_api.cli import settings_of_environment
from opsqueue_api.server import make_app


def application() -> WSGIApplication:
    """Make the app from the environment alone; click's errors say which variable is wrong."""
    export_spans("opsqueue-api")
    return make_app(settings_of_environment())
