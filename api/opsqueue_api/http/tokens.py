"""Bearer tokens and their grants, parsed from `NAME:SECRET:GRANT[:GRANT…]`.

Only digests of the secrets are kept, so that no setting, traceback or log line can show one. Errors
name a token by its place and name, since the text itself may be a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.names import check_queue_name

MIN_SECRET_CHARACTERS: Final = 16
FORM: Final = "NAME:SECRET:SCOPE[,SCOPE…][@QUEUE[,QUEUE…]]"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# The characters of a bearer token in RFC 6750, which can't be mistaken for a digest.
_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_DIGEST: Final = re.compile(r"sha256=([0-9a-fA-F]{64})")


class Scope(StrEnum):
    """The scopes of a token. `admin` implies the others."""

    PRODUCE = "produce"
    CONSUME = "consume"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Grant:
    """Scopes for some queues, or for all of them if `queues` is None."""

    scopes: frozenset[Scope]
    queues: frozenset[str] | None = None

    def covers(self, queue: str | None) -> bool:
        """Return whether the grant is for the queue; None stands for all queues together."""
        return self.queues is None or queue in self.queues


@dataclass(frozen=True, slots=True)
class Token:
    """A secret's digest and the grants of its bearer; logs show the name."""

    name: str
    digest: bytes = field(repr=False)
    grants: tuple[Grant, ...]

    def scopes_for(self, queue: str | None) -> frozenset[Scope]:
        """Return the scopes for the queue; None stands for all queues together."""
        found = [grant.scopes for grant in self.grants if grant.covers(queue)]
        scopes: frozenset[Scope] = frozenset().union(*found)
        return frozenset(Scope) if Scope.ADMIN in scopes else scopes


def find_token(tokens: Sequence[Token], secret: str) -> Token | None:
    """Return the token of a secret, in a time that does not depend on how similar secrets are."""
    digest = hashlib.sha256(secret.encode()).digest()
    found = None
    # The loop always visits all tokens, so that the time tells nothing.
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def parse_tokens(text: str) -> tuple[Token, ...]:
    """Parse tokens separated by semicolons or line ends; a line that begins with # is a comment.

    Raises:
        InvalidArgumentError: a token is malformed; the message names it, never its secret.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = [entry.strip() for line in lines for entry in line.split(";")]
    tokens = [_parse(entry, number) for number, entry in enumerate(filter(None, entries), 1)]
    if not tokens:
        message = f"it has no token: use {FORM}, several of them separated by ; or line ends"
        raise InvalidArgumentError(message)
    for what, values in (
        ("name", [token.name for token in tokens]),
        ("secret", [token.digest for token in tokens]),
    ):
        twice = next((tokens[i].name for i, one in enumerate(values) if one in values[:i]), None)
        if twice is not None:
            message = f"token {twice!r} has the {what} of another token: each needs its own"
            raise InvalidArgumentError(message)
    return tuple(tokens)


def _parse(entry: str, number: int) -> Token:
    name, *rest = entry.split(":")
    if len(rest) < 2 or not _NAME.fullmatch(name):
        message = (
            f"token {number} does not have the form {FORM}; a name has letters, digits and _.-, "
            "and a secret has no colon"
        )
        raise InvalidArgumentError(message)
    return Token(name, _digest_of(rest[0], name), tuple(_grant_of(one, name) for one in rest[1:]))


def _digest_of(secret: str, name: str) -> bytes:
    if stored := _DIGEST.fullmatch(secret):
        return bytes.fromhex(stored[1])
    if len(secret) < MIN_SECRET_CHARACTERS or not _SECRET.fullmatch(secret):
        message = (
            f"the secret of token {name!r} is not valid: use at least {MIN_SECRET_CHARACTERS} "
            "letters, digits or -._~+/ (`openssl rand -hex 24` makes such a secret), or "
            "sha256=HEX, the digest of one (`printf %s SECRET | sha256sum`)"
        )
        raise InvalidArgumentError(message)
    return hashlib.sha256(secret.encode()).digest()


def _grant_of(text: str, name: str) -> Grant:
    scopes, has_queues, queues = text.partition("@")
    try:
        return Grant(
            frozenset(Scope(scope.strip()) for scope in scopes.split(",")),
            frozenset(check_queue_name(queue.strip()) for queue in queues.split(","))
            if has_queues
            else None,
        )
    except (ValueError, InvalidArgumentError):
        message = (
            f"the scopes of token {name!r} can't be parsed: use {', '.join(Scope)}, for "
            "some queues as in produce,consume@emails,images; add further grants after a colon"
        )
        # Without the text and its cause: if the secret has a colon, the text is part of the secret.
        raise InvalidArgumentError(message) from None
