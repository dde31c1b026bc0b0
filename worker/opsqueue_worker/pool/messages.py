"""The protocol between parent and child: MessagePack over a socket pair.

    parent                                child
      Hello ──────────────────────────────► imports the app, opens the store
                                  ◄──────── Ready
      Work: chunks ───────────────────────► each waits for a slot; its input is fetched meanwhile
                                  ◄──────── Reports: outcomes, several at once
      Revoked: their reservations ended ──► they don't begin; a running handler can ask
      Confirmed: they are this worker's ──► they may begin until a later instant
      Recall: another child is idle ──────►
                                  ◄──────── Returned: chunks that have not begun
      Stop ───────────────────────────────► returns what waits, finishes what runs, ends

A child also returns a chunk whose time to begin is over. Each chunk of `Work` is either reported
or returned, once; if the child dies first, its parent decides from `Status` what has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Final

import msgspec

from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.handlers.execute import Done, Failed, GivenBack, Report, Times
from opsqueue.model.chunk import ChunkFailure, Reservation, Source, Token, encodable
from opsqueue.tracing.logs import LogFormat
from opsqueue_worker.pool import PoolKind
from opsqueue_worker.pool.waiting import PoolChunk


class Hello(msgspec.Struct, array_like=True, tag=True):
    """The parent's first message: how the child is set up."""

    app: str
    store_url: str
    pool: PoolKind
    slots: int
    """Chunks that run at the same time."""
    worker: str
    log_level: str
    log_format: LogFormat
    max_chunk_bytes: int = MAX_CHUNK_BYTES
    """Limit of an input before compression."""
    store_id: str = ""
    """Id in the store's marker, which the child's store must have, too."""
    must_serve: tuple[str, ...] = ()
    """Queues without whose handlers the child does not start."""


class Ready(msgspec.Struct, array_like=True, tag=True):
    """The child's first message: the app is imported and the store is open."""


class NotStarted(msgspec.Struct, array_like=True, tag=True):
    """The child's only message: it can't start, and ends."""

    reason: str
    is_usage: bool
    """True if the app is wrong."""


class Unfit(msgspec.Struct, array_like=True, tag=True):
    """The child asks to be replaced, after its running chunks: it begins no others."""

    reason: str


class WorkChunk(msgspec.Struct, array_like=True):
    """One chunk of `Work`."""

    sequence: int
    """The chunk's number within this child, from 1, as in `Status.running`."""
    token: str
    index: int
    attempt: int
    expires_at_ms: int
    input: bytes | None
    good_until: float
    """The instant of `boot_time` until which it may begin; later, the child returns it."""
    again: bool = False


class Work(msgspec.Struct, array_like=True, tag=True):
    """The parent sends chunks of one submission, to be processed in their order."""

    source: Source | None
    """None: that of the message before."""
    chunks: list[WorkChunk]


class Revoked(msgspec.Struct, array_like=True, tag=True):
    """The parent reports chunks whose reservations have been revoked."""

    tokens: list[str]


class Confirmed(msgspec.Struct, array_like=True, tag=True):
    """The parent sends later instants until which chunks may begin, see `WorkChunk`."""

    good_until: dict[str, float]


class Recall(msgspec.Struct, array_like=True, tag=True):
    """The parent asks for the chunks that have not begun; the child answers with `Returned`."""


class Stop(msgspec.Struct, array_like=True, tag=True):
    """The parent asks the child to finish the running chunks, return the others, and end."""


class ChunkDone(msgspec.Struct, array_like=True, tag=True):
    """The child reports a `Done`."""

    token: str
    operations: int
    operations_failed: int
    duration_s: float
    ran: bool
    output: bytes | None
    times: tuple[float | None, float | None]


class ChunkFailed(msgspec.Struct, array_like=True, tag=True):
    """The child reports a `Failed`."""

    token: str
    kind: str
    message: str
    traceback: str
    duration_s: float
    times: tuple[float | None, float | None]
    is_final: bool
    unread_codec: str


class ChunkGivenBack(msgspec.Struct, array_like=True, tag=True):
    """The child reports a `GivenBack`."""

    token: str
    reason: str
    delay_ms: int
    times: tuple[float | None, float | None]


ChunkReport = ChunkDone | ChunkFailed | ChunkGivenBack


class Reports(msgspec.Struct, array_like=True, tag=True):
    """The child sends the outcomes of chunks, in the order in which they ended."""

    reports: list[ChunkReport]


class Returned(msgspec.Struct, array_like=True, tag=True):
    """The child returns chunks that have not begun; none, if all have."""

    tokens: list[Token]


ToChild = Hello | Work | Revoked | Confirmed | Recall | Stop
ToParent = Ready | NotStarted | Reports | Returned | Unfit

# The one type in them that msgspec does not know is SubmissionId, which is an int.
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=int)
read_from_parent: Callable[[bytes], ToChild] = msgspec.msgpack.Decoder(
    ToChild, dec_hook=lambda kind, number: kind(number)
).decode
read_from_child: Callable[[bytes], ToParent] = msgspec.msgpack.Decoder(ToParent).decode


def send(connection: Connection, message: ToChild | ToParent) -> None:
    """Send a message; the caller must keep other threads from sending at the same time.

    Raises:
        OSError: the other side is gone.
    """
    connection.send_bytes(_ENCODER.encode(message))


def works_of(
    chunks: Iterable[tuple[PoolChunk, float]], *, source: Source | None = None
) -> list[Work]:
    """Return the messages for chunks, with the instants until which they may begin, in their order.

    `source` is that of the message before them. Metadata may be large, so it is not sent again.
    """
    works: list[Work] = []
    for chunk, good_until in chunks:
        reservation = chunk.reservation
        is_known = reservation.source == source
        if not (works and is_known):
            source = reservation.source
            works.append(Work(source=None if is_known else source, chunks=[]))
        works[-1].chunks.append(
            WorkChunk(
                chunk.sequence,
                reservation.token,
                reservation.chunk_index,
                reservation.attempt,
                reservation.expires_at_ms,
                reservation.input,
                good_until,
                reservation.again,
            )
        )
    return works


def reservation_of(chunk: WorkChunk, source: Source) -> Reservation:
    """Return the reservation of a chunk in a message."""
    return Reservation(
        token=Token(chunk.token),
        source=source,
        chunk_index=chunk.index,
        attempt=chunk.attempt,
        expires_at_ms=chunk.expires_at_ms,
        input=chunk.input,
        again=chunk.again,
    )


def message_of(report: Report) -> ChunkReport:
    """Return the message for a report."""
    times = (report.times.input_wait_s, report.times.store_s)
    match report:
        case Done():
            return ChunkDone(
                report.token, report.operations, report.operations_failed, report.duration_s,
                report.ran, report.output, times,
            )  # fmt: skip
        case Failed(token=token, failure=failure, duration_s=duration_s):
            return ChunkFailed(
                token, encodable(failure.type), encodable(failure.message),
                encodable(failure.traceback), duration_s, times, report.is_final,
                report.unread_codec,
            )  # fmt: skip
        case GivenBack(token=token, reason=reason, delay_ms=delay_ms):
            return ChunkGivenBack(token, encodable(reason), delay_ms, times)


def report_of(message: ChunkReport) -> Report:
    """Return the report that a message carries."""
    token, times = Token(message.token), Times(*message.times)
    match message:
        case ChunkDone(_, operations, operations_failed, duration_s, ran, output):
            return Done(
                token=token,
                operations=operations,
                operations_failed=operations_failed,
                duration_s=duration_s,
                ran=ran,
                output=output,
                times=times,
            )
        case ChunkFailed(_, type_, text, traceback, duration_s):
            return Failed(
                token=token,
                failure=ChunkFailure(type=type_, message=text, traceback=traceback),
                duration_s=duration_s,
                times=times,
                is_final=message.is_final,
                unread_codec=message.unread_codec,
            )
        case ChunkGivenBack(_, reason, delay_ms):
            return GivenBack(token=token, reason=reason, delay_ms=delay_ms, times=times)
