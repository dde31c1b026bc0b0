"""Request bodies: reading within the limit, decoding, and checking the other limits."""

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
    """A submission whose operations are in the body; the API cuts and stores them."""

    operations: list[Any]
    chunks_total: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A submission whose chunks are stored already."""

    prefix: str
    chunks_total: int
    operations_total: int | None
    codec: str
    inline: list[bytes] | None
    """The chunks themselves, if they are not stored."""


def idempotency_key(req: falcon.Request) -> str:
    """Return the Idempotency-Key header, or "" if there is none."""
    key = req.get_header("Idempotency-Key")
    if key is None:
        return ""
    if not is_idempotency_key(key):
        message = "the Idempotency-Key header must have 1 to 255 printable ASCII characters"
        raise invalid(message)
    return key


def media_type_of(req: falcon.Request) -> str:
    """Return the type of a body without parameters such as a charset; '' if it has none."""
    return (req.content_type or "").partition(";")[0].strip().lower()


def read_body(
    req: falcon.Request,
    *,
    limit_bytes: int,
    media_types: Sequence[str] = (falcon.MEDIA_JSON,),
) -> bytes:
    """Read a body of at most `limit_bytes`, whether or not its length was announced.

    The limit applies to the sent bytes and, for gzip, also to the decompressed bytes.
    """
    # Required so that a web page can't post here: without a preflight request, which the API does
    # not answer, browsers send only forms and plain text.
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
    """Return whether the body is compressed.

    Raises:
        ProblemError: the API does not read this encoding.
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
    # Each server raises its own errors; gunicorn's error for a chunk's size is not an OSError.
    except Exception as exc:
        raise _broken_off(0, f" ({type(exc).__name__})") from exc


def _check_end(req: falcon.Request, seen_bytes: int) -> None:
    """Refuse a body that is shorter than announced: it may look complete."""
    length = req.content_length
    if length is not None and seen_bytes < length:
        raise _broken_off(seen_bytes, f" of {length:,}")


def _stream_of(req: falcon.Request) -> ReadableIO:
    # Falcon's bounded_stream treats a chunked body, which announces no length, as empty.
    is_chunked = req.content_length is None and req.get_header("Transfer-Encoding") is not None
    return req.stream if is_chunked else req.bounded_stream


def _unpacked(data: bytes, limit_bytes: int) -> bytes:
    try:
        found = decompressed(data, limit_bytes=limit_bytes)
    except ValueError as exc:
        problem = Problem(ProblemType.MALFORMED_GZIP, f"the body is not valid gzip: {exc}")
        raise ProblemError(problem) from exc
    if len(found) > limit_bytes:
        raise _body_too_large(limit_bytes)
    return found


def decode_insert(data: bytes) -> InsertBody:
    """Decode the body of an insert."""
    return decode(data, _DECODER)


def decode(data: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Decode a body.

    Raises:
        ProblemError: 400 if it is not JSON, 422 for wrong fields and types.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as exc:
        raise refusal(exc, "; the API's README shows the bodies") from exc
    except msgspec.DecodeError as exc:
        where = "" if "(byte" in str(exc) else f" (at its end, byte {len(data)})"
        # msgspec mistakes a lone surrogate in a string for the end of the data.
        if b"\\ud" in data.lower():
            where += ", or it has a lone surrogate, which is not a character"
        message = f"{exc}{where}"
        raise _malformed(message) from exc
    except UnicodeDecodeError as exc:
        message = f"its text is not UTF-8 ({exc.reason})"
        raise _malformed(message) from exc
    except RecursionError as exc:
        message = "it is nested too deeply"
        raise _malformed(message) from exc


def refusal(exc: msgspec.ValidationError, hint: str = "") -> Exception:
    """Return the error for refused fields; a value's own error is preferred to msgspec's."""
    own = exc.__cause__
    return own if isinstance(own, InvalidArgumentError) else invalid(f"{exc}{hint}")


def contents_of(body: InsertBody, limits: Limits) -> Contents | Uploaded:
    """Determine which of the two kinds of body it is, and check the limits."""
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
            f"the body has {found} of operations and prefix: send either operations, which the API "
            "cuts and stores, or prefix and chunks_total of chunks that are stored already"
        )
        raise invalid(message)
    return _contents(body, limits) if has_operations else _uploaded(body, limits)


def _contents(body: InsertBody, limits: Limits) -> Contents:
    for name in ("chunks_total", "operations_total", "codec", "inline"):
        if getattr(body, name) is not msgspec.UNSET:
            message = f"{name} is only for a body with prefix, not with operations: leave it out"
            raise invalid(message)
    operations: list[Any] = (
        [] if isinstance(body.operations, msgspec.UnsetType) else body.operations
    )
    chunks_total = check_number(len(operations), chunk_size=body.chunk_size, limits=limits)
    return Contents(operations, chunks_total)


def check_number(operations: int, *, chunk_size: int, limits: Limits) -> int:
    """Return the number of chunks that the operations of one body are cut into.

    Raises:
        ProblemError: there are too many operations or chunks.
    """
    if operations > limits.operations:
        message = (
            f"{operations:,} operations are more than the limit (max-operations) of "
            f"{limits.operations:,} in one body: {_MORE}"
        )
        raise too_large(message)
    chunks_total = -(-operations // chunk_size)
    if chunks_total > limits.body_chunks:
        message = (
            f"{chunks_total:,} chunks are more than the limit (max-body-chunks) of "
            f"{limits.body_chunks:,} from one body: raise chunk_size, {_MORE}"
        )
        raise too_large(message)
    return chunks_total


def _uploaded(body: InsertBody, limits: Limits) -> Uploaded:
    if isinstance(body.chunks_total, msgspec.UnsetType):
        message = "chunks_total is missing: send the number of chunks stored below prefix"
        raise invalid(message)
    if body.chunks_total > limits.chunks:
        message = (
            f"{body.chunks_total:,} chunks are more than the limit of {limits.chunks:,}: raise "
            "chunk_size, or make several submissions"
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
        f"the body breaks off after {seen_bytes:,} bytes{how}: nothing was changed, send it again"
    )
    return ProblemError(Problem(ProblemType.BROKEN_OFF, detail))


def _body_too_large(limit_bytes: int) -> ProblemError:
    return too_large(
        f"the body is larger than the limit (max-body-bytes) of {limit_bytes:,} bytes, which also "
        "applies to decompressed gzip: report fewer chunks at a time; for more operations "
        f"{_MORE}"
    )


def _malformed(why: str) -> ProblemError:
    return ProblemError(Problem(ProblemType.MALFORMED_JSON, f"the body is not valid JSON: {why}"))
