"""A queue in Redis: all transitions and readings, as values. Clients, API and workers use it.

A command (`commands.py`) is one Lua script, which is executed completely or not at all. A queue may
be spread over several partitions, each in its own slot; this module decides which of them a command
runs in. Nothing is atomic over several partitions: what moves while they are asked one after the
other can be missed, or counted twice.
"""

from __future__ import annotations

import inspect
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

import msgspec

from opsqueue.contents.codec import readable_codecs
from opsqueue.exceptions import (
    InvalidArgumentError,
    OpsqueueError,
    QueueInUseError,
    RedisUnavailableError,
    SubmissionNotConfirmedError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.model.answers import (
    MAX_WORKERS,
    Alive,
    Inserted,
    Limit,
    Progress,
    Reserved,
    SubmissionPage,
    Swept,
    WorkerSeen,
)
from opsqueue.model.checks import shown
from opsqueue.model.chunk import (
    MAX_BATCH,
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    Finished,
    ReleaseOutcome,
    Reservation,
    Token,
)
from opsqueue.model.grid import MAX_PAGE, ChunkInHand, HandPage
from opsqueue.model.names import check_own_prefix, check_queue_name, default_tag, label
from opsqueue.model.new_submission import (
    BUILT_IN,
    Defaults,
    NewSubmission,
    check_strategic_metadata,
)
from opsqueue.model.process import PerProcess
from opsqueue.model.submission import (
    MAX_LOOKED_UP,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.queue import commands
from opsqueue.queue.cluster import Client, node_of
from opsqueue.queue.commands import (
    DEFAULT_TIMEOUT_MS,
    HEARTBEAT_PAGE,
    Command,
    Scope,
    checked_limit,
    prefix_taken,
)
from opsqueue.queue.connection import SOCKET_TIMEOUT_S
from opsqueue.queue.due import DueIndex
from opsqueue.queue.durability import Durability, confirming, unconfirmed
from opsqueue.queue.partitions import (
    Partitions,
    entry_of,
    grouped,
    joined,
    merged_pages,
    merged_reserves,
    merged_workers,
    place_of,
    placed,
    taken_apart,
)
from opsqueue.queue.reader import Watch, reader_of
from opsqueue.queue.script import (
    Call,
    Scripts,
    ask_slot_map,
    call_together,
    register_queue,
    unregister_queue,
)
from opsqueue.queue.spread import choose_tags
from opsqueue.strategy import AnyStrategy

Answer = TypeVar("Answer")
P = ParamSpec("P")

_LEAST_BLOCK_MS: Final = 10
_GATHER_S: Final = 0.02
_LIVE_WITHIN_S: Final = 1.0
LOOK_EVERY_MS: Final = 5_000
"""The interval at which those who wait look without a message, since one may have been lost."""
UNKNOWN_MS: Final = int(2_000 * SOCKET_TIMEOUT_S)
"""A reserve that was not answered within the socket's timeout never will be."""
IN_PROGRESS_LOOK_MS: Final = 300_000
"""Sweepers look so often at a partition in which submissions are in progress and nothing is due."""
_REGISTER_EVERY_S: Final = 60.0
_READ_BY_ALL: Final = frozenset(readable_codecs(allow_pickle=False))
_MOST_ROUNDS: Final = 100
_TOKENS_A_STEP: Final = 200
"""The most tokens that one script looks up."""
_WORKERS_A_STEP: Final = 250
"""The most workers that one script is asked for."""
_MOST_BATCHES: Final = 1_000


def _runs(command: Callable[P, Command[Answer]]) -> Callable[Concatenate[Queue, P], Answer]:
    """Return a method of `Queue` that runs the command made from its arguments."""

    @wraps(command)
    def method(self: Queue, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return self.run(command(*args, **kwargs))

    signature = inspect.signature(command)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = signature.replace(  # type: ignore[attr-defined] # for help()
        parameters=[own, *signature.parameters.values()]
    )
    return method


class Queue:
    """One queue in Redis with all its partitions, or a single one of its partitions.

    Args:
        client: a client from `opsqueue.queue.connection.connect`.
        name: letters, digits, `_.-`.
        partition: 0 to 99: only this one, whatever others there are. None: all partitions.
        clock: milliseconds since 1970; only for tests.
        defaults: options of submissions whose inserts don't set them and whose queue has no
            default for them.
        durability: what an insert waits for. Nothing else waits: other work that is lost is done
            again, and never counted twice (docs/internals/durability.md).

    Every method raises RedisUnavailableError if there is no answer; it is then not known whether
    the transition happened. All methods may be repeated: inserts are recognised by their
    idempotency key, reports by their tokens, and chunks of a reserve whose answer was lost are
    released by the heartbeat.

    A program that does not know a new partition yet (for KNOWN_FOR_S) can still read and report its
    contents, since ids and tokens contain the partition.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        partition: int | None = None,
        clock: Callable[[], int] | None = None,
        defaults: Defaults = BUILT_IN,
        durability: Durability = Durability.NONE,
    ) -> None:
        """Store the arguments; nothing is connected yet."""
        self.name = check_queue_name(name)
        self.partition = partition or 0
        self.label = label(name, self.partition)
        self.partitions = Partitions(lambda: self.run(commands.get_partitions()))
        self._is_one = partition is not None
        self._client = client
        self._clock = clock
        self._fallback = defaults.over(BUILT_IN)
        self._durability = durability
        self._registered_at = float("-inf")
        self._index = DueIndex(client, clock=clock)
        self._noted: dict[int, float] = {}
        self._scripts: dict[tuple[int, str], Scripts] = {}
        self._parts: dict[int, Queue] = {}
        self._lock = PerProcess(threading.Lock)

    # How commands run

    def run(self, command: Command[Answer], *, partition: int | None = None) -> Answer:
        """Run a command in the partitions of its scope, or in the given one.

        If there are several, it runs in all of them, even if one does not answer.

        Raises:
            OpsqueueError: the transition's own errors, and those of `Scripts.call`.
        """
        if partition is None and command.scope is Scope.EVERY:
            return command.merge(self._run_in_every(command))
        if partition is None and command.scope is Scope.EACH:
            return command.merge(
                self._from_each(self._numbers(), lambda number: self.run(command, partition=number))
            )
        place = self._place_of(command) if partition is None else partition
        scripts = self._scripts_of(place)
        reply = scripts.call(command.script, rest=command.rest, **command.arguments)
        return self._read(command, reply, place)

    def pipeline(self, many: Sequence[Command[Any]]) -> list[Any]:
        """Run commands, each in one partition, in one round trip a partition.

        Each is a transition of its own. A command for several partitions only runs in the first.

        Returns their answers in order. In place of an answer there may be the OpsqueueError of its
        call, such as RedisUnavailableError; the other commands may have been run nevertheless.

        Raises:
            OpsqueueError: a refusal, such as SubmissionNotFoundError; all commands have been run.
        """
        if any(command.tells_due for command in many):  # a worker is there
            self._register_if_possible()
        places: dict[int, list[int]] = {}
        for number, command in enumerate(many):
            places.setdefault(self._place_of(command), []).append(number)
        answers: list[Any] = [None] * len(many)
        for place, numbers in places.items():
            calls = [(c.script, c.arguments, c.rest) for c in (many[n] for n in numbers)]
            replies: Sequence[list[Any] | OpsqueueError]
            try:
                replies = self._scripts_of(place).call_many(calls)
            except OpsqueueError as exc:  # where the partition is was not known, and is not told
                replies = [exc] * len(calls)
            for number, reply in zip(numbers, replies, strict=True):
                if isinstance(reply, OpsqueueError):
                    answers[number] = reply
                else:
                    answers[number] = self._read(many[number], reply, place)
        return answers

    def _read(self, command: Command[Answer], reply: list[Any], place: int) -> Answer:
        answer = command.read(reply, self.name)
        if command.tells_due and reply[-1] >= 0:
            self._note_due(place, in_ms=reply[-1])
        return answer

    def _note_due(self, partition: int, *, in_ms: int) -> None:
        """Note in the sweepers' index when a partition is due, unless this program has done so.

        Nothing waits for it to succeed: what the index lacks is found later.
        """
        now = time.monotonic()
        noted_at, due_at = self._noted.get(partition, now), now + in_ms / 1000
        if not now < noted_at <= due_at:
            with suppress(OpsqueueError):
                self._index.note({label(self.name, partition): in_ms})
                self._noted[partition] = due_at

    def part(self, partition: int) -> Queue:
        """Return one of the queue's partitions as a queue of its own; sends nothing."""
        if self._is_one and partition == self.partition:
            return self
        with self._lock.get():
            if partition not in self._parts:
                part = Queue(
                    self._client,
                    self.name,
                    partition=partition,
                    clock=self._clock,
                    defaults=self._fallback,
                    durability=self._durability,
                )
                part.partitions = self.partitions
                self._parts[partition] = part
            return self._parts[partition]

    @property
    def base(self) -> str:
        """The beginning of all keys of this partition, or of the first one.

        Raises:
            RedisUnavailableError: its tag is not known yet, and the first one does not answer.
        """
        return self._scripts_of(self.partition).base

    def parts(self) -> list[Queue]:
        """Return all partitions; their number is at most KNOWN_FOR_S old."""
        return [self.part(number) for number in self._numbers()]

    def parts_now(self) -> list[Queue]:
        """Return all present partitions.

        Raises:
            RedisUnavailableError: the first partition, which knows the number, does not answer.
        """
        return [self.part(number) for number in self._numbers_now()]

    def _numbers(self) -> Sequence[int]:
        return [self.partition] if self._is_one else range(self.partitions.count())

    def _numbers_now(self) -> Sequence[int]:
        return [self.partition] if self._is_one else range(self.partitions.look())

    def _place_of(self, command: Command[Any]) -> int:
        if command.submission_id is not None:
            return command.submission_id.partition
        return self.partition if command.partition is None else command.partition

    def _scripts_of(self, partition: int) -> Scripts:
        tag = self.partitions.tag_of(partition)
        scripts = self._scripts.get((partition, tag))
        if scripts is None:
            scripts = self._scripts_at(partition, tag)
            self._scripts[partition, tag] = scripts
        return scripts

    def _scripts_at(self, partition: int, tag: str) -> Scripts:
        return Scripts(self._client, self.name, partition=partition, tag=tag, clock=self._clock)

    def _from_each(self, numbers: Iterable[int], ask: Callable[[int], Answer]) -> list[Answer]:
        answers, failures = self._answers_of(numbers, ask)
        if failures:
            raise failures[0]
        return answers

    def _answers_of(
        self, numbers: Iterable[int], ask: Callable[[int], Answer]
    ) -> tuple[list[Answer], list[RedisUnavailableError]]:
        answers, failures = [], []
        for number in numbers:
            try:
                answers.append(ask(number))
            except RedisUnavailableError as exc:
                failures.append(exc)
        return answers, failures

    def _run_in_every(self, command: Command[Answer]) -> list[Answer]:
        answers: list[Answer] = []
        failures: list[RedisUnavailableError] = []
        told = 0
        while True:
            try:
                numbers = self._numbers_now()
            except RedisUnavailableError as exc:
                failures.append(exc)
                numbers = range(self.partitions.history[-1])
            # A partition added in the meantime was given the settings that the first one had.
            answered, unavailable = self._answers_of(
                numbers[told:], lambda number: self.run(command, partition=number)
            )
            answers += answered
            failures += unavailable
            if told >= len(numbers) or self._is_one:
                break
            told = len(numbers)
        if failures:
            raise failures[0]
        return answers

    def _register(self) -> None:
        # Not only once: a sweeper that forgets an unused queue removes the name for a moment, and
        # may end in it.
        if time.monotonic() - self._registered_at >= _REGISTER_EVERY_S:
            register_queue(self._client, self.name)
            self._registered_at = time.monotonic()

    def _register_if_possible(self) -> None:
        # A full server refuses the name, and in a cluster another master may have it. Neither may
        # keep workers from their chunks. Heartbeats register the name again.
        with suppress(RedisUnavailableError):
            self._register()

    # Transitions of submissions

    def insert_submission(
        self,
        new: NewSubmission,
        *,
        idempotency_key: str = "",
        idempotency_ms: int | None = None,
    ) -> Inserted:
        """Accept a submission whose chunks are already stored; the cost does not depend on them.

        Its idempotency key, or else its prefix, determines its partition. If there are several
        partitions, key and prefix are first looked up in the others, so nothing is inserted twice,
        and no two submissions have the same prefix.

        Args:
            new: the submission.
            idempotency_key: repeating an insert with the same key returns the same submission. The
                two requests are compared, except for what differs in every try
                (`contents.fingerprint`).
            idempotency_ms: how long the key is remembered. None: one day, or ten minutes for a key
                from `own_idempotency_key`.

        Raises:
            InvalidArgumentError: its prefix is not `QUEUE/` and 32 hexadecimal digits.
            PrefixTakenError: another submission has this prefix.
            SubmissionForgottenError: the key is known, but its submission has been forgotten.
            IdempotencyKeyReusedError: the key is known, but its submission is a different one.
            SubmissionNotConfirmedError: it is inserted, but not yet as durable as requested. A
                repetition with the idempotency key finds it and waits again.
        """
        check_own_prefix(new.prefix, self.name)
        self._register()
        for _ in range(_MOST_ROUNDS):
            home, known = self._home_of_insert(new, idempotency_key)
            question = self.partitions.next_question()
            inserted = self._insert(
                commands.insert_submission(
                    new,
                    partition=home,
                    partitions=known,
                    fallback=self._fallback,
                    idempotency_key=idempotency_key,
                    idempotency_ms=idempotency_ms,
                )
            )
            if isinstance(inserted, Inserted):
                if inserted.is_first:
                    # Another program may have deleted the queue since this one registered it.
                    with suppress(RedisUnavailableError):
                        register_queue(self._client, self.name)
                self._note_due(home, in_ms=IN_PROGRESS_LOOK_MS)
                return msgspec.structs.replace(inserted, warning=self._unread(new.codec))
            self.partitions.learn(inserted, question)
        message = f"queue {self.name}: its partitions change faster than an insert can follow"
        raise RedisUnavailableError(message)

    def _unread(self, codec: str) -> str:
        """Return a warning if the queue has workers, but none of them reads a codec."""
        if codec.removesuffix("+zstd") in _READ_BY_ALL:
            return ""
        try:
            told = [one.reads(codec) for one in self.list_workers() if one.is_alive]
        except OpsqueueError:
            return ""  # the submission is inserted, whatever is known of workers
        # None: a worker that does not report its codecs, such as one of an earlier version.
        if not told or any(reads is not False for reads in told):
            return ""
        return (
            f"no live worker of queue {self.name} reads codec {codec!r}: register it in their app, "
            "as Opsqueue(codecs=[…]), or allow_pickle=True where it is pickle"
        )

    def _home_of_insert(self, new: NewSubmission, key: str) -> tuple[int, int | None]:
        """Return the partition for an insert, and the number of partitions its script must find."""
        if self._is_one:
            return self.partition, None
        if self.partitions.history[-1] == 1:
            # The number is not requested first: the script reports it if there are more. Another
            # process may have inserted this submission into one of them, and its answer was lost.
            return 0, 1
        if not key:
            return self.partitions.all().home_of(new, ""), None
        known = self.partitions.look_at_all()
        home = known.home_of(new, key)
        for earlier in known.earlier_homes_of(key):
            if earlier != home and self.run(commands.lookup_key(key), partition=earlier):
                return earlier, None
        if not self.run(commands.lookup_key(key), partition=home):
            self._check_prefix(new.prefix, home)
        return home, None

    def _check_prefix(self, prefix: str, home: int) -> None:
        for number in self._numbers():
            unknown = commands.unknown_prefixes([prefix])
            if number != home and not self.run(unknown, partition=number):
                owner = self.run(commands.lookup_prefix(prefix), partition=number)
                raise prefix_taken(prefix, owner)

    def _insert(self, command: Command[Inserted | list[int]]) -> Inserted | list[int]:
        """Run an insert, and make sure that it is as durable as requested."""
        if self._durability is Durability.NONE:
            return self.run(command)
        scripts = self._scripts_of(self._place_of(command))
        reply, confirmations = scripts.call_followed(
            command.script,
            confirming(self._durability, scripts.base),
            rest=command.rest,
            **command.arguments,
        )
        inserted = command.read(reply, self.name)
        if isinstance(inserted, Inserted):
            doubt = unconfirmed(self._durability, confirmations)
            if doubt is not None:
                raise SubmissionNotConfirmedError(inserted.id, doubt)
        return inserted

    def restore_submission(
        self, new: NewSubmission, finished: Finished, *, idempotency_key: str = ""
    ) -> Inserted:
        """Insert a submission that Redis has lost; its chunks are stored and some of them done.

        It goes to the same partition as its insert would, so that a repeated insert finds it. Its
        prefix may have any form, since earlier versions let clients choose it.

        Args:
            new: the submission as it was inserted.
            finished: which of its chunks are done.
            idempotency_key: the key of that insert; it is remembered as by an insert, unless it
                belongs to another submission.

        Raises:
            InvalidArgumentError: a submission has this prefix, so this one was not lost; or more
                chunks are said to be done than exist.
        """
        commands.checked_finished(new, finished)
        self._register()
        if self._is_one:
            home = self.partition
        else:
            known = self.partitions.look_at_all() if idempotency_key else self.partitions.all()
            home = known.home_of(new, idempotency_key)
        return self.run(
            commands.restore_submission(
                new,
                finished,
                partition=home,
                fallback=self._fallback,
                idempotency_key=idempotency_key,
            )
        )

    def retry_submission(self, submission_id: SubmissionId) -> Submission:
        """Retry a failed or cancelled submission and return it.

        Finished chunks stay finished. Every other chunk has all its attempts again, at once:
        back-offs end. Its `max_failed_operations` no longer applies. Errors of operations in
        finished chunks stay.

        Raises:
            SubmissionNotFoundError: the queue has no such submission.
            SubmissionNotRetryableError: it is in progress or has completed.
        """
        scan_from = ""
        while True:
            submission, more = self.run(
                commands.retry_submission(submission_id, scan_from=scan_from)
            )
            # The same position again means no progress.
            if more in ("", scan_from):
                return submission
            scan_from = more

    cancel_submission = _runs(commands.cancel_submission)
    update_metadata = _runs(commands.update_metadata)
    watch_submission = _runs(commands.watch_submission)

    # Transitions of chunks

    def reserve_chunks(  # noqa: PLR0913 options of the script
        self,
        worker: str,
        *,
        limit: int = 1,
        reservation_ms: int = 600_000,
        strategy: AnyStrategy | None = None,
        heartbeat_timeout_ms: int | None = None,
        repeats_metadata: bool = False,
        begun: Sequence[Token] | None = None,
        alone: bool = False,
        sleeps: bool = False,
    ) -> Reserved:
        """Reserve up to `limit` chunks, one partition after the other; it counts as a heartbeat.

        Args:
            worker: its name, unique among all workers.
            limit: 1 to MAX_BATCH.
            reservation_ms: time on Redis's clock until the chunks are reclaimed.
            strategy: Random by default.
            heartbeat_timeout_ms: the `timeout_ms` of its heartbeats, which applies until the first
                of them: for a worker that is new, or that was forgotten as dead. None:
                DEFAULT_TIMEOUT_MS.
            repeats_metadata: the caller passes metadata on with each chunk, so that the answer's
                size limit counts it for each of them.
            begun: see `heartbeat`; None: unchanged since the last call that reported it.
            alone: the worker holds nothing, and can run a chunk that may kill it.
            sleeps: the worker watches `wake_channel`, and if it finds nothing, it is among those
                that are woken when a chunk becomes free.
        """
        self._register_if_possible()
        named = None if begun is None else self._begun_by_place(begun)
        if heartbeat_timeout_ms is None:
            heartbeat_timeout_ms = DEFAULT_TIMEOUT_MS
        numbers = self._numbers()
        first = random.randrange(len(numbers))  # noqa: S311 chance needs no cryptography
        found: dict[int, Reserved] = {}
        failures: list[OpsqueueError] = []
        left = limit
        for number in [*numbers[first:], *numbers[:first]]:
            try:
                found[number] = self._reserve_in(
                    number,
                    worker,
                    limit=left,
                    reservation_ms=reservation_ms,
                    strategy=strategy,
                    heartbeat_timeout_ms=heartbeat_timeout_ms,
                    repeats_metadata=repeats_metadata,
                    begun=None if named is None else named.get(number, []),
                    alone=alone and left == limit,
                    sleeps=sleeps,
                )
            except RedisUnavailableError as exc:
                failures.append(exc)
                continue
            left -= len(found[number].chunks)
            if left <= 0 or found[number].is_suspect or found[number].must_drain:
                break
        if failures and left == limit:
            raise failures[0]
        return found[numbers[0]] if len(numbers) == 1 else merged_reserves(found)

    def _reserve_in(self, partition: int, worker: str, **options: Any) -> Reserved:  # noqa: ANN401 options of `commands.reserve_chunks`
        scan_from = ""
        while True:
            command = commands.reserve_chunks(worker, scan_from=scan_from, **options)
            reserved = self.run(command, partition=partition)
            # In one script, a composed strategy only examines a bounded number of submissions.
            if reserved.chunks or reserved.scan_from in ("", scan_from):
                return reserved
            scan_from = reserved.scan_from

    def complete_chunks(
        self,
        tokens: Sequence[Token],
        *,
        operations_failed: Mapping[Token, int] | None = None,
        outputs: Mapping[Token, bytes] | None = None,
    ) -> list[CompleteOutcome]:
        """Report chunks as done; their outputs must already be stored, or be passed here.

        Args:
            tokens: at most MAX_BATCH.
            operations_failed: number of operations with collected errors, by chunk. Beyond its
                `max_failed_operations` the submission fails, with a failure that names the limit.
            outputs: encoded outputs of chunks whose `inline_output_bytes` permit it.
        """
        outputs = outputs or {}

        def complete(named: Sequence[Token]) -> Command[list[CompleteOutcome]]:
            return commands.complete_chunks(
                named,
                operations_failed=operations_failed,
                outputs={token: outputs[token] for token in named if token in outputs},
            )

        return self._by_partition(commands.checked_tokens(tokens), complete)

    def release_chunks(
        self, tokens: Sequence[Token], *, delay_ms: int = 0, reason: str = ""
    ) -> list[ReleaseOutcome]:
        """Release chunks without using an attempt; they are free at once or after a delay.

        Their submissions keep the last reason.
        """
        return self._by_partition(
            commands.checked_tokens(tokens),
            lambda named: commands.release_chunks(named, delay_ms=delay_ms, reason=reason),
        )

    fail_chunk = _runs(commands.fail_chunk)

    def fail_chunks(
        self, failures: Sequence[tuple[Token, ChunkFailure]], *, is_final: bool = False
    ) -> list[FailOutcome]:
        """Report attempts that failed, each as by `fail_chunk`; at most MAX_BATCH.

        After an error all may be reported again: those already counted are then lost.
        """
        commands.checked_tokens([token for token, _ in failures])
        outcomes = self.pipeline(
            [commands.fail_chunk(token, why, is_final=is_final) for token, why in failures]
        )
        for outcome in outcomes:
            if isinstance(outcome, OpsqueueError):
                raise outcome
        return outcomes

    def get_reservations(self, tokens: Sequence[Token]) -> dict[Token, Reservation]:
        """Return the reservations of these tokens, without those that have ended.

        Inputs and metadata are left out.

        Args:
            tokens: at most MAX_BATCH.
        """
        found: dict[Token, Reservation] = {}
        for named in grouped(tokens, commands.checked_tokens(tokens)).values():
            for first in range(0, len(named), _TOKENS_A_STEP):
                some = named[first : first + _TOKENS_A_STEP]
                reserved = self.run(commands.get_reservations(some))
                found |= reserved
        return found

    def _by_partition(
        self,
        tokens: Sequence[Token],
        command_of: Callable[[Sequence[Token]], Command[list[Answer]]],
    ) -> list[Answer]:
        """Run a command for the tokens of each partition; return their answers in order."""
        groups = grouped(range(len(tokens)), tokens).values()
        # All commands are made, and thereby checked, before the first is run.
        run = [(group, command_of([tokens[number] for number in group])) for group in groups]
        answers: dict[int, Answer] = {}
        for numbers, command in run:
            answered = self.run(command)
            # A script answers the first ones only, if they are work enough for one call.
            while len(answered) < len(numbers):
                left = [tokens[number] for number in numbers[len(answered) :]]
                answered = [*answered, *self.run(command_of(left))]
            answers |= zip(numbers, answered, strict=True)
        return [answers[number] for number in range(len(tokens))]

    # Workers, and chunks that they leave behind

    def heartbeat(
        self,
        worker: str,
        *,
        tokens: Iterable[Token] = (),
        info: bytes = b"{}",
        unknown_ms: int = UNKNOWN_MS,
        timeout_ms: int | None = None,
        begun: Sequence[Token] | None = None,
        sleeps_in: AnyStrategy | None = None,
    ) -> Alive:
        """Report that a worker is alive and what it holds; return which tokens are revoked.

        Args:
            worker: its name.
            tokens: tokens of all chunks that it holds.
            info: JSON that lists of workers show.
            unknown_ms: chunks that are pending for it for longer, and that it does not name, are
                released; longer than an answer of reserve can take.
            timeout_ms: without a heartbeat for this time the worker is dead, and any sweeper
                reclaims its chunks. None: DEFAULT_TIMEOUT_MS.
            begun: tokens of those chunks whose handlers have begun and not ended; it replaces what
                the worker reported before. Only these use an attempt if it dies or if they expire.
                None: not reported; all count as begun for a worker that never reports it.
            sleeps_in: the strategy of a worker that is idle, so that it is woken even if an
                earlier message did not reach it; see `reserve_chunks`.
        """
        tokens = list(tokens)
        named = self._by_place(tokens)
        named_begun = None if begun is None else self._begun_by_place(begun)

        def of_partition(partition: int) -> Sequence[Token] | None:
            return None if named_begun is None else named_begun.get(partition, [])

        def page(
            partition: int, tokens: Sequence[Token], page_from: str = "-", page_to: str = "+"
        ) -> Command[tuple[Alive, str]]:
            return commands.heartbeat(
                worker,
                partition=partition,
                tokens=tokens,
                info=info,
                unknown_ms=unknown_ms,
                timeout_ms=DEFAULT_TIMEOUT_MS if timeout_ms is None else timeout_ms,
                # The first page reports all of them.
                begun=of_partition(partition) if page_from == "-" else None,
                sleeps_in=sleeps_in if page_from == "-" else None,
                page_from=page_from,
                page_to=page_to,
            )

        page(self.partition, tokens)  # checks the arguments before anything is sent
        # Not only once: a flushed server has lost the queue's name. (A full one refuses it.)
        with suppress(RedisUnavailableError):
            register_queue(self._client, self.name)
        numbers = dict.fromkeys([*self._numbers(), *named])
        return Alive.merged(
            self._from_each(numbers, lambda number: self._beat(number, named.get(number, []), page))
        )

    def _beat(
        self,
        partition: int,
        tokens: Sequence[Token],
        page: Callable[..., Command[tuple[Alive, str]]],
    ) -> Alive:
        """Send a heartbeat to one partition, page by page in the order of the entries."""
        left = sorted(tokens, key=entry_of)
        entries = [entry_of(token) for token in left]
        answers = list[Alive]()
        page_from = "-"
        for _ in range(_MOST_BATCHES):
            # An entry may have two names, with and without its chunk, which must not be parted.
            end = len(left)
            if end > HEARTBEAT_PAGE:
                end = bisect_right(entries, entries[HEARTBEAT_PAGE - 1])
            page_to = "+" if end == len(left) else "{}-{}".format(*entries[end - 1])
            command = page(partition, left[:end], page_from, page_to)
            alive, stopped_at = self.run(command, partition=partition)
            if stopped_at:
                end = bisect_right(entries, entry_of(Token(stopped_at)), hi=end)
                revoked = alive.revoked.intersection(left[:end])
                alive = msgspec.structs.replace(alive, revoked=revoked)
            answers.append(alive)
            if not stopped_at and page_to == "+":
                break
            left, entries = left[end:], entries[end:]
            page_from = f"({stopped_at or page_to}"
        return Alive.merged(answers)

    def note_begun(self, worker: str, begun: Sequence[Token]) -> bool:
        """Report only which chunks' handlers have begun; see `heartbeat`.

        Returns False if the worker is not known, such as one that counts as dead.
        """
        named = self._begun_by_place(begun)
        noted = [
            self.run(commands.note_begun(worker, named.get(number, [])), partition=number)
            for number in dict.fromkeys([*self._numbers(), *named])
        ]
        return all(noted)

    def _begun_by_place(self, begun: Sequence[Token]) -> dict[int, list[Token]]:
        return self._by_place(commands.checked_begun(begun))

    def _by_place(self, tokens: list[Token]) -> dict[int, list[Token]]:
        """Group tokens by partition; a queue of one partition has them all."""
        return {self.partition: tokens} if self._is_one else grouped(tokens, tokens)

    def retire_worker(self, worker: str) -> None:
        """Release all chunks that a worker holds, a batch at a time, and forget it.

        It is bounded. If the worker goes on reserving, its own end or sweepers release its chunks.
        """
        for _ in range(_MOST_BATCHES):
            if self.run(commands.retire_worker(worker)):
                break
        # Waiting for chunks of a queue that nobody uses leaves nothing behind.
        if self.partition == 0:
            with suppress(OpsqueueError):
                self.forget_unused()

    reclaim_dead = _runs(commands.reclaim_dead)
    repair = _runs(commands.repair)

    def reclaim_expired(
        self, sweeper: str, *, page_from: str = "-", limit: int = 250, lock_ms: int = 2_000
    ) -> Swept | None:
        """Reclaim a page of chunks whose reservation has expired; None: another one sweeps.

        Args:
            sweeper: the name of the sweeper.
            page_from: `next_from` of the page before; "-": the first page.
            limit: reservations to examine, of one partition.
            lock_ms: time for which other sweepers are refused.
        """
        numbers = self._numbers()
        partition, start = place_of(page_from, first=numbers[0])
        swept = self.run(
            commands.reclaim_expired(sweeper, page_from=start or "-", limit=limit, lock_ms=lock_ms),
            partition=partition,
        )
        if swept is None or len(numbers) == 1:
            return swept
        next_from = None
        if swept.next_from is not None:
            next_from = placed(swept.next_from, partition)
        elif partition < numbers[-1]:
            next_from = placed("-", partition + 1)
        return msgspec.structs.replace(swept, next_from=next_from)

    # The queue as a whole, and its clean-up

    pause_queue = _runs(commands.pause_queue)
    resume_queue = _runs(commands.resume_queue)
    set_defaults = _runs(commands.set_defaults)
    set_limit = _runs(commands.set_limit)
    remove_limit = _runs(commands.remove_limit)
    upgrade_queue = _runs(commands.upgrade_queue)
    forget_submissions = _runs(commands.forget_submissions)
    delete_inputs = _runs(commands.delete_inputs)

    def delete_queue(self) -> None:
        """Delete everything that is kept of an empty queue: its name, settings and totals.

        Raises:
            QueueInUseError: it has submissions, objects pending deletion or live workers.
        """
        numbers = self._numbers_now()
        for number in numbers:
            self.run(commands.delete_queue("look"), partition=number)
        # The first one last, since it knows about the others.
        for number in reversed(numbers):
            self.run(commands.delete_queue("delete"), partition=number)
        unregister_queue(self._client, self.name)

    def forget_unused(self) -> bool:
        """Delete everything that is kept of a queue that nobody uses, and return whether it was.

        It has no submission, worker, setting, object pending deletion or event of the last hour.
        Inserts go on meanwhile: the name is in another slot, so it is removed first, and stored
        again if the queue is in use by then.
        """
        try:
            # A queue that has had other partitions has a setting, so it is in use.
            self.run(commands.delete_queue("look", only_unused=True), partition=0)
        except QueueInUseError:
            return False
        unregister_queue(self._client, self.name)
        try:
            self.run(commands.delete_queue("delete", only_unused=True), partition=0)
        except OpsqueueError as exc:
            register_queue(self._client, self.name)
            if not isinstance(exc, QueueInUseError):
                raise
            return False
        self._registered_at = float("-inf")
        return True

    def set_partitions(self, partitions: int, *, by: str = "") -> None:
        """Spread submissions over more partitions from now on; the number can't decrease.

        The new partitions get the first one's pause, limits and retention. Running programs notice
        them within some seconds. On a cluster, each goes to a master with the fewest of them.

        Args:
            partitions: 1 to MAX_PARTITIONS.
            by: a key of strategic metadata, such as `customer`. Submissions with the same value go
                to the same partition from now on; those without the key to any. "": unchanged.

        Raises:
            InvalidArgumentError: there are already more, or it is out of range.
        """
        self._choose_tags(partitions)
        command = commands.set_partitions(partitions, step="set", by=by)
        given = None
        # Repeated if a program that did not know the new partitions changed a setting meanwhile.
        for _ in range(_MOST_ROUNDS):
            settings = _Settings.of(self.part(0))
            if settings == given:
                break
            for number in range(1, partitions):
                settings.give_to(self.part(number))
            self.run(command)
            given = settings
        self.partitions.look()

    def _choose_tags(self, partitions: int) -> None:
        """Choose on a cluster where new partitions lie, before anything uses them."""
        masters = ask_slot_map(self._client)
        if not masters:
            return
        known = self.get_partitions()
        new = range(known.numbers[-1], partitions)
        tags = choose_tags(self.name, known.tags, new, masters)
        if not tags:
            return
        self.run(commands.set_partitions(partitions, step="choose", tags=tags))
        # Another program may have chosen others at the same time.
        for number, tag in self.get_partitions().tags.items():
            if number in new and tag != default_tag(number):
                # Programs that know no tags look here, if they are asked about a submission.
                self._scripts_at(number, "").call("upgrade_queue")

    def discard_prefixes(
        self, prefixes: Sequence[str], *, step: Literal["discard", "hold", "let_go"] = "discard"
    ) -> list[str]:
        """Mark the objects of prefixes that no submission has as pending deletion.

        From now on, an insert with such a prefix is refused. Returns the prefixes whose objects may
        be deleted. `forget_submissions` returns them, too, until their deletion is reported to it.

        Args:
            prefixes: at most MAX_BATCH.
            step: "hold" only makes inserts be refused, "let_go" reverses it: with several
                partitions, all must refuse before the objects are deleted.

        Raises:
            InvalidArgumentError: a prefix does not have the form of this queue's inserts.
        """

        def discard(
            number: int, some: Sequence[str], step: Literal["discard", "hold", "let_go"]
        ) -> list[str]:
            command = commands.discard_prefixes(some, queue=self.name, step=step)
            return self.run(command, partition=number)

        numbers = self._numbers_now()
        if len(numbers) == 1 or step != "discard":
            return discard(numbers[0], prefixes, step)
        refused = set(prefixes)
        for number in numbers:
            refused &= set(discard(number, prefixes, "hold"))
        others = [prefix for prefix in prefixes if prefix not in refused]
        discarded = [prefix for prefix in prefixes if prefix in refused]
        for number in numbers:
            discard(number, discarded, "discard")
            discard(number, others, "let_go")
        return discarded

    # Readings

    next_due = _runs(commands.next_due)
    get_submission = _runs(commands.get_submission)
    done_chunks = _runs(commands.done_chunks)
    inline_contents = _runs(commands.inline_contents)
    chunks_with_errors = _runs(commands.chunks_with_errors)
    count_cells = _runs(commands.count_cells)
    list_delayed = _runs(commands.list_delayed)
    get_partitions = _runs(commands.get_partitions)
    list_limits = _runs(commands.list_limits)
    get_defaults = _runs(commands.get_defaults)
    unknown_prefixes = _runs(commands.unknown_prefixes)
    count_queue = _runs(commands.count_queue)
    get_durations = _runs(commands.get_durations)

    def list_workers(self, *, limit: int = MAX_WORKERS) -> list[WorkerSeen]:
        """List workers that have not retired, each once, the last seen first; at most MAX_WORKERS.

        They are read in several steps, since there may be thousands, who may hold thousands of
        chunks.
        """
        limit = min(checked_limit(limit), MAX_WORKERS)

        def list_in(partition: int) -> list[WorkerSeen]:
            names = self.run(commands.list_workers(limit=limit), partition=partition)
            return self._workers_in(partition, names)

        return merged_workers(self._from_each(self._numbers(), list_in))[:limit]

    def get_workers(self, names: Sequence[str]) -> list[WorkerSeen]:
        """Return those workers that there are, the last seen first."""
        return merged_workers(
            self._from_each(self._numbers(), lambda number: self._workers_in(number, names))
        )

    def _workers_in(self, partition: int, names: Sequence[str]) -> list[WorkerSeen]:
        """Return workers of one partition; one that holds thousands of chunks in several parts."""
        workers: list[WorkerSeen] = []
        first, page_from = 0, "-"
        for _ in range(_MOST_BATCHES):
            some = names[first : first + _WORKERS_A_STEP]
            if not some:
                break
            found, next_from = self.run(
                commands.get_workers(some, page_from=page_from), partition=partition
            )
            workers += [worker for worker in found if worker is not None]
            # If the last one has further chunks, the next step begins with it again.
            first += len(found) - bool(next_from)
            page_from = next_from or "-"
        return workers

    def list_submissions(
        self,
        wanted: SubmissionFilter | None = None,
        *,
        after: SubmissionId | None = None,
        order: Literal["newest", "oldest"] = "newest",
        limit: int = 100,
    ) -> SubmissionPage:
        """List submissions in order of creation, at most MAX_BATCH, starting after an id.

        If `wanted` has pairs, a page may be shorter than `limit`, or empty, and still have a
        `next`: each call examines a bounded number. A page of submissions with large metadata may
        be short, too.
        """
        wanted = wanted or SubmissionFilter()
        limit = min(checked_limit(limit), MAX_BATCH)
        pages = list[SubmissionPage]()
        for state in [wanted.state] if wanted.state else SubmissionState:
            of_state = commands.list_submissions(
                state,
                wanted.strategic_metadata,
                ids=wanted.id_range(after, is_newest=order == "newest"),
                order=order,
                limit=limit,
            )
            found = self.run(of_state)
            pages += found
        return merged_pages(pages, is_newest=order == "newest", limit=limit)

    def lookup_submissions(
        self,
        pairs: Mapping[str, int],
        *,
        states: Iterable[SubmissionState] = (SubmissionState.IN_PROGRESS,),
        limit: int = MAX_LOOKED_UP,
    ) -> list[SubmissionId]:
        """Return the submissions that have all pairs of strategic metadata, ascending.

        Args:
            pairs: no pairs: all submissions.
            states: states that they may be in.
            limit: the largest number.

        Raises:
            TooManyMatchingSubmissionsError: there are more than `limit`.
        """
        check_strategic_metadata(pairs)
        checked_limit(limit)
        names = [state.value for state in states]
        # Without pairs, each state has its own index; with pairs, one index has all states.
        groups = [",".join(names)] if pairs else names
        found: list[SubmissionId] = []
        for number in self._numbers():
            for group in groups:
                after = ""
                while True:
                    command = commands.lookup_submissions(pairs, states=group, after=after)
                    ids, next_after = self.run(command, partition=number)
                    found += ids
                    if len(found) > limit:
                        raise TooManyMatchingSubmissionsError(limit)
                    if next_after in ("", after):
                        break
                    after = next_after
        return sorted(found)

    def lookup_prefix(self, prefix: str) -> SubmissionId | None:
        """Return the submission whose objects have a prefix."""
        command = commands.lookup_prefix(prefix)
        found = (self.run(command, partition=number) for number in self._numbers_now())
        return next((id_ for id_ in found if id_ is not None), None)

    def lookup_key(self, idempotency_key: str) -> SubmissionId | None:
        """Return the submission that was inserted with a key, as long as the key is remembered."""
        command = commands.lookup_key(idempotency_key)
        found = (self.run(command, partition=number) for number in self._numbers())
        return next((id_ for id_ in found if id_ is not None), None)

    def list_reservations(
        self,
        submission_id: SubmissionId | None = None,
        *,
        from_: str | None = None,
        limit: int = MAX_PAGE,
    ) -> HandPage:
        """List the reserved chunks of one submission or of all.

        A page is filled partition by partition, so its chunks are sorted by age, but not the pages.

        Args:
            submission_id: None: all submissions.
            from_: `next_from` of the page before.
            limit: chunks to examine, at most MAX_PAGE; of one submission fewer are returned.
        """
        limit = min(checked_limit(limit), MAX_PAGE)
        numbers = self._numbers()
        if submission_id is not None:
            numbers = [SubmissionId(str(submission_id)).partition]
        partition, start = place_of(from_ or "-", first=numbers[0])
        if partition not in range(numbers[0], numbers[-1] + 1):
            message = f"a page from {shown(from_)}: it is of a partition that was not requested"
            raise InvalidArgumentError(message)
        chunks: list[ChunkInHand] = []
        for number in [number for number in numbers if number >= partition]:
            if len(chunks) >= limit:
                return HandPage(_by_age(chunks), placed("", number))
            command = commands.list_reservations(
                submission_id, from_=start or "-", limit=limit - len(chunks)
            )
            page = self.run(command, partition=number)
            chunks += page.chunks
            if page.next_from is not None:
                more = page.next_from if len(numbers) == 1 else placed(page.next_from, number)
                return HandPage(_by_age(chunks), more)
            start = "-"
        return HandPage(_by_age(chunks), None)

    # Waiting

    def wait_for_end(
        self,
        submission_id: SubmissionId,
        *,
        wait_s: float,
        slice_ms: int = LOOK_EVERY_MS,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> Submission:
        """Return a submission when it has ended, or its present state after `wait_s`.

        Args:
            submission_id: its id.
            wait_s: seconds from now; 0: don't wait.
            slice_ms: interval at which the state is read again, in case its end was not announced,
                and `is_stopping` is called.
            is_stopping: ends the wait early when the process shuts down.

        Raises:
            SubmissionNotFoundError: it does not exist, or is cleaned up during the wait.
        """
        if wait_s <= 0:
            return self.get_submission(submission_id)
        part, bell = self.part(submission_id.partition), threading.Event()
        deadline = time.monotonic() + wait_s
        with part.watching(f"sub:{submission_id}:end", bell.set, lingers=True):
            while True:
                bell.clear()
                submission = part.get_submission(submission_id)
                left_s = deadline - time.monotonic()
                has_ended = submission.state is not SubmissionState.IN_PROGRESS
                if has_ended or left_s <= 0 or is_stopping():
                    return submission
                bell.wait(min(left_s, slice_ms / 1000))

    def reserve_when_free(  # noqa: PLR0913 options of `reserve_chunks`, and how to wait
        self,
        worker: str,
        *,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        heartbeat_timeout_ms: int | None,
        wait_s: float,
        slice_ms: int = 1_000,
        is_gone: Callable[[], bool],
        repeats_metadata: bool = False,
    ) -> Reserved:
        """Reserve chunks as soon as there are any, or none after `wait_s`.

        Args:
            worker: its name.
            limit: the largest number of chunks.
            reservation_ms: counted from the reservation.
            strategy: the strategy of the worker.
            heartbeat_timeout_ms: see `reserve_chunks`.
            wait_s: seconds from now; 0: don't wait.
            slice_ms: interval at which `is_gone` is called.
            is_gone: the caller has gone, or the process shuts down: reserve nothing more.
            repeats_metadata: see `reserve_chunks`.
        """
        deadline = time.monotonic() + wait_s

        def reserve(*, sleeps: bool) -> Reserved:
            return self.reserve_chunks(
                worker,
                limit=limit,
                reservation_ms=reservation_ms,
                strategy=strategy,
                heartbeat_timeout_ms=heartbeat_timeout_ms,
                repeats_metadata=repeats_metadata,
                sleeps=sleeps,
            )

        reserved = reserve(sleeps=False)
        if reserved.chunks or wait_s <= 0:
            return reserved
        bell = threading.Event()
        with self.watching(wake_channel(worker, strategy), bell.set):
            while not is_gone():
                bell.clear()
                reserved = reserve(sleeps=True)
                now = time.monotonic()
                # Also without a wake-up: an occasional check finds chunks that none announced.
                until = min(deadline, now + LOOK_EVERY_MS / 1000)
                if reserved.next_due_in_ms is not None and not reserved.is_paused:
                    until = min(until, now + reserved.next_due_in_ms / 1000)
                if reserved.chunks or now >= deadline:
                    return reserved
                while not bell.is_set() and (left_s := until - time.monotonic()) > 0:
                    bell.wait(min(slice_ms / 1000, left_s))
                    if is_gone():
                        break
        if bell.is_set():
            # It was woken, but it takes nothing.
            self.wake_next(strategy)
        return reserved

    def wait_for_progress(
        self,
        submission_id: SubmissionId,
        start: int = 0,
        *,
        seen: int | None = None,
        wait_s: float = 0,
        slice_ms: int = LOOK_EVERY_MS,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Return a submission's progress, and which chunks from `start` on are done.

        Waits up to `wait_s` until chunk `start` is done or the submission has ended; with `seen`,
        until the number of done chunks is different or it has ended.

        Args:
            submission_id: its id.
            start: the first chunk of the window.
            seen: the number of done chunks that the caller knows.
            wait_s: seconds from now; 0: don't wait.
            slice_ms: see `wait_for_end`.
            is_stopping: see `wait_for_end`.

        Raises:
            SubmissionNotFoundError: it does not exist, or is cleaned up during the wait.
        """
        if wait_s <= 0:
            return self.done_chunks(submission_id, start=start)
        deadline = time.monotonic() + wait_s
        bell = threading.Event()
        part = self.part(SubmissionId(str(submission_id)).partition)
        with part.watching(f"sub:{submission_id}:news", bell.set, lingers=True):
            while True:
                bell.clear()
                # Before the progress is read: so a change between the two is published.
                is_watched = self.watch_submission(submission_id, watch_ms=3 * LOOK_EVERY_MS)
                progress = self.done_chunks(submission_id, start=start)
                is_due = start in progress.done if seen is None else progress.chunks_done != seen
                has_ended = progress.state is not SubmissionState.IN_PROGRESS
                left_s = deadline - time.monotonic()
                if is_due or has_ended or not is_watched or left_s <= 0 or is_stopping():
                    return progress
                if bell.wait(min(left_s, slice_ms / 1000)):
                    # Thousands of chunks a second may be done: changes of a short time are read
                    # together.
                    time.sleep(_GATHER_S)

    wake_next = _runs(commands.wake_next)

    @contextmanager
    def watching(
        self, channel: str, look: Callable[[], None], *, lingers: bool = False
    ) -> Iterator[None]:
        """Watch a channel of all partitions meanwhile; see `Reader.watch`.

        It waits for a moment until the watches are live. If they are not by then, `look` is called
        when they are.
        """
        watches = [self.part(n).watch(channel, look) for n in self._numbers()]
        until = time.monotonic() + _LIVE_WITHIN_S
        for watch in watches:
            watch.is_live.wait(max(0.0, until - time.monotonic()))
        try:
            yield
        finally:
            for watch in watches:
                watch.close(lingers=lingers)

    def server(self) -> str:
        """Return a name for the server that has this partition, as far as it is known; else ''."""
        try:
            return node_of(self._client, self.base)
        except OpsqueueError:
            return ""  # it is not known where this partition is

    def watch(self, channel: str, look: Callable[[], None]) -> Watch:
        """Watch a channel of this partition; see `Reader.watch`."""
        return reader_of(self._client).watch(self.base, channel, look)

    def last_event_id(self) -> str:
        """Return the present end of the events; `wait_for_events` after it misses nothing."""
        ids = {n: self._scripts_of(n).last_id("events") for n in self._numbers()}
        return joined(ids, first=self.partition)

    def wait_for_events(
        self, last_id: str, *, block_ms: int
    ) -> tuple[str, list[tuple[SubmissionId, str]]]:
        """Sleep until submissions change; return the new last id, and (id, event) pairs.

        Partitions are asked in turn, each for its share of the time.
        """
        since = taken_apart(last_id, first=self.partition)
        events: list[tuple[SubmissionId, str]] = []
        numbers = self._numbers()
        for number in numbers:
            # Once there are events, the other partitions are only checked without a wait.
            share_ms = 1 if events else max(_LEAST_BLOCK_MS, block_ms // len(numbers))
            entries = self._scripts_of(number).read_after(
                "events", since.get(number, "0-0"), block_ms=share_ms
            )
            events += [
                (SubmissionId(row[b"submission"].decode()), row[b"event"].decode())
                for _, row in entries
            ]
            since[number] = entries[-1][0].decode() if entries else since.get(number, "0-0")
        return joined(since, first=self.partition), events


def run_together(requests: Sequence[tuple[Queue, Command[Any]]]) -> list[Any]:
    """Run commands, each in a partition of its own on the same server, in one round trip.

    Returns their answers in order. In place of an answer there may be the OpsqueueError of its
    call; the other commands may have been run nevertheless.
    """
    answers: list[Any] = [None] * len(requests)
    calls: dict[int, Call] = {}
    for number, (queue, command) in enumerate(requests):
        queue._register_if_possible()  # noqa: SLF001 here and below: its own class
        try:
            scripts = queue._scripts_of(queue.partition)  # noqa: SLF001
            calls[number] = (scripts, command.script, command.arguments, command.rest)
        except OpsqueueError as exc:
            answers[number] = exc
    for number, reply in zip(calls, call_together(list(calls.values())), strict=True):
        queue, command = requests[number]
        if isinstance(reply, OpsqueueError):
            answers[number] = reply
            continue
        try:
            answers[number] = queue._read(command, reply, queue.partition)  # noqa: SLF001
        except OpsqueueError as exc:
            answers[number] = exc
    return answers


def wake_channel(worker: str, strategy: AnyStrategy) -> str:
    """Return the channel of a partition on which a worker with a strategy is woken."""
    return f"wake:{commands.group_of(strategy.wire())}:{worker}"


def _by_age(chunks: Iterable[ChunkInHand]) -> tuple[ChunkInHand, ...]:
    return tuple(sorted(chunks, key=lambda chunk: chunk.reserved_at))


@dataclass(frozen=True, slots=True)
class _Settings:
    """The run-time settings of a queue, which are the same in all of its partitions."""

    limits: tuple[Limit, ...]
    defaults: Defaults
    is_paused: bool

    @classmethod
    def of(cls, part: Queue) -> _Settings:
        """Read the settings of a partition."""
        return cls(tuple(part.list_limits()), part.get_defaults(), part.count_queue().is_paused)

    def give_to(self, part: Queue) -> None:
        """Replace a partition's settings by these; the partition may be in use."""
        wanted, there = set(self.limits), set(part.list_limits())
        names = {limit.name for limit in wanted}
        for limit in there - wanted:
            if limit.name not in names:
                part.remove_limit(limit.meta_key, value=limit.value, kind=limit.kind)
        for limit in wanted - there:
            part.set_limit(
                limit.meta_key,
                value=limit.value,
                max=limit.max,
                per_second=limit.per_second,
                burst=limit.burst,
            )
        part.set_defaults(msgspec.structs.asdict(self.defaults))
        if self.is_paused:
            part.pause_queue()
        else:
            part.resume_queue()
