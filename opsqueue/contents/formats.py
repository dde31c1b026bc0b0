"""Serialisation formats, objects with `dumps` and `loads`, as codecs with a name."""

from __future__ import annotations

import pickle
from typing import Any

import cbor2

from opsqueue.common import SerializationFormat, decode_chunk, json_as_bytes
from opsqueue.contents.codec import Codec, CustomCodec, open_codec
from opsqueue.exceptions import InvalidArgumentError


def codec_of_format(serialization_format: SerializationFormat) -> Codec:
    """Give the codec of a format: a known one where there is one, so that anybody can read it.

    pickle is allowed here: whoever passes the module has asked for it.

    Raises:
        InvalidArgumentError: it has no dumps and loads.
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
