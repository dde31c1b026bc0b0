"""`/` and `/dashboard/{file}`: the dashboard's page and its files.

They are static files of the package, read when the process starts. They hold no data, so they need
no token. The page gets all data from the API as any other client does, with the user's token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import falcon

from opsqueue.http.bodies import ProblemType
from opsqueue_api.http.auth import Need
from opsqueue_api.http.operation import Content, operation
from opsqueue_api.http.problem import Problem, ProblemError

INDEX: Final = "index.html"
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    # Only the API's own files, nothing from elsewhere. No other page may embed this one, since it
    # could redirect a click to a button here.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Browsers cache the files but revalidate them each time, so a new version shows at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page with its media type and tag."""

    data: bytes
    media_type: str
    etag: str


@cache
def page_files() -> Mapping[str, File]:
    """Return the files of the page by name, read from the package."""
    found = {}
    for path in (files("opsqueue_api") / "dashboard").iterdir():
        media_type = MEDIA_TYPES.get(path.name[path.name.rfind(".") :])
        if media_type:
            data = path.read_bytes()
            found[path.name] = File(data, media_type, hashlib.sha256(data).hexdigest()[:32])
    return found


class Page:
    """`/`."""

    def __init__(self) -> None:
        """Read the files before the first request."""
        page_files()

    @operation(answers={200: Content(None, "text/html", "For a browser."), 304: None})
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the dashboard's page."""
        _answer(INDEX, req, resp)


class PageFile:
    """`/dashboard/{file}`."""

    @operation(
        answers={
            200: Content(
                None,
                "text/css",
                "A stylesheet, a script or a picture.",
                ("text/javascript", "image/svg+xml", "text/html"),
            ),
            304: None,
        },
        problems=(ProblemType.ROUTE_NOT_FOUND,),
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response, file: str) -> None:
        """Return a file of the dashboard."""
        _answer(file, req, resp)


def add_routes(route: Callable[..., None]) -> None:
    """Add the routes of the page and its files."""
    route("/", Page(), GET=Need.OPEN)
    route("/dashboard/{file}", PageFile(), GET=Need.OPEN)


def _answer(name: str, req: falcon.Request, resp: falcon.Response) -> None:
    file = page_files().get(name)
    if file is None:
        detail = f"the dashboard has no file {name[:80]!r}: open / in a browser"
        raise ProblemError(Problem(ProblemType.ROUTE_NOT_FOUND, detail))
    resp.set_headers(_HEADERS)
    # Weak, since compression changes the bytes but not the content.
    tag = falcon.ETag(file.etag)
    tag.is_weak = True
    resp.etag = tag.dumps()
    known = req.if_none_match or []
    if any(tag in ("*", file.etag) for tag in known):
        resp.status = falcon.HTTP_304
        return
    resp.content_type = file.media_type
    resp.data = file.data
