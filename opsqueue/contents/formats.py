"""Codecs made of serialization formats, which are objects with `dumps` and `loads`."""

from __future__ import annotations

import pickle
from typing import Any

import cbor2

from opsqueue.common import SerializationFormat, decode_chunk, json_as_bytes
from opsqueue.contents.codec import Codec, CustomCodec, open_codec
from opsqueue.exceptions import InvalidArgumentError


def codec_of_format(serialization_format: SerializationFormat) -> Codec:
    """Return the codec of a format: a built-in one if possible, so that everybody can read it.

    pickle is allowed here, since a caller that passes the module wants it.

    Raises:
        InvalidArgumentError: the format has no dumps and loads.
    """
    given: Any = serialization_format
    if isinstance(given, Codec):
        return given
    if given is cbor2:
        return open_codec("cbor")
    if given is json_as_bytes:
        return open_codec("json")
    if given is pickle:
        return open_codec("pickle", allow_pickle=True)
    name = getattr(given, "__name__", None) or type(given).__qualname__
    dumps, loads = getattr(given, "dumps", None), getattr(given, "loads", None)
    if not callable(dumps) or not callable(loads):
        message = f"serialization format {name!r} has no dumps and loads: give a module like cbor2"
        raise InvalidArgumentError(message)

    def dump(operations: list[object]) -> bytes:
        data = dumps(operations)
        return data.encode() if isinstance(data, str) else data

    return CustomCodec(
        f"custom:{name}"[:100], dump, lambda data: list(decode_chunk(data, serialization_format))
    )
