"""What a producer hands in, held to its bounds before anything is stored; plain values, no I/O."""

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
"""Up to here Lua's numbers are exact."""

MAX_BACKOFF_MS: Final = 30 * 24 * 3600 * 1000
MAX_RETENTION_MS: Final = 3650 * 24 * 3600 * 1000
MAX_ATTEMPTS: Final = 1_000_000
DEFAULT_RETENTION_MS: Final = 24 * 3600 * 1000
"""`_end_submission.lua` has it, too, for submissions that earlier versions inserted."""

DEFAULT_CODEC: Final = "msgpack+zstd"
"""Of operations that come as JSON, and of a submission that does not say."""

MAX_CODEC_CHARACTERS: Final = 100
MAX_TRACE_HEADERS: Final = 10
MAX_METADATA_BYTES: Final = 512 * 1024
MAX_STRATEGIC_PAIRS: Final = 64
INLINE_BYTES: Final = 256 * 1024
"""Inputs of a submission that travel through Redis, encoded, all together."""

INLINE_CHUNKS: Final = 10_000
"""Their number, so that no script keeps the server busy for longer than a report of 200 chunks."""

INLINE_OUTPUT_BYTES: Final = 64 * 1024
"""Of one output that does."""

INLINE_OUTPUTS_BYTES: Final = 1024 * 1024
"""Of all outputs of a submission that do."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_KEY_KEPT_MS: Final = 24 * 3600 * 1000
_OWN_IDEMPOTENCY_KEY: Final = re.compile(r"opsqueue-once-[0-9a-f]{32}")
_KEY_OF_RETRY: Final = re.compile(r"retry-failed-[0-9]{1,19}-[0-9]{1,16}")
_OWN_KEY_KEPT_MS: Final = 10 * 60 * 1000
"""Longer than a client repeats a request."""


# Bounds that hold for JSON as it is read; values that are made in Python check theirs themselves.
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
    """Return the number, or raise InvalidArgumentError saying what it may be."""
    _require(
        is_whole(max_attempts) and 1 <= max_attempts <= MAX_ATTEMPTS,
        f"max_attempts is {shown(max_attempts)}: it is 1 to {MAX_ATTEMPTS:,}",
    )
    return max_attempts


def check_retention_ms(retention_ms: int) -> int:
    """Return the retention, or raise InvalidArgumentError saying what it may be."""
    _require(
        is_whole(retention_ms) and 0 <= retention_ms <= MAX_RETENTION_MS,
        f"retention_ms is {shown(retention_ms)}: it is 0 to {MAX_RETENTION_MS:,}, ten years",
    )
    return retention_ms


class Backoff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How long a chunk waits after a failed attempt: doubling, capped, half of it jitter.

    Zero for both: no wait at all. None: as the queue has it, else 1 s and 60 s; where that does not
    fit the other one, which is given, it is the same as that. A submission has both.
    """

    first_ms: _WaitMs | None = None
    max_ms: _WaitMs | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be meant."""
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
    """Options of submissions whose inserts do not give them; None: not set here.

    An insert's own option comes first, then its queue's default, then that of the API, then
    BUILT_IN. They count when a submission is inserted. Of two back-offs from different places that
    don't fit each other, the one that comes first stays and the other one becomes the same.
    """

    max_attempts: int | None = None
    backoff_first_ms: int | None = None
    backoff_max_ms: int | None = None
    retention_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse what a submission could not have."""
        if self.max_attempts is not None:
            check_max_attempts(self.max_attempts)
        if self.retention_ms is not None:
            check_retention_ms(self.retention_ms)
        Backoff(first_ms=self.backoff_first_ms, max_ms=self.backoff_max_ms)

    def over(self, other: Defaults) -> Defaults:
        """Return these, and those of another place where these are not set."""
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
"""What neither an insert nor its queue nor the API says."""


class SubmissionOptions(Struct, frozen=True, kw_only=True):
    """Options of a new submission, whether its contents are stored or come along.

    Args:
        max_attempts: of each chunk; failures, expiries and deaths count alike. None: as the queue
            has it, else 10.
        max_failed_operations: where the handler collects errors, how many may fail before the
            submission does: a count (int), or a share of all (float, 0 to 1). None: any number.
        backoff: the wait after a failed attempt.
        metadata: opaque bytes for the handler.
        strategic_metadata: what strategies and look-ups read; 64-bit integers by key, any text.
        trace_context: W3C headers of the producer's trace.
        retention_ms: how long it is kept after its end; None: as the queue has it, else a day.
        delete_inputs_at_completion: its inputs' objects are deleted soon after it completed, and
            not only with the rest of it.
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
        """These alone, by name, without what a subclass adds."""
        return {name: getattr(self, name) for name in SubmissionOptions.__struct_fields__}


class NewSubmission(SubmissionOptions, frozen=True, kw_only=True):
    """A submission whose contents are in the store, ready to be inserted.

    Args:
        prefix: where the chunks' objects lie in the store; of this submission alone. An insert
            takes `QUEUE/` and 32 hexadecimal digits (`contents.fresh_prefix`); submissions of
            earlier versions have others.
        chunks_total: chunks 0..chunks_total-1 are all stored, or inline; 0 completes at once.
        chunk_size: operations a chunk; only the last may have fewer.
        operations_total: None: every chunk is full.
        codec: how its chunks are encoded, so that workers need not be told.
        inline: the encoded chunks themselves, all of them, where they are not stored; at most
            INLINE_CHUNKS of INLINE_BYTES together.
        contents_digest: of operations or chunks that came with the request; see
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
        """Refuse bad values before anything is stored: each message says what would be right."""
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
        """What the insert itself says of the options that have defaults."""
        return Defaults(
            max_attempts=self.max_attempts,
            backoff_first_ms=self.backoff.first_ms,
            backoff_max_ms=self.backoff.max_ms,
            retention_ms=self.retention_ms,
        )

    @property
    def operations(self) -> int:
        """The number of operations, full chunks assumed where it was not given."""
        if self.operations_total is None:
            return self.chunks_total * self.chunk_size
        return self.operations_total

    @property
    def failed_operations_limit(self) -> int | None:
        """`max_failed_operations` as a count: of a share, the whole operations in it."""
        limit = self.max_failed_operations
        if isinstance(limit, float):
            # As it is written: 0.29 * 100 is less than 29 for a float.
            return math.floor(Fraction(repr(limit)) * self.operations)
        return None if limit is None else min(limit, MAX_OPERATIONS)


def check_strategic_metadata(pairs: Mapping[str, int]) -> None:
    """Raise InvalidArgumentError unless all keys are texts and all values 64-bit integers."""
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
    """Raise InvalidArgumentError unless strategic metadata can be changed so; None removes a key.

    Together they may be more than a submission may have: as many may go as come.
    """
    for key, value in changes.items():
        check_strategic_metadata({key: 0 if value is None else value})


def check_trace_context(carrier: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError unless it is a few headers of a trace."""
    _require(
        isinstance(carrier, Mapping)
        and len(carrier) <= MAX_TRACE_HEADERS
        and all(is_text(part) for pair in carrier.items() for part in pair),
        f"trace context {shown(carrier)}: give at most {MAX_TRACE_HEADERS} W3C headers as texts",
    )


def fits_inline(chunks: Sequence[bytes], limit_bytes: int = INLINE_BYTES) -> bool:
    """Whether encoded chunks are few and small enough to travel through Redis."""
    return len(chunks) <= INLINE_CHUNKS and sum(map(len, chunks)) <= limit_bytes


def is_idempotency_key(text: str) -> bool:
    """Tell whether a text can be one: 1 to 255 printable ASCII characters."""
    return _IDEMPOTENCY_KEY.fullmatch(text) is not None


def own_idempotency_key() -> str:
    """Return a new key for an insert whose caller gave none, so that a repeated request is safe."""
    return f"opsqueue-once-{uuid.uuid4().hex}"


def idempotency_key_of_retry(submission_id: int, operations_failed: int) -> str:
    """Return the key for a retry of failed operations whose caller gave none: it is made once.

    With their number: after a retry of the old submission in place, more of it may have failed.
    """
    return f"retry-failed-{submission_id}-{operations_failed}"


def is_callers_key(key: str) -> bool:
    """Tell whether a caller gave an idempotency key: one that we made is never used for others."""
    return bool(key) and not any(
        made.fullmatch(str(key)) for made in (_OWN_IDEMPOTENCY_KEY, _KEY_OF_RETRY)
    )


def idempotency_key_kept_ms(key: str) -> int:
    """Return for how long a key is remembered: one of a caller's, or of `own_idempotency_key`."""
    return _OWN_KEY_KEPT_MS if _OWN_IDEMPOTENCY_KEY.fullmatch(str(key)) else _KEY_KEPT_MS
