"""Parsing of tokens, and errors that do not show a secret."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue_api.http.tokens import Scope, Token, find_token, parse_tokens

SECRET = "s3cret-s3cret-s3cret"  # noqa: S105 nobody's
OTHER = "other-other-other"


def test_a_token_has_a_name_and_scopes() -> None:
    """For all queues unless it says which."""
    (token,) = parse_tokens(f"web:{SECRET}:produce,consume")

    assert token.name == "web"
    assert token.scopes_for("any") == token.scopes_for(None) == {Scope.PRODUCE, Scope.CONSUME}


def test_scopes_can_be_for_some_queues() -> None:
    """Each grant for its own; none of them concerns all queues."""
    (token,) = parse_tokens(f"web:{SECRET}:produce@emails,images:consume@words")

    assert [token.scopes_for(queue) for queue in ("emails", "images", "words", "x", None)] == [
        {Scope.PRODUCE},
        {Scope.PRODUCE},
        {Scope.CONSUME},
        set(),
        set(),
    ]


def test_admin_implies_the_others() -> None:
    """For the same queues."""
    (token,) = parse_tokens(f"ops:{SECRET}:admin@emails")

    assert token.scopes_for("emails") == set(Scope)
    assert token.scopes_for("words") == set()


def test_tokens_are_separated_by_semicolons_and_line_ends() -> None:
    """Comments, empty lines and a last semicolon are nothing."""
    text = f"# ours\n a:{SECRET}:produce; b:{OTHER}:consume;\n\n  # c:x:y\nd:{'d' * 16}:admin\n"

    assert [token.name for token in parse_tokens(text)] == ["a", "b", "d"]


def test_a_digest_can_stand_for_a_secret() -> None:
    """The bearer sends the secret all the same, and the digest is not one."""
    digest = hashlib.sha256(SECRET.encode()).hexdigest()

    tokens = parse_tokens(f"web:sha256={digest.upper()}:produce")

    assert tokens == parse_tokens(f"web:{SECRET}:produce")
    assert find_token(tokens, SECRET) is tokens[0]
    assert find_token(tokens, f"sha256={digest}") is None


def test_any_text_can_be_sent_as_a_secret() -> None:
    """Headers are bytes of any kind: hmac alone would refuse these."""
    assert find_token(parse_tokens(f"web:{SECRET}:produce"), "s\xe9cret") is None


def test_no_secret_is_kept() -> None:
    """Neither in a settings' repr nor in a traceback's locals."""
    assert SECRET not in repr(parse_tokens(f"web:{SECRET}:produce"))
    assert hashlib.sha256(SECRET.encode()).hexdigest()[:8] not in repr(
        parse_tokens(f"web:{SECRET}:produce")
    )


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those behind the right one, by digests of one length."""
    tokens = parse_tokens(f"a:{SECRET}:produce;b:{OTHER}:produce;c:{'c' * 99}:produce")
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    found: Token | None = find_token(tokens, SECRET)

    assert found is tokens[0]
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (" ; \n# none", "it has no token"),
        (SECRET, "token 1 does not have the form NAME:SECRET:SCOPE"),
        (f"web:{SECRET}", "token 1 does not have the form"),
        (f"a:{OTHER}:admin;{SECRET}:", "token 2 does not have the form"),
        (f"web site:{SECRET}:admin", "a name has letters"),
        ("web:short:admin", "the secret of token 'web'.*at least 16.*openssl rand"),
        (f"web:{SECRET} x:admin", "the secret of token 'web'"),
        (f"web:sha256={'a' * 63}:admin", "the secret of token 'web'"),
        (f"web:{SECRET}:produse", "the scopes of token 'web'.*produce, consume, metrics, admin"),
        (f"web:{SECRET}:produce@", "the scopes of token 'web'"),
        (f"web:{SECRET}:produce@a b", "the scopes of token 'web'"),
        (f"web:{SECRET}:produce:", "the scopes of token 'web'"),
        (f"web:{OTHER}:{SECRET}:produce", "the scopes of token 'web'"),
        (f"web:{SECRET}:produce;web:{OTHER}:admin", "token 'web' has the name of another"),
        (f"web:{SECRET}:produce;b:{SECRET}:admin", "token 'b' has the secret of another"),
    ],
)
def test_what_is_wrong_is_named_without_its_secret(text: str, says: str) -> None:
    """By place and name: which part of a wrong text is the secret is not known."""
    with pytest.raises(InvalidArgumentError, match=says) as error:
        parse_tokens(text)

    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
