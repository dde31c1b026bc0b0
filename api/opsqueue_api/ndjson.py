"""A submission as NDJSON: a line an operation, of any number, read, cut and stored as they come.

What a JSON body says beside its operations stands in the query. Memory is that for a few chunks,
whatever the body's size; so a line and a chunk are bounded, the body is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import falcon
import msgspec

from opsqueue.exceptions import ChunkSizeIsZeroError
from opsqueue.new_submission import MAX_CHUNKS, MAX_RETENTION_MS
from opsqueue.submission_wire import MAX_WAIT_MS, BackoffBody, InsertBody
from opsqueue.wire import ProblemType
from opsqueue_api.body import is_gzip, sent_parts
from opsqueue_api.compression import decompressed_parts
from opsqueue_api.operation import META, NDJSON, Parameter, integer_parameter
from opsqueue_api.parameters import integer, optional_integer, pairs_of
from opsqueue_api.problem import Problem, ProblemError, invalid, too_large
from opsqueue_api.settings import Limits

CHUNKS_AT_ONCE: Final = 4
"""In memory, each of at most `Limits.body_bytes` as text."""

_READ_BYTES: Final = 64 * 1024
_DECODER: Final = msgspec.json.Decoder()
_NUMBER: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,16})?")
_INT64_MAX: Final = 2**63 - 1
_SHARE: Final = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,14}|0\\.[0-9]{1,15})$"}
_ONLY: Final = "Of an NDJSON body alone:"
NDJSON_PARAMETERS: Final = (
    integer_parameter("chunk_size", f"{_ONLY} operations a chunk.", least=1, most=MAX_CHUNKS),
    META,
    integer_parameter(
        "max_attempts", f"{_ONLY} attempts of each chunk.", least=1, most=1_000_000, default=10
    ),
    Parameter("max_failed_operations", _SHARE, f"{_ONLY} a count, or a share such as 0.01."),
    integer_parameter("backoff_first_ms", f"{_ONLY} the first wait.", least=0, most=MAX_WAIT_MS),
    integer_parameter("backoff_max_ms", f"{_ONLY} the longest wait.", least=0, most=MAX_WAIT_MS),
    integer_parameter(
        "retention_ms",
        f"{_ONLY} how long it is kept after its end.",
        least=0,
        most=MAX_RETENTION_MS,
    ),
)


def is_ndjson(req: falcon.Request) -> bool:
    """Tell by the body's type."""
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    return kind == NDJSON


def body_of_query(req: falcon.Request) -> InsertBody:
    """Read what a JSON body has as fields out of the query."""
    # From below 1 on, so that these get the error that they have in a JSON body.
    chunk_size = optional_integer(req, "chunk_size", least=-MAX_CHUNKS, most=MAX_CHUNKS)
    if chunk_size is None:
        message = "chunk_size is missing: give the operations a chunk, such as ?chunk_size=100"
        raise invalid(message)
    if chunk_size < 1:
        raise ChunkSizeIsZeroError(chunk_size)
    backoff = BackoffBody()
    fields: dict[str, Any] = {
        "chunk_size": chunk_size,
        "strategic_metadata": pairs_of(req),
        "backoff": {
            "first_ms": integer(
                req, "backoff_first_ms", default=backoff.first_ms, least=0, most=_INT64_MAX
            ),
            "max_ms": integer(
                req, "backoff_max_ms", default=backoff.max_ms, least=0, most=_INT64_MAX
            ),
        },
    }
    for name in ("max_attempts", "retention_ms"):
        value = optional_integer(req, name, least=0, most=_INT64_MAX)
        if value is not None:
            fields[name] = value
    # A count, or a share where it has a point: as in a JSON body.
    limit = req.get_param("max_failed_operations")
    if limit is not None and not _NUMBER.fullmatch(limit):
        message = f"max_failed_operations={limit[:40]!r}: give a count, or a share such as 0.01"
        raise invalid(message)
    if limit is not None:
        fields["max_failed_operations"] = float(limit) if "." in limit else int(limit)
    try:
        # Held to the bounds that the same fields of a JSON body have.
        return msgspec.convert(fields, InsertBody)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc)) from exc


def operations_of(req: falcon.Request, *, chunk_size: int, limits: Limits) -> Iterator[Any]:
    """Yield the operations, a line each; empty lines are none.

    Raises:
        ProblemError: a line is no JSON, a line, a chunk or their number is too large, or the body
            breaks off.
    """
    chunk_bytes = in_chunk = 0
    chunks_total = 1
    for number, line in enumerate(_lines(req, limits.line_bytes), 1):
        if not line.strip():
            continue
        if in_chunk == chunk_size:
            chunk_bytes = in_chunk = 0
            chunks_total += 1
        if chunks_total > limits.chunks:
            message = (
                f"line {number:,}: more than {limits.chunks:,} chunks, which is the limit: raise "
                "chunk_size, or make several submissions"
            )
            raise too_large(message)
        in_chunk += 1
        chunk_bytes += len(line)
        if chunk_bytes > limits.body_bytes:
            message = (
                f"line {number:,}: a chunk of {in_chunk:,} operations has {chunk_bytes:,} bytes, "
                f"the limit is {limits.body_bytes:,}: lower chunk_size"
            )
            raise too_large(message)
        try:
            yield _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            why = f"line {number:,} is no JSON ({exc}); nothing is inserted"
            raise ProblemError(Problem(ProblemType.MALFORMED_JSON, why, {"line": number})) from exc


def _lines(req: falcon.Request, limit_bytes: int) -> Iterator[bytes]:
    rest = b""
    number = 1
    for part in _parts(req):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            _check_line(line, number, limit_bytes)
            yield line
            number += 1
        _check_line(rest, number, limit_bytes)
    yield rest


def _check_line(line: bytes, number: int, limit_bytes: int) -> None:
    if len(line) > limit_bytes:
        message = (
            f"line {number:,} is longer than the limit of {limit_bytes:,} bytes: put large things "
            "into the object store, and where they are into the operation"
        )
        raise too_large(message)


def _parts(req: falcon.Request) -> Iterator[bytes]:
    parts = sent_parts(req, part_bytes=_READ_BYTES)
    if not is_gzip(req):
        yield from parts
        return
    try:
        yield from decompressed_parts(parts, part_bytes=_READ_BYTES)
    except ValueError as exc:
        problem = Problem(ProblemType.MALFORMED_GZIP, f"the body is no gzip: {exc}")
        raise ProblemError(problem) from exc
