"""What producers and consumers of raw chunks share: how a chunk's operations become bytes.

The names are those of the reference's Python client. Where operations are handed in, and not bytes,
the submission records its codec, and nobody needs these.
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
    """Anything with `dumps` to bytes and `loads`: the modules cbor2 and pickle, `json_as_bytes`."""

    def dumps(self, obj: Any, /) -> bytes:  # noqa: ANN401 a format carries what it can
        """Turn a value into bytes."""

    def loads(self, data: bytes, /) -> Any:  # noqa: ANN401 as above
        """Turn them back."""


class _JsonAsBytes:
    """JSON as bytes, which the module json gives as text."""

    def dumps(self, obj: Any, /) -> bytes:  # noqa: ANN401 as above
        """Give UTF-8 without spaces."""
        return msgspec.json.encode(obj)

    def loads(self, data: bytes, /) -> Any:  # noqa: ANN401 as above
        """Read UTF-8."""
        return msgspec.json.decode(data)

    def __repr__(self) -> str:
        return "opsqueue.common.json_as_bytes"


json_as_bytes: Final[SerializationFormat] = _JsonAsBytes()
DEFAULT_SERIALIZATION_FORMAT: Final[SerializationFormat] = cbor2


def encode_chunk(
    chunk: Sequence[Any], serialization_format: SerializationFormat = DEFAULT_SERIALIZATION_FORMAT
) -> bytes:
    """Turn a chunk's operations into bytes."""
    return serialization_format.dumps(chunk)


def decode_chunk(
    chunk: bytes, serialization_format: SerializationFormat = DEFAULT_SERIALIZATION_FORMAT
) -> Sequence[Any]:
    """Turn bytes into a chunk's operations.

    Raises:
        EncodingError: what they hold is no sequence.
    """
    operations = serialization_format.loads(chunk)
    if isinstance(operations, str | bytes) or not isinstance(operations, Sequence):
        message = f"a chunk is a sequence of operations, these bytes are a {type(operations)!r}"
        raise EncodingError(message)
    return operations
