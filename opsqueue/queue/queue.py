"""The state machine's methods, one a transition.

Each is one Lua script. Everything goes through here: clients, API and workers, in values. What is
about a worker and not a chunk is in worker_life.py, what is about the whole queue in upkeep.py, the
readings are in readings.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from opsqueue.exceptions import (
    InvalidArgumentError,
    OpsqueueError,
    RedisUnavailableError,
    SubmissionNotCancellableError,
    SubmissionNotConfirmedError,
    SubmissionNotFoundError,
    SubmissionNotRetryableError,
)
from opsqueue.model.answers import Inserted, Reserved
from opsqueue.model.checks import MAX_MS, checked_whole
from opsqueue.model.chunk import (
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    Finished,
    ReleaseOutcome,
    Token,
)
from opsqueue.model.names import check_own_prefix, check_queue_name, label
from opsqueue.model.new_submission import (
    MAX_STRATEGIC_PAIRS,
    NewSubmission,
    check_strategic_metadata,
)
from opsqueue.model.submission import SubmissionId
from opsqueue.queue import calls
from opsqueue.queue.calls import KEY_KEPT_MS, Answer
from opsqueue.queue.cluster import Client
from opsqueue.queue.durability import Durability, confirming, unconfirmed
from opsqueue.queue.replies import unexpected
from opsqueue.queue.script import Argument, Scripts, register_queue
from opsqueue.queue.worker_life import WorkerLife
from opsqueue.strategy import AnyStrategy


class Queue(WorkerLife):
    """One queue in Redis, or one partition of a queue that is spread over several.

    Args:
        client: from `opsqueue.queue.connection.connect`.
        name: letters, digits, `_.-`.
        partition: 0 to 99; a queue that is not spread has the first only.
        clock: milliseconds since 1970; for tests alone.
        durability: that an insert waits for. Nothing else does: what is lost of the rest is done
            again, never counted twice (ARCHITECTURE.md, Durability).

    Every method raises RedisUnavailableError when there is no answer: whether the transition
    happened is then not known. All may be repeated: an insert by its idempotency key, reports by
    their tokens, a reserve by the heartbeat that releases what nobody knows of.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        partition: int = 0,
        clock: Callable[[], int] | None = None,
        durability: Durability = Durability.NONE,
    ) -> None:
        """Connect to nothing yet."""
        scripts = Scripts(client, check_queue_name(name), partition=partition, clock=clock)
        super().__init__(client, name, scripts)
        self.partition = partition
        self.label = label(name, partition)
        self._durability = durability
        self._is_registered = False

    def parts(self) -> list[Queue]:
        """Give the queue's partitions, this one alone."""
        return [self]

    def part_of(self, submission_id: SubmissionId) -> Queue:  # noqa: ARG002 see PartitionedQueue
        """Give the partition that has a submission: this one."""
        return self

    # Transitions of submissions

    def insert_submission(
        self,
        new: NewSubmission,
        *,
        idempotency_key: str = "",
        idempotency_ms: int = KEY_KEPT_MS,
    ) -> Inserted:
        """Accept a submission whose chunks are stored already; costs the same for any number.

        Raises:
            InvalidArgumentError: another submission has this prefix, or it is not of the form
                `QUEUE/` and 32 hexadecimal digits.
            SubmissionNotConfirmedError: it is inserted, but not yet as durable as was asked for. A
                repetition with the idempotency key finds it and waits again.
        """
        checked_whole("idempotency_ms", idempotency_ms, least=1, most=MAX_MS)
        check_own_prefix(new.prefix, self.name)
        self._register()
        answer, doubt = self._call_confirmed(
            "insert_submission",
            partition=f"{self.partition:02}",
            idempotency=idempotency_key,
            idempotency_ms=idempotency_ms,
            prefix=new.prefix,
            chunks_total=new.chunks_total,
            chunk_size=new.chunk_size,
            operations_total=new.operations,
            meta_count=len(new.strategic_metadata),
            inline_count=len(new.inline or ()),
            rest=[*calls.pairs_and_fields(new), *(new.inline or ())],
        )
        inserted = _inserted(answer, new.prefix)
        if doubt is not None:
            raise SubmissionNotConfirmedError(inserted.id, doubt)
        return inserted

    def restore_submission(
        self, new: NewSubmission, finished: Finished, *, idempotency_key: str = ""
    ) -> Inserted:
        """Insert a submission that Redis has lost, whose chunks are stored, and some done.

        Its prefix may be of any form: earlier versions let clients choose it.

        Args:
            new: as it was inserted.
            finished: which of its chunks are done.
            idempotency_key: of that insert; from now on for a day, unless it is another one's.

        Raises:
            InvalidArgumentError: a submission has this prefix, so this one was not lost; or what
                is done is more than there is.
        """
        calls.checked_finished(new, finished)
        self._register()
        answer = self._scripts.call(
            "restore_submission",
            partition=f"{self.partition:02}",
            prefix=new.prefix,
            chunks_total=new.chunks_total,
            chunk_size=new.chunk_size,
            operations_total=new.operations,
            cursor=finished.cursor,
            chunks_done=finished.chunks_done,
            done=finished.done,
            operations_done=finished.operations_done,
            operations_failed=finished.operations_failed,
            errors=finished.errors,
            last_error=finished.last_error,
            meta_count=len(new.strategic_metadata),
            redo_count=len(finished.redo),
            idempotency=idempotency_key,
            idempotency_ms=KEY_KEPT_MS,
            rest=[*calls.pairs_and_fields(new), *finished.redo],
        )
        return _inserted(answer, new.prefix)

    def cancel_submission(self, submission_id: SubmissionId) -> None:
        """Drop what is left of a submission in progress; costs the same for any number of chunks.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError.
        """
        answer = self._scripts.call("cancel_submission", id=str(submission_id))
        match answer:
            case [b"cancelled"]:
                return
            case [b"ended", _]:
                raise SubmissionNotCancellableError(self.get_submission(submission_id))
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    def retry_submission(self, submission_id: SubmissionId) -> None:
        """Put a failed or cancelled submission back to work; finished chunks stay finished.

        Every other one has all its attempts again, at once: back-offs of before end. Its
        `max_failed_operations` holds no longer. Errors of operations in finished chunks stay.

        Raises:
            SubmissionNotFoundError, SubmissionNotRetryableError.
        """
        look_from = ""
        while True:
            answer = self._scripts.call(
                "retry_submission", id=str(submission_id), look_from=look_from
            )
            match answer:
                case [b"retried", bytes() as more]:
                    # The same place once more would be no progress.
                    if (rest := more.decode()) in ("", look_from):
                        return
                    look_from = rest
                case [b"not_retryable", _]:
                    raise SubmissionNotRetryableError(self.get_submission(submission_id))
                case [b"unknown"]:
                    raise SubmissionNotFoundError(submission_id, self.name)
                case _:
                    raise unexpected(answer)

    def update_metadata(
        self, submission_id: SubmissionId, changes: Mapping[str, int | None]
    ) -> None:
        """Change strategic metadata of a submission in progress; None removes a key.

        Raises:
            SubmissionNotFoundError, SubmissionNotCancellableError (it has ended).
        """
        # Together they may be more than a submission may have: as many may go as come.
        for key, value in changes.items():
            check_strategic_metadata({key: 0 if value is None else value})
        rest = [
            part for key, value in changes.items() for part in (key, "" if value is None else value)
        ]
        answer = self._scripts.call(
            "update_metadata", id=str(submission_id), limit=MAX_STRATEGIC_PAIRS, rest=rest
        )
        match answer:
            case [b"updated"]:
                return
            case [b"too_many", int(pairs)]:
                message = (
                    f"submission {submission_id} would have {pairs} pairs of strategic metadata: "
                    f"at most {MAX_STRATEGIC_PAIRS}; remove some with None"
                )
                raise InvalidArgumentError(message)
            case [b"ended", _]:
                raise SubmissionNotCancellableError(self.get_submission(submission_id))
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    def watch_submission(
        self, submission_id: SubmissionId, *, watch_ms: int = 60_000
    ) -> str | None:
        """Let a submission tell its progress for a while; None: it has ended.

        Returns what `wait_for_news` reads after: whatever is read of the submission from now on,
        no later change is missed.

        Raises:
            SubmissionNotFoundError.
        """
        answer = self._scripts.call(
            "watch_submission",
            id=str(submission_id),
            watch_ms=checked_whole("watch_ms", watch_ms, least=1, most=MAX_MS),
        )
        match answer:
            case [b"watched", news_id]:
                return str(news_id.decode())
            case [b"ended", _]:
                return None
            case [b"unknown"]:
                raise SubmissionNotFoundError(submission_id, self.name)
        raise unexpected(answer)

    # Transitions of chunks

    def reserve_chunks(
        self,
        worker: str,
        *,
        limit: int = 1,
        reservation_ms: int = 600_000,
        strategy: AnyStrategy | None = None,
        heartbeat_timeout_ms: int = calls.DEFAULT_TIMEOUT_MS,
    ) -> Reserved:
        """Take up to `limit` chunks; also a sign of the worker's life.

        Args:
            worker: its name, unique among all.
            limit: 1 to MAX_BATCH.
            reservation_ms: from now, on Redis's clock, until the chunks are taken back.
            strategy: Random by default.
            heartbeat_timeout_ms: the `timeout_ms` of its heartbeats, which counts until the first
                of them: for a worker that is new, or that was forgotten as dead.
        """
        self._register_if_taken()
        look_from = ""
        while True:
            reserved = self._run(
                calls.reserve_chunks(
                    self.name,
                    worker,
                    limit=limit,
                    reservation_ms=reservation_ms,
                    strategy=strategy,
                    look_from=look_from,
                    heartbeat_timeout_ms=heartbeat_timeout_ms,
                )
            )
            # A composed strategy looks at a bounded number of submissions in one script.
            if reserved.chunks or reserved.look_from in ("", look_from):
                return reserved
            look_from = reserved.look_from

    def complete_chunks(
        self,
        tokens: Sequence[Token],
        *,
        operations_failed: Mapping[Token, int] | None = None,
        outputs: Mapping[Token, bytes] | None = None,
    ) -> list[CompleteOutcome]:
        """Report chunks as done; their output must be stored already, or come along.

        Args:
            tokens: at most MAX_BATCH.
            operations_failed: of each chunk that collected errors of single operations. Past the
                submission's `max_failed_operations` it fails, with a failure that says so.
            outputs: encoded, of chunks that have `inline_output_bytes` for them.
        """
        return self._run(calls.complete_chunks(tokens, operations_failed, outputs))

    def fail_chunk(
        self, token: Token, failure: ChunkFailure, *, jitter: int | None = None
    ) -> FailOutcome:
        """Report that an attempt failed; the next one waits for the submission's back-off.

        Args:
            token: of the reservation.
            failure: kept with the submission, the last one only.
            jitter: 0 to 1000 per mille of half the back-off; drawn here unless a test gives it.
        """
        return self._run(calls.fail_chunk(token, failure, jitter=jitter))

    def release_chunks(self, tokens: Sequence[Token], *, delay_ms: int = 0) -> list[ReleaseOutcome]:
        """Give chunks back without using an attempt, free at once or after a delay."""
        return self._run(calls.release_chunks(tokens, delay_ms=delay_ms))

    def fail_chunks(self, failures: Sequence[tuple[Token, ChunkFailure]]) -> list[FailOutcome]:
        """Report attempts that failed, each as `fail_chunk` does; at most MAX_BATCH.

        After an error all may be reported again: those that were counted are lost then.
        """
        tokens = calls.checked_tokens([token for token, _ in failures])
        reports = zip(tokens, (why for _, why in failures), strict=True)
        outcomes = self.together([calls.fail_chunk(token, why) for token, why in reports])
        for outcome in outcomes:
            if isinstance(outcome, OpsqueueError):
                raise outcome
        return outcomes

    def together(self, many: Sequence[calls.Call[Any]]) -> list[Any]:
        """Make calls (see `calls`) in one round trip; each is a transition of its own.

        Returns their answers in order, and in place of an answer the error that it met, a
        RedisUnavailableError or a ScriptError: the others may have happened all the same.
        """
        self._register_if_taken()
        answers = self._scripts.call_many([(c.script, c.arguments, c.rest) for c in many])
        return [
            answer if isinstance(answer, OpsqueueError) else call.read(answer)
            for call, answer in zip(many, answers, strict=True)
        ]

    def _run(self, call: calls.Call[Answer]) -> Answer:
        return call.read(self._scripts.call(call.script, rest=call.rest, **call.arguments))

    def _call_confirmed(
        self, name: str, *, rest: Sequence[Argument], **arguments: Argument
    ) -> tuple[list[Any], str | None]:
        """Run a script; also say why its effect is not as durable as was asked for, if so."""
        if self._durability is Durability.NONE:
            return self._scripts.call(name, rest=rest, **arguments), None
        commands = confirming(self._durability, self._scripts.base)
        answer, answers = self._scripts.call_followed(name, commands, rest=rest, **arguments)
        return answer, unconfirmed(self._durability, answers)

    def _register(self) -> None:
        if not self._is_registered:
            register_queue(self._client, self.name)
            self._is_registered = True

    def _register_if_taken(self) -> None:
        # A full server refuses the name, and of a cluster another master has it: neither keeps
        # workers from their chunks. Heartbeats say it again.
        with suppress(RedisUnavailableError):
            self._register()


def _inserted(answer: list[Any], prefix: str) -> Inserted:
    match answer:
        case [b"inserted", id_]:
            return Inserted(id=SubmissionId(id_.decode()), is_new=True)
        case [b"known", id_]:
            return Inserted(id=SubmissionId(id_.decode()), is_new=False)
        case [b"prefix_taken", id_]:
            raise prefix_taken(prefix, SubmissionId(id_.decode()) if id_ else None)
    raise unexpected(answer)


def prefix_taken(prefix: str, owner: SubmissionId | None) -> InvalidArgumentError:
    """Return the refusal of an insert; `owner` None: the prefix's objects are being deleted."""
    why = f"belongs to submission {owner}" if owner else "is being deleted"
    return InvalidArgumentError(
        f"prefix {prefix!r} {why}: upload under a prefix of its own, or repeat an insert with its "
        "idempotency key"
    )
