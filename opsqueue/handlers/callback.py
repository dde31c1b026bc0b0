"""How a consumer's callback is called: with what it is given, and what may come out of it.

The worker's handlers have `handlers/invoke.py`; fetching and saving are the same for both
(`handlers/execute.py`), which does the I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opsqueue.contents.codec import RAW, Codec
from opsqueue.contents.output import Encoded, encode_output
from opsqueue.contents.output_check import count_errors
from opsqueue.exceptions import EncodingError, InvalidArgumentError, StoreUnavailableError
from opsqueue.handlers.execute import Failed, Fetched, GivenBack, Ran, Report, fetch, save
from opsqueue.model.chunk import ChunkFailure, Reservation
from opsqueue.model.process import Origin
from opsqueue.model.submission import ChunkIndex, SubmissionId
from opsqueue.store import ObjectStore
from opsqueue.tracing import spans

IsVoid = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk in a consumer's hands."""

    submission_id: SubmissionId
    chunk_index: ChunkIndex
    input_content: bytes
    retries: int
    """Attempts that were used before this one."""
    submission_prefix: str
    submission_metadata: bytes | None
    submission_otel_trace_carrier: dict[str, str]
    submission_strategic_metadata: dict[str, int]
    max_attempts: int
    is_void: IsVoid = field(repr=False, compare=False)
    """Ask it in long work: True once nobody wants the result any more (cancelled, failed, lost)."""

    @classmethod
    def of(cls, fetched: Fetched, is_void: IsVoid) -> Chunk:
        """Show a fetched chunk to a callback."""
        reservation, source = fetched.reservation, fetched.reservation.source
        return cls(
            submission_id=source.submission_id,
            chunk_index=ChunkIndex(reservation.chunk_index),
            input_content=fetched.data,
            retries=reservation.attempt - 1,
            submission_prefix=source.prefix,
            submission_metadata=source.metadata,
            submission_otel_trace_carrier=dict(source.trace_context),
            submission_strategic_metadata=dict(source.strategic_metadata),
            max_attempts=source.max_attempts,
            is_void=is_void,
        )


ChunkCallback = Callable[[Sequence[Any], Chunk], Sequence[Any]]
RawCallback = Callable[[Chunk], bytes]
Work = Callable[[Chunk, Reservation], Encoded]
"""Takes a chunk with its input and gives its output."""


class ProgramEndsError(Exception):
    """The callback raised what ends a program, such as SystemExit; the report goes out first."""

    def __init__(self, report: Report, cause: BaseException) -> None:
        self.report = report
        self.cause = cause
        super().__init__(str(cause))


def work_on(
    reservation: Reservation, store: ObjectStore, work: Work, *, is_void: IsVoid, worker: str = ""
) -> Report:
    """Work on one chunk from input to stored output; Ctrl-C comes out of it.

    Raises:
        ProgramEndsError: for SystemExit and its like.
    """
    fetched = fetch(reservation, store)
    if not isinstance(fetched, Fetched):
        return fetched
    if is_void():
        return GivenBack(token=reservation.token, reason="nobody wants it any more")
    origin = Origin()
    ran = _run(fetched, work, is_void, worker)
    # Before anything is stored: a child that the callback forked and that came back from it.
    origin.check("a chunk in hand", "end a child that the callback forks, with os._exit()")
    if not isinstance(ran, Ran):
        return ran
    return save(ran, store, is_void=is_void)


def _run(fetched: Fetched, work: Work, is_void: IsVoid, worker: str) -> Ran | Failed:
    reservation = fetched.reservation
    with spans.process(reservation, worker=worker) as span:
        started = time.monotonic()
        try:
            output = work(Chunk.of(fetched, is_void), reservation)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 reported, and raised again by who reports it
            report = Failed(token=reservation.token, failure=failure_of(exc))
            span.record(exc)
            # A CancelledError out of plain code is that of a loop which the callback has run.
            if isinstance(exc, Exception | asyncio.CancelledError):
                return report
            raise ProgramEndsError(report, exc) from None
        operations = reservation.source.operations_in(reservation.chunk_index)
        return Ran(reservation, output, operations, time.monotonic() - started, span.context)


def decoded(callback: ChunkCallback, codec_of: Callable[[Reservation], Codec]) -> Work:
    """Make work of a callback that takes operations and gives a result for each."""

    def work(chunk: Chunk, reservation: Reservation) -> Encoded:
        codec = codec_of(reservation)
        source = reservation.source
        # What is in a raw chunk, and how many operations that is, is its producer's affair.
        is_raw = source.codec.startswith(RAW.name)
        operations = None if is_raw else source.operations_in(reservation.chunk_index)
        ops = codec.decode(chunk.input_content, operations=operations)
        output = encode_output(_checked(callback(ops, chunk), len(ops)), codec)
        # With a format of the caller's own it may be one that nobody could read.
        is_own = codec.name != source.codec
        return checked_output(output.data, reservation) if is_own else output

    return work


def raw(callback: RawCallback) -> Work:
    """Make work of a callback that takes and gives bytes."""
    return lambda chunk, reservation: checked_output(callback(chunk), reservation)


def checked_output(output: object, reservation: Reservation) -> Encoded:
    """Check a chunk's output of somebody else's making; all of it is decoded.

    Raises:
        EncodingError: it is not bytes, or not in the submission's codec, or lacks results. Stored
            it would stay, and nobody could read it.
    """
    if not isinstance(output, bytes | bytearray | memoryview):
        message = f"the output of a chunk is {type(output).__name__}: give bytes, encoded"
        raise EncodingError(message)
    data = bytes(output)
    source, index = reservation.source, reservation.chunk_index
    try:
        failed = count_errors(data, codec=source.codec, operations=source.operations_in(index))
    except EncodingError as exc:
        message = f"the output of chunk {reservation} can't be used: {exc}"
        raise EncodingError(message) from exc
    return Encoded(data, failed)


def _checked(results: object, expected: int) -> Sequence[object]:
    if not isinstance(results, Sequence) or isinstance(results, str | bytes | bytearray):
        message = (
            f"the callback returned {type(results).__name__}: it returns a sequence with a result "
            f"for each of its {expected:,} operations"
        )
        raise EncodingError(message)
    if len(results) != expected:
        message = (
            f"the callback returned {len(results):,} results for {expected:,} operations: return "
            "one for each, in their order"
        )
        raise EncodingError(message)
    return results


def raise_unless_done(report: Report, reservation: Reservation) -> None:
    """Raise why an output could not be stored, for who asked for no more than that."""
    match report:
        case GivenBack(reason=reason):
            message = f"the output of chunk {reservation} is not stored, it was released: {reason}"
            raise StoreUnavailableError(message)
        case Failed(failure=failure):
            message = f"the output of chunk {reservation} is not stored: {failure.message}"
            raise InvalidArgumentError(message)


def failure_of(error: BaseException) -> ChunkFailure:
    """Describe what a callback raised, without our own frames: the user's begin at the callback."""
    if isinstance(error, EncodingError | InvalidArgumentError):
        # The message says it all, and every frame is ours.
        return ChunkFailure(type=type(error).__name__, message=str(error))
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_globals.get("__name__") in _OURS:
        frame = frame.tb_next
    return ChunkFailure.of(error.with_traceback(frame or error.__traceback__))


_OURS = (__name__, "opsqueue.consumer.client")
