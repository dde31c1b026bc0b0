"""A new submission, whose values are checked before anything is stored; plain values, no I/O."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import asdict

from opsqueue.model.checks import INT64, is_text, is_whole, shown
from opsqueue.model.errors import InvalidArgumentError
from opsqueue.model.names import checked_meta_key, meta_key_text

MAX_CHUNKS: Final = 2**32 - 1
"""A chunk is a bit of a Redis string, which has at most 2**32 of them."""

MAX_OPERATIONS: Final = 2**53
"""Lua's numbers are exact up to here."""

MAX_BACKOFF_MS: Final = 30 * 24 * 3600 * 1000
MAX_RETENTION_MS: Final = 3650 * 24 * 3600 * 1000
MAX_ATTEMPTS: Final = 1_000_000
DEFAULT_RETENTION_MS: Final = 24 * 3600 * 1000
"""Also in `_end_submission.lua`, for submissions that earlier versions inserted."""

DEFAULT_CODEC: Final = "msgpack+zstd"
"""The codec of operations that arrive as JSON, and of submissions that don't name one."""

MAX_CODEC_CHARACTERS: Final = 100
MAX_TRACE_HEADERS: Final = 10
MAX_METADATA_BYTES: Final = 512 * 1024
MAX_STRATEGIC_PAIRS: Final = 64
INLINE_BYTES: Final = 256 * 1024
"""The largest total size of a submission's encoded inputs that travel through Redis."""

INLINE_CHUNKS: Final = 10_000
"""The largest number of such inputs, so that no script takes longer than a report of 200 chunks."""

INLINE_OUTPUT_BYTES: Final = 64 * 1024
"""The largest size of one output that travels through Redis."""

INLINE_OUTPUTS_BYTES: Final = 1024 * 1024
"""The largest total size of a submission's outputs that travel through Redis."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_KEY_KEPT_MS: Final = 24 * 3600 * 1000
_OWN_IDEMPOTENCY_KEY: Final = re.compile(r"opsqueue-once-[0-9a-f]{32}")
_KEY_OF_RETRY: Final = re.compile(r"retry-failed-[0-9]{1,19}-[0-9]{1,16}")
_OWN_KEY_KEPT_MS: Final = 10 * 60 * 1000
"""Longer than a client repeats a request."""


# These bounds apply when JSON is parsed; values created in Python check their own.
_WaitMs = Annotated[int, Meta(ge=0, le=MAX_BACKOFF_MS)]
_RetentionMs = Annotated[int, Meta(ge=0, le=MAX_RETENTION_MS)]
_TraceContext = Annotated[
    Mapping[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=1000)]],
    Meta(max_length=MAX_TRACE_HEADERS),
]


def _require(holds: bool, message: str) -> None:  # noqa: FBT001 an assertion's shape
    if not holds:
        raise InvalidArgumentError(message)


def check_max_attempts(max_attempts: int) -> int:
    """Return the number, or raise InvalidArgumentError with its bounds."""
    _require(
        is_whole(max_attempts) and 1 <= max_attempts <= MAX_ATTEMPTS,
        f"max_attempts is {shown(max_attempts)}: it is 1 to {MAX_ATTEMPTS:,}",
    )
    return max_attempts


def check_retention_ms(retention_ms: int) -> int:
    """Return the retention, or raise InvalidArgumentError with its bounds."""
    _require(
        is_whole(retention_ms) and 0 <= retention_ms <= MAX_RETENTION_MS,
        f"retention_ms is {shown(retention_ms)}: it is 0 to {MAX_RETENTION_MS:,}, ten years",
    )
    return retention_ms


class Backoff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The wait of a chunk after a failed attempt: doubling, capped, half of it jitter.

    If both are zero, there is no wait. None: the queue's default applies, else 1 s and 60 s; if it
    does not fit the wait that is set, it becomes the same. A stored submission has both waits.
    """

    first_ms: _WaitMs | None = None
    max_ms: _WaitMs | None = None

    def __post_init__(self) -> None:
        """Raise InvalidArgumentError for values that make no sense."""
        first_ms, max_ms = self.first_ms, self.max_ms
        given = [ms for ms in (first_ms, max_ms) if ms is not None]
        if not (
            all(is_whole(ms) and 0 <= ms <= MAX_BACKOFF_MS for ms in given)
            and given == sorted(given)
        ):
            message = (
                f"back-off first_ms={shown(first_ms)} max_ms={shown(max_ms)}: "
                "both are 0 to 30 days, and max_ms is at least first_ms"
            )
            raise InvalidArgumentError(message)


class Defaults(Struct, frozen=True, kw_only=True):
    """Default options of submissions, for inserts that don't set them; None: no default here.

    An insert's own option takes precedence, then the queue's default, then the API's, then
    BUILT_IN. Defaults are applied when a submission is inserted. If two back-offs from different
    places don't fit each other, the one with precedence is kept and the other becomes the same.
    """

    max_attempts: int | None = None
    backoff_first_ms: int | None = None
    backoff_max_ms: int | None = None
    retention_ms: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidArgumentError for values that no submission can have."""
        if self.max_attempts is not None:
            check_max_attempts(self.max_attempts)
        if self.retention_ms is not None:
            check_retention_ms(self.retention_ms)
        Backoff(first_ms=self.backoff_first_ms, max_ms=self.backoff_max_ms)

    def over(self, other: Defaults) -> Defaults:
        """Return these defaults, with those of `other` for options that are not set here."""
        found = asdict(other) | {name: of for name, of in asdict(self).items() if of is not None}
        first_ms, max_ms = found["backoff_first_ms"], found["backoff_max_ms"]
        if None not in (first_ms, max_ms) and first_ms > max_ms:
            stays_ms = max_ms if self.backoff_first_ms is None else first_ms
            found |= {"backoff_first_ms": stays_ms, "backoff_max_ms": stays_ms}
        return Defaults(**found)


BUILT_IN: Final = Defaults(
    max_attempts=10,
    backoff_first_ms=1_000,
    backoff_max_ms=60_000,
    retention_ms=DEFAULT_RETENTION_MS,
)
"""Options that are set neither by an insert nor by its queue nor by the API."""


class SubmissionOptions(Struct, frozen=True, kw_only=True):
    """Options of a new submission, whether its contents are stored or inline.

    Args:
        max_attempts: attempts of each chunk; failures, expiries and deaths count alike. None: the
            queue's default, else 10.
        max_failed_operations: where the handler collects errors, how many operations may fail
            before the submission does: a count (int), or a share of all (float, 0 to 1). None: any
            number.
        backoff: the wait after a failed attempt.
        metadata: opaque bytes for the handler.
        strategic_metadata: 64-bit integers that strategies and look-ups read, by keys of any text.
        trace_context: W3C headers of the producer's trace.
        retention_ms: how long it is kept after its end; None: as set for the queue, else one day.
        delete_inputs_at_completion: delete the objects of its inputs soon after it has completed,
            instead of with everything else.
    """

    max_attempts: int | None = None
    max_failed_operations: int | float | None = None
    backoff: Backoff = Backoff()
    metadata: bytes | None = None
    strategic_metadata: Mapping[str, int] = {}
    trace_context: _TraceContext = {}
    retention_ms: _RetentionMs | None = None
    delete_inputs_at_completion: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """These options by name, without the fields of subclasses."""
        return {name: getattr(self, name) for name in SubmissionOptions.__struct_fields__}


class NewSubmission(SubmissionOptions, frozen=True, kw_only=True):
    """A submission whose contents are in the store, ready to be inserted.

    Args:
        prefix: where the store has the chunks' objects; used by this submission only. An insert
            takes `QUEUE/` and 32 hexadecimal digits (`contents.fresh_prefix`); submissions of
            earlier versions have other prefixes.
        chunks_total: chunks 0..chunks_total-1 are all stored, or inline; 0 completes at once.
        chunk_size: operations in a chunk; only the last may have fewer.
        operations_total: None: every chunk is full.
        codec: how its chunks are encoded; recorded, so that workers need no setting for it.
        inline: all encoded chunks, if they are not in the store; at most INLINE_CHUNKS with
            INLINE_BYTES in total.
        contents_digest: digest of the operations or chunks that came with the request; see
            `contents.fingerprint`.
    """

    prefix: str
    chunks_total: int
    chunk_size: int = 1
    operations_total: int | None = None
    codec: str = DEFAULT_CODEC
    inline: Sequence[bytes] | None = None
    contents_digest: str = ""

    def __post_init__(self) -> None:
        """Raise InvalidArgumentError for bad values before anything is stored."""
        _require(
            isinstance(self.prefix, str)
            and _PREFIX.fullmatch(self.prefix) is not None
            and len(self.prefix) <= 200,
            f"prefix {shown(self.prefix)}: at most 200 letters, digits and ._=- in parts "
            "joined by single slashes, each part beginning with a letter, a digit or _",
        )
        _require(
            is_whole(self.chunks_total) and 0 <= self.chunks_total <= MAX_CHUNKS,
            f"chunks_total is {shown(self.chunks_total)}: it is 0 to {MAX_CHUNKS:,}",
        )
        _require(
            is_whole(self.chunk_size) and 1 <= self.chunk_size <= MAX_CHUNKS,
            f"chunk_size is {shown(self.chunk_size)}: it counts operations, 1 to {MAX_CHUNKS:,}",
        )
        fewest = max(0, (self.chunks_total - 1) * self.chunk_size + 1) if self.chunks_total else 0
        _require(
            is_whole(self.operations)
            and fewest <= self.operations <= self.chunks_total * self.chunk_size,
            f"operations_total is {shown(self.operations_total)}: {self.chunks_total:,} chunks of "
            f"{self.chunk_size:,} hold {fewest:,} to {self.chunks_total * self.chunk_size:,}, "
            "all but the last being full",
        )
        _require(
            self.operations <= MAX_OPERATIONS,
            f"operations_total is {self.operations:,}: at most {MAX_OPERATIONS:,} can be counted",
        )
        if self.max_attempts is not None:
            check_max_attempts(self.max_attempts)
        limit = self.max_failed_operations
        _require(
            limit is None
            or (is_whole(limit) and limit >= 0)
            or (isinstance(limit, float) and 0 <= limit <= 1),
            f"max_failed_operations is {shown(limit)}: give a count from 0 as an int, a share "
            "from 0.0 to 1.0 as a float, or None",
        )
        _require(
            self.metadata is None or isinstance(self.metadata, bytes),
            f"metadata is {shown(self.metadata)}: give bytes",
        )
        _require(
            self.metadata is None or len(self.metadata) <= MAX_METADATA_BYTES,
            f"metadata has {len(self.metadata or b''):,} bytes, at most {MAX_METADATA_BYTES:,}: "
            "put larger things into the operations or the object store",
        )
        _require(
            is_text(self.codec) and 1 <= len(self.codec) <= MAX_CODEC_CHARACTERS,
            f"codec {shown(self.codec)}: give the name of a codec, such as {DEFAULT_CODEC}",
        )
        check_trace_context(self.trace_context)
        if self.retention_ms is not None:
            check_retention_ms(self.retention_ms)
        check_strategic_metadata(self.strategic_metadata)
        if self.inline is not None:
            self._check_inline(self.inline)

    def _check_inline(self, inline: Sequence[bytes]) -> None:
        _require(all(isinstance(data, bytes) for data in inline), "inline chunks are bytes")
        _require(
            len(inline) == self.chunks_total,
            f"{len(inline):,} chunks are inline, chunks_total is {self.chunks_total:,}: give all "
            "of them, or store them all",
        )
        _require(
            fits_inline(inline),
            f"{len(inline):,} inline chunks of {sum(map(len, inline)):,} bytes: at most "
            f"{INLINE_CHUNKS:,} of {INLINE_BYTES:,} bytes together; store them",
        )

    @property
    def own_defaults(self) -> Defaults:
        """The options with defaults, as set by the insert itself."""
        return Defaults(
            max_attempts=self.max_attempts,
            backoff_first_ms=self.backoff.first_ms,
            backoff_max_ms=self.backoff.max_ms,
            retention_ms=self.retention_ms,
        )

    @property
    def operations(self) -> int:
        """The number of operations; if it was not given, all chunks are full."""
        if self.operations_total is None:
            return self.chunks_total * self.chunk_size
        return self.operations_total

    @property
    def failed_operations_limit(self) -> int | None:
        """`max_failed_operations` as a count; a share is rounded down to whole operations."""
        limit = self.max_failed_operations
        if isinstance(limit, float):
            # The share as it is written: as floats, 0.29 * 100 is less than 29.
            return math.floor(Fraction(repr(limit)) * self.operations)
        return None if limit is None else min(limit, MAX_OPERATIONS)


def check_strategic_metadata(pairs: Mapping[str, int]) -> None:
    """Raise InvalidArgumentError unless all keys are strings and all values 64-bit integers."""
    _require(
        isinstance(pairs, Mapping),
        f"strategic metadata {shown(pairs)}: give a mapping of names to integers",
    )
    _require(
        len(pairs) <= MAX_STRATEGIC_PAIRS,
        f"strategic metadata has {len(pairs)} pairs, at most {MAX_STRATEGIC_PAIRS}",
    )
    for key, value in pairs.items():
        checked_meta_key(key)
        if not (is_whole(value) and value in INT64):
            message = (
                f"strategic metadata {meta_key_text(key)}={shown(value)}: values are 64-bit "
                "integers; give texts a number of your own or hash them"
            )
            raise InvalidArgumentError(message)


def check_metadata_changes(changes: Mapping[str, int | None]) -> None:
    """Raise InvalidArgumentError unless the changes are valid; None removes a key.

    Each is checked alone: together they may exceed the limit, as keys may be removed, too.
    """
    for key, value in changes.items():
        check_strategic_metadata({key: 0 if value is None else value})


def check_trace_context(carrier: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError unless it is a mapping of a few trace headers."""
    _require(
        isinstance(carrier, Mapping)
        and len(carrier) <= MAX_TRACE_HEADERS
        and all(is_text(part) for pair in carrier.items() for part in pair),
        f"trace context {shown(carrier)}: give at most {MAX_TRACE_HEADERS} W3C headers as texts",
    )


def fits_inline(chunks: Sequence[bytes], limit_bytes: int = INLINE_BYTES) -> bool:
    """Return whether encoded chunks are few and small enough to travel through Redis."""
    return len(chunks) <= INLINE_CHUNKS and sum(map(len, chunks)) <= limit_bytes


def is_idempotency_key(text: str) -> bool:
    """Return whether a text can be a key: 1 to 255 printable ASCII characters."""
    return _IDEMPOTENCY_KEY.fullmatch(text) is not None


def own_idempotency_key() -> str:
    """Return a new key for an insert without one, so that repeating its request is safe."""
    return f"opsqueue-once-{uuid.uuid4().hex}"


def idempotency_key_of_retry(submission_id: int, operations_failed: int) -> str:
    """Return the key for a retry of failed operations without a caller's key.

    So the same retry is inserted only once. The key contains the number of failed operations: if
    the old submission is retried in place, more of them may fail, and these can be retried, too.
    """
    return f"retry-failed-{submission_id}-{operations_failed}"


def is_callers_key(key: str) -> bool:
    """Return whether a caller chose this idempotency key; generated keys are never reused."""
    return bool(key) and not any(
        made.fullmatch(str(key)) for made in (_OWN_IDEMPOTENCY_KEY, _KEY_OF_RETRY)
    )


def idempotency_key_kept_ms(key: str) -> int:
    """Return how long a key is remembered: a caller's, or one of `own_idempotency_key`."""
    return _OWN_KEY_KEPT_MS if _OWN_IDEMPOTENCY_KEY.fullmatch(str(key)) else _KEY_KEPT_MS
