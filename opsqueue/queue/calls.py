"""Calls of the scripts that a worker makes all the time, as values: several go in one round trip.

`Queue` has a method for each; `Queue.together` sends many at once. No I/O here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.answers import Reserved
from opsqueue.model.checks import MAX_LIMIT, MAX_MS, checked_whole, is_text, shown
from opsqueue.model.chunk import (
    MAX_BATCH,
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    Finished,
    ReleaseOutcome,
    Token,
    encodable,
)
from opsqueue.model.names import checked_worker
from opsqueue.model.new_submission import (
    INLINE_OUTPUT_BYTES,
    MAX_CHUNKS,
    MAX_OPERATIONS,
    NewSubmission,
)
from opsqueue.queue.replies import read_completed, read_failed, read_released, read_reserved
from opsqueue.queue.script import Argument
from opsqueue.strategy import AnyStrategy, Random

Answer = TypeVar("Answer")

KEY_KEPT_MS: Final = 24 * 3600 * 1000
"""For how long an idempotency key is known."""
MAX_RESERVATION_MS: Final = 30 * 24 * 3600 * 1000
DEFAULT_TIMEOUT_MS: Final = 30_000
"""After so long a silence a worker is dead that does not say otherwise."""

_INFO: Final = msgspec.json.Decoder(dict[str, Any])
# More digits may not fit 64 bits. Without the chunk: of a version that gave tokens without it.
_TOKEN: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(:[0-9]{19}:[0-9]{1,10})?")
_PAGE: Final = re.compile(r"-|\([0-9]{1,19}-[0-9]{1,19}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Answer]):
    """A script, what it is given, and who reads its answer."""

    script: str
    read: Callable[[list[Any]], Answer]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    rest: Sequence[Argument] = ()


def pairs_and_fields(new: NewSubmission) -> list[Argument]:
    """Give a new submission's strategic metadata, then what else its hash is to have."""
    fields: list[Argument] = [
        "codec", new.codec,
        "max_attempts", new.max_attempts,
        "backoff_first_ms", new.backoff.first_ms,
        "backoff_max_ms", new.backoff.max_ms,
    ]  # fmt: skip
    if (failed_limit := new.failed_operations_limit) is not None:
        fields += ["max_failed_operations", failed_limit]
    if new.retention_ms is not None:
        fields += ["retention_ms", new.retention_ms]
    if new.delete_inputs_at_completion:
        fields += ["delete_inputs", 1]
    if new.metadata is not None:
        fields += ["metadata", new.metadata]
    if new.trace_context:
        fields += ["trace_context", msgspec.json.encode(dict(new.trace_context))]
    pairs = [part for key, value in new.strategic_metadata.items() for part in (key, value)]
    return [*pairs, *fields]


def reserve_chunks(
    queue: str,
    worker: str,
    *,
    limit: int,
    reservation_ms: int,
    strategy: AnyStrategy | None,
    look_from: str = "",
    heartbeat_timeout_ms: int = DEFAULT_TIMEOUT_MS,
) -> Call[Reserved]:
    """See `Queue.reserve_chunks`."""
    checked_whole("limit", limit, least=1, most=MAX_BATCH)
    checked_whole("reservation_ms", reservation_ms, least=1, most=MAX_RESERVATION_MS)
    checked_whole("heartbeat_timeout_ms", heartbeat_timeout_ms, most=MAX_MS)
    strategy = strategy or Random()
    return Call(
        script="reserve_chunks",
        read=lambda answer: read_reserved(answer, queue),
        arguments={
            "worker": checked_worker(worker),
            "limit": limit,
            "reservation_ms": reservation_ms,
            "strategy": strategy.wire(),
            "chance": secrets.randbelow(2**30) + 1,
            "look_from": look_from,
            "heartbeat_timeout_ms": heartbeat_timeout_ms,
        },
    )


def complete_chunks(
    tokens: Sequence[Token],
    operations_failed: Mapping[Token, int] | None = None,
    outputs: Mapping[Token, bytes] | None = None,
) -> Call[list[CompleteOutcome]]:
    """See `Queue.complete_chunks`."""
    failed, outputs = operations_failed or {}, outputs or {}
    for output in outputs.values():
        if not isinstance(output, bytes):
            message = f"output {shown(output)}: give what the codec gave, bytes"
            raise InvalidArgumentError(message)
        if len(output) > INLINE_OUTPUT_BYTES:
            message = (
                f"an output of {len(output):,} bytes: above {INLINE_OUTPUT_BYTES:,} they are stored"
            )
            raise InvalidArgumentError(message)
    rest: list[Argument] = []
    for token in checked_tokens(tokens):
        data = outputs.get(token)
        count = checked_whole("operations_failed", failed.get(token, 0), most=MAX_OPERATIONS)
        rest += [token, count, int(data is not None), data or b""]
    return Call(
        script="complete_chunks",
        read=read_completed,
        rest=rest,
    )


def fail_chunk(
    token: Token, failure: ChunkFailure, *, jitter: int | None = None
) -> Call[FailOutcome]:
    """See `Queue.fail_chunk`."""
    jitter = secrets.randbelow(1001) if jitter is None else jitter
    return Call(
        script="fail_chunk",
        read=read_failed,
        arguments={
            "token": checked_tokens([token])[0],
            "type": encodable(failure.type),
            "message": encodable(failure.message),
            "traceback": encodable(failure.traceback),
            "jitter": checked_whole("jitter", jitter, most=1_000),
        },
    )


def release_chunks(tokens: Sequence[Token], *, delay_ms: int = 0) -> Call[list[ReleaseOutcome]]:
    """See `Queue.release_chunks`."""
    return Call(
        script="release_chunks",
        read=lambda answer: [read_released(row) for row in answer],
        arguments={"delay_ms": checked_whole("delay_ms", delay_ms, most=MAX_MS)},
        rest=checked_tokens(tokens),
    )


def checked_tokens(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens, or raise InvalidArgumentError for too many, and for what is none."""
    if len(tokens) > MAX_BATCH:
        message = f"{len(tokens):,} tokens in one call: at most {MAX_BATCH:,}"
        raise InvalidArgumentError(message)
    for token in tokens:
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            message = f"token {shown(token)}: give the token of a reservation as it came with it"
            raise InvalidArgumentError(message)
    return list(tokens)


def checked_prefixes(prefixes: Sequence[str]) -> list[str]:
    """Return the prefixes, or raise InvalidArgumentError for too many, and for what is none."""
    if len(prefixes) > MAX_BATCH:
        message = f"{len(prefixes):,} prefixes in one call: at most {MAX_BATCH:,}"
        raise InvalidArgumentError(message)
    for prefix in prefixes:
        if not is_text(prefix):
            message = (
                f"prefix {shown(prefix)}: give the text that a submission's objects begin with"
            )
            raise InvalidArgumentError(message)
    return list(prefixes)


def checked_info(info: bytes) -> bytes:
    """Return what a worker tells of itself, or raise InvalidArgumentError: no JSON object."""
    try:
        _INFO.decode(info)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as exc:
        message = f"info {shown(info)}: give a JSON object ({exc})"
        raise InvalidArgumentError(message) from exc
    return info


def checked_finished(new: NewSubmission, finished: Finished) -> Finished:
    """Return what is done of a lost submission, or raise InvalidArgumentError: it can't be so."""
    cursor, done = finished.cursor, finished.chunks_done
    checked_whole("cursor", cursor, most=new.chunks_total)
    checked_whole("chunks_done", done, most=cursor)
    checked_whole("operations_done", finished.operations_done, most=new.operations)
    checked_whole("operations_failed", finished.operations_failed, most=finished.operations_done)
    checked_whole("last_error", finished.last_error, least=-1, most=max(0, cursor - 1))
    for index in finished.redo:
        checked_whole("a free chunk", index, most=max(0, cursor - 1))
    for name, bits in (("done", finished.done), ("errors", finished.errors)):
        if not isinstance(bits, bytes) or len(bits) > (cursor + 7) // 8:
            message = f"{name} {shown(bits)}: give a bit for each of {cursor:,} chunks"
            raise InvalidArgumentError(message)
    is_done = [
        bool(finished.done[i // 8] >> (7 - i % 8) & 1)
        for i in finished.redo
        if i // 8 < len(finished.done)
    ]
    if (
        int.from_bytes(finished.done).bit_count() != done
        or len(set(finished.redo)) != cursor - done
        or any(is_done)
    ):
        message = f"{done:,} chunks done below {cursor:,}: the others are free, each named once"
        raise InvalidArgumentError(message)
    return finished


def checked_limit(limit: int) -> int:
    """Return the limit, or raise InvalidArgumentError when it is below 1, or beyond counting."""
    return checked_whole("limit", limit, least=1, most=MAX_LIMIT)


def checked_chunk(index: int) -> int:
    """Return the chunk's index, or raise InvalidArgumentError when none can be so."""
    return checked_whole("chunk index", index, most=MAX_CHUNKS)


def checked_page(from_: str) -> str:
    """Return where a page of the stream begins, or raise InvalidArgumentError for what is none."""
    if not isinstance(from_, str) or not _PAGE.fullmatch(from_):
        message = f"a page from {shown(from_)}: give '-', or what the page before answered"
        raise InvalidArgumentError(message)
    return from_
