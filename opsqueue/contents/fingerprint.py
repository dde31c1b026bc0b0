"""Fingerprints of inserts, to find out whether an idempotency key is used for a different insert.

A repetition may differ from the first request in what varies with each try: the prefix of the
upload, the trace, and defaults that have changed since. Contents are compared if both requests
include them in the same form. No I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import cbor2
import msgspec
from msgspec.structs import asdict

from opsqueue.contents.codec import open_codec
from opsqueue.exceptions import EncodingError
from opsqueue.model.new_submission import BUILT_IN, Defaults, NewSubmission
from opsqueue.model.submission import Submission

_VERSION: Final = "1"
_DIGEST_BYTES: Final = 16
_MOST_BYTES: Final = 1024 * 1024
"""The most bytes that are decompressed for a digest: a small request must not take seconds."""

_COMPARED_OTHERWISE: Final = frozenset({"max_attempts", "backoff", "retention_ms", "trace_context"})
"""Options with defaults, and fields that vary with each try."""

_CHANGES: Final = "strategic_metadata"

_JSON: Final = msgspec.json.Encoder(order="deterministic")
"""Deterministic, since the keys of a JSON object have no order."""

_IN_ONE_ORDER: Final[Mapping[str, Callable[[Any], bytes]]] = {
    "cbor": partial(cbor2.dumps, canonical=True),
    "json": _JSON.encode,
    "raw": partial(cbor2.dumps, canonical=True),
}
"""Codecs whose operations can be compared, with what encodes equal ones to the same bytes."""


class OperationsDigest:
    """A digest of operations that arrive as JSON, computed while they are consumed."""

    def __init__(self) -> None:
        self._hash = _new_hash()

    def of(self, operations: Iterable[Any]) -> Iterator[Any]:
        """Yield operations, and add each to the digest."""
        for operation in operations:
            # The submission's codec refuses what JSON can't represent, with its own message.
            with suppress(Exception):
                self._hash.update(_JSON.encode(operation))
            self._hash.update(b"\n")
            yield operation

    def __str__(self) -> str:
        """Return the digest, with a letter for the way it was computed."""
        return f"j{self._hash.hexdigest()}"


def inline_digest(codec: str, inline: Sequence[bytes]) -> str:
    """Return a digest of encoded chunks, independent of compression; "" if not comparable.

    Equal operations may have different bytes: dicts and sets have another order in each process.
    So they are encoded again, in one order. MessagePack has lists of what were sets, whose order
    can't be known.
    """
    encode = _IN_ONE_ORDER.get(codec.removesuffix("+zstd"))
    if encode is None:
        return ""
    digest, left = _new_hash(), _MOST_BYTES
    opened = open_codec(codec)
    try:
        for chunk in inline:
            operations = opened.decode(chunk, limit_bytes=left)
            for operation in operations:
                plain = encode(operation)
                left -= len(plain)
                digest.update(len(plain).to_bytes(8, "big"))
                digest.update(plain)
            if left <= 0:
                return ""
            digest.update(len(operations).to_bytes(8, "big"))
    except (EncodingError, cbor2.CBOREncodeError, TypeError, ValueError, OverflowError):
        return ""
    return f"c{digest.hexdigest()}"


def fingerprint_of(new: NewSubmission) -> str:
    """Return the fingerprint that is stored with a submission; its size is bounded."""
    # Leave out options that are not set, so that options of later versions change nothing.
    given = {
        name: value
        for name, value in _asked_by(new).items()
        if value is not None and value is not False and value != {}
    }
    contents = new.contents_digest
    if not contents and new.inline is not None:
        contents = inline_digest(new.codec, new.inline)
    # Clients of 0.1.0 always send the built-in back-off: a repetition by a later one does not.
    built_in = {
        "backoff_first_ms": BUILT_IN.backoff_first_ms,
        "backoff_max_ms": BUILT_IN.backoff_max_ms,
    }
    options = "".join(
        "0" if value is None or value == built_in.get(name) else "1"
        for name, value in asdict(new.own_defaults).items()
    )
    parameters = _new_hash(_JSON.encode(given)).hexdigest()
    return f"{_VERSION}:{parameters}:{contents}:{options}"


def differences(
    new: NewSubmission, now: Defaults, first: Submission, first_fingerprint: str
) -> list[str]:
    """Return the names of the fields in which an insert differs from the first one with its key.

    If there are none, it is a repetition.

    Args:
        new: the submission to be inserted.
        now: its options with defaults, as they would be applied now.
        first: the submission that has the key.
        first_fingerprint: "" if an earlier version inserted it; then nothing is compared.
    """
    version, *parts = first_fingerprint.split(":")
    _, parameters, contents, given = fingerprint_of(new).split(":")
    if version != _VERSION or len(parts) != 3:
        return []
    first_parameters, first_contents, first_given = parts
    found = []
    if parameters != first_parameters:
        found = [name for name, value in _asked_by(new).items() if value != getattr(first, name)]
        # Strategic metadata may have been changed since, so its value proves nothing.
        found = [name for name in found if name != _CHANGES] or [_CHANGES]
    options = Defaults(
        max_attempts=first.max_attempts,
        backoff_first_ms=first.backoff.first_ms,
        backoff_max_ms=first.backoff.max_ms,
        retention_ms=first.retention_ms,
    )
    # If neither request sets an option, only the default can have changed.
    found += [
        name
        for name, was_given, is_given in zip(
            Defaults.__struct_fields__, first_given, given, strict=True
        )
        if "1" in (was_given, is_given) and getattr(options, name) != getattr(now, name)
    ]
    # Digests that were computed in different ways can't be compared.
    if not found and contents[:1] == first_contents[:1] and contents != first_contents:
        found.append("operations")
    return found


def _asked_by(new: NewSubmission) -> dict[str, Any]:
    """Return the fields that a repetition must have, too, by the names of `Submission`."""
    return {
        **{name: value for name, value in new.options.items() if name not in _COMPARED_OTHERWISE},
        "strategic_metadata": dict(new.strategic_metadata),
        "max_failed_operations": new.failed_operations_limit,
        "operations_total": new.operations,
        "chunk_size": new.chunk_size,
        "codec": new.codec,
    }


def _new_hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES)
