"""What is done with one chunk in hand: fetch, run, save. The same for every pool and for tests.

Three stages, so that a pool can overlap them; `execute` is all three in a row. Each ends in the
next stage's value or in a report, and none raises for what a handler, a store or bad bytes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from opsqueue.app import Chunk, Handler
from opsqueue.chunk import ChunkFailure, Reservation, Token
from opsqueue.codec import open_codec
from opsqueue.exceptions import (
    EncodingError,
    ObjectNotFoundError,
    OpsqueueError,
    StoreUnavailableError,
)
from opsqueue.store import ObjectStore, input_key, output_key

STORE_TROUBLE_DELAY_MS: Final = 2_000
"""A chunk given back because the store is out of order is left alone for this long."""

SAVE_TRIES: Final = 4
"""Of storing an output: the work is done already, so we try harder than for an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The output is stored. `ran` is False when an earlier attempt had stored it."""

    token: Token
    operations: int
    duration_s: float
    ran: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed."""

    token: Token
    failure: ChunkFailure
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """The chunk could not be worked on, which is not its fault: no attempt is used."""

    token: Token
    reason: str
    delay_ms: int = 0


Report = Done | Failed | GivenBack


@dataclass(frozen=True, slots=True)
class Fetched:
    """The input is here, still encoded."""

    reservation: Reservation
    data: bytes


@dataclass(frozen=True, slots=True)
class Ran:
    """The handler is through; its results are encoded."""

    reservation: Reservation
    data: bytes
    operations: int
    duration_s: float


def never_void() -> bool:
    """Serve chunks that nobody can make void."""
    return False


def execute(
    reservation: Reservation,
    handler: Handler,
    store: ObjectStore,
    *,
    is_void: Callable[[], bool] = never_void,
) -> Report:
    """Work on one chunk from input to stored output."""
    fetched = fetch(reservation, store)
    if not isinstance(fetched, Fetched):
        return fetched
    ran = run(fetched, handler, is_void=is_void)
    if not isinstance(ran, Ran):
        return ran
    return save(ran, store, is_void=is_void)


def fetch(reservation: Reservation, store: ObjectStore) -> Fetched | Report:
    """Get a chunk's input; or find that an earlier attempt stored its output already."""
    source, index, token = reservation.source, reservation.chunk_index, reservation.token
    try:
        # Only a second attempt can find an output; the first shall not pay a request for it.
        if reservation.attempt > 1 and store.exists(output_key(source.prefix, index)):
            return Done(
                token=token, operations=source.operations_in(index), duration_s=0.0, ran=False
            )
        return Fetched(reservation, store.get(input_key(source.prefix, index)))
    except StoreUnavailableError as exc:
        return GivenBack(token=token, reason=str(exc), delay_ms=STORE_TROUBLE_DELAY_MS)
    except ObjectNotFoundError as exc:
        return Failed(token=token, failure=ChunkFailure(type="InputMissing", message=str(exc)))
    except Exception as exc:  # noqa: BLE001 whatever it is, the chunk must be reported
        return Failed(token=token, failure=ChunkFailure.of(exc))


def run(
    fetched: Fetched, handler: Handler, *, is_void: Callable[[], bool] = never_void
) -> Ran | Report:
    """Decode, call the handler, check and encode what it returned."""
    reservation, token = fetched.reservation, fetched.reservation.token
    if is_void():
        return GivenBack(token=token, reason="nobody wants it any more")
    started = time.monotonic()
    try:
        codec = open_codec(reservation.source.codec, allow_pickle=handler.allow_pickle)
        operations = codec.decode(fetched.data)
        results = _call(handler, operations, _chunk_of(reservation, is_void))
        data = codec.encode(results)
    except BaseException as exc:  # noqa: BLE001 a handler's sys.exit() must not end a worker
        duration_s = time.monotonic() - started
        return Failed(token=token, failure=_failure_of(exc, handler), duration_s=duration_s)
    return Ran(reservation, data, len(operations), time.monotonic() - started)


def save(ran: Ran, store: ObjectStore, *, is_void: Callable[[], bool] = never_void) -> Report:
    """Store the output, unless there is one: the first that was stored stays."""
    token, source = ran.reservation.token, ran.reservation.source
    if is_void():
        return GivenBack(token=token, reason="nobody wants it any more")
    key = output_key(source.prefix, ran.reservation.chunk_index)
    for attempt in range(1, SAVE_TRIES + 1):
        try:
            store.create(key, ran.data)
        except StoreUnavailableError as exc:
            if attempt == SAVE_TRIES:
                return GivenBack(token=token, reason=str(exc), delay_ms=STORE_TROUBLE_DELAY_MS)
            time.sleep(0.25 * 2**attempt)
        except Exception as exc:  # noqa: BLE001 whatever it is, the chunk must be reported
            return Failed(token=token, failure=ChunkFailure.of(exc))
        else:
            break
    return Done(token=token, operations=ran.operations, duration_s=ran.duration_s)


def _call(handler: Handler, operations: list[object], chunk: Chunk) -> Sequence[object]:
    extra = {"chunk": chunk} if handler.takes_chunk else {}
    if handler.kind == "operation":
        return [handler.function(operation, **extra) for operation in operations]
    results = handler.function(operations, **extra)
    if not isinstance(results, list | tuple):
        message = (
            f"handler {handler.name} returned {type(results).__name__}: a chunk handler returns a "
            f"list with a result for each of its {len(operations):,} operations"
        )
        raise EncodingError(message)
    if len(results) != len(operations):
        message = (
            f"handler {handler.name} returned {len(results):,} results for "
            f"{len(operations):,} operations: return one for each, in their order"
        )
        raise EncodingError(message)
    return results


def _chunk_of(reservation: Reservation, is_void: Callable[[], bool]) -> Chunk:
    source = reservation.source
    return Chunk(
        submission_id=source.submission_id,
        chunk_index=reservation.chunk_index,
        attempt=reservation.attempt,
        max_attempts=source.max_attempts,
        chunks_total=source.chunks_total,
        queue=source.queue,
        metadata=source.metadata,
        strategic_metadata=source.strategic_metadata,
        is_void=is_void,
    )


def _failure_of(error: BaseException, handler: Handler) -> ChunkFailure:
    """Leave our own frames out of the traceback: the user's begin at the handler."""
    if isinstance(error, OpsqueueError):
        # The message says it all, and every frame is ours.
        return ChunkFailure(type=type(error).__name__, message=str(error))
    frame: TracebackType | None = error.__traceback__
    code = getattr(handler.function, "__code__", None)
    while frame is not None and frame.tb_frame.f_code is not code:
        frame = frame.tb_next
    return ChunkFailure.of(error.with_traceback(frame or error.__traceback__))
