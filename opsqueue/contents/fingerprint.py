"""What an insert asks for, in a few bytes: its idempotency key is not that of another one.

A repetition may differ from the first request in what varies from try to try: the prefix that was
made for an upload, the trace, and defaults that have changed meanwhile. Contents are compared where
both requests bring them, in one and the same way. No I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec.structs import asdict

from opsqueue.contents.codec import uncompressed
from opsqueue.exceptions import EncodingError
from opsqueue.model.new_submission import Defaults, NewSubmission
from opsqueue.model.submission import Submission

_VERSION: Final = "1"
_DIGEST_BYTES: Final = 16
_MOST_BYTES: Final = 8 * 1024 * 1024
"""Of a submission's inline chunks, decompressed: a few bytes must not cost seconds."""

_COMPARABLE: Final = frozenset({"msgpack", "json", "cbor", "raw"})
"""Codecs whose bytes are the same for the same operations, also in another process."""

_COMPARED_OTHERWISE: Final = frozenset({"max_attempts", "backoff", "retention_ms", "trace_context"})
"""Options that have defaults, and what varies with each try."""

_CHANGES: Final = "strategic_metadata"

_JSON: Final = msgspec.json.Encoder(order="deterministic")
"""Keys of an object have no order in JSON."""

_CBOR_SET: Final = b"\xd9\x01\x02"
"""In front of a set, whose order is another one in each process."""


class OperationsDigest:
    """A digest of operations that came as JSON, taken while they are consumed."""

    def __init__(self) -> None:
        self._hash = _new_hash()

    def of(self, operations: Iterable[Any]) -> Iterator[Any]:
        """Yield operations, and add each to the digest."""
        for operation in operations:
            # What JSON can't have, the submission's codec refuses, with a message of its own.
            with suppress(Exception):
                self._hash.update(_JSON.encode(operation))
            self._hash.update(b"\n")
            yield operation

    def __str__(self) -> str:
        """Return it with the way that it was taken."""
        return f"j{self._hash.hexdigest()}"


def inline_digest(codec: str, inline: Sequence[bytes]) -> str:
    """Return a digest of encoded chunks, whatever compressed them; "": they can't be compared."""
    plain_name = codec.removesuffix("+zstd")
    if plain_name not in _COMPARABLE:
        return ""
    digest, left = _new_hash(), _MOST_BYTES
    for chunk in inline:
        plain = chunk
        if codec != plain_name:
            # Damaged, or too large: as it came.
            with suppress(EncodingError):
                plain = uncompressed(chunk, limit_bytes=left)
        if plain_name == "cbor" and _CBOR_SET in plain:
            return ""
        left = max(0, left - len(plain))
        digest.update(len(plain).to_bytes(8, "big"))
        digest.update(plain)
    return f"e{digest.hexdigest()}"


def fingerprint_of(new: NewSubmission) -> str:
    """Return what is kept with a submission, of a fixed size."""
    # Without what is not given, so that an option of a later version changes nothing.
    given = {
        name: value
        for name, value in _asked_by(new).items()
        if value is not None and value is not False and value != {}
    }
    contents = new.contents_digest
    if not contents and new.inline is not None:
        contents = inline_digest(new.codec, new.inline)
    options = "".join("0" if value is None else "1" for value in asdict(new.own_defaults).values())
    parameters = _new_hash(_JSON.encode(given)).hexdigest()
    return f"{_VERSION}:{parameters}:{contents}:{options}"


def differences(
    new: NewSubmission, now: Defaults, first: Submission, first_fingerprint: str
) -> list[str]:
    """Return in what an insert is no repetition of the first one with its key; none: it is one.

    Args:
        new: what is to be inserted.
        now: what it would get of the options that have defaults.
        first: the submission that has the key.
        first_fingerprint: "" where an earlier version inserted it, which is not compared.
    """
    version, *parts = first_fingerprint.split(":")
    _, parameters, contents, given = fingerprint_of(new).split(":")
    if version != _VERSION or len(parts) != 3:
        return []
    first_parameters, first_contents, first_given = parts
    found = []
    if parameters != first_parameters:
        found = [name for name, value in _asked_by(new).items() if value != getattr(first, name)]
        # It may have been changed since, so its value tells nothing.
        found = [name for name in found if name != _CHANGES] or [_CHANGES]
    options = Defaults(
        max_attempts=first.max_attempts,
        backoff_first_ms=first.backoff.first_ms,
        backoff_max_ms=first.backoff.max_ms,
        retention_ms=first.retention_ms,
    )
    # Where neither says it, only the default may have changed.
    found += [
        name
        for name, was_given, is_given in zip(
            Defaults.__struct_fields__, first_given, given, strict=True
        )
        if "1" in (was_given, is_given) and getattr(options, name) != getattr(now, name)
    ]
    # Taken in different ways they can't be compared.
    if not found and contents[:1] == first_contents[:1] and contents != first_contents:
        found.append("operations")
    return found


def _asked_by(new: NewSubmission) -> dict[str, Any]:
    """Return what a repetition has, too, by the names that a submission has."""
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
