"""Results as lines of JSON, which the API streams and the command line writes. No I/O.

Bytes become base64, instants RFC 3339. JSON has no form for NaN and infinities: the API replaces
them by null, as `JSON.stringify` does, and the command line refuses them.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from opsqueue.exceptions import EncodingError
from opsqueue.model.chunk import OperationFailed

_ENCODER: Final = msgspec.json.Encoder()


def result_line(result: object, *, tells_apart: bool, has_null_for_nan: bool) -> bytes:
    """Return a result as a line.

    Args:
        result: the result, or an OperationFailed in its place.
        tells_apart: make the line an object with `result` or `error`.
        has_null_for_nan: replace NaN and infinities by null; otherwise they are refused.

    Raises:
        EncodingError: it has no JSON form.
    """
    form = _told_apart(result) if tells_apart else result
    try:
        line = _ENCODER.encode(form) + b"\n"
        lost = not has_null_for_nan and b"null" in line and _not_finite(form)
    # Invalid keys, values nested too deep and lone surrogates raise different exceptions.
    except Exception as exc:
        kind = type(result).__qualname__
        message = f"one of them, a {kind}, has no JSON form ({type(exc).__name__}: {exc})"
        raise EncodingError(message) from exc
    if lost:
        message = f"one of them has {lost}, for which JSON has no form: give None in its place"
        raise EncodingError(message)
    return line


def indexed_line(index: int, result: object, *, has_null_for_nan: bool) -> bytes:
    """Return a result as a line that is an object with `index`, and `result` or `error`.

    Raises:
        EncodingError: see `result_line`.
    """
    line = result_line(result, tells_apart=True, has_null_for_nan=has_null_for_nan)
    return b'{"index":%d,' % index + line[1:]


def _not_finite(form: object) -> str:
    """Return the name of the first number that JSON has no form for; "" if there is none."""
    left = [msgspec.to_builtins(form)]
    while left:
        match left.pop():
            case float() as number if not math.isfinite(number):
                return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(number, "NaN")
            case dict() as fields:
                left.extend(fields.values())
            case list() | tuple() | set() | frozenset() as values:
                left.extend(values)
    return ""


def _told_apart(result: object) -> object:
    if isinstance(result, OperationFailed):
        return {"error": result}
    return {"result": result}
