"""Bearer tokens: who may do what, read from `NAME:SECRET:GRANT[:GRANT…]`.

Only digests of the secrets are kept, so that no setting, traceback or log line can show one. What
can't be read is named by its place and name: the text itself may be somebody's secret.
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
    """What a token is for. `admin` implies the others."""

    PRODUCE = "produce"
    CONSUME = "consume"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Grant:
    """Scopes, for some queues or (None) for all of them."""

    scopes: frozenset[Scope]
    queues: frozenset[str] | None = None

    def covers(self, queue: str | None) -> bool:
        """Tell whether it is for the queue; None stands for what concerns all queues."""
        return self.queues is None or queue in self.queues


@dataclass(frozen=True, slots=True)
class Token:
    """A secret's digest and what its bearer may do; the name is what logs show."""

    name: str
    digest: bytes = field(repr=False)
    grants: tuple[Grant, ...]

    def scopes_for(self, queue: str | None) -> frozenset[Scope]:
        """Give what it may do with the queue; None stands for what concerns all queues."""
        found = [grant.scopes for grant in self.grants if grant.covers(queue)]
        scopes: frozenset[Scope] = frozenset().union(*found)
        return frozenset(Scope) if Scope.ADMIN in scopes else scopes


def find_token(tokens: Sequence[Token], secret: str) -> Token | None:
    """Find the token of a secret, in a time that does not depend on how near the secret comes."""
    digest = hashlib.sha256(secret.encode()).digest()
    found = None
    # Through all of them, found or not.
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def parse_tokens(text: str) -> tuple[Token, ...]:
    """Read tokens separated by semicolons or line ends; a line that begins with # is a comment.

    Raises:
        InvalidArgumentError: says which one, never with its secret.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = [entry.strip() for line in lines for entry in line.split(";")]
    tokens = [_parse(entry, number) for number, entry in enumerate(filter(None, entries), 1)]
    if not tokens:
        message = f"no token in it: give {FORM}, several of them separated by ; or line ends"
        raise InvalidArgumentError(message)
    for what, values in (
        ("name", [token.name for token in tokens]),
        ("secret", [token.digest for token in tokens]),
    ):
        twice = next((tokens[i].name for i, one in enumerate(values) if one in values[:i]), None)
        if twice is not None:
            message = f"token {twice!r} has the {what} of another one: give each its own"
            raise InvalidArgumentError(message)
    return tuple(tokens)


def _parse(entry: str, number: int) -> Token:
    name, *rest = entry.split(":")
    if len(rest) < 2 or not _NAME.fullmatch(name):
        message = (
            f"token {number} is not of the form {FORM}; a name has letters, digits and _.-, "
            "a secret no colon"
        )
        raise InvalidArgumentError(message)
    return Token(name, _digest_of(rest[0], name), tuple(_grant_of(one, name) for one in rest[1:]))


def _digest_of(secret: str, name: str) -> bytes:
    if stored := _DIGEST.fullmatch(secret):
        return bytes.fromhex(stored[1])
    if len(secret) < MIN_SECRET_CHARACTERS or not _SECRET.fullmatch(secret):
        message = (
            f"the secret of token {name!r} can't be one: give at least {MIN_SECRET_CHARACTERS} "
            "letters, digits or -._~+/ (`openssl rand -hex 24` makes one), or sha256=HEX, the "
            "digest of one (`printf %s SECRET | sha256sum`)"
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
            f"what token {name!r} is for can't be read: give {', '.join(Scope)}, for some queues "
            "as in produce,consume@emails,images; further ones after a colon"
        )
        # Not the text, nor where it came from: with a colon in the secret it is a part of that.
        raise InvalidArgumentError(message) from None
