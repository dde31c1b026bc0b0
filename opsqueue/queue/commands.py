"""Transitions and readings of a queue as values: a script, its arguments, and its reply's parser.

`Queue.run` runs one command, `Queue.pipeline` several in one round trip. Arguments are checked when
a command is made, so if one is refused, no command of the pipeline has been run. The head of each
script in `lua/` describes its transition. No I/O here.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Generic, Literal, TypeVar, get_args

import msgspec

from opsqueue.contents.fingerprint import differences, fingerprint_of
from opsqueue.contents.inline import Kind
from opsqueue.exceptions import (
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    PrefixTakenError,
    QueueInUseError,
    SubmissionForgottenError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
)
from opsqueue.model.answers import (
    Alive,
    Counts,
    Due,
    Durations,
    ErrorChunks,
    Forgotten,
    Inserted,
    Limit,
    LimitKind,
    Progress,
    RepairStep,
    Reserved,
    SpentInputs,
    SubmissionPage,
    Swept,
    WorkerSeen,
)
from opsqueue.model.checks import MAX_LIMIT, MAX_MS, checked_whole, is_text, shown
from opsqueue.model.chunk import (
    MAX_BATCH,
    MAX_REASON_CHARACTERS,
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    Finished,
    ReleaseOutcome,
    Reservation,
    Token,
    encodable,
)
from opsqueue.model.grid import MAX_CELLS, MAX_PAGE, Cells, Delayed, HandPage
from opsqueue.model.names import check_own_prefix, checked_meta_key, checked_worker, stored_meta_key
from opsqueue.model.new_submission import (
    INLINE_OUTPUT_BYTES,
    MAX_CHUNKS,
    MAX_OPERATIONS,
    MAX_STRATEGIC_PAIRS,
    Defaults,
    NewSubmission,
    check_metadata_changes,
    check_strategic_metadata,
    idempotency_key_kept_ms,
    is_callers_key,
)
from opsqueue.model.submission import MAX_PARTITIONS, Submission, SubmissionId, SubmissionState
from opsqueue.queue import replies
from opsqueue.queue.partitions import (
    History,
    entry_of,
    merged_repairs,
    merged_sweeps,
    partition_of,
    summed,
)
from opsqueue.queue.replies import unexpected
from opsqueue.queue.script import Argument
from opsqueue.strategy import AnyStrategy, MaxSimultaneous, Random, RateLimit, interval_ticks

Answer = TypeVar("Answer")

MAX_RESERVATION_MS: Final = 30 * 24 * 3600 * 1000
DEFAULT_TIMEOUT_MS: Final = 30_000
"""A worker's heartbeat timeout, unless it sets one: after this time it is dead."""
HEARTBEAT_PAGE: Final = 300
"""The most chunks of a worker that one script examines for a heartbeat."""
MAX_WINDOW: Final = 65_536
"""The most chunks that one request for progress covers: 8 KiB."""
MAX_DELAYED: Final = 2 * MAX_PAGE
"""The most delayed chunks that one request examines."""

_ERROR_PAGE_BYTES: Final = 64 * 1024
"""Bytes of the bitmap of chunks with errors that one request reads: some 500,000 chunks."""
_INFO: Final = msgspec.json.Decoder(dict[str, Any])
# More digits may not fit into 64 bits. Tokens without the chunk are from an earlier version.
_TOKEN: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(:[0-9]{19}:[0-9]{1,10})?")
_PAGE: Final = re.compile(r"-|\([0-9]{1,19}-[0-9]{1,19}")


class Scope(Enum):
    """The partitions of a queue in which a command runs."""

    ONE = "one"
    """The partition of the command's subject, else the queue's first."""
    EACH = "each"
    """All known partitions; a new one may be missed for KNOWN_FOR_S."""
    EVERY = "every"
    """All existing partitions, including those added in the meantime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Generic[Answer]):
    """One call of one script, in one partition or in several.

    Attributes:
        script: the name of its file in `lua/`.
        parse: parses the reply, given the queue's name.
        arguments: arguments by the names in the script's header.
        rest: the arguments after them.
        submission_id: the submission that it concerns, if any. If the reply is that it is unknown,
            a SubmissionNotFoundError is raised.
        partition: the partition that the arguments imply, as tokens do.
        scope: the partitions in which it runs.
        merge: merges the answers of several partitions into one.
        tells_due: the script's last value is in how many milliseconds the partition needs upkeep
            that the sweepers' index may not know; -1: it knows.
    """

    script: str
    parse: Callable[[list[Any], str], Answer]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    rest: Sequence[Argument] = ()
    submission_id: SubmissionId | None = None
    partition: int | None = None
    scope: Scope = Scope.ONE
    merge: Callable[[list[Answer]], Answer] = itemgetter(0)
    tells_due: bool = False

    def read(self, reply: list[Any], queue: str) -> Answer:
        """Parse the script's reply.

        Raises:
            SubmissionNotFoundError: the submission is unknown.
            OpsqueueError: the transition's own errors.
        """
        if self.submission_id is not None and reply == [b"unknown"]:
            raise SubmissionNotFoundError(self.submission_id, queue)
        return self.parse(reply, queue)


def _about(
    submission_id: SubmissionId,
    script: str,
    parse: Callable[[list[Any], str], Answer],
    *,
    rest: Sequence[Argument] = (),
    **arguments: Argument,
) -> Command[Answer]:
    """Make a command for one submission.

    Raises:
        TryFromIntError: the id is not valid.
    """
    id_ = SubmissionId(str(submission_id))
    return Command(
        script=script,
        parse=parse,
        arguments={**arguments, "id": str(id_)},
        rest=rest,
        submission_id=id_,
    )


def _none(*_: object) -> None:
    """Ignore the values after a reply's tag."""


def _id(digits: bytes) -> SubmissionId:
    return SubmissionId(digits.decode())


def _texts(items: list[bytes]) -> list[str]:
    return [item.decode() for item in items]


def _concatenated(lists: Iterable[list[Answer]]) -> list[Answer]:
    return [item for items in lists for item in items]


def _tagged(**readers: Callable[..., Answer]) -> Callable[[list[Any], str], Answer]:
    """Return a parser that reads the values after a reply's tag, by tag."""

    def parse(reply: list[Any], _queue: str) -> Answer:
        match reply:
            case [bytes() as tag, *values] if (reader := readers.get(tag.decode())) is not None:
                return reader(*values)
        raise unexpected(reply)

    return parse


# Transitions of submissions


def insert_submission(
    new: NewSubmission,
    *,
    partition: int,
    partitions: int | None,
    fallback: Defaults,
    idempotency_key: str,
    idempotency_ms: int | None,
) -> Command[Inserted | list[int]]:
    """Accept a submission whose chunks are already stored.

    With `partitions` the script first compares the queue's number of partitions. If it differs,
    nothing happens, and the answer is the queue's numbers (see `get_partitions`).
    """
    if idempotency_ms is None:
        idempotency_ms = idempotency_key_kept_ms(idempotency_key)
    checked_whole("idempotency_ms", idempotency_ms, least=1, most=MAX_MS)
    inline = new.inline or ()
    fingerprint = fingerprint_of(new) if is_callers_key(idempotency_key) else ""

    def parse(reply: list[Any], queue: str) -> Inserted | list[int]:
        match reply:
            case [b"partitions", numbers]:
                return list(numbers)
            case [b"known", _, row, options]:
                inserted = _inserted(reply, queue, new.prefix)
                if fingerprint and inserted.submission is not None:
                    now = _defaults(options)
                    found = differences(
                        new, now, inserted.submission, replies.read_fingerprint(row)
                    )
                    if found:
                        raise IdempotencyKeyReusedError(inserted.id, queue, found)
                return inserted
        return _inserted(reply, queue, new.prefix)

    return Command(
        script="insert_submission",
        parse=parse,
        arguments={
            "partition": f"{partition:02}",
            "partitions": "" if partitions is None else partitions,
            "idempotency": idempotency_key,
            "idempotency_ms": idempotency_ms,
            "prefix": new.prefix,
            "chunks_total": new.chunks_total,
            "chunk_size": new.chunk_size,
            "operations_total": new.operations,
            "meta_count": len(new.strategic_metadata),
            "inline_count": len(inline),
            **_options(new, fallback),
        },
        rest=[*_pairs_and_fields(new, fingerprint), *inline],
        partition=partition,
    )


def restore_submission(
    new: NewSubmission,
    finished: Finished,
    *,
    partition: int,
    fallback: Defaults,
    idempotency_key: str,
) -> Command[Inserted]:
    """Insert a submission that Redis has lost; its chunks are stored and some of them done."""
    checked_finished(new, finished)
    fingerprint = fingerprint_of(new) if is_callers_key(idempotency_key) else ""
    return Command(
        script="restore_submission",
        parse=lambda reply, queue: _inserted(reply, queue, new.prefix),
        arguments={
            "partition": f"{partition:02}",
            "prefix": new.prefix,
            "chunks_total": new.chunks_total,
            "chunk_size": new.chunk_size,
            "operations_total": new.operations,
            "cursor": finished.cursor,
            "chunks_done": finished.chunks_done,
            "done": finished.done,
            "operations_done": finished.operations_done,
            "operations_failed": finished.operations_failed,
            "errors": finished.errors,
            "last_error": finished.last_error,
            "meta_count": len(new.strategic_metadata),
            "redo_count": len(finished.redo),
            "idempotency": idempotency_key,
            "idempotency_ms": idempotency_key_kept_ms(idempotency_key),
            **_options(new, fallback),
        },
        rest=[*_pairs_and_fields(new, fingerprint), *finished.redo],
        partition=partition,
    )


def _options(new: NewSubmission, fallback: Defaults) -> dict[str, Argument]:
    """Return the options with defaults, as arguments: the insert's own, and the fallbacks.

    `fallback` must have all of them.
    """
    given = {
        **msgspec.structs.asdict(new.own_defaults),
        **{f"fallback_{name}": of for name, of in msgspec.structs.asdict(fallback).items()},
    }
    return {name: "" if value is None else value for name, value in given.items()}


def _pairs_and_fields(new: NewSubmission, fingerprint: str) -> list[Argument]:
    """Return a new submission's strategic metadata, then the other fields of its hash."""
    fields: list[Argument] = ["codec", new.codec]
    if fingerprint:
        fields += ["fingerprint", fingerprint]
    if (failed_limit := new.failed_operations_limit) is not None:
        fields += ["max_failed_operations", failed_limit]
    if new.delete_inputs_at_completion:
        fields += ["delete_inputs", 1]
    if new.metadata is not None:
        fields += ["metadata", new.metadata]
    if new.trace_context:
        fields += ["trace_context", msgspec.json.encode(dict(new.trace_context))]
    return [*_stored(new.strategic_metadata), *fields]


def _inserted(reply: list[Any], queue: str, prefix: str) -> Inserted:
    match reply:
        case [(b"inserted" | b"known") as tag, id_, row, *rest]:
            return Inserted(
                id=SubmissionId(id_.decode()),
                is_new=tag == b"inserted",
                is_first=rest == [1],
                submission=replies.read_submission(row, queue),
            )
        case [b"forgotten", id_, state]:
            ended = SubmissionState(state.decode()) if state else None
            raise SubmissionForgottenError(SubmissionId(id_.decode()), queue, ended)
        case [b"prefix_taken", id_]:
            raise prefix_taken(prefix, SubmissionId(id_.decode()) if id_ else None)
    raise unexpected(reply)


def prefix_taken(prefix: str, owner: SubmissionId | None) -> PrefixTakenError:
    """Return the error for an insert; `owner` None: the prefix's objects are being deleted."""
    why = f"belongs to submission {owner}" if owner else "is being deleted"
    return PrefixTakenError(
        f"prefix {prefix!r} {why}: upload under a prefix of its own, or repeat an insert with its "
        "idempotency key"
    )


def cancel_submission(submission_id: SubmissionId) -> Command[Submission]:
    """Cancel a submission in progress and return it; the cost does not depend on its chunks.

    Raises:
        SubmissionNotFoundError: the queue has no such submission.
        SubmissionNotCancellableError: it has already ended.
    """
    return _about(submission_id, "cancel_submission", _changed)


def update_metadata(
    submission_id: SubmissionId, changes: Mapping[str, int | None]
) -> Command[Submission]:
    """Change strategic metadata of a submission in progress and return it; None removes a key.

    Raises:
        SubmissionNotFoundError: the queue has no such submission.
        SubmissionNotCancellableError: it has already ended.
    """
    check_metadata_changes(changes)

    def parse(reply: list[Any], queue: str) -> Submission:
        match reply:
            case [b"too_many", int(pairs)]:
                message = (
                    f"submission {submission_id} would have {pairs} pairs of strategic metadata: "
                    f"at most {MAX_STRATEGIC_PAIRS}; remove some with None"
                )
                raise InvalidArgumentError(message)
        return _changed(reply, queue)

    return _about(
        submission_id,
        "update_metadata",
        parse,
        limit=MAX_STRATEGIC_PAIRS,
        rest=_stored({key: "" if value is None else value for key, value in changes.items()}),
    )


def _changed(reply: list[Any], queue: str) -> Submission:
    """Parse the reply of a transition that only a submission in progress can make."""
    match reply:
        case [b"changed", row]:
            return replies.read_submission(row, queue)
        case [b"ended", row]:
            raise SubmissionNotCancellableError(replies.read_submission(row, queue))
    raise unexpected(reply)


def retry_submission(
    submission_id: SubmissionId, *, scan_from: str
) -> Command[tuple[Submission, str]]:
    """Run a step of a retry; return the submission, and where the next step starts ('': none)."""

    def parse(reply: list[Any], queue: str) -> tuple[Submission, str]:
        match reply:
            case [b"retried", row, bytes() as more]:
                return replies.read_submission(row, queue), more.decode()
            case [b"not_retryable", row]:
                raise SubmissionNotRetryableError(replies.read_submission(row, queue))
        raise unexpected(reply)

    return _about(submission_id, "retry_submission", parse, scan_from=scan_from)


def watch_submission(submission_id: SubmissionId, *, watch_ms: int = 60_000) -> Command[bool]:
    """Make a submission publish its progress for a while; False: it has ended.

    Raises:
        SubmissionNotFoundError: the queue has no such submission.
    """
    return _about(
        submission_id,
        "watch_submission",
        _tagged(watched=lambda: True, ended=lambda _state: False),
        watch_ms=checked_whole("watch_ms", watch_ms, least=1, most=MAX_MS),
    )


# Transitions of chunks


def reserve_chunks(  # noqa: PLR0913 arguments of the script
    worker: str,
    *,
    limit: int,
    reservation_ms: int,
    strategy: AnyStrategy | None = None,
    scan_from: str = "",
    heartbeat_timeout_ms: int = DEFAULT_TIMEOUT_MS,
    repeats_metadata: bool = False,
    begun: Sequence[Token] | None = None,
    alone: bool = False,
    sleeps: bool = False,
) -> Command[Reserved]:
    """Reserve chunks of one partition; see `Queue.reserve_chunks`."""
    checked_whole("limit", limit, least=1, most=MAX_BATCH)
    checked_whole("reservation_ms", reservation_ms, least=1, most=MAX_RESERVATION_MS)
    checked_whole("heartbeat_timeout_ms", heartbeat_timeout_ms, most=MAX_MS)
    wire = _wire_of(strategy or Random())
    return Command(
        script="reserve_chunks",
        parse=replies.read_reserved,
        arguments={
            "worker": checked_worker(worker),
            "limit": limit,
            "reservation_ms": reservation_ms,
            "strategy": wire,
            "chance": secrets.randbelow(2**30) + 1,
            "scan_from": scan_from,
            "heartbeat_timeout_ms": heartbeat_timeout_ms,
            "repeats_metadata": int(repeats_metadata),
            "begun": _entries_of(begun),
            "alone": int(alone),
            "group": group_of(wire) if sleeps else "",
        },
        tells_due=True,
    )


def _wire_of(strategy: AnyStrategy) -> str:
    if not isinstance(strategy, AnyStrategy):
        message = f"strategy {shown(strategy)}: give an instance, such as Strategy.Random()"
        raise InvalidArgumentError(message)
    return strategy.wire()


@lru_cache
def group_of(wire: str) -> str:
    """Return the name of the group in which workers with a strategy sleep."""
    return hashlib.blake2s(wire.encode(), digest_size=8).hexdigest()


def wake_next(strategy: AnyStrategy) -> Command[bool]:
    """Wake another sleeper with this strategy; False if there is none.

    For a worker that was woken, but can't take anything now.
    """
    return Command(
        script="wake_next",
        parse=lambda reply, _queue: bool(reply[1]),
        arguments={"group": group_of(_wire_of(strategy))},
        scope=Scope.EACH,
        merge=any,
    )


def complete_chunks(
    tokens: Sequence[Token],
    *,
    operations_failed: Mapping[Token, int] | None = None,
    outputs: Mapping[Token, bytes] | None = None,
) -> Command[list[CompleteOutcome]]:
    """Report chunks of one partition as done; see `Queue.complete_chunks`."""
    failed, outputs = operations_failed or {}, outputs or {}
    for output in outputs.values():
        if not isinstance(output, bytes):
            message = f"output {shown(output)}: give the bytes that the codec returned"
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
    return Command(
        script="complete_chunks",
        parse=replies.read_completed,
        rest=rest,
        partition=_partition_of_all(tokens),
    )


def fail_chunk(
    token: Token, failure: ChunkFailure, *, is_final: bool = False, jitter: int | None = None
) -> Command[FailOutcome]:
    """Report that an attempt failed; the next one waits for the submission's back-off.

    Args:
        token: the reservation's token.
        failure: the failure; the submission keeps the last one.
        is_final: no further attempt would change the result: the submission fails at once.
        jitter: 0 to 1000 per mille of half the back-off; random unless a test sets it.
    """
    jitter = secrets.randbelow(1001) if jitter is None else jitter
    return Command(
        script="fail_chunk",
        parse=replies.read_failed,
        arguments={
            "token": checked_tokens([token])[0],
            "type": encodable(failure.type),
            "message": encodable(failure.message),
            "traceback": encodable(failure.traceback),
            "jitter": checked_whole("jitter", jitter, most=1_000),
            "is_final": int(is_final),
        },
        partition=partition_of(token),
    )


def release_chunks(
    tokens: Sequence[Token], *, delay_ms: int = 0, reason: str = ""
) -> Command[list[ReleaseOutcome]]:
    """Release chunks of one partition; see `Queue.release_chunks`."""
    if not isinstance(reason, str):
        message = f"reason is {shown(reason)}: give a text"
        raise InvalidArgumentError(message)
    return Command(
        script="release_chunks",
        parse=replies.read_released,
        arguments={
            "delay_ms": checked_whole("delay_ms", delay_ms, most=MAX_MS),
            "reason": encodable(reason[:MAX_REASON_CHARACTERS]),
        },
        rest=checked_tokens(tokens),
        partition=_partition_of_all(tokens),
    )


def get_reservations(tokens: Sequence[Token]) -> Command[dict[Token, Reservation]]:
    """Return what one partition's tokens reserve, without inputs; see `Queue.get_reservations`."""
    return Command(
        script="get_reservations",
        parse=replies.read_reservations,
        rest=checked_tokens(tokens),
        partition=_partition_of_all(tokens),
    )


def _partition_of_all(tokens: Sequence[Token]) -> int | None:
    """Return the partition of the first token; the caller passes tokens of one partition."""
    return partition_of(tokens[0]) if tokens else None


# Workers, and chunks that they leave behind


def heartbeat(  # noqa: PLR0913 arguments of the script
    worker: str,
    *,
    partition: int,
    tokens: Iterable[Token],
    info: bytes,
    unknown_ms: int,
    timeout_ms: int,
    begun: Sequence[Token] | None = None,
    sleeps_in: AnyStrategy | None = None,
    page_from: str = "-",
    page_to: str = "+",
) -> Command[tuple[Alive, str]]:
    """Send a page of a heartbeat to one partition; see `Queue.heartbeat`.

    Args:
        worker: its name.
        partition: the partition.
        tokens: those of the page.
        info: see `Queue.heartbeat`; only the first page stores it, and `timeout_ms` and `begun`.
        unknown_ms: see `Queue.heartbeat`.
        timeout_ms: see `Queue.heartbeat`.
        begun: see `Queue.heartbeat`.
        sleeps_in: see `Queue.heartbeat`; only the first page registers it.
        page_from: "-" for the first page, then "(" and the last entry of the page before.
        page_to: the last entry of the page, "+" for the last page.

    Returns the answer, and the entry at which the script stopped, "" if it examined all of the
    page: what the answer says of tokens of later entries is not valid.
    """

    def read(
        read_to: bytes,
        revoked: list[bytes],
        released: int,
        lost: int,
        is_free: int = 0,
        workers: int = 0,
        partitions: Sequence[int] = (),
        is_due: int = 0,
        _due_in: int = -1,
    ) -> tuple[Alive, str]:
        alive = Alive(
            revoked=frozenset(Token(token.decode()) for token in revoked),
            released=released,
            lost=lost,
            is_free=bool(is_free),
            workers=workers,
            partitions=tuple(partitions) if partition == 0 else (),
            is_due=bool(is_due),
        )
        return alive, read_to.decode()

    return Command(
        script="heartbeat",
        parse=_tagged(alive=read),
        arguments={
            "worker": checked_worker(worker),
            # An invalid one would break every list of workers.
            "info": _checked_info(info),
            "unknown_ms": checked_whole("unknown_ms", unknown_ms, most=MAX_MS),
            "timeout_ms": checked_whole("timeout_ms", timeout_ms, most=MAX_MS),
            "begun": _entries_of(begun),
            "group": "" if sleeps_in is None else group_of(sleeps_in.wire()),
            "from": _checked_page(page_from),
            "to": page_to,
            "limit": HEARTBEAT_PAGE,
        },
        rest=list(tokens),
        partition=partition,
        tells_due=page_from == "-",
    )


def note_begun(worker: str, begun: Sequence[Token]) -> Command[bool]:
    """Report to one partition which of its chunks' handlers have begun and not ended.

    It replaces what the worker reported before. Returns False if the worker is not known, such as
    one that counts as dead, and holds nothing.
    """
    return Command(
        script="note_begun",
        parse=_tagged(noted=lambda: True, unknown=lambda: False),
        arguments={"worker": checked_worker(worker), "begun": _entries_of(begun)},
        partition=_partition_of_all(begun),
    )


def retire_worker(worker: str, *, limit: int = 100) -> Command[bool]:
    """Release all chunks that a worker still holds, and forget it.

    Returns True if nothing is left to do, or if nothing could be done, so that repeating it would
    not help.
    """
    return Command(
        script="retire_worker",
        parse=_tagged(retired=lambda ended, has_more, _lost: not (has_more and ended)),
        arguments={"worker": checked_worker(worker), "limit": checked_limit(limit)},
        scope=Scope.EACH,
        merge=all,
    )


def reclaim_dead(sweeper: str, *, limit: int = 100, lock_ms: int = 2_000) -> Command[Swept | None]:
    """Reclaim chunks of workers whose heartbeat timeout has passed; None: another one sweeps."""
    return Command(
        script="reclaim_dead",
        parse=_tagged(
            reclaimed=lambda chunks, has_more, lost, workers: Swept(
                chunks, "-" if has_more else None, lost, tuple(_texts(workers))
            ),
            busy=_none,
        ),
        arguments={
            "sweeper": sweeper,
            "limit": checked_limit(limit),
            "lock_ms": checked_whole("lock_ms", lock_ms, least=1, most=MAX_MS),
        },
        scope=Scope.EACH,
        merge=merged_sweeps,
    )


def reclaim_expired(
    sweeper: str, *, page_from: str, limit: int, lock_ms: int
) -> Command[Swept | None]:
    """Reclaim a page of one partition's expired reservations; see `Queue.reclaim_expired`."""
    return Command(
        script="reclaim_expired",
        parse=_tagged(
            reclaimed=lambda chunks, next_from, lost, workers: Swept(
                chunks, next_from.decode() or None, lost, tuple(_texts(workers))
            ),
            busy=_none,
        ),
        arguments={
            "sweeper": sweeper,
            "from": _checked_page(page_from),
            "limit": checked_limit(limit),
            "lock_ms": checked_whole("lock_ms", lock_ms, least=1, most=MAX_MS),
        },
    )


def repair(
    *, begin: bool = False, limit: int = 250, sweeper: str = "", lock_ms: int = 2_000
) -> Command[RepairStep | None]:
    """Free chunks whose reservations were lost, one step; None if there is nothing to do.

    Args:
        begin: start a repair of everything lost by now; otherwise only continue a repair.
        limit: roughly how many entries, unfinished chunks and submissions are examined.
        sweeper: the name of the sweeper. Others are then busy for `lock_ms`; one that begins a
            repair takes it over from them. Without a name it runs beside others.
        lock_ms: see `sweeper`.
    """
    return Command(
        script="repair",
        parse=_tagged(
            repaired=replies.read_repair_step,
            busy=lambda: RepairStep(is_busy=True),
            idle=_none,
        ),
        arguments={
            "action": "begin" if begin else "step",
            "limit": checked_limit(limit),
            "sweeper": sweeper,
            "lock_ms": checked_whole("lock_ms", lock_ms, least=1, most=MAX_MS),
        },
        scope=Scope.EACH,
        merge=merged_repairs,
    )


# The queue as a whole, and its clean-up


def pause_queue() -> Command[None]:
    """Stop reservations until `resume_queue`; chunks in progress are finished."""
    return Command(script="pause_queue", parse=_tagged(paused=_none), scope=Scope.EVERY)


def resume_queue() -> Command[None]:
    """Permit reservations again."""
    return Command(script="resume_queue", parse=_tagged(running=_none), scope=Scope.EVERY)


def set_limit(
    meta_key: str,
    *,
    value: int | None = None,
    max: int | None = None,  # noqa: A002 as in MaxSimultaneous
    per_second: float | None = None,
    burst: int | None = None,
) -> Command[None]:
    """Set limits that replace the strategies' own numbers, for every worker at once.

    Args:
        meta_key: a key of strategic metadata.
        value: the value that they apply to; None: all values without a limit of their own.
        max: the largest number of chunks in progress, for MaxSimultaneous.
        per_second: tokens added a second, for RateLimit; needs `burst`.
        burst: tokens that a bucket holds.

    Raises:
        InvalidArgumentError: a number breaks the rules of MaxSimultaneous or RateLimit.
    """
    if max is None and per_second is None:
        message = "no limit given: max, or per_second and burst"
        raise InvalidArgumentError(message)
    limits: dict[LimitKind, str] = {}
    if max is not None:
        limits["max"] = str(MaxSimultaneous(meta_key, max).max)
    if per_second is not None:
        rate = RateLimit(meta_key, per_second, 0 if burst is None else burst)
        limits["rate"] = f"{interval_ticks(rate.per_second)},{rate.burst}"
    return _limits(meta_key, value, limits)


def remove_limit(
    meta_key: str, *, value: int | None = None, kind: LimitKind | None = None
) -> Command[None]:
    """Return to the strategies' own numbers, for one kind of limit or for both."""
    kinds: tuple[LimitKind, ...] = get_args(LimitKind) if kind is None else (kind,)
    return _limits(meta_key, value, dict.fromkeys(kinds, ""))


def _limits(meta_key: str, value: int | None, limits: Mapping[LimitKind, str]) -> Command[None]:
    check_strategic_metadata({meta_key: 0 if value is None else value})
    return Command(
        script="set_limit",
        parse=_tagged(set=_none),
        arguments={"key": stored_meta_key(meta_key), "value": "" if value is None else str(value)},
        rest=_flat(limits),
        scope=Scope.EVERY,
    )


def set_defaults(changes: Mapping[str, int | None]) -> Command[None]:
    """Set the defaults for options of submissions that are inserted from now on.

    Args:
        changes: values by the names of `Defaults`; None removes the queue's default. Defaults that
            are not named don't change.

    Raises:
        InvalidArgumentError: no submission could have these values; or, together with the other
            defaults of the queue, the longest back-off would be shorter than the first. Nothing is
            changed.
    """
    names = Defaults.__struct_fields__
    if unknown := [name for name in changes if name not in names]:
        message = f"{shown(unknown[0])} has no default: give one of {', '.join(names)}"
        raise InvalidArgumentError(message)
    Defaults(**changes)

    def parse(reply: list[Any], queue: str) -> None:
        match reply:
            case [b"set"]:
                return
            case [b"refused", first_ms, max_ms]:
                message = (
                    f"the first back-off of queue {queue} would be {int(first_ms):,} ms and the "
                    f"longest {int(max_ms):,} ms, which is shorter: set both"
                )
                raise InvalidArgumentError(message)
        raise unexpected(reply)

    return Command(
        script="set_defaults",
        parse=parse,
        rest=_flat({name: "" if value is None else value for name, value in changes.items()}),
        scope=Scope.EVERY,
    )


def upgrade_queue() -> Command[tuple[int, int]]:
    """Raise the queue's format to the newest that this version knows.

    From then on, programs that can't read it refuse the queue: upgrade them first.

    Returns the format before and after.
    """
    return Command(
        script="upgrade_queue",
        parse=_tagged(upgraded=lambda before, now: (before, now)),
        scope=Scope.EVERY,
        merge=min,
    )


def get_partitions() -> Command[History]:
    """Return the numbers of partitions that the queue has had, and the tags chosen for them."""

    def read(numbers: list[int], tags: list[bytes], by: bytes) -> History:
        pairs = zip(tags[::2], tags[1::2], strict=True)
        return History(numbers, {int(n): tag.decode() for n, tag in pairs}, by.decode())

    return Command(script="get_partitions", parse=_tagged(partitions=read), partition=0)


def set_partitions(
    partitions: int,
    *,
    step: Literal["choose", "set"],
    tags: Mapping[int, str] | None = None,
    by: str = "",
) -> Command[None]:
    """Spread submissions over more partitions from now on; see `Queue.set_partitions`.

    Args:
        partitions: their number.
        step: "choose" only stores tags of new partitions.
        tags: those tags; a partition that is in use, or has a tag, keeps the one that it has.
        by: the key of strategic metadata that chooses a submission's partition; "": unchanged.
    """
    if by:
        checked_meta_key(by)
    checked_whole("partitions", partitions, least=1, most=MAX_PARTITIONS)

    def parse(reply: list[Any], queue: str) -> None:
        match reply:
            case [b"set", _]:
                return
            case [b"fewer", numbers]:
                message = (
                    f"queue {queue} has {numbers[-1]} partitions: {partitions} would leave "
                    "some of its submissions without workers; the number can only grow"
                )
                raise InvalidArgumentError(message)
        raise unexpected(reply)

    return Command(
        script="set_partitions",
        parse=parse,
        arguments={"partitions": partitions, "step": step, "by": by},
        rest=list(chain.from_iterable((tags or {}).items())),
        partition=0,
    )


def delete_queue(action: Literal["look", "delete"], *, only_unused: bool = False) -> Command[None]:
    """Delete one partition of an empty queue; see `Queue.delete_queue` and `forget_unused`."""

    def parse(reply: list[Any], queue: str) -> None:
        match reply:
            case [b"deleted"]:
                return
            case [b"in_use", flat]:
                found = zip(_texts(flat[::2]), flat[1::2], strict=True)
                raise QueueInUseError(queue, dict(found))
        raise unexpected(reply)

    return Command(
        script="delete_queue",
        parse=parse,
        arguments={"action": action, "unused": int(only_unused)},
    )


def forget_submissions(
    *, limit: int = 100, deleted_prefixes: Iterable[str] = ()
) -> Command[Forgotten]:
    """Remove ended submissions whose retention is over.

    Args:
        limit: submissions, and prefixes in the answer, of each partition.
        deleted_prefixes: prefixes whose objects the caller has deleted since the last answer.
    """
    return Command(
        script="forget_submissions",
        parse=_tagged(
            forgotten=lambda number, prefixes: Forgotten(number, tuple(_texts(prefixes)))
        ),
        arguments={"limit": checked_limit(limit)},
        rest=list(deleted_prefixes),
        scope=Scope.EACH,
        merge=lambda parts: Forgotten(
            sum(one.submissions for one in parts),
            tuple(dict.fromkeys(prefix for one in parts for prefix in one.prefixes)),
        ),
    )


def delete_inputs(
    *, limit: int = 100, deleted: Mapping[SubmissionId, int] | None = None
) -> Command[list[SpentInputs]]:
    """List inputs that completed submissions no longer need, for the caller to delete.

    Args:
        limit: submissions in the answer, of each partition.
        deleted: for submissions of earlier answers, the index below which inputs are deleted.
    """
    told = {str(id_): checked_chunk(index) for id_, index in (deleted or {}).items()}
    return Command(
        script="delete_inputs",
        parse=_tagged(inputs=lambda rows: list(map(replies.read_spent_inputs, rows))),
        arguments={"limit": checked_limit(limit)},
        rest=_flat(told),
        scope=Scope.EACH,
        merge=_concatenated,
    )


def discard_prefixes(
    prefixes: Sequence[str], *, queue: str, step: Literal["discard", "hold", "let_go"]
) -> Command[list[str]]:
    """Run a step of `Queue.discard_prefixes` in one partition."""
    return Command(
        script="discard_prefixes",
        parse=_tagged(discarded=_texts),
        arguments={"step": step},
        rest=[check_own_prefix(prefix, queue) for prefix in _checked_prefixes(prefixes)],
    )


# Readings


def next_due() -> Command[Due]:
    """Return what a sweeper has to do in one partition, and when more will be."""
    return Command(
        script="next_due",
        parse=_tagged(
            due=lambda dead_in, objects_in, reserved, is_repairing, in_progress: Due(
                dead_in_ms=None if dead_in < 0 else dead_in,
                objects_in_ms=None if objects_in < 0 else objects_in,
                chunks_in_hand=reserved,
                is_repairing=bool(is_repairing),
                in_progress=in_progress,
            )
        ),
    )


def get_submission(submission_id: SubmissionId) -> Command[Submission]:
    """Return a submission in its present state.

    Raises:
        SubmissionNotFoundError: the queue has no such submission; also after its retention.
    """

    def parse(reply: list[Any], queue: str) -> Submission:
        match reply:
            case [b"found", row]:
                return replies.read_submission(row, queue)
        raise unexpected(reply)

    return _about(submission_id, "get_submission", parse)


def done_chunks(
    submission_id: SubmissionId, *, start: int = 0, limit: int = MAX_WINDOW
) -> Command[Progress]:
    """Return a submission's progress, and which of `limit` chunks from `start` on are done.

    Args:
        submission_id: its id.
        start: the first chunk of the window; after the last chunk the window is empty.
        limit: at most MAX_WINDOW.

    Raises:
        SubmissionNotFoundError: the queue has no such submission; also after its retention.
    """
    first = min(checked_whole("start", start, most=2**63 - 1), MAX_CHUNKS)
    limit = min(checked_limit(limit), MAX_WINDOW)

    return _about(
        submission_id,
        "done_chunks",
        _tagged(found=partial(replies.read_progress, first=first, limit=limit)),
        first_byte=first // 8,
        bytes=-(-(first + limit) // 8) - first // 8,
    )


def inline_contents(
    submission_id: SubmissionId, kind: Kind, index: int | None = None
) -> Command[dict[int, bytes]]:
    """Return a small submission's contents in Redis, encoded, by chunk: at most 1 MiB.

    With `index`, return only those of that chunk.

    Raises:
        SubmissionNotFoundError: the queue has no such submission.
    """
    return _about(
        submission_id,
        "inline_contents",
        _tagged(found=replies.read_inline),
        kind="in" if kind == "inputs" else "out",
        index="" if index is None else index,
    )


def chunks_with_errors(
    submission_id: SubmissionId, first_index: int = 0, *, limit: int = MAX_BATCH
) -> Command[ErrorChunks]:
    """Return a page of the finished chunks with operations that failed, ascending.

    A page may be empty without being the last: it examines a bounded number of chunks.

    Raises:
        SubmissionNotFoundError: the queue has no such submission.
    """
    return _about(
        submission_id,
        "chunks_with_errors",
        _tagged(
            listed=lambda indexes, next_index: ErrorChunks(
                tuple(indexes), None if next_index < 0 else next_index
            )
        ),
        first_index=checked_whole("first_index", first_index, most=MAX_CHUNKS),
        limit=min(checked_limit(limit), MAX_BATCH),
        most_bytes=_ERROR_PAGE_BYTES,
    )


def count_cells(
    submission_id: SubmissionId, *, chunks_per_cell: int, first_cell: int, limit: int
) -> Command[Cells]:
    """Count the done chunks in at most `limit` cells of 1 chunk, or a multiple of 8, each.

    At most MAX_CELLS are counted.

    Raises:
        SubmissionNotFoundError: the queue has no such submission.
    """
    checked_whole("chunks_per_cell", chunks_per_cell, least=1, most=MAX_CHUNKS)
    if chunks_per_cell > 1 and chunks_per_cell % 8:
        message = f"chunks_per_cell is {chunks_per_cell}: give 1, or a multiple of 8"
        raise InvalidArgumentError(message)

    return _about(
        submission_id,
        "count_cells",
        _tagged(counted=replies.read_cells),
        chunks=chunks_per_cell,
        first_cell=checked_whole("first_cell", first_cell, most=MAX_CHUNKS),
        limit=min(checked_limit(limit), MAX_CELLS),
    )


def list_reservations(
    submission_id: SubmissionId | None, *, from_: str, limit: int
) -> Command[HandPage]:
    """List reserved chunks of one partition; see `Queue.list_reservations`."""
    return Command(
        script="list_reservations",
        parse=_tagged(listed=replies.read_hand_page),
        arguments={
            "id": "" if submission_id is None else str(submission_id),
            "limit": limit,
            "from": _checked_page(from_),
        },
    )


def list_delayed(submission_id: SubmissionId, *, limit: int = MAX_PAGE) -> Command[Delayed]:
    """List the chunks of a submission that wait for another attempt, in the order they are due.

    Args:
        submission_id: its id; an unknown one has none.
        limit: how many delayed chunks of the queue are examined, at most MAX_DELAYED.
    """
    return _about(
        submission_id,
        "list_delayed",
        _tagged(listed=replies.read_delayed),
        limit=min(checked_limit(limit), MAX_DELAYED),
    )


def list_submissions(
    state: SubmissionState,
    pairs: Mapping[str, int],
    *,
    ids: tuple[SubmissionId | None, SubmissionId | None],
    order: str,
    limit: int,
) -> Command[list[SubmissionPage]]:
    """List submissions in one state, a page of each partition.

    Args:
        state: their state.
        pairs: pairs of strategic metadata that they all have.
        ids: the lowest id, and one above the highest; None: no bound.
        order: "newest" or "oldest" first.
        limit: submissions on a page.
    """
    least, below = ids

    def parse(reply: list[Any], queue: str) -> list[SubmissionPage]:
        match reply:
            case [b"listed", rows, last]:
                page = SubmissionPage(
                    submissions=tuple(replies.read_submission(row, queue) for row in rows),
                    next=SubmissionId(last.decode()) if last else None,
                )
                return [page]
        raise unexpected(reply)

    return Command(
        script="list_submissions",
        parse=parse,
        arguments={
            "state": state.value,
            "from": "" if least is None else str(least),
            "below": "" if below is None else str(below),
            "order": order,
            "limit": limit,
        },
        rest=_stored(pairs),
        scope=Scope.EACH,
        merge=_concatenated,
    )


def lookup_submissions(
    pairs: Mapping[str, int], *, states: str, after: str
) -> Command[tuple[list[SubmissionId], str]]:
    """Look up a page of ids in one partition; also return where the next page starts, '': none."""
    return Command(
        script="lookup_submissions",
        parse=_tagged(
            found=lambda ids, next_after: (
                [SubmissionId(id_.decode()) for id_ in ids],
                next_after.decode(),
            )
        ),
        arguments={"after": after, "limit": MAX_BATCH, "states": states},
        rest=_stored(pairs),
    )


def lookup_prefix(prefix: str) -> Command[SubmissionId | None]:
    """Return the submission whose objects have a prefix."""
    return Command(
        script="lookup_prefix",
        parse=_tagged(found=_id, unknown=_none),
        arguments={"prefix": prefix},
    )


def lookup_key(idempotency_key: str) -> Command[SubmissionId | None]:
    """Return the submission that was inserted with a key, as long as the key is remembered."""
    return Command(
        script="lookup_key",
        parse=_tagged(found=_id, unknown=_none),
        arguments={"idempotency": idempotency_key},
    )


def unknown_prefixes(prefixes: Sequence[str]) -> Command[list[str]]:
    """Return the prefixes that no submission has; at most MAX_BATCH are looked up."""
    return Command(
        script="unknown_prefixes",
        parse=_tagged(unknown=_texts),
        rest=_checked_prefixes(prefixes),
        scope=Scope.EVERY,
        merge=lambda parts: [
            prefix for prefix in parts[0] if all(prefix in part for part in parts[1:])
        ],
    )


def list_limits() -> Command[list[Limit]]:
    """List the limits set at run time, which are the same in all partitions."""
    return Command(script="list_limits", parse=_tagged(listed=replies.read_limits))


def get_defaults() -> Command[Defaults]:
    """Return the queue's own defaults for options of submissions."""
    return Command(script="get_defaults", parse=_tagged(defaults=_defaults))


def _defaults(options: list[bytes]) -> Defaults:
    named = zip(Defaults.__struct_fields__, options, strict=True)
    return Defaults(**{name: int(value) if value else None for name, value in named})


def list_workers(*, limit: int) -> Command[list[str]]:
    """List the names of one partition's workers; see `Queue.list_workers`."""
    return Command(script="list_workers", parse=_tagged(listed=_texts), arguments={"limit": limit})


def get_workers(
    names: Sequence[str], *, page_from: str = "-"
) -> Command[tuple[list[WorkerSeen | None], str]]:
    """Return the first ones of some workers of one partition, in a bounded step.

    Returns those workers, None for one that there is not, and where to continue with the last one
    of them, "" if all of its chunks are counted.
    """
    return Command(
        script="get_workers",
        parse=_tagged(found=partial(replies.read_workers, names=names)),
        arguments={"from": _checked_page(page_from)},
        rest=[checked_worker(name) for name in names],
    )


def count_queue() -> Command[Counts]:
    """Return counts of the queue's present contents, and its totals."""

    def parse(reply: list[Any], queue: str) -> Counts:
        match reply:
            case [b"counted", numbers, stats]:
                return replies.read_counts(queue, numbers, stats)
        raise unexpected(reply)

    return Command(
        script="count_queue",
        parse=parse,
        scope=Scope.EACH,
        merge=summed,
    )


def get_durations() -> Command[dict[SubmissionState, Durations]]:
    """Return how long submissions took from insert to end, by their final state."""
    return Command(
        script="get_durations",
        parse=_tagged(durations=replies.read_durations),
        scope=Scope.EACH,
        merge=lambda parts: {
            state: Durations.summed(part[state] for part in parts) for state in parts[0]
        },
    )


# Checks


def checked_tokens(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens, or raise InvalidArgumentError for too many or an invalid one."""
    if len(tokens) > MAX_BATCH:
        message = f"{len(tokens):,} tokens in one call: at most {MAX_BATCH:,}"
        raise InvalidArgumentError(message)
    return checked_begun(tokens)


def checked_begun(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens, or raise InvalidArgumentError for an invalid one.

    There is no limit, since a worker may run more handlers than one call may report.
    """
    for token in tokens:
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            message = f"token {shown(token)}: give the token of a reservation as it came with it"
            raise InvalidArgumentError(message)
    return list(tokens)


def _entries_of(begun: Sequence[Token] | None) -> str:
    """Return the entries of chunks that have begun, in the scripts' form; "-": not reported.

    They are ascending, and a space precedes each: so the scripts tell them from an older version's.
    """
    if begun is None:
        return "-"
    entries = sorted(checked_begun(begun), key=entry_of)
    return "".join(f" {token.partition(':')[0]}" for token in entries)


def _checked_prefixes(prefixes: Sequence[str]) -> list[str]:
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


def _checked_info(info: bytes) -> bytes:
    try:
        _INFO.decode(info)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as exc:
        message = f"info {shown(info)}: give a JSON object ({exc})"
        raise InvalidArgumentError(message) from exc
    return info


def checked_finished(new: NewSubmission, finished: Finished) -> Finished:
    """Return the progress of a lost submission, or raise InvalidArgumentError if it is invalid."""
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
    """Return the limit, or raise InvalidArgumentError if it is below 1 or too large to count."""
    return checked_whole("limit", limit, least=1, most=MAX_LIMIT)


def checked_chunk(index: int) -> int:
    """Return the chunk's index, or raise InvalidArgumentError if it is out of range."""
    return checked_whole("chunk index", index, most=MAX_CHUNKS)


def _checked_page(from_: str) -> str:
    if not isinstance(from_, str) or not _PAGE.fullmatch(from_):
        message = f"a page from {shown(from_)}: give '-', or the value from the page before"
        raise InvalidArgumentError(message)
    return from_


def _flat(pairs: Mapping[Any, Argument]) -> list[Argument]:
    return [part for pair in pairs.items() for part in pair]


def _stored(pairs: Mapping[str, Argument]) -> list[Argument]:
    """Return pairs of strategic metadata, flat, with keys as the scripts know them."""
    return [part for key, value in pairs.items() for part in (stored_meta_key(key), value)]
