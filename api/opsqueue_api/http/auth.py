"""Authorization over HTTP: the table of routes names the scopes, and middleware checks them.

It denies by default: a route or method that is not in the table needs admin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

import falcon

from opsqueue.http.bodies import ProblemType
from opsqueue_api.http.problem import Problem, ProblemError
from opsqueue_api.http.request_ids import TOKEN_KEY
from opsqueue_api.http.tokens import Scope, Token, find_token


class Need(Enum):
    """The need of a route's method: the token must have one of these scopes for the queue."""

    OPEN = None
    """Not even a token is needed: for load balancers."""
    ANY = frozenset(Scope)
    PRODUCE = frozenset({Scope.PRODUCE})
    CONSUME = frozenset({Scope.CONSUME})
    METRICS = frozenset({Scope.METRICS})
    SCALE = frozenset({Scope.CONSUME, Scope.METRICS})
    ADMIN = frozenset({Scope.ADMIN})


class Authentication:
    """Falcon middleware that checks tokens; without tokens, everybody may do everything.

    A route's queue is its parameter `queue`. A route without this parameter concerns all queues and
    needs a grant for all of them.

    Args:
        tokens: the accepted tokens.
        needs: by the route's template, then by method.
    """

    def __init__(self, tokens: Sequence[Token], needs: Mapping[str, Mapping[str, Need]]) -> None:
        """Store both."""
        self._tokens = tokens
        self._needs = needs

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, _resource: object, params: dict[str, Any]
    ) -> None:
        """Refuse unknown clients with 401, and actions that are not granted with 403."""
        if not self._tokens:
            return
        needs = self._needs.get(req.uri_template or "", {})
        need = needs.get(req.method, Need.ADMIN)
        if need is Need.OPEN:
            return
        token = self._token_of(req)
        req.env[TOKEN_KEY] = token.name
        queue = params.get("queue")
        if need.value.isdisjoint(token.scopes_for(queue)):
            raise _forbidden(token, need, queue)

    def _token_of(self, req: falcon.Request) -> Token:
        scheme, _, secret = (req.get_header("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            detail = "a token is required: send it with the header authorization: Bearer SECRET"
            raise _unauthenticated(detail, _CHALLENGE)
        token = find_token(self._tokens, secret.strip())
        if token is None:
            detail = (
                "the API has no such token: it may be mistyped, replaced, or meant for another API"
            )
            raise _unauthenticated(detail, f'{_CHALLENGE}, error="invalid_token"')
        return token


_CHALLENGE: Final = 'Bearer realm="opsqueue"'


def _unauthenticated(detail: str, challenge: str) -> ProblemError:
    headers = {"WWW-Authenticate": challenge}
    return ProblemError(Problem(ProblemType.UNAUTHENTICATED, detail, headers=headers))


def _forbidden(token: Token, need: Need, queue: str | None) -> ProblemError:
    scopes = [scope.value for scope in Scope if scope in (need.value or ())]
    place = "all queues" if queue is None else f"queue {queue[:100]!r}"
    detail = (
        f"token {token.name!r} lacks the scope {' or '.join(scopes)} for {place}: use a token that "
        "has it, or have it added to OPSQUEUE_API_TOKENS of the API"
    )
    challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{" ".join(scopes)}"'
    fields = {"scopes": scopes, "queue": queue}
    headers = {"WWW-Authenticate": challenge}
    return ProblemError(Problem(ProblemType.FORBIDDEN, detail, fields, headers))
