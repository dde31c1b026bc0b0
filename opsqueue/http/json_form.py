"""The JSON form of values: its rules, in one place. No I/O.

A value is an object with the fields that its class declares, in their order. A field that is added
to a class is thus in answers, in what clients read of them, and in the OpenAPI document. Ids are
strings of 19 digits, since JavaScript's numbers end at 2**53; instants are RFC 3339 in UTC with a
Z; bytes are base64. Readers of answers ignore fields that they do not know, so that a newer API can
serve an older client. A request with an unknown field is refused, and the error names the field.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from opsqueue.model.process import PerProcess
from opsqueue.model.submission import SubmissionId

Value = TypeVar("Value")

_ONE_AT_A_TIME: Final = PerProcess(threading.Lock)
_DECODERS: Final[dict[Any, Any]] = {}


def _written(value: object) -> str:
    if isinstance(value, SubmissionId):
        return str(value)
    raise _no_form(type(value))


def _read(kind: type, form: Any) -> SubmissionId:  # noqa: ANN401 JSON
    if kind is SubmissionId:
        return SubmissionId(form)
    raise _no_form(kind)


def _schema(kind: type) -> dict[str, Any]:
    if kind is SubmissionId:
        return {"type": "string"}
    raise _no_form(kind)


def _no_form(kind: type) -> NotImplementedError:
    """Return the error by which a hook of msgspec refuses a type; msgspec adds the value's path."""
    return NotImplementedError(f"{kind.__qualname__} has no JSON form")


encode: Final = msgspec.json.Encoder(enc_hook=_written).encode


def decoder_of(kind: type[Value]) -> msgspec.json.Decoder[Value]:
    """Return a type's decoder, which is created in one thread at a time.

    msgspec caches its information about a Struct before that information is complete. Two threads
    that decode a Struct for the first time at the same moment would crash the interpreter.
    """
    with _ONE_AT_A_TIME.get():
        if kind not in _DECODERS:
            _DECODERS[kind] = msgspec.json.Decoder(kind, dec_hook=_read)
        decoder: msgspec.json.Decoder[Value] = _DECODERS[kind]
        return decoder


def schemas_of(kinds: Iterable[type], ref_template: str) -> dict[str, Any]:
    """Return the JSON schemas of types, and of all types that they contain, by name."""
    _, schemas = msgspec.json.schema_components(
        kinds, schema_hook=_schema, ref_template=ref_template
    )
    return schemas
