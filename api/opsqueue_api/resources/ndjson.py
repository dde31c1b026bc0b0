"""A submission as NDJSON: a line for each operation, within the limits of a JSON body.

The other fields of a JSON body are query parameters here. The whole body is read and its operations
are counted before any is stored. They are decoded chunk by chunk while they are stored, so they
take less memory than those of a JSON body.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, Final

import falcon
import msgspec

from opsqueue.contents.json_lines import JsonLineError, is_blank, values_of
from opsqueue.exceptions import ChunkSizeIsZeroError
from opsqueue.http.bodies import InsertBody, ProblemType
from opsqueue.model.new_submission import (
    MAX_ATTEMPTS,
    MAX_BACKOFF_MS,
    MAX_CHUNKS,
    MAX_RETENTION_MS,
    Defaults,
)
from opsqueue_api.http.body import check_number, media_type_of, read_body, refusal
from opsqueue_api.http.operation import META, NDJSON_TYPES, Parameter, integer_parameter
from opsqueue_api.http.parameters import optional_integer, pairs_of
from opsqueue_api.http.problem import Problem, ProblemError, invalid
from opsqueue_api.http.settings import Limits

_NUMBER: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,16})?")
_INT64_MAX: Final = 2**63 - 1
_SHARE: Final = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,14}|0\\.[0-9]{1,15})$"}
_ONLY: Final = "For an NDJSON body only:"
NDJSON_PARAMETERS: Final = (
    integer_parameter("chunk_size", f"{_ONLY} operations per chunk.", least=1, most=MAX_CHUNKS),
    META,
    integer_parameter(
        "max_attempts", f"{_ONLY} attempts of each chunk.", least=1, most=MAX_ATTEMPTS
    ),
    Parameter("max_failed_operations", _SHARE, f"{_ONLY} a count, or a share such as 0.01."),
    integer_parameter("backoff_first_ms", f"{_ONLY} the first wait.", least=0, most=MAX_BACKOFF_MS),
    integer_parameter("backoff_max_ms", f"{_ONLY} the longest wait.", least=0, most=MAX_BACKOFF_MS),
    integer_parameter(
        "retention_ms",
        f"{_ONLY} how long the submission is kept after its end.",
        least=0,
        most=MAX_RETENTION_MS,
    ),
)


def is_ndjson(req: falcon.Request) -> bool:
    """Return whether the body's type is NDJSON."""
    return media_type_of(req) in NDJSON_TYPES


def body_of_query(req: falcon.Request) -> InsertBody:
    """Return the fields of a JSON body, read from the query."""
    # Values below 1 are accepted here, so that they get the same error as in a JSON body.
    chunk_size = optional_integer(req, "chunk_size", least=-MAX_CHUNKS, most=MAX_CHUNKS)
    if chunk_size is None:
        message = (
            "chunk_size is missing: add the number of operations per chunk, such as ?chunk_size=100"
        )
        raise invalid(message)
    if chunk_size < 1:
        raise ChunkSizeIsZeroError(chunk_size)
    given = {
        name: optional_integer(req, name, least=0, most=_INT64_MAX)
        for name in Defaults.__struct_fields__
    }
    fields: dict[str, Any] = {
        "chunk_size": chunk_size,
        "strategic_metadata": pairs_of(req),
        "max_attempts": given["max_attempts"],
        "backoff": {"first_ms": given["backoff_first_ms"], "max_ms": given["backoff_max_ms"]},
        "retention_ms": given["retention_ms"],
    }
    # A count, or a share if it has a decimal point, as in a JSON body.
    limit = req.get_param("max_failed_operations")
    if limit is not None and not _NUMBER.fullmatch(limit):
        message = f"max_failed_operations={limit[:40]!r}: use a count, or a share such as 0.01"
        raise invalid(message)
    if limit is not None:
        fields["max_failed_operations"] = float(limit) if "." in limit else int(limit)
    try:
        # The same bounds apply as to the fields of a JSON body.
        return msgspec.convert(fields, InsertBody)
    except msgspec.ValidationError as exc:
        raise refusal(exc) from exc


def lines_of(req: falcon.Request, *, chunk_size: int, limits: Limits) -> Iterator[Any]:
    """Read a body and return an iterator that decodes its operations, one for each line.

    Raises:
        ProblemError: the body breaks off or exceeds a limit of a JSON body. During iteration: a
            line is not JSON.
    """
    data = read_body(req, limit_bytes=limits.body_bytes, media_types=NDJSON_TYPES)
    # Counted before any is stored. There is no list of lines, since 16 MiB can have 16 million.
    lines = enumerate(io.BytesIO(data), 1)
    operations = sum(not is_blank(line, number) for number, line in lines)
    check_number(operations, chunk_size=chunk_size, limits=limits)
    return _values_of(data, limits.line_bytes)


def _values_of(data: bytes, limit_bytes: int) -> Iterator[Any]:
    try:
        yield from values_of(io.BytesIO(data), limit_bytes=limit_bytes)
    except JsonLineError as exc:
        fields = {"line": exc.line, "column": exc.column}
        why = f"the body is not valid NDJSON: {exc}; nothing was inserted"
        raise ProblemError(Problem(ProblemType.MALFORMED_JSON, why, fields)) from exc
