"""Serialization of chunks, for producers and consumers that handle raw chunks.

The names are those of the reference's Python client. Programs that submit operations instead of
bytes don't need them, since the submission records its codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import cbor2
import msgspec

from opsqueue.exceptions import EncodingError

__all__ = [
    "DEFAULT_SERIALIZATION_FORMAT",
    "SerializationFormat",
    "decode_chunk",
    "encode_chunk",
    "json_as_bytes",
]


class SerializationFormat(Protocol):
    """An object with `dumps` (to bytes) and `loads`: cbor2, pickle, `json_as_bytes`."""

    def dumps(self, obj: Any, /) -> bytes:  # noqa: ANN401 a format carries what it can
        """Encode a value as bytes."""

    def loads(self, data: bytes, /) -> Any:  # noqa: ANN401 as above
        """Decode a value."""


class _JsonAsBytes:
    """JSON as bytes; the standard module json returns text."""

    def dumps(self, obj: Any, /) -> bytes:  # noqa: ANN401 as above
        """Encode a value as UTF-8 without spaces."""
        return msgspec.json.encode(obj)

    def loads(self, data: bytes, /) -> Any:  # noqa: ANN401 as above
        """Decode a value from UTF-8."""
        return msgspec.json.decode(data)

    def __repr__(self) -> str:
        return "opsqueue.common.json_as_bytes"


json_as_bytes: Final[SerializationFormat] = _JsonAsBytes()
DEFAULT_SERIALIZATION_FORMAT: Final[SerializationFormat] = cbor2


def encode_chunk(
    chunk: Sequence[Any], serialization_format: SerializationFormat = DEFAULT_SERIALIZATION_FORMAT
) -> bytes:
    """Encode a chunk's operations as bytes."""
    return serialization_format.dumps(chunk)


def decode_chunk(
    chunk: bytes, serialization_format: SerializationFormat = DEFAULT_SERIALIZATION_FORMAT
) -> Sequence[Any]:
    """Decode a chunk's operations.

    Raises:
        EncodingError: the decoded value is not a sequence.
    """
    operations = serialization_format.loads(chunk)
    if isinstance(operations, str | bytes) or not isinstance(operations, Sequence):
        message = f"a chunk is a sequence of operations, but these bytes are a {type(operations)!r}"
        raise EncodingError(message)
    return operations
