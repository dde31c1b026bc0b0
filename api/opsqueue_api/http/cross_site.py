"""Protection against cross-site requests from a user's browser.

A browser sends a POST without a body to any address that a page names, without asking first. An
API without tokens on loopback would obey. Browsers send the origin of a request in headers.
Programs don't send these headers and are accepted.
"""

from __future__ import annotations

from typing import Final

import falcon

from opsqueue.http.bodies import ProblemType
from opsqueue_api.http.problem import Problem, ProblemError

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# "same-site" covers other ports of this host, which are not trusted. "none" means that the user
# typed the address.
_OWN_SITES: Final = frozenset({"same-origin", "none"})


class CrossSite:
    """Falcon middleware that refuses changing requests from other origins with 403."""

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Check Sec-Fetch-Site, or Origin if the browser does not send it."""
        if req.method in _SAFE_METHODS:
            return
        site, origin = req.get_header("Sec-Fetch-Site"), req.get_header("Origin")
        if site is None and origin is None:
            return
        is_own = site in _OWN_SITES if site is not None else _is_host(origin or "", req)
        if not is_own:
            detail = (
                f"a page of another site ({(origin or site or '')[:100]}) sent this request: use "
                "the dashboard that this API serves, or a program"
            )
            raise ProblemError(Problem(ProblemType.FORBIDDEN, detail))


def _is_host(origin: str, req: falcon.Request) -> bool:
    # The scheme is not compared, since a proxy may terminate TLS.
    return origin.partition("://")[2].lower() == (req.get_header("Host") or "").lower()
