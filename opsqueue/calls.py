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

from opsqueue.answers import (
    Reserved,
    read_completed,
    read_failed,
    read_released,
    read_reserved,
)
from opsqueue.chunk import (
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    ReleaseOutcome,
    Token,
    encodable,
)
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.script import Argument
from opsqueue.strategy import AnyStrategy, Random
from opsqueue.submission import INLINE_OUTPUT_BYTES, NewSubmission

Answer = TypeVar("Answer")

MAX_BATCH: Final = 1_000
"""Chunks in one call, so that no script keeps the server busy for long."""
DEFAULT_TIMEOUT_MS: Final = 30_000
"""After so long a silence a worker is dead that does not say otherwise."""

# More digits may not fit 64 bits. Without the chunk: of a version that gave tokens without it.
_TOKEN: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(:[0-9]{19}:[0-9]{1,10})?")
_WORKER: Final = re.compile(r"[\x21-\x7e]{1,200}")


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
    if not 1 <= limit <= MAX_BATCH:
        message = f"limit is {limit}: 1 to {MAX_BATCH:,} chunks can be reserved at a time"
        raise InvalidArgumentError(message)
    if not 1 <= reservation_ms <= 30 * 24 * 3600 * 1000:
        message = f"reservation_ms is {reservation_ms}: give 1 ms to 30 days"
        raise InvalidArgumentError(message)
    strategy = strategy or Random()
    return Call(
        script="reserve_chunks plain" if strategy.is_plain else "reserve_chunks",
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
    if (largest := max(map(len, outputs.values()), default=0)) > INLINE_OUTPUT_BYTES:
        message = f"an output of {largest:,} bytes: above {INLINE_OUTPUT_BYTES:,} they are stored"
        raise InvalidArgumentError(message)
    rest: list[Argument] = []
    for token in checked_tokens(tokens):
        output = outputs.get(token)
        rest += [token, failed.get(token, 0), int(output is not None), output or b""]
    return Call(
        script="complete_chunks",
        read=lambda answer: [read_completed(row) for row in answer],
        rest=rest,
    )


def fail_chunk(
    token: Token, failure: ChunkFailure, *, jitter: int | None = None
) -> Call[FailOutcome]:
    """See `Queue.fail_chunk`."""
    return Call(
        script="fail_chunk",
        read=read_failed,
        arguments={
            "token": checked_tokens([token])[0],
            "type": failure.type,
            "message": encodable(failure.message),
            "traceback": encodable(failure.traceback),
            "jitter": secrets.randbelow(1001) if jitter is None else jitter,
        },
    )


def release_chunks(tokens: Sequence[Token], *, delay_ms: int = 0) -> Call[list[ReleaseOutcome]]:
    """See `Queue.release_chunks`."""
    return Call(
        script="release_chunks",
        read=lambda answer: [read_released(row) for row in answer],
        arguments={"delay_ms": delay_ms},
        rest=checked_tokens(tokens),
    )


def checked_worker(worker: str) -> str:
    """Return the name, or raise InvalidArgumentError saying what a name may be."""
    if not _WORKER.fullmatch(worker):
        message = f"worker name {worker!r}: at most 200 printable ASCII characters without spaces"
        raise InvalidArgumentError(message)
    return worker


def checked_tokens(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens, or raise InvalidArgumentError for too many, and for what is none."""
    if len(tokens) > MAX_BATCH:
        message = f"{len(tokens):,} tokens in one call: at most {MAX_BATCH:,}"
        raise InvalidArgumentError(message)
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            message = f"token {token!r}: give the token of a reservation as it came with it"
            raise InvalidArgumentError(message)
    return list(tokens)


def checked_prefixes(prefixes: Sequence[str]) -> list[str]:
    """Return the prefixes, or raise InvalidArgumentError for too many."""
    if len(prefixes) > MAX_BATCH:
        message = f"{len(prefixes):,} prefixes in one call: at most {MAX_BATCH:,}"
        raise InvalidArgumentError(message)
    return list(prefixes)


def checked_limit(limit: int) -> int:
    """Return the limit, or raise InvalidArgumentError when it is below 1."""
    if limit < 1:
        message = f"limit is {limit}: give 1 or more"
        raise InvalidArgumentError(message)
    return limit


def checked_chunk(index: int) -> int:
    """Return the chunk's index, or raise InvalidArgumentError when it is negative."""
    if index < 0:
        message = f"chunk index is {index}: chunks are counted from 0"
        raise InvalidArgumentError(message)
    return index
