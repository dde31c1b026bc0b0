"""Parsing of query parameters and of ids in paths, and writing of bodies."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Final
from urllib.parse import unquote_to_bytes

import falcon
import msgspec

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.http.bodies import ProblemType
from opsqueue.http.json_form import encode
from opsqueue.model.new_submission import MAX_STRATEGIC_PAIRS
from opsqueue.model.submission import SubmissionId
from opsqueue_api.http.problem import Problem, ProblemError, invalid

ID: Final = re.compile(r"[0-9]{1,19}")
"""Characters of a submission's id; `checked_id` also checks its range."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_PAIR: Final = re.compile(r"(.+):(-?[0-9]{1,19})", re.DOTALL)


def choice(req: falcon.Request, name: str, choices: list[str]) -> str:
    """Return a query parameter that is one of `choices`; the first choice is the default."""
    value = req.get_param(name, default=choices[0])
    if value not in choices:
        message = f"{name}={value[:40]!r}: use one of {', '.join(choices)}"
        raise invalid(message)
    return value


def number(req: falcon.Request, name: str, *, default: float, least: float, most: float) -> float:
    """Return a query parameter that is a number within bounds."""
    text = req.get_param(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    # Written so that NaN is refused too.
    if not least <= value <= most:
        message = f"{name}={(text or '')[:40]!r}: use a number from {least:g} to {most:g}"
        raise invalid(message)
    return value


def integer(req: falcon.Request, name: str, *, default: int, least: int, most: int) -> int:
    """Return a query parameter that is an integer within bounds."""
    value = optional_integer(req, name, least=least, most=most)
    return default if value is None else value


def optional_integer(req: falcon.Request, name: str, *, least: int, most: int) -> int | None:
    """Return a query parameter that is an integer within bounds; None if it is missing."""
    text = req.get_param(name)
    if text is None:
        return None
    value = int(text) if _INTEGER.fullmatch(text) else least - 1
    if not least <= value <= most:
        message = f"{name}={text[:40]!r}: use an integer from {least:,} to {most:,}"
        raise invalid(message)
    return value


def pairs_of(req: falcon.Request) -> dict[str, int]:
    """Return the pairs of strategic metadata in the parameters `meta=KEY:VALUE`.

    The last colon separates them: the value is an integer, and the key can be any text.
    """
    pairs: dict[str, int] = {}
    given = req.get_param_as_list("meta") or []
    if given and not _is_utf8(req.query_string):
        message = "the query is not percent-encoded UTF-8: encode keys, such as meta=gr%C3%B6sse:7"
        raise invalid(message)
    if len(given) > MAX_STRATEGIC_PAIRS:
        message = f"{len(given)} times meta: a submission has at most {MAX_STRATEGIC_PAIRS} pairs"
        raise invalid(message)
    for text in given:
        found = _PAIR.fullmatch(text)
        if not found:
            message = f"meta={text[:80]!r}: use KEY:INTEGER, such as meta=customer:7"
            raise invalid(message)
        key, value = found[1], int(found[2])
        if pairs.setdefault(key, value) != value:
            message = f"meta has two values for {key[:80]!r}: a submission has one for each key"
            raise invalid(message)
    return pairs


def _is_utf8(query: str) -> bool:
    """Return whether a query is percent-encoded UTF-8: falcon replaces what is not."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        return False
    return query.isascii()


def instant(req: falcon.Request, name: str) -> datetime | None:
    """Return a query parameter that is an instant in RFC 3339's form."""
    text = req.get_param(name)
    if text is None:
        return None
    try:
        # An unescaped plus sign has been decoded to a space.
        at = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        message = f"{name}={text[:40]!r}: use an instant such as 2026-01-31T12:00:00Z"
        raise invalid(message)
    return at


def checked_id(text: str) -> SubmissionId:
    """Parse a submission's id from a path.

    Raises:
        ProblemError: 404 if it can't be an id.
    """
    try:
        if ID.fullmatch(text):
            return SubmissionId(text)
    except InvalidArgumentError:
        pass  # out of range
    detail = f"{text[:40]!r} is not a submission's id: an id has 19 digits, see the insert's answer"
    raise ProblemError(Problem(ProblemType.SUBMISSION_NOT_FOUND, detail))


def write(resp: falcon.Response, body: msgspec.Struct) -> None:
    """Write a JSON body into the answer."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = encode(body)
