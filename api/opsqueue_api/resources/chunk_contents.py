"""Access to the contents of single chunks, for consumers that can't reach the object store."""

from __future__ import annotations

import re
from dataclasses import dataclass

import falcon
import msgspec

from opsqueue.contents.chunks import failed_in_output, store_output
from opsqueue.contents.codec import RAW, VALUE_BYTES, Codec, open_codec
from opsqueue.contents.inline import reader_of
from opsqueue.contents.output import Encoded, encode_output
from opsqueue.contents.output_check import count_errors
from opsqueue.exceptions import (
    ChunkTooLargeError,
    EncodingError,
    InvalidArgumentError,
    ObjectNotFoundError,
)
from opsqueue.http.bodies import DoneBody, ProblemType
from opsqueue.model.chunk import Reservation, Token
from opsqueue.store import ObjectStore, Readable, input_key
from opsqueue_api.http.body import read_body
from opsqueue_api.http.operation import Content, Parameter, operation
from opsqueue_api.http.parameters import checked_id
from opsqueue_api.http.problem import Problem, ProblemError, invalid, too_large
from opsqueue_api.http.settings import Limits
from opsqueue_api.resources.queues import QueueOf

_INDEX = re.compile(r"[0-9]{1,10}")
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ChunkInput:
    """`.../submissions/{submission_id}/chunks/{index}/input`."""

    queue_of: QueueOf
    store: ObjectStore
    limits: Limits

    @operation(
        Parameter(
            "as", {"type": "string", "enum": ["json"]}, "Return a JSON list instead of the bytes."
        ),
        answers={200: Content(None, _BYTES, "The bytes, or a JSON list.", (falcon.MEDIA_JSON,))},
        problems=(ProblemType.INPUT_GONE, ProblemType.RESULTS_NOT_JSON, ProblemType.TOO_LARGE),
    )
    def on_get(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        queue: str,
        submission_id: str,
        index: str,
    ) -> None:
        """Return the stored bytes, or with `?as=json` the operations as a JSON list."""
        on = self.queue_of(queue)
        submission = on.get_submission(checked_id(submission_id))
        number = _checked_index(index)
        if number >= submission.chunks_total:
            message = (
                f"chunk {number:,} does not exist: submission {submission.id} has "
                f"{submission.chunks_total:,} chunks, numbered from 0"
            )
            raise invalid(message)
        form = req.get_param("as")
        if form not in (None, "json"):
            message = f"as={form[:40]!r}: use as=json, or leave it out to get the bytes"
            raise invalid(message)
        reader = reader_of(submission, self.store, on.inline_contents)
        data = _get(reader, input_key(submission.prefix, number))
        resp.set_header("Opsqueue-Codec", submission.codec)
        resp.content_type = falcon.MEDIA_JSON if form else _BYTES
        if form:
            before = number * submission.chunk_size
            operations = min(submission.chunk_size, submission.operations_total - before)
            limit_bytes = self.limits.chunk_bytes
            data = bytes(operations_of(submission.codec, data, operations, limit_bytes))
        resp.data = data


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """`.../submissions/{submission_id}/chunks/{index}/output`."""

    queue_of: QueueOf
    store: ObjectStore
    limits: Limits

    @operation(
        Parameter("token", {"type": "string"}, "The reservation's token.", is_required=True),
        body=(Content(None, _BYTES, "Encoded results."),),
        answers={204: None},
        problems=(ProblemType.CHUNK_LOST, ProblemType.OUTPUT_REFUSED),
    )
    def on_put(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        queue: str,
        submission_id: str,
        index: str,
    ) -> None:
        """Store a chunk's output in the submission's codec, unless it has one already."""
        token = Token(req.get_param("token") or "")
        data = read_body(req, limit_bytes=self.limits.body_bytes, media_types=(_BYTES,))
        chunk = self.queue_of(queue).get_reservations([token]).get(token)
        where = (checked_id(submission_id), _checked_index(index))
        if chunk is None or (chunk.source.submission_id, chunk.chunk_index) != where:
            detail = (
                f"token {token!r} does not hold chunk {submission_id}/{index}: its reservation has "
                "ended, and the chunk went to another worker or is done"
            )
            raise ProblemError(Problem(ProblemType.CHUNK_LOST, detail))
        stored_output(self.store, chunk, sent_bytes(data, chunk, self.limits.chunk_bytes))
        resp.status = falcon.HTTP_204


def _get(reader: Readable, key: str) -> bytes:
    try:
        return reader.get(key)
    except ObjectNotFoundError as exc:
        raise ProblemError(Problem(ProblemType.INPUT_GONE, str(exc))) from exc


def operations_of(codec: str, data: bytes, operations: int, limit_bytes: int) -> msgspec.Raw:
    """Return a chunk's operations as a JSON list.

    Args:
        codec: name of the submission's codec.
        data: the chunk's input.
        operations: number of operations in the chunk.
        limit_bytes: limit of the chunk's size before compression.

    Raises:
        ProblemError: the chunk is larger than the limit, has another number of operations, or has
            no JSON form.
    """
    opened = _codec_of(codec)
    try:
        found = opened.decode(
            data,
            operations=None if opened.plain_name == RAW.name else operations,
            limit_bytes=limit_bytes,
            limit_values=limit_bytes // VALUE_BYTES,
        )
        return msgspec.Raw(msgspec.json.encode(found))
    except ChunkTooLargeError as exc:
        raise too_large(str(exc)) from exc
    # Invalid keys, too deep nesting and lone surrogates each raise a different exception.
    except Exception as exc:
        message = f"the operations can't be returned as JSON ({type(exc).__name__}: {exc})"
        raise _not_json(message) from exc


def sent_output(done: DoneBody, chunk: Reservation, limit_bytes: int) -> Encoded:
    """Return a consumer's reported output, encoded and checked to be readable and complete.

    Args:
        done: the report.
        chunk: the reported chunk.
        limit_bytes: limit of an output's size before compression.

    Raises:
        ProblemError: it does not have a result or an error for each operation, or is not in the
            submission's codec.
    """
    match done.results, done.output:
        case msgspec.UNSET, bytes() as output:
            return sent_bytes(output, chunk, limit_bytes)
        case list() as results, msgspec.UNSET:
            return _encoded(results, chunk)
    message = f"chunk {chunk}: send results or output, not both"
    raise ProblemError(Problem(ProblemType.INVALID_ARGUMENT, message, {"token": chunk.token}))


def sent_bytes(data: bytes, chunk: Reservation, limit_bytes: int) -> Encoded:
    """Return an output that a consumer has encoded, after checking it and counting its errors.

    Raises:
        ProblemError: it can't be read or lacks results.
    """
    source = chunk.source
    operations = source.operations_in(chunk.chunk_index)
    try:
        failed = count_errors(
            data,
            codec=source.codec,
            operations=operations,
            limit_bytes=limit_bytes,
            limit_values=limit_bytes // VALUE_BYTES,
        )
        return Encoded(data, failed)
    except EncodingError as exc:
        raise _refused(chunk, f"its output can't be used: {exc}") from exc


def stored_failures(store: ObjectStore, chunk: Reservation) -> int:
    """Return how many operations failed in an output that a consumer has already stored.

    Raises:
        ProblemError: there is no output, it can't be read, or it lacks results.
    """
    try:
        return failed_in_output(store, chunk.source, chunk.chunk_index)
    except ObjectNotFoundError as exc:
        message = (
            "it has no output: send results with a value for each operation, or output, or store "
            "the output before the report"
        )
        raise _refused(chunk, message) from exc
    except EncodingError as exc:
        raise _refused(chunk, str(exc)) from exc


def stored_output(store: ObjectStore, chunk: Reservation, output: Encoded) -> int:
    """Store an output unless there is one already; return the failed operations of the kept one.

    Raises:
        ProblemError: there is one already that can't be used.
    """
    try:
        return store_output(store, chunk.source, chunk.chunk_index, output)
    except EncodingError as exc:
        raise _refused(chunk, str(exc)) from exc


def _encoded(results: list[object], chunk: Reservation) -> Encoded:
    expected = chunk.source.operations_in(chunk.chunk_index)
    if len(results) != expected:
        message = (
            f"{len(results):,} results for {expected:,} operations: send one for each, in their "
            "order"
        )
        raise _refused(chunk, message)
    try:
        return encode_output(results, _codec_of(chunk.source.codec))
    except EncodingError as exc:
        message = f"chunk {chunk}: {exc}"
        raise ProblemError(Problem(ProblemType.NOT_JSON, message, {"token": chunk.token})) from exc


def _refused(chunk: Reservation, why: str) -> ProblemError:
    detail = f"chunk {chunk}: {why}; nothing was reported, and the chunk is still reserved"
    return ProblemError(Problem(ProblemType.OUTPUT_REFUSED, detail, {"token": chunk.token}))


def _codec_of(name: str) -> Codec:
    try:
        return open_codec(name)
    except InvalidArgumentError as exc:
        # pickle, which could run arbitrary code here, or a user's own codec.
        message = f"contents are encoded by {name!r}, which the API does not read: use the bytes"
        raise _not_json(message) from exc


def _checked_index(text: str) -> int:
    if not _INDEX.fullmatch(text):
        message = f"{text[:40]!r} is not a chunk's index: use 0, 1, 2, …"
        raise invalid(message)
    return int(text)


def _not_json(detail: str) -> ProblemError:
    return ProblemError(Problem(ProblemType.NOT_JSON, detail))
