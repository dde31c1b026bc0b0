"""Query parameters and the ids in paths, checked; and how a body is written."""

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
"""What may stand for a submission; `checked_id` says whether it can be one."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_PAIR: Final = re.compile(r"(.+):(-?[0-9]{1,19})", re.DOTALL)


def choice(req: falcon.Request, name: str, choices: list[str]) -> str:
    """Read a query parameter; the first choice is the default."""
    value = req.get_param(name, default=choices[0])
    if value not in choices:
        message = f"{name}={value[:40]!r}: give one of {', '.join(choices)}"
        raise invalid(message)
    return value


def number(req: falcon.Request, name: str, *, default: float, least: float, most: float) -> float:
    """Read a number within bounds."""
    text = req.get_param(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    # Written so that NaN is refused too.
    if not least <= value <= most:
        message = f"{name}={(text or '')[:40]!r}: give a number from {least:g} to {most:g}"
        raise invalid(message)
    return value


def integer(req: falcon.Request, name: str, *, default: int, least: int, most: int) -> int:
    """Read an integer within bounds."""
    value = optional_integer(req, name, least=least, most=most)
    return default if value is None else value


def optional_integer(req: falcon.Request, name: str, *, least: int, most: int) -> int | None:
    """Read an integer within bounds; None where the parameter is not given."""
    text = req.get_param(name)
    if text is None:
        return None
    value = int(text) if _INTEGER.fullmatch(text) else least - 1
    if not least <= value <= most:
        message = f"{name}={text[:40]!r}: give an integer from {least:,} to {most:,}"
        raise invalid(message)
    return value


def pairs_of(req: falcon.Request) -> dict[str, int]:
    """Read `meta=KEY:VALUE`, any number of them: pairs of strategic metadata.

    The last colon divides: the value is an integer, and the key any text.
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
            message = f"meta={text[:80]!r}: give KEY:INTEGER, such as meta=customer:7"
            raise invalid(message)
        key, value = found[1], int(found[2])
        if pairs.setdefault(key, value) != value:
            message = f"meta has two values for {key[:80]!r}: a submission has one for each key"
            raise invalid(message)
    return pairs


def _is_utf8(query: str) -> bool:
    """Tell whether falcon has read each character of a query as it was meant."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        return False
    return query.isascii()


def instant(req: falcon.Request, name: str) -> datetime | None:
    """Read an instant as RFC 3339 has it."""
    text = req.get_param(name)
    if text is None:
        return None
    try:
        # A plus sign that nobody escaped is a space by now.
        at = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        message = f"{name}={text[:40]!r}: give an instant such as 2026-01-31T12:00:00Z"
        raise invalid(message)
    return at


def checked_id(text: str) -> SubmissionId:
    """Read an id out of a path; what can't be one is not found."""
    try:
        if ID.fullmatch(text):
            return SubmissionId(text)
    except InvalidArgumentError:
        pass  # more than an id can be
    detail = f"{text[:40]!r} is no submission's id: an id is 19 digits, as the insert gave it"
    raise ProblemError(Problem(ProblemType.SUBMISSION_NOT_FOUND, detail))


def write(resp: falcon.Response, body: msgspec.Struct) -> None:
    """Answer with a body."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = encode(body)
