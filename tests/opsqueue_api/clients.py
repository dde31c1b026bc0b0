"""Clients of an app in this process."""

from __future__ import annotations

from wsgiref.types import WSGIApplication

import httpx


def client_of(app: WSGIApplication, path: str = "") -> httpx.Client:
    """What is asked for is relative to `path`."""
    return httpx.Client(transport=httpx.WSGITransport(app), base_url=f"http://api{path}")
