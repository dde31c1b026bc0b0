"""Parsers of the scripts' larger replies; `commands.py` has those of the others. No I/O.

A reply is a list whose first item is a tag. A reply that no case matches is a defect of ours, or
the scripts and the client have different versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from opsqueue.exceptions import OpsqueueInternalError
from opsqueue.model.answers import (
    Counts,
    Durations,
    Limit,
    Progress,
    RepairStep,
    Reserved,
    SpentInputs,
    WorkerSeen,
)
from opsqueue.model.chunk import (
    Completed,
    CompleteOutcome,
    Dropped,
    FailOutcome,
    FinallyFailed,
    Lost,
    Released,
    ReleaseOutcome,
    Reservation,
    Retried,
    Source,
    Token,
)
from opsqueue.model.grid import (
    Cells,
    ChunkInHand,
    Delayed,
    DelayedChunk,
    HandPage,
    RetriedChunk,
)
from opsqueue.model.names import read_meta_key
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import Failure, Submission, SubmissionId, SubmissionState
from opsqueue.strategy import TICKS_A_SECOND


def read_reserved(reply: list[Any], queue: str) -> Reserved:
    """Parse the reply of `reserve_chunks`."""
    match reply:
        case [
            (b"reserved" | b"paused") as tag, has_alarm, int(now), int(due), int(expires_at),
            chunks, rows, rest, cut, again, mode, _,
        ]:  # fmt: skip
            return Reserved(
                chunks=_reserved_chunks(chunks, rows, queue, expires_at, again),
                is_paused=tag == b"paused",
                has_alarm=bool(has_alarm),
                next_due_in_ms=None if due < 0 else max(0, due - now),
                scan_from=rest.decode(),
                is_cut=bool(cut),
                is_suspect=mode == b"suspect",
                must_drain=mode == b"drain",
            )
    raise unexpected(reply)


def read_reservations(reply: list[Any], queue: str) -> dict[Token, Reservation]:
    """Parse the reply of `get_reservations`."""
    match reply:
        case [b"found", chunks, rows]:
            sources = {id_: _source(id_, _by_name(flat), [], queue) for id_, flat in rows}
            found = [
                Reservation(
                    token=Token(token.decode()),
                    source=sources[id_],
                    chunk_index=index,
                    attempt=attempt,
                    expires_at_ms=expires_at,
                    held_ms=held_ms,
                    again=bool(again),
                )
                for token, id_, index, attempt, expires_at, held_ms, again in chunks
            ]
            return {chunk.token: chunk for chunk in found}
    raise unexpected(reply)


def _reserved_chunks(
    chunks: list[Any], rows: list[Any], queue: str, expires_at: int, again: list[int]
) -> tuple[Reservation, ...]:
    """Parse the chunks of `reserve_chunks`, whose tokens contain submission and index."""
    sources = {row[_RESERVED_VALUES]: _reserved_source(row, queue) for row in rows}
    were_in_hand = frozenset(again)
    reservations = []
    found = zip(chunks[::3], chunks[1::3], chunks[2::3], strict=True)
    for position, (token, attempt, content) in enumerate(found, start=1):
        name = token.decode()
        _, id_, index = token.split(b":")
        reservations.append(
            Reservation(
                token=Token(name),
                source=sources[id_],
                chunk_index=int(index),
                attempt=int(attempt),
                expires_at_ms=expires_at,
                input=content,
                again=position in were_in_hand,
            )
        )
    return tuple(reservations)


def read_completed(reply: list[Any], _queue: str) -> list[CompleteOutcome]:
    """Parse the reply of `complete_chunks`."""
    rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    return [_completed(tag, id_, left) for tag, id_, left in rows]


def _completed(tag: bytes, id_: bytes, left: int) -> CompleteOutcome:
    match tag:
        case b"completed" | b"limit_passed":
            return Completed(SubmissionId(id_.decode()), left, tag == b"limit_passed")
        case b"dropped":
            return Dropped(SubmissionId(id_.decode()))
        case b"lost":
            return Lost()
    raise unexpected([tag, id_, left])


def read_failed(reply: list[Any], _queue: str) -> FailOutcome:
    """Parse the reply of `fail_chunk`."""
    match reply:
        case [b"retried", id_, int(attempt), int(next_at)]:
            return Retried(SubmissionId(id_.decode()), attempt, next_at)
        case [b"failed", id_, int(attempt), int()]:
            return FinallyFailed(SubmissionId(id_.decode()), attempt)
        case [b"dropped", id_]:
            return Dropped(SubmissionId(id_.decode()))
        case [b"lost"]:
            return Lost()
    raise unexpected(reply)


def read_released(reply: list[Any], _queue: str) -> list[ReleaseOutcome]:
    """Parse the reply of `release_chunks`."""
    return [_released(row) for row in reply]


def _released(row: list[Any]) -> ReleaseOutcome:
    match row:
        case [b"released", id_]:
            return Released(SubmissionId(id_.decode()))
        case [b"dropped", id_]:
            return Dropped(SubmissionId(id_.decode()))
        case [b"lost"]:
            return Lost()
    raise unexpected(row)


def read_limits(flat: list[bytes]) -> list[Limit]:
    """Parse the reply of `list_limits`."""
    limits = []
    for name, text in sorted(_by_name(flat).items()):
        kind, key, *value = name.decode().split(":")
        only, key = int(value[0]) if value else None, read_meta_key(key)
        if kind == "max":
            limits.append(Limit(meta_key=key, value=only, max=int(text)))
        elif kind == "rate":
            interval, burst = map(int, text.decode().split(","))
            per_second = TICKS_A_SECOND / interval
            limits.append(Limit(meta_key=key, value=only, per_second=per_second, burst=burst))
    return limits


def read_counts(queue: str, numbers: list[Any], stats: list[Any]) -> Counts:
    """Parse the reply of `count_queue`."""
    n = _integers(numbers)
    return Counts(
        queue=queue,
        submissions={s: n[f"submissions_{s.value}"] for s in SubmissionState},
        submissions_ready=n["submissions_ready"],
        chunks_delayed=n["chunks_delayed"],
        chunks_in_hand=n["chunks_in_hand"],
        workers=n["workers"],
        chunks_per_second=n["chunks_lately"] * 1000 / n["lately_ms"],
        operations_per_second=n["operations_lately"] * 1000 / n["lately_ms"],
        is_paused=bool(n["is_paused"]),
        oldest_waiting_at=_instant_or_none(n["oldest_waiting_at"]),
        stats=_integers(stats),
    )


DURATION_BOUNDS_S: Final = (
    *(0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0),
    *(1_800.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, float("inf")),
)
"""The same bounds as in `_end_submission.lua`."""


def read_durations(flat: list[bytes]) -> dict[SubmissionState, Durations]:
    """Parse the reply of `get_durations`."""
    found = _integers(flat)
    ends = [state for state in SubmissionState if state is not SubmissionState.IN_PROGRESS]

    def count(state: SubmissionState, bound_s: float) -> int:
        bound = "inf" if bound_s == float("inf") else f"{bound_s * 1000:.0f}"
        return found.get(f"{state}:{bound}", 0)

    return {
        state: Durations(
            counts={bound_s: count(state, bound_s) for bound_s in DURATION_BOUNDS_S},
            sum_s=found.get(f"{state}:sum", 0) / 1000,
        )
        for state in ends
    }


def read_inline(flat: list[Any]) -> dict[int, bytes]:
    """Parse the reply of `inline_contents`."""
    return {int(index): data for index, data in _by_name(flat).items()}


_RESERVED_FIELDS: Final = (
    b"chunks_total", b"chunk_size", b"operations_total", b"inline", b"prefix", b"codec",
    b"max_attempts", b"metadata", b"trace_context",
)  # fmt: skip
"""The fields whose values `reserve_chunks` returns."""
_RESERVED_VALUES: Final = len(_RESERVED_FIELDS)


def _reserved_source(row: list[Any], queue: str) -> Source:
    """Parse a submission in the reply of `reserve_chunks`."""
    values, (id_, is_suspect, *meta) = row[:_RESERVED_VALUES], row[_RESERVED_VALUES:]
    named = zip(_RESERVED_FIELDS, values, strict=True)
    fields = {name: value for name, value in named if value is not None}
    return _source(id_, fields, meta, queue, is_suspect=bool(is_suspect))


def _source(
    id_: bytes, f: Mapping[bytes, bytes], meta: list[Any], queue: str, *, is_suspect: bool = False
) -> Source:
    return Source(
        submission_id=SubmissionId(id_.decode()),
        queue=queue,
        prefix=f[b"prefix"].decode(),
        codec=f[b"codec"].decode(),
        chunks_total=int(f[b"chunks_total"]),
        chunk_size=int(f[b"chunk_size"]),
        operations_total=int(f[b"operations_total"]),
        max_attempts=int(f[b"max_attempts"]),
        metadata=f.get(b"metadata"),
        strategic_metadata=_pairs(meta),
        trace_context=_trace_context(f),
        is_inline=b"inline" in f,
        is_suspect=is_suspect,
    )


def read_submission(row: list[Any], queue: str) -> Submission:
    """Parse a submission in the format of `_submission.lua`."""
    id_, fields, meta, failure = row
    f = _by_name(fields)
    state = SubmissionState(f[b"state"].decode())
    ended_at, limit = f.get(b"ended_at"), f.get(b"max_failed_operations")
    retention = f.get(b"retention_ms")
    release_reason, released_at = f.get(b"release_reason"), f.get(b"released_at")
    return Submission(
        id=SubmissionId(id_.decode()),
        queue=queue,
        state=state,
        prefix=f[b"prefix"].decode(),
        codec=f[b"codec"].decode(),
        chunks_total=int(f[b"chunks_total"]),
        chunks_done=int(f[b"chunks_done"]),
        chunks_in_hand=int(f[b"chunks_in_hand"]),
        chunks_failed=int(f.get(b"chunks_failed", 0)),
        chunk_size=int(f[b"chunk_size"]),
        operations_total=int(f[b"operations_total"]),
        operations_done=int(f[b"operations_done"]),
        operations_failed=int(f[b"operations_failed"]),
        max_failed_operations=None if limit is None else int(limit),
        max_attempts=int(f[b"max_attempts"]),
        backoff=Backoff(first_ms=int(f[b"backoff_first_ms"]), max_ms=int(f[b"backoff_max_ms"])),
        retention_ms=None if retention is None else int(retention),
        delete_inputs_at_completion=b"delete_inputs" in f,
        metadata=f.get(b"metadata"),
        strategic_metadata=_pairs(meta),
        trace_context=_trace_context(f),
        is_inline=b"inline" in f,
        created_at=_instant(f[b"created_at"]),
        ended_at=None if ended_at is None else _instant(ended_at),
        last_failure=_failure(failure),
        release_reason=None if release_reason is None else release_reason.decode(),
        released_at=None if released_at is None else _instant(released_at),
    )


def read_fingerprint(row: list[Any]) -> str:
    """Return the fingerprint of a submission's insert; "" if an earlier version inserted it."""
    fingerprint: bytes = _by_name(row[1]).get(b"fingerprint", b"")
    return fingerprint.decode()


def read_progress(
    state: bytes, numbers: list[bytes], bits: bytes, *, first: int, limit: int
) -> Progress:
    """Parse the reply of `done_chunks`."""
    n = _integers(numbers)
    end = min(first + limit, n["chunks_total"])
    if state == b"completed":
        bits = b"\xff" * (-(-end // 8) - first // 8)
    return Progress(
        state=SubmissionState(state.decode()),
        first=first,
        end=max(first, end),
        bits=bits,
        **n,
    )


def read_cells(state: bytes, total: int, done: list[int], errors: list[int]) -> Cells:
    """Parse the reply of `count_cells`."""
    return Cells(
        state=SubmissionState(state.decode()),
        chunks_total=total,
        done=tuple(done),
        errors=tuple(errors),
    )


def read_hand_page(rows: list[Any], next_from: bytes) -> HandPage:
    """Parse the reply of `list_reservations`."""
    chunks = [
        ChunkInHand(
            submission_id=SubmissionId(id_.decode()),
            index=index,
            attempt=attempt,
            worker=worker.decode(),
            reserved_at=_instant(reserved_at),
            expires_at=_instant(expires_at),
        )
        for id_, index, attempt, worker, reserved_at, expires_at in rows
    ]
    return HandPage(tuple(chunks), next_from.decode() or None)


def read_delayed(rows: list[Any], is_partial: int, retried: list[Any], total: int) -> Delayed:
    """Parse the reply of `list_delayed`."""
    return Delayed(
        chunks=tuple(
            DelayedChunk(
                index=index,
                due_at=_instant(due),
                attempts_used=used,
                is_suspect=bool(is_suspect),
            )
            for index, due, used, is_suspect in rows
        ),
        is_partial=bool(is_partial),
        retried=tuple(RetriedChunk(index, used) for index, used in retried),
        retried_total=total,
    )


def read_workers(
    now: int, rows: list[Any], next_from: bytes, *, names: Sequence[str]
) -> tuple[list[WorkerSeen | None], str]:
    """Parse the reply of `get_workers` for these names; None: there is no such worker."""
    workers = [
        None
        if seen < 0
        else WorkerSeen(
            name=name,
            seen_ms_ago=max(0, now - seen),
            info=msgspec.json.decode(info) if info else {},
            chunks_in_hand=chunks,
            oldest_ms=max(0, now - reserved_at) if reserved_at else None,
            is_alive=now < dead_at,
        )
        for name, (seen, info, dead_at, chunks, reserved_at) in zip(names, rows, strict=False)
    ]
    return workers, next_from.decode()


def read_spent_inputs(row: list[Any]) -> SpentInputs:
    """Parse a row of `delete_inputs`."""
    id_, prefix, first_index, chunks_total = row
    return SpentInputs(
        submission_id=SubmissionId(id_.decode()),
        prefix=prefix.decode(),
        first_index=first_index,
        chunks_total=chunks_total,
    )


def read_repair_step(
    chunks: int, has_more: int, entries: int, submissions: int, seen: int, freed: int, lost: int
) -> RepairStep:
    """Parse the reply of `repair`."""
    return RepairStep(
        chunks=chunks,
        next_from="-" if has_more else None,
        entries=entries,
        submissions=submissions,
        chunks_seen=seen,
        freed=freed,
        lost=lost,
    )


def _by_name(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _integers(flat: list[Any]) -> dict[str, int]:
    return {key.decode(): int(value) for key, value in _by_name(flat).items()}


def _pairs(flat: list[Any]) -> dict[str, int]:
    """Parse strategic metadata."""
    return {read_meta_key(key.decode()): int(value) for key, value in _by_name(flat).items()}


def _trace_context(fields: Mapping[bytes, Any]) -> dict[str, str]:
    text = fields.get(b"trace_context")
    return msgspec.json.decode(text, type=dict[str, str]) if text else {}


def _instant(milliseconds: bytes | int) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def _instant_or_none(milliseconds: int) -> datetime | None:
    return _instant(milliseconds) if milliseconds else None


def _failure(flat: list[bytes]) -> Failure | None:
    if not flat:
        return None
    f = _by_name(flat)
    return Failure(
        chunk_index=int(f[b"chunk_index"]),
        attempt=int(f[b"attempt"]),
        at=_instant(f[b"at"]),
        type=f[b"type"].decode(),
        message=f[b"message"].decode(errors="replace"),
        traceback=f[b"traceback"].decode(errors="replace"),
    )


def unexpected(answer: object) -> OpsqueueInternalError:
    """Return the error for an unknown answer: client and script differ in version."""
    return OpsqueueInternalError(f"a script answered {answer!r}, which this version can't read")
