"""`/` and `/dashboard/{file}`: the page that shows queues, and what it is made of.

Static files of the package, read when the process starts. They hold no data, so they need no token:
the page asks the API for everything else as any other client does, with the token that it is given.
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
    # No script but our files, nothing from elsewhere, and no page of others around ours: a click
    # there could be led to a button here.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Kept, and asked about each time: a new version of the API is a new page at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page, as it is answered."""

    data: bytes
    media_type: str
    etag: str


@cache
def page_files() -> Mapping[str, File]:
    """Read the files of the page from the package, by name."""
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
        """Give the dashboard's page."""
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
        """Give a file of the dashboard."""
        _answer(file, req, resp)


def add_routes(route: Callable[..., None]) -> None:
    """Put the page where browsers look for one."""
    route("/", Page(), GET=Need.OPEN)
    route("/dashboard/{file}", PageFile(), GET=Need.OPEN)


def _answer(name: str, req: falcon.Request, resp: falcon.Response) -> None:
    file = page_files().get(name)
    if file is None:
        detail = f"the dashboard has no file {name[:80]!r}: open / in a browser"
        raise ProblemError(Problem(ProblemType.ROUTE_NOT_FOUND, detail))
    resp.set_headers(_HEADERS)
    # Weak, since compression changes the bytes and not what they say.
    tag = falcon.ETag(file.etag)
    tag.is_weak = True
    resp.etag = tag.dumps()
    known = req.if_none_match or []
    if any(tag in ("*", file.etag) for tag in known):
        resp.status = falcon.HTTP_304
        return
    resp.content_type = file.media_type
    resp.data = file.data
