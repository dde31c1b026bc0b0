"""The work on one reserved chunk: fetch, run, save. It is the same for every pool and for tests.

It has three stages, so that a pool can overlap them; `execute` runs all three in a row. Each stage
returns the next stage's value or a report. None raises an exception for errors of a handler or a
store, or for damaged bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from msgspec import structs

from opsqueue.contents.chunks import failed_in_output, store_output
from opsqueue.contents.codec import MAX_CHUNK_BYTES, RAW, Codec, is_raw, open_codec, readable_codecs
from opsqueue.contents.output import MAGIC, Encoded, encode_output
from opsqueue.contents.output_check import count_errors
from opsqueue.exceptions import (
    EncodingError,
    InvalidArgumentError,
    ObjectNotFoundError,
    ObjectUnusableError,
    OpsqueueError,
    StoreUnavailableError,
)
from opsqueue.handlers import observe
from opsqueue.handlers.app import Chunk, Handler
from opsqueue.handlers.invoke import Invoker, failure_of, in_hook_thread
from opsqueue.model.answers import WorkerSeen
from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.chunk import ChunkFailure, Reservation, Token
from opsqueue.model.process import EndsForkedChildren
from opsqueue.model.raised import cause_of, is_a, text_of
from opsqueue.model.submission import ChunkIndex
from opsqueue.store import ObjectStore, input_key
from opsqueue.tracing import Span, spans

if TYPE_CHECKING:
    from opentelemetry.context import Context

STORE_UNAVAILABLE_DELAY_MS: Final = 2_000
"""The delay of a chunk that is released because the store does not work."""

SAVE_TRIES: Final = 4
"""The number of tries to store an output. An input has one, but here the work is done already."""
_SAVE_BACKOFF: Final = RetryBackoff(first_s=0.5, max_s=2.0)


@dataclass(frozen=True, slots=True)
class Times:
    """The seconds that a chunk took beside its handler; None: there was no such stage."""

    input_wait_s: float | None = None
    """The time that its slot was idle until the input was there."""
    store_s: float | None = None


_NO_TIMES: Final = Times()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The output is stored, or is here. `ran` is False if an earlier attempt had stored it."""

    token: Token
    operations: int
    operations_failed: int = 0
    """The number of failed operations in the stored output, whoever stored it."""
    duration_s: float
    ran: bool = True
    output: bytes | None = field(default=None, repr=False)
    """The output to send with the report, if chunk and output are small."""
    times: Times = _NO_TIMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed."""

    token: Token
    failure: ChunkFailure
    duration_s: float = 0.0
    times: Times = _NO_TIMES
    is_final: bool = False
    """True if every further attempt would end the same way."""
    unread_codec: str = ""
    """The codec of the input, if this program can't read it but others may."""
    ends_program: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception of the function, if it is one that ends a program, such as SystemExit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """The chunk could not be run for a reason outside it, so no attempt is used."""

    token: Token
    reason: str
    delay_ms: int = 0
    times: Times = _NO_TIMES
    is_late: bool = False
    """True if the time to begin was over before the handler was called."""

    @property
    def shown_reason(self) -> str:
        """The reason to show with the submission, else "".

        A release has a delay if something around the handler does not work.
        """
        return self.reason if self.delay_ms else ""


Report = Done | Failed | GivenBack
Invoke = Callable[[Handler, list[object], Chunk], Sequence[object]]
InvokeAsync = Callable[[Handler, list[object], Chunk], Awaitable[Sequence[object]]]
SAVE_ATTEMPTS: Final = 2
"""The number of attempts at a chunk whose results can't be encoded; the second may differ."""
_Stage = Literal["open", "call", "close"]
_REVOKED: Final = "its reservation was revoked"
_LATE: Final = "the worker may have lost it while it was suspended"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The input is here, still encoded."""

    reservation: Reservation
    data: bytes


@dataclass(frozen=True, slots=True)
class Ran:
    """The handler has returned, and its results are encoded."""

    reservation: Reservation
    output: Encoded
    operations: int
    duration_s: float
    trace: Context | None = field(default=None, repr=False, compare=False)
    """The context of the span that it ran in."""

    @property
    def is_small(self) -> bool:
        """True if its output is sent with the report, and not stored in the object store."""
        return len(self.output.data) <= self.reservation.source.inline_output_bytes


def never_revoked() -> bool:
    """Return False, for chunks whose reservations can't be revoked."""
    return False


def always_current() -> bool:
    """Return True, for chunks that may begin at any time."""
    return True


def execute(
    reservation: Reservation,
    handler: Handler,
    store: ObjectStore,
    *,
    is_revoked: Callable[[], bool] = never_revoked,
    worker: str = "",
) -> Report:
    """Work on one chunk, from input to stored output; Ctrl-C is raised."""
    fetched = fetch(reservation, store)
    if not isinstance(fetched, Fetched):
        return fetched
    invoker = Invoker()
    try:
        ran = run(fetched, handler, is_revoked=is_revoked, invoke=invoker.call, worker=worker)
    finally:
        invoker.close()
    if isinstance(ran, Failed):
        raise_ctrl_c(ran)
    if not isinstance(ran, Ran):
        return ran
    return save(ran, store, is_revoked=is_revoked)


def raise_ctrl_c(report: Failed) -> None:
    """Raise what came from the terminal: as a failure, the chunk would only be tried again."""
    if (error := report.ends_program) is not None and is_a(error, KeyboardInterrupt):
        raise error


def is_fetched_from_store(reservation: Reservation) -> bool:
    """Return whether `fetch` reads the store; otherwise it takes no time and needs no thread."""
    return reservation.input is None or _may_have_output(reservation)


def fetch(reservation: Reservation, store: ObjectStore) -> Fetched | Report:
    """Get a chunk's input, or find that an earlier attempt has stored its output already."""
    with spans.fetch_input(reservation) as span:
        fetched = _fetch(reservation, store)
        _note(span, fetched)
    return fetched


def _may_have_output(reservation: Reservation) -> bool:
    # Only a chunk that was in hand before can have an output; Redis may have lost that fact. Other
    # chunks shall not pay a request for it. An older API only sends the number of the attempt.
    return reservation.again or reservation.attempt > 1 or reservation.source.is_suspect


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
    except ObjectNotFoundError as exc:
        failure = ChunkFailure(type="InputMissing", message=str(exc))
    except ObjectUnusableError as exc:
        # The store answers for other objects, so waiting would not help.
        failure = ChunkFailure.of(exc)
    except StoreUnavailableError as exc:
        return _store_is_away(token, exc)
    except Exception as exc:  # noqa: BLE001 whatever it is, the chunk must be reported
        return _stored_wrongly(reservation, exc)
    return Failed(token=token, failure=failure)


def _store_is_away(token: Token, exc: StoreUnavailableError) -> GivenBack:
    return GivenBack(token=token, reason=str(exc), delay_ms=STORE_UNAVAILABLE_DELAY_MS)


def run(
    fetched: Fetched,
    handler: Handler,
    *,
    is_revoked: Callable[[], bool] = never_revoked,
    is_current: Callable[[], bool] = always_current,
    invoke: Invoke,
    worker: str = "",
    limit_bytes: int = MAX_CHUNK_BYTES,
) -> Ran | Report:
    """Decode the input, call the handler, and check and encode its results.

    Args:
        fetched: the input.
        handler: the handler of its queue.
        is_revoked: tells whether the reservation was revoked; called before the handler and by it.
        invoke: calls the handler, such as `Invoker.call`.
        worker: the worker's name for the chunk's span.
        is_current: tells whether the chunk may still begin; called immediately before the handler.
        limit_bytes: the limit of the input before compression.
    """
    if is_revoked():
        return GivenBack(token=fetched.reservation.token, reason=_REVOKED)
    with spans.process(fetched.reservation, function=handler.name, worker=worker) as span:
        started = time.monotonic()
        stage: _Stage = "open"
        chunk: Chunk | None = None
        try:
            opened = _open(fetched, handler, limit_bytes)
            chunk = chunk_of(fetched, is_revoked, limit_bytes)
            if not is_current():
                return GivenBack(token=fetched.reservation.token, reason=_LATE, is_late=True)
            stage = "call"
            with EndsForkedChildren():
                results = invoke(handler, opened.operations, chunk)
            stage = "close"
            ran = _close(fetched, opened, results, handler, started, span)
            if ran.output.refused and observe.observes_errors(handler):
                _tell_of_refused(ran, opened, handler, chunk)
        except BaseException as exc:  # noqa: BLE001 a handler's sys.exit() must not end a worker
            failed = _failed(fetched, exc, handler, started, span, stage)
            if not observe.observes_failures(handler):
                return failed
            return _told(failed, exc, handler, chunk or _chunk(fetched, is_revoked))
        return ran


async def run_async(
    fetched: Fetched,
    handler: Handler,
    *,
    is_revoked: Callable[[], bool] = never_revoked,
    is_current: Callable[[], bool] = always_current,
    invoke: InvokeAsync,
    worker: str = "",
    limit_bytes: int = MAX_CHUNK_BYTES,
) -> Ran | Report:
    """Do what `run` does, on an event loop."""
    if is_revoked():
        return GivenBack(token=fetched.reservation.token, reason=_REVOKED)
    with spans.process(fetched.reservation, function=handler.name, worker=worker) as span:
        started = time.monotonic()
        stage: _Stage = "open"
        chunk: Chunk | None = None
        try:
            opened = _open(fetched, handler, limit_bytes)
            chunk = chunk_of(fetched, is_revoked, limit_bytes)
            if not is_current():
                return GivenBack(token=fetched.reservation.token, reason=_LATE, is_late=True)
            stage = "call"
            with EndsForkedChildren():
                results = await invoke(handler, opened.operations, chunk)
            stage = "close"
            ran = _close(fetched, opened, results, handler, started, span)
            if ran.output.refused and observe.observes_errors(handler):
                await in_hook_thread(_tell_of_refused, ran, opened, handler, chunk)
        except BaseException as exc:  # noqa: BLE001 a handler's sys.exit() must not end a worker
            failed = _failed(fetched, exc, handler, started, span, stage)
            if not observe.observes_failures(handler):
                return failed
            # A hook that waits must not hold up the other chunks on the loop.
            chunk = chunk or _chunk(fetched, is_revoked)
            return await in_hook_thread(_told, failed, exc, handler, chunk)
        return ran


def save(ran: Ran, store: ObjectStore, *, is_revoked: Callable[[], bool] = never_revoked) -> Report:
    """Store the output, unless the chunk has one: the first output stays.

    A small output of a small submission is sent with the report instead, where the same holds.
    """
    token = ran.reservation.token
    if is_revoked():
        return GivenBack(token=token, reason=_REVOKED)
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
        except ObjectUnusableError as exc:
            return Failed(token=token, failure=ChunkFailure.of(exc))
        except StoreUnavailableError as exc:
            if attempt == SAVE_TRIES:
                return _store_is_away(token, exc)
            time.sleep(_SAVE_BACKOFF.pause_s(attempt))
        except Exception as exc:  # noqa: BLE001 whatever it is, the chunk must be reported
            return _stored_wrongly(ran.reservation, exc)
        else:
            break
    return Done(
        token=token,
        operations=ran.operations,
        operations_failed=failed,
        duration_s=ran.duration_s,
    )


def _stored_wrongly(reservation: Reservation, exc: Exception) -> Failed:
    """Return the failure of reading or storing; it is final if a stored output can't be read."""
    if not isinstance(exc, EncodingError):
        return Failed(token=reservation.token, failure=ChunkFailure.of(exc))
    failure = _final(
        ChunkFailure(type=type(exc).__name__, message=text_of(exc)), "the output stays"
    )
    return Failed(token=reservation.token, failure=failure, is_final=True)


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
        codec = _codec_of(source.codec, handler)
    # The number of operations in a raw chunk is known to its producer only.
    operations = (
        None if is_raw(source.codec) else source.operations_in(fetched.reservation.chunk_index)
    )
    found = codec.decode(fetched.data, operations=operations, limit_bytes=limit_bytes)
    return _Opened(codec, found)


def _codec_of(name: str, handler: Handler) -> Codec:
    """Return the codec of a submission: one of the handler's own, or a built-in one."""
    for codec in handler.codecs:
        if codec.name == name:
            return codec
    try:
        return open_codec(name, allow_pickle=handler.allow_pickle)
    except InvalidArgumentError as exc:
        if name.removesuffix("+zstd") in readable_codecs(allow_pickle=True):
            raise
        message = (
            f"{exc}. It is a custom codec: register it in the app of the worker, as "
            f"Opsqueue(codecs=[{name.removeprefix('custom:')}])"
        )
        raise InvalidArgumentError(message) from exc


def _close(
    fetched: Fetched,
    opened: _Opened,
    results: Sequence[object],
    handler: Handler,
    started: float,
    span: Span,
) -> Ran:
    # Measured before encoding: the number of chunks reserved ahead depends on the handlers' times.
    duration_s = time.monotonic() - started
    reservation, operations = fetched.reservation, len(opened.operations)
    if handler.kind == "raw":
        output = checked_output(packed_output(results, reservation), reservation)
        operations = reservation.source.operations_in(reservation.chunk_index)
    else:
        output = encode_output(results, opened.codec, collects=handler.collects)
        if opened.codec.name != reservation.source.codec:
            # The callback's own format may be one that nobody else can read.
            output = checked_output(output.data, reservation)
    if output.operations_failed:
        span.note({"opsqueue.chunk.operations_failed": output.operations_failed})
    return Ran(reservation, output, operations, duration_s, span.context)


def packed_output(output: object, reservation: Reservation) -> object:
    """Return a chunk's output as it is stored: compressed if the submission's codec requires it."""
    codec = RAW.as_in(reservation.source.codec)
    # An output with errors stays as it is: only the list of results inside it is compressed.
    if codec.is_compressed and isinstance(output, bytes) and not output.startswith(MAGIC):
        return codec.encode([output])
    return output


def checked_output(output: object, reservation: Reservation) -> Encoded:
    """Check an output that was not encoded here, by decoding all of it.

    Raises:
        EncodingError: it is not bytes, is not in the submission's codec, or lacks results. If it
            were stored, it would stay, and nobody could read it.
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
    fetched: Fetched,
    exc: BaseException,
    handler: Handler,
    started: float,
    span: Span,
    stage: _Stage,
) -> Failed:
    failure = failure_of(exc, handler)
    source = fetched.reservation.source
    # A lack of memory, or of a resource that a custom codec needs, may be over by the next attempt.
    is_lasting = is_a(exc, EncodingError, InvalidArgumentError) and not is_a(
        cause_of(exc), MemoryError, OSError
    )
    is_final, unread_codec = False, ""
    if is_lasting and stage == "open":
        is_final = True
        failure = _final(failure, "the input would be the same")
        if is_a(exc, InvalidArgumentError):
            unread_codec = source.codec
    elif is_lasting and stage == "close" and fetched.reservation.attempt >= SAVE_ATTEMPTS:
        is_final = True
        failure = _final(failure, f"attempt {fetched.reservation.attempt} ended like this, too")
    span.record(exc)
    # A CancelledError from plain code comes from a loop that the function has run itself.
    ends_program = not is_a(exc, Exception, asyncio.CancelledError)
    return Failed(
        token=fetched.reservation.token,
        failure=failure,
        duration_s=time.monotonic() - started,
        is_final=is_final,
        unread_codec=unread_codec,
        ends_program=exc if ends_program else None,
    )


def _told(failed: Failed, exc: BaseException, handler: Handler, chunk: Chunk) -> Failed:
    """Call the hooks that observe failures of chunks."""
    interrupt = observe.chunk_failed(handler, exc, chunk)
    return failed if interrupt is None else replace(failed, ends_program=interrupt)


def _tell_of_refused(ran: Ran, opened: _Opened, handler: Handler, chunk: Chunk) -> None:
    """Call the hooks for operations whose results can't be encoded."""
    for index, reason in ran.output.refused.items():
        operation = opened.operations[index]
        observe.operation_failed(handler, EncodingError(reason), chunk, index, operation)


def _final(failure: ChunkFailure, why: str) -> ChunkFailure:
    return structs.replace(failure, message=f"{failure.message} (not tried again: {why})")


def left_to_readers(
    report: Failed, list_workers: Callable[[], Iterable[WorkerSeen]], *, worker: str
) -> Failed | GivenBack:
    """Return the report to send for a chunk whose codec `worker` can't read.

    If another live worker of the queue reads it, the chunk is released. If the workers can't be
    listed, the chunk is tried again as after any failure.
    """
    if not report.unread_codec:
        return report
    try:
        readers = [
            one.name
            for one in list_workers()
            if one.is_alive and one.name != worker and one.reads(report.unread_codec)
        ]
    except OpsqueueError:
        return replace(report, is_final=False)
    if not readers:
        return report
    return GivenBack(
        token=report.token,
        reason=f"worker {readers[0]} reads codec {report.unread_codec!r}, and this one doesn't",
        delay_ms=STORE_UNAVAILABLE_DELAY_MS,
    )


def _note(span: Span, outcome: Fetched | Report) -> None:
    """Record in a span of the store why a chunk went no further."""
    match outcome:
        case Failed(failure=failure):
            span.fail(failure.type, failure.message)
        case GivenBack(reason=reason):
            span.fail("StoreUnavailableError", reason)
        case _:
            pass


def chunk_of(
    fetched: Fetched, is_revoked: Callable[[], bool], limit_bytes: int = MAX_CHUNK_BYTES
) -> Chunk:
    """Return the chunk as the user's function sees it.

    Raises:
        EncodingError: its input can't be decompressed, or is larger than the limit.
    """
    content = fetched.data
    if (codec := RAW.as_in(fetched.reservation.source.codec)).is_compressed:
        (plain,) = codec.decode(fetched.data, limit_bytes=limit_bytes)
        content = plain if isinstance(plain, bytes) else content
    return _chunk(fetched, is_revoked, content)


def _chunk(fetched: Fetched, is_revoked: Callable[[], bool], content: bytes = b"") -> Chunk:
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
        is_revoked=is_revoked,
        first_index=reservation.chunk_index * source.chunk_size,
        prefix=source.prefix,
        input_content=content,
    )
