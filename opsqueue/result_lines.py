"""Results as lines of JSON: what the API streams and the command line writes. No I/O.

Bytes become base64, instants RFC 3339; NaN and infinities, for which JSON has no form, null.
"""

from __future__ import annotations

from typing import Final

import msgspec

from opsqueue.exceptions import EncodingError
from opsqueue.output import OperationFailed
from opsqueue.progress_wire import OperationFailedBody

_ENCODER: Final = msgspec.json.Encoder()


def result_line(result: object, *, tells_apart: bool) -> bytes:
    """Give a result as a line.

    Args:
        result: it, or an OperationFailed in its place.
        tells_apart: the line is an object with `result` or `error`.

    Raises:
        EncodingError: it has no JSON form.
    """
    form = _told_apart(result) if tells_apart else result
    try:
        return _ENCODER.encode(form) + b"\n"
    # What can't be a key, what nests too deep, lone surrogates: each has an exception of its own.
    except Exception as exc:
        kind = type(result).__qualname__
        message = f"one of them, a {kind}, has no JSON form ({type(exc).__name__}: {exc})"
        raise EncodingError(message) from exc


def _told_apart(result: object) -> object:
    if isinstance(result, OperationFailed):
        return {"error": OperationFailedBody.of(result)}
    return {"result": result}
