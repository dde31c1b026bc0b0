"""A request's body: read within its limit, decoded, and held to the other limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import falcon
import msgspec
from falcon.typing import ReadableIO

from opsqueue.exceptions import ChunkSizeIsZeroError, InvalidArgumentError
from opsqueue.http.bodies import InsertBody, ProblemType
from opsqueue.model.new_submission import DEFAULT_CODEC, is_idempotency_key
from opsqueue_api.http.compression import decompressed
from opsqueue_api.http.problem import Problem, ProblemError, invalid, too_large
from opsqueue_api.http.settings import Limits

Body = TypeVar("Body")
_DECODER: Final = msgspec.json.Decoder(InsertBody)
_MORE: Final = (
    "make several submissions, or use the ProducerClient or `opsqueue submit`, which upload any "
    "number of operations"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """The submission's operations themselves: the API cuts and stores them."""

    operations: list[Any]
    chunks_total: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Where the submission's chunks are stored already."""

    prefix: str
    chunks_total: int
    operations_total: int | None
    codec: str
    inline: list[bytes] | None
    """The chunks themselves, where nothing is stored yet."""


def idempotency_key(req: falcon.Request) -> str:
    """Give the header, "" without one."""
    key = req.get_header("Idempotency-Key")
    if key is None:
        return ""
    if not is_idempotency_key(key):
        message = "the Idempotency-Key header takes 1 to 255 printable ASCII characters"
        raise invalid(message)
    return key


def media_type_of(req: falcon.Request) -> str:
    """Return the type of a body without its parameters, such as a charset; '' where it has none."""
    return (req.content_type or "").partition(";")[0].strip().lower()


def read_body(
    req: falcon.Request,
    *,
    limit_bytes: int,
    media_types: Sequence[str] = (falcon.MEDIA_JSON,),
) -> bytes:
    """Read a body of at most `limit_bytes`, whether its length was announced or not.

    The limit holds for what is sent and, where that is gzip, for what comes out of it.
    """
    # Required, so that a page in somebody's browser can't post here: without a preflight request,
    # which we don't answer, browsers send forms and plain text only.
    if media_type_of(req) not in media_types:
        is_json = falcon.MEDIA_JSON in media_types
        detail = (
            f"the body is {(req.content_type or 'of no type')[:100]}: send it with the header "
            f"content-type: {media_types[0]}{', as `curl --json` does' if is_json else ''}"
        )
        raise ProblemError(Problem(ProblemType.MEDIA_TYPE, detail))
    packed = _is_gzip(req)
    length = req.content_length
    if length is not None and length > limit_bytes:
        raise _body_too_large(limit_bytes)
    data = _read_part(_stream_of(req), limit_bytes + 1)
    if len(data) > limit_bytes:
        raise _body_too_large(limit_bytes)
    _check_end(req, len(data))
    return _unpacked(data, limit_bytes) if packed else data


def _is_gzip(req: falcon.Request) -> bool:
    """Tell how the body is encoded.

    Raises:
        ProblemError: by what we don't read.
    """
    encoding = (req.get_header("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        detail = f"the body's content-encoding is {encoding[:40]!r}: send it as gzip or as it is"
        headers = {"Accept-Encoding": "gzip"}
        raise ProblemError(Problem(ProblemType.CONTENT_ENCODING, detail, headers=headers))
    return encoding != "identity"


def _read_part(stream: ReadableIO, size_bytes: int) -> bytes:
    try:
        return bytes(stream.read(size_bytes))
    # Every server has errors of its own for that; gunicorn's for a chunk's size is no OSError.
    except Exception as exc:
        raise _broken_off(0, f" ({type(exc).__name__})") from exc


def _check_end(req: falcon.Request, seen_bytes: int) -> None:
    """Refuse a body that is shorter than announced, which may look whole and not be."""
    length = req.content_length
    if length is not None and seen_bytes < length:
        raise _broken_off(seen_bytes, f" of {length:,}")


def _stream_of(req: falcon.Request) -> ReadableIO:
    # Falcon's bounded_stream takes a chunked body, which announces no length, for an empty one.
    is_chunked = req.content_length is None and req.get_header("Transfer-Encoding") is not None
    return req.stream if is_chunked else req.bounded_stream


def _unpacked(data: bytes, limit_bytes: int) -> bytes:
    try:
        found = decompressed(data, limit_bytes=limit_bytes)
    except ValueError as exc:
        problem = Problem(ProblemType.MALFORMED_GZIP, f"the body is no gzip: {exc}")
        raise ProblemError(problem) from exc
    if len(found) > limit_bytes:
        raise _body_too_large(limit_bytes)
    return found


def decode_insert(data: bytes) -> InsertBody:
    """Decode the body of an insert."""
    return decode(data, _DECODER)


def decode(data: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Decode a body: 400 for what is no JSON, 422 for wrong fields and types."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as exc:
        raise refusal(exc, "; the API's README shows the bodies") from exc
    except msgspec.DecodeError as exc:
        where = "" if "(byte" in str(exc) else f" (at its end, byte {len(data)})"
        # msgspec takes a lone surrogate in a string for the end of the data.
        if b"\\ud" in data.lower():
            where += ", or has a lone surrogate, which is no character"
        message = f"{exc}{where}"
        raise _malformed(message) from exc
    except UnicodeDecodeError as exc:
        message = f"its text is not UTF-8 ({exc.reason})"
        raise _malformed(message) from exc
    except RecursionError as exc:
        message = "it is nested too deeply"
        raise _malformed(message) from exc


def refusal(exc: msgspec.ValidationError, hint: str = "") -> Exception:
    """Return the error for fields that are refused: the own one of a value that refuses them."""
    own = exc.__cause__
    return own if isinstance(own, InvalidArgumentError) else invalid(f"{exc}{hint}")


def contents_of(body: InsertBody, limits: Limits) -> Contents | Uploaded:
    """Tell which of the two bodies it is, and hold it to the limits."""
    if body.chunk_size < 1:
        raise ChunkSizeIsZeroError(body.chunk_size)
    metadata_bytes = len(body.metadata or b"")
    if metadata_bytes > limits.metadata_bytes:
        message = (
            f"metadata has {metadata_bytes:,} bytes, the limit is {limits.metadata_bytes:,}: "
            "put larger things into the operations or the object store"
        )
        raise too_large(message)
    has_operations = body.operations is not msgspec.UNSET
    if has_operations == (body.prefix is not msgspec.UNSET):
        found = "both" if has_operations else "neither"
        message = (
            f"the body has {found} of operations and prefix: give operations, which the API cuts "
            "and stores, or prefix and chunks_total of chunks that are stored already"
        )
        raise invalid(message)
    return _contents(body, limits) if has_operations else _uploaded(body, limits)


def _contents(body: InsertBody, limits: Limits) -> Contents:
    for name in ("chunks_total", "operations_total", "codec", "inline"):
        if getattr(body, name) is not msgspec.UNSET:
            message = f"{name} goes with prefix, not with operations: leave it out"
            raise invalid(message)
    operations: list[Any] = (
        [] if isinstance(body.operations, msgspec.UnsetType) else body.operations
    )
    chunks_total = check_number(len(operations), chunk_size=body.chunk_size, limits=limits)
    return Contents(operations, chunks_total)


def check_number(operations: int, *, chunk_size: int, limits: Limits) -> int:
    """Return how many chunks operations of one body are cut into.

    Raises:
        ProblemError: these or those are too many.
    """
    if operations > limits.operations:
        message = (
            f"{operations:,} operations, the limit (max-operations) is {limits.operations:,} in "
            f"one body: {_MORE}"
        )
        raise too_large(message)
    chunks_total = -(-operations // chunk_size)
    if chunks_total > limits.body_chunks:
        message = (
            f"{chunks_total:,} chunks, the limit (max-body-chunks) is {limits.body_chunks:,} cut "
            f"from one body: raise chunk_size, {_MORE}"
        )
        raise too_large(message)
    return chunks_total


def _uploaded(body: InsertBody, limits: Limits) -> Uploaded:
    if isinstance(body.chunks_total, msgspec.UnsetType):
        message = "chunks_total is missing: give the number of chunks stored below prefix"
        raise invalid(message)
    if body.chunks_total > limits.chunks:
        message = (
            f"{body.chunks_total:,} chunks, the limit is {limits.chunks:,}: raise chunk_size, or "
            "make several submissions"
        )
        raise too_large(message)
    prefix, total, codec = body.prefix, body.operations_total, body.codec
    inline = None if isinstance(body.inline, msgspec.UnsetType) else body.inline
    return Uploaded(
        prefix="" if isinstance(prefix, msgspec.UnsetType) else prefix,
        chunks_total=body.chunks_total,
        operations_total=None if isinstance(total, msgspec.UnsetType) else total,
        codec=DEFAULT_CODEC if isinstance(codec, msgspec.UnsetType) else codec,
        inline=inline,
    )


def _broken_off(seen_bytes: int, how: str) -> ProblemError:
    detail = (
        f"the body breaks off after {seen_bytes:,} bytes{how}: nothing is changed, send it again"
    )
    return ProblemError(Problem(ProblemType.BROKEN_OFF, detail))


def _body_too_large(limit_bytes: int) -> ProblemError:
    return too_large(
        f"the body is larger than the limit (max-body-bytes) of {limit_bytes:,} bytes, which also "
        "holds for what comes out of gzip: report fewer chunks at a time; for more operations "
        f"{_MORE}"
    )


def _malformed(why: str) -> ProblemError:
    return ProblemError(Problem(ProblemType.MALFORMED_JSON, f"the body is no JSON: {why}"))
