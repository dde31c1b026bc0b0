"""What is done with one chunk in hand: fetch, run, save. The same for every pool and for tests.

Three stages, so that a pool can overlap them; `execute` is all three in a row. Each ends in the
next stage's value or in a report, and none raises for what a handler, a store or bad bytes do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opsqueue.contents.chunks import failed_in_output, store_output
from opsqueue.contents.codec import MAX_CHUNK_BYTES, RAW, Codec, open_codec
from opsqueue.contents.output import Encoded, encode_output
from opsqueue.contents.output_check import count_errors
from opsqueue.exceptions import (
    EncodingError,
    ObjectNotFoundError,
    StoreUnavailableError,
)
from opsqueue.handlers.app import Chunk, Handler
from opsqueue.handlers.invoke import Invoker, failure_of
from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue.model.process import EndsForkedChildren
from opsqueue.model.submission import ChunkIndex
from opsqueue.store import ObjectStore, input_key
from opsqueue.tracing import Span, spans

if TYPE_CHECKING:
    from opentelemetry.context import Context

STORE_TROUBLE_DELAY_MS: Final = 2_000
"""A chunk given back because the store is out of order is left alone for this long."""

SAVE_TRIES: Final = 4
"""Of storing an output: the work is done already, so we try harder than for an input."""
_SAVE_BACKOFF: Final = RetryBackoff(first_s=0.5, max_s=2.0)


@dataclass(frozen=True, slots=True)
class Times:
    """What a chunk took beside its handler, in seconds; None: there was no such stage."""

    input_wait_s: float | None = None
    """Its place had nothing to do until the input was there."""
    store_s: float | None = None


_NO_TIMES: Final = Times()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The output is stored, or here. `ran` is False when an earlier attempt had stored it."""

    token: Token
    operations: int
    operations_failed: int = 0
    """Of these, as the stored output has it, whoever stored it."""
    duration_s: float
    ran: bool = True
    output: bytes | None = field(default=None, repr=False)
    """To go with the report, where chunk and output are small."""
    times: Times = _NO_TIMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed."""

    token: Token
    failure: ChunkFailure
    duration_s: float = 0.0
    times: Times = _NO_TIMES
    ends_program: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception of the function if it was to end the program, such as SystemExit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """The chunk could not be worked on, which is not its fault: no attempt is used."""

    token: Token
    reason: str
    delay_ms: int = 0
    times: Times = _NO_TIMES


Report = Done | Failed | GivenBack
Invoke = Callable[[Handler, list[object], Chunk], Sequence[object]]
InvokeAsync = Callable[[Handler, list[object], Chunk], Awaitable[Sequence[object]]]
_VOID: Final = "nobody wants it any more"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The input is here, still encoded."""

    reservation: Reservation
    data: bytes


@dataclass(frozen=True, slots=True)
class Ran:
    """The handler is through; its results are encoded."""

    reservation: Reservation
    output: Encoded
    operations: int
    duration_s: float
    trace: Context | None = field(default=None, repr=False, compare=False)
    """Of the span that it ran in."""

    @property
    def is_small(self) -> bool:
        """Its output goes with the report, and not to the object store."""
        return len(self.output.data) <= self.reservation.source.inline_output_bytes


def never_void() -> bool:
    """Serve chunks that nobody can make void."""
    return False


def execute(
    reservation: Reservation,
    handler: Handler,
    store: ObjectStore,
    *,
    is_void: Callable[[], bool] = never_void,
    worker: str = "",
) -> Report:
    """Work on one chunk from input to stored output; Ctrl-C comes out of it."""
    fetched = fetch(reservation, store)
    if not isinstance(fetched, Fetched):
        return fetched
    invoker = Invoker()
    try:
        ran = run(fetched, handler, is_void=is_void, invoke=invoker.call, worker=worker)
    finally:
        invoker.close()
    if isinstance(ran, Failed) and isinstance(ran.ends_program, KeyboardInterrupt):
        # Nobody but the person at the terminal: a failure would only be tried again.
        raise ran.ends_program
    if not isinstance(ran, Ran):
        return ran
    return save(ran, store, is_void=is_void)


def is_fetched_from_store(reservation: Reservation) -> bool:
    """Tell whether `fetch` asks the store: else it takes no time, and needs no thread."""
    return reservation.input is None or _may_have_output(reservation)


def fetch(reservation: Reservation, store: ObjectStore) -> Fetched | Report:
    """Get a chunk's input; or find that an earlier attempt stored its output already."""
    with spans.fetch_input(reservation) as span:
        fetched = _fetch(reservation, store)
        _note(span, fetched)
    return fetched


def _may_have_output(reservation: Reservation) -> bool:
    # Only a second attempt can find an output, also one that Redis takes for the first; the others
    # shall not pay a request for it.
    return reservation.attempt > 1 or reservation.source.is_suspect


def _fetch(reservation: Reservation, store: ObjectStore) -> Fetched | Report:
    source, index, token = reservation.source, reservation.chunk_index, reservation.token
    try:
        if _may_have_output(reservation):
            with suppress(ObjectNotFoundError):
                return Done(
                    token=token,
                    operations=source.operations_in(index),
                    operations_failed=failed_in_output(store, source, index),
                    duration_s=0.0,
                    ran=False,
                )
        if reservation.input is not None:
            return Fetched(reservation, reservation.input)
        return Fetched(reservation, store.get(input_key(source.prefix, index)))
    except StoreUnavailableError as exc:
        return GivenBack(token=token, reason=str(exc), delay_ms=STORE_TROUBLE_DELAY_MS)
    except ObjectNotFoundError as exc:
        return Failed(token=token, failure=ChunkFailure(type="InputMissing", message=str(exc)))
    except Exception as exc:  # noqa: BLE001 whatever it is, the chunk must be reported
        return Failed(token=token, failure=ChunkFailure.of(exc))


def run(
    fetched: Fetched,
    handler: Handler,
    *,
    is_void: Callable[[], bool] = never_void,
    invoke: Invoke,
    worker: str = "",
    limit_bytes: int = MAX_CHUNK_BYTES,
) -> Ran | Report:
    """Decode, call the handler, check and encode what it returned.

    Args:
        fetched: the input.
        handler: of its queue.
        is_void: asked before the handler is called, and by the handler.
        invoke: calls it, such as `Invoker.call`.
        worker: named in the chunk's span.
        limit_bytes: of the input before compression.
    """
    if is_void():
        return GivenBack(token=fetched.reservation.token, reason=_VOID)
    with spans.process(fetched.reservation, function=handler.name, worker=worker) as span:
        started = time.monotonic()
        try:
            opened = _open(fetched, handler, limit_bytes)
            chunk = chunk_of(fetched, is_void)
            with EndsForkedChildren():
                results = invoke(handler, opened.operations, chunk)
            return _close(fetched, opened, results, handler, started, span)
        except BaseException as exc:  # noqa: BLE001 a handler's sys.exit() must not end a worker
            return _failed(fetched, exc, handler, started, span)


async def run_async(
    fetched: Fetched,
    handler: Handler,
    *,
    is_void: Callable[[], bool] = never_void,
    invoke: InvokeAsync,
    worker: str = "",
    limit_bytes: int = MAX_CHUNK_BYTES,
) -> Ran | Report:
    """Do what `run` does, on an event loop."""
    if is_void():
        return GivenBack(token=fetched.reservation.token, reason=_VOID)
    with spans.process(fetched.reservation, function=handler.name, worker=worker) as span:
        started = time.monotonic()
        try:
            opened = _open(fetched, handler, limit_bytes)
            chunk = chunk_of(fetched, is_void)
            with EndsForkedChildren():
                results = await invoke(handler, opened.operations, chunk)
            return _close(fetched, opened, results, handler, started, span)
        except BaseException as exc:  # noqa: BLE001 a handler's sys.exit() must not end a worker
            return _failed(fetched, exc, handler, started, span)


def save(ran: Ran, store: ObjectStore, *, is_void: Callable[[], bool] = never_void) -> Report:
    """Store the output, unless there is one: the first that was stored stays.

    A small one of a small submission goes with the report instead, where the same holds.
    """
    token = ran.reservation.token
    if is_void():
        return GivenBack(token=token, reason=_VOID)
    if ran.is_small:
        return Done(
            token=token,
            operations=ran.operations,
            operations_failed=ran.output.operations_failed,
            duration_s=ran.duration_s,
            output=ran.output.data,
        )
    with spans.store_output(ran.reservation, ran.trace) as span:
        report = _store(ran, store)
        _note(span, report)
    return report


def _store(ran: Ran, store: ObjectStore) -> Report:
    token, source = ran.reservation.token, ran.reservation.source
    for attempt in range(1, SAVE_TRIES + 1):
        try:
            failed = store_output(store, source, ran.reservation.chunk_index, ran.output)
        except StoreUnavailableError as exc:
            if attempt == SAVE_TRIES:
                return GivenBack(token=token, reason=str(exc), delay_ms=STORE_TROUBLE_DELAY_MS)
            time.sleep(_SAVE_BACKOFF.pause_s(attempt))
        except Exception as exc:  # noqa: BLE001 whatever it is, the chunk must be reported
            return Failed(token=token, failure=ChunkFailure.of(exc))
        else:
            break
    return Done(
        token=token,
        operations=ran.operations,
        operations_failed=failed,
        duration_s=ran.duration_s,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    codec: Codec
    operations: list[object]


def _open(fetched: Fetched, handler: Handler, limit_bytes: int) -> _Opened:
    source = fetched.reservation.source
    if handler.kind == "raw":
        return _Opened(RAW, [])
    if handler.codec_of is not None:
        codec = handler.codec_of(source.codec)
    else:
        codec = open_codec(source.codec, allow_pickle=handler.allow_pickle)
    # What is in a raw chunk, and how many operations that is, is its producer's affair.
    is_raw = source.codec.startswith(RAW.name)
    operations = None if is_raw else source.operations_in(fetched.reservation.chunk_index)
    found = codec.decode(fetched.data, operations=operations, limit_bytes=limit_bytes)
    return _Opened(codec, found)


def _close(
    fetched: Fetched,
    opened: _Opened,
    results: Sequence[object],
    handler: Handler,
    started: float,
    span: Span,
) -> Ran:
    # Measured before encoding: how long handlers take decides how far ahead is reserved.
    duration_s = time.monotonic() - started
    reservation, operations = fetched.reservation, len(opened.operations)
    if handler.kind == "raw":
        output = checked_output(results, reservation)
        operations = reservation.source.operations_in(reservation.chunk_index)
    else:
        output = encode_output(results, opened.codec, collects=handler.collects)
        if opened.codec.name != reservation.source.codec:
            # A format of the callback's own may be one that nobody could read.
            output = checked_output(output.data, reservation)
    if output.operations_failed:
        span.note({"opsqueue.chunk.operations_failed": output.operations_failed})
    return Ran(reservation, output, operations, duration_s, span.context)


def checked_output(output: object, reservation: Reservation) -> Encoded:
    """Check a chunk's output that somebody else encoded; all of it is decoded.

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


def _failed(
    fetched: Fetched, exc: BaseException, handler: Handler, started: float, span: Span
) -> Failed:
    failure = failure_of(exc, handler)
    span.record(exc)
    # A CancelledError out of plain code is that of a loop which the function has run.
    ends_program = not isinstance(exc, Exception | asyncio.CancelledError)
    return Failed(
        token=fetched.reservation.token,
        failure=failure,
        duration_s=time.monotonic() - started,
        ends_program=exc if ends_program else None,
    )


def _note(span: Span, outcome: Fetched | Report) -> None:
    """Say in a span of the store's why a chunk went no further."""
    match outcome:
        case Failed(failure=failure):
            span.fail(failure.type, failure.message)
        case GivenBack(reason=reason):
            span.fail("StoreUnavailableError", reason)
        case _:
            pass


def chunk_of(fetched: Fetched, is_void: Callable[[], bool]) -> Chunk:
    """Return what the user's function may know of a chunk."""
    reservation, source = fetched.reservation, fetched.reservation.source
    return Chunk(
        submission_id=source.submission_id,
        chunk_index=ChunkIndex(reservation.chunk_index),
        attempt=reservation.attempt,
        max_attempts=source.max_attempts,
        chunks_total=source.chunks_total,
        queue=source.queue,
        metadata=source.metadata,
        strategic_metadata=source.strategic_metadata,
        trace_context=source.trace_context,
        is_void=is_void,
        prefix=source.prefix,
        input_content=fetched.data,
    )
