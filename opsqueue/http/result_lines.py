"""Results as lines of JSON: what the API streams and the command line writes. No I/O.

Bytes become base64, instants RFC 3339. JSON has no form for NaN and infinities: the API gives null
for them, as `JSON.stringify` does, and the command line refuses them.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from opsqueue.exceptions import EncodingError
from opsqueue.model.chunk import OperationFailed

_ENCODER: Final = msgspec.json.Encoder()


def result_line(result: object, *, tells_apart: bool, has_null_for_nan: bool) -> bytes:
    """Give a result as a line.

    Args:
        result: it, or an OperationFailed in its place.
        tells_apart: the line is an object with `result` or `error`.
        has_null_for_nan: NaN and infinities become null; else they are refused.

    Raises:
        EncodingError: it has no JSON form.
    """
    form = _told_apart(result) if tells_apart else result
    try:
        line = _ENCODER.encode(form) + b"\n"
        lost = not has_null_for_nan and b"null" in line and _not_finite(form)
    # What can't be a key, what nests too deep, lone surrogates: each has an exception of its own.
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
        EncodingError: as `result_line`.
    """
    line = result_line(result, tells_apart=True, has_null_for_nan=has_null_for_nan)
    return b'{"index":%d,' % index + line[1:]


def _not_finite(form: object) -> str:
    """Name the first number that JSON has no form for; "": there is none."""
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
