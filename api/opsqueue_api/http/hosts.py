"""The allowed host names of an API without tokens: protection against DNS rebinding.

The owner of a name can point it at 127.0.0.1 after a browser has loaded a page from it. The browser
then takes the API for the page's own origin, so the page could read and change everything. The name
is still in each request's Host header, which no page can change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import falcon

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.http.bodies import ProblemType
from opsqueue_api.http.problem import Problem, ProblemError

_LABELS: Final = r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*"
_NAME: Final = re.compile(_LABELS)
_PATTERN: Final = re.compile(rf"(\*?\.)?{_LABELS}")
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::([0-9]{0,5}))?")
_ABSOLUTE: Final = re.compile(r"[^/?#]*://([^/?#]*)")
_MAX_PORT: Final = 65_535
# Browsers resolve all names below localhost to this machine, without a name server.
_LOCAL: Final = ("localhost", "*.localhost")
ALWAYS_ANSWERED: Final = frozenset({"/healthz", "/readyz"})
"""Paths for load balancers and the like, which use names of their own."""


class AllowedHosts:
    """Names that are accepted besides `localhost` and IP addresses, which can't be rebound.

    Args:
        names: `api`, `*.example.com` (all names below it), `.example.com` (it and all names below
            it), or `*` (all names).

    Raises:
        InvalidArgumentError: a name has none of these forms.
    """

    def __init__(self, names: Iterable[str]) -> None:
        patterns = [_checked(name) for name in (*_LOCAL, *names)]
        self._has_all = "*" in patterns
        self._exact = {p.removeprefix(".") for p in patterns if not p.startswith("*")}
        self._endings = tuple(p.removeprefix("*") for p in patterns if p.startswith(("*.", ".")))

    def allow(self, host: str | None) -> bool:
        """Return whether a request with this Host header is answered.

        Args:
            host: the header as it was sent, with its port; None if there is none.
        """
        if self._has_all:
            return True
        name = _name_of(host or "")
        return name is not None and (
            not isinstance(name, str) or name in self._exact or name.endswith(self._endings)
        )


def is_name(host: str) -> bool:
    """Return whether it is an acceptable name, not an address."""
    return bool(_NAME.fullmatch(host.lower().removesuffix("."))) and _ipv4(host) is None


def _checked(name: str) -> str:
    lowered = name.lower()
    if lowered == "*" or _ipv4(lowered) or _ipv6(lowered.removeprefix("[").removesuffix("]")):
        return lowered
    lowered = lowered.removesuffix(".")
    if _PATTERN.fullmatch(lowered):
        return lowered
    message = (
        f"allowed host {name[:100]!r} is not valid: use a name without scheme and port, such as "
        "api, *.example.com (all names below it), .example.com (it and all names below it) or * "
        "(all names); write names that are not ASCII as browsers send them (xn--…)"
    )
    raise InvalidArgumentError(message)


def _name_of(host: str) -> str | IPv4Address | IPv6Address | None:
    """Return the name or address in a Host header; None if it is malformed."""
    parts = _HOST.fullmatch(host.lower())
    if parts is None or int(parts[3] or 0) > _MAX_PORT:
        return None
    if parts[1] is not None:
        return _ipv6(parts[1])
    # A trailing dot stands for the root: it is the same name.
    name = parts[2].removesuffix(".")
    # Only four decimal numbers are an address: browsers send no other form, such as 0x7f.1.
    return _ipv4(name) or (name if _NAME.fullmatch(name) else None)


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _ipv6(text: str) -> IPv6Address | None:
    try:
        return IPv6Address(text)
    except AddressValueError:
        return None


class KnownHosts:
    """Falcon middleware that refuses requests to names that are not allowed with 421.

    It refuses reads, too, even of the dashboard, since a rebound name allows reading.
    X-Forwarded-Host is ignored, since a page can set it.

    Args:
        names: see AllowedHosts.

    Raises:
        InvalidArgumentError: see AllowedHosts.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._allowed = AllowedHosts(names)

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Check the Host header, and the host of a request target that is a whole URL."""
        if req.path in ALWAYS_ANSWERED:
            return
        hosts = [req.get_header("Host")]
        # By RFC 9112 such a target takes precedence over Host. Servers pass it under these names.
        target = req.env.get("RAW_URI") or req.env.get("REQUEST_URI") or ""
        if absolute := _ABSOLUTE.match(target):
            hosts.append(absolute[1])
        for host in hosts:
            if not self._allowed.allow(host):
                raise _misdirected(host)


def _misdirected(host: str | None) -> ProblemError:
    sent_to = f"{host[:100]!r} is not one of them" if host else "the request names no host"
    detail = (
        "an API without tokens answers only to localhost, IP addresses and allowed names, since "
        f"any web page can point its own name at this machine: {sent_to}. If it is a name of "
        "this API, start the API with --allowed-hosts (OPSQUEUE_API_ALLOWED_HOSTS), or with tokens"
    )
    return ProblemError(Problem(ProblemType.MISDIRECTED, detail))
