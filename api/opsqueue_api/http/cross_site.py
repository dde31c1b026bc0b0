"""Other sites' pages can't change anything here through the browser of somebody who may.

A browser sends a POST without a body to wherever a page says, with no question asked before; on
loopback an API without tokens would obey. Browsers say where a request comes from; programs don't,
and are let through.
"""

from __future__ import annotations

from typing import Final

import falcon

from opsqueue.http.bodies import ProblemType
from opsqueue_api.http.problem import Problem, ProblemError

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Another port of this host is the "same-site", and as foreign as any; "none": typed by the user.
_OWN_SITES: Final = frozenset({"same-origin", "none"})


class CrossSite:
    """Falcon middleware; refuses with 403 what changes something and comes from another origin."""

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Look at Sec-Fetch-Site, and at Origin where a browser does not send that."""
        if req.method in _SAFE_METHODS:
            return
        site, origin = req.get_header("Sec-Fetch-Site"), req.get_header("Origin")
        if site is None and origin is None:
            return
        is_own = site in _OWN_SITES if site is not None else _is_host(origin or "", req)
        if not is_own:
            detail = (
                f"a page of another site ({(origin or site or '')[:100]}) sent it; use the "
                "dashboard that this API serves, or a program"
            )
            raise ProblemError(Problem(ProblemType.FORBIDDEN, detail))


def _is_host(origin: str, req: falcon.Request) -> bool:
    # Not the scheme: a proxy may end TLS.
    return origin.partition("://")[2].lower() == (req.get_header("Host") or "").lower()
