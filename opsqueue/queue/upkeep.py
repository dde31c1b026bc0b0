"""What keeps a queue in order: pause, limits and retention, and the clean-up of what has ended.

`Queue` has all of them; each is one Lua script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.answers import Forgotten, LimitKind, SpentInputs
from opsqueue.model.checks import checked_whole
from opsqueue.model.names import check_own_prefix
from opsqueue.model.new_submission import check_retention_ms, check_strategic_metadata
from opsqueue.model.submission import MAX_PARTITIONS, SubmissionId
from opsqueue.queue import calls
from opsqueue.queue.readings import Readings
from opsqueue.queue.replies import unexpected
from opsqueue.strategy import MaxSimultaneous, RateLimit, interval_ticks


class Upkeep(Readings):
    """A queue's transitions that are about no single submission or chunk."""

    # Transitions of the queue

    def pause_queue(self) -> None:
        """Let no chunk be reserved until `resume_queue`; chunks in hand are finished."""
        self._scripts.call("pause_queue")

    def resume_queue(self) -> None:
        """Let chunks be reserved again."""
        self._scripts.call("resume_queue")

    def set_limit(
        self,
        meta_key: str,
        *,
        value: int | None = None,
        max: int | None = None,  # noqa: A002 as in MaxSimultaneous
        per_second: float | None = None,
        burst: int | None = None,
    ) -> None:
        """Set limits that take the place of the strategies' own numbers, for every worker at once.

        Args:
            meta_key: of strategic metadata.
            value: the only one that they are for; None: for all without a limit of their own.
            max: chunks in hand at most, for MaxSimultaneous.
            per_second: tokens that come, for RateLimit; needs `burst`.
            burst: tokens that a bucket holds.

        Raises:
            InvalidArgumentError: by the rules of MaxSimultaneous and RateLimit.
        """
        if max is None and per_second is None:
            message = "no limit given: max, or per_second and burst"
            raise InvalidArgumentError(message)
        # Both are checked before the first is set.
        limits = {}
        if max is not None:
            limits["max"] = str(MaxSimultaneous(meta_key, max).max)
        if per_second is not None:
            rate = RateLimit(meta_key, per_second, 0 if burst is None else burst)
            limits["rate"] = f"{interval_ticks(rate.per_second)},{rate.burst}"
        for kind, limit in limits.items():
            self._set_limit(kind, meta_key, value, limit)

    def remove_limit(
        self, meta_key: str, *, value: int | None = None, kind: LimitKind | None = None
    ) -> None:
        """Let the strategies' own numbers hold again; of one kind, or of both."""
        kinds = get_args(LimitKind) if kind is None else (kind,)
        for one in kinds:
            self._set_limit(one, meta_key, value, "")

    def _set_limit(self, kind: str, meta_key: str, value: int | None, limit: str) -> None:
        check_strategic_metadata({meta_key: 0 if value is None else value})
        self._scripts.call(
            "set_limit",
            kind=kind,
            key=meta_key,
            value="" if value is None else str(value),
            limit=limit,
        )

    def set_retention(self, retention_ms: int | None) -> None:
        """Set for how long ended submissions are kept that have no retention of their own.

        Holds for those that end from now on.

        Args:
            retention_ms: 0 to ten years; None: a day, as without it.
        """
        value = "" if retention_ms is None else check_retention_ms(retention_ms)
        self._scripts.call("set_retention", retention_ms=value)

    def set_partitions(self, partitions: int) -> None:
        """Spread the submissions that come from now on over so many partitions; never fewer.

        Args:
            partitions: 1 to MAX_PARTITIONS.

        Raises:
            InvalidArgumentError: there are more already, or it is out of range.
        """
        checked_whole("partitions", partitions, least=1, most=MAX_PARTITIONS)
        match self._scripts.call("set_partitions", partitions=partitions):
            case [b"set", _]:
                return
            case [b"fewer", numbers]:
                message = (
                    f"queue {self.name} has {numbers[-1]} partitions: {partitions} would leave "
                    "some of its submissions without workers; there can only be more"
                )
                raise InvalidArgumentError(message)
            case answer:
                raise unexpected(answer)

    def upgrade_queue(self) -> tuple[int, int]:
        """Raise the queue's format to the newest that this version knows.

        Programs that can't read it refuse the queue from then on: upgrade them first.

        Returns the format before and the one now.
        """
        match self._scripts.call("upgrade_queue"):
            case [b"upgraded", int(before), int(now)]:
                return before, now
            case answer:
                raise unexpected(answer)

    # Clean-up

    def forget_submissions(
        self, *, limit: int = 100, deleted_prefixes: Iterable[str] = ()
    ) -> Forgotten:
        """Remove ended submissions whose retention is over.

        Args:
            limit: submissions, and prefixes in the answer.
            deleted_prefixes: whose objects the caller has deleted since the last answer.
        """
        answer = self._scripts.call(
            "forget_submissions", limit=calls.checked_limit(limit), rest=list(deleted_prefixes)
        )
        match answer:
            case [b"forgotten", int(number), prefixes]:
                return Forgotten(number, tuple(p.decode() for p in prefixes))
        raise unexpected(answer)

    def delete_inputs(
        self, *, limit: int = 100, deleted: Mapping[SubmissionId, int] | None = None
    ) -> list[SpentInputs]:
        """Give inputs that completed submissions need no longer, for the caller to delete.

        Args:
            limit: submissions in the answer.
            deleted: of submissions of earlier answers, the index below which inputs are deleted.
        """
        rest = [
            part
            for id_, index in (deleted or {}).items()
            for part in (str(id_), calls.checked_chunk(index))
        ]
        answer = self._scripts.call("delete_inputs", limit=calls.checked_limit(limit), rest=rest)
        match answer:
            case [b"inputs", rows]:
                return [
                    SpentInputs(
                        submission_id=SubmissionId(id_.decode()),
                        prefix=prefix.decode(),
                        first_index=first,
                        chunks_total=total,
                    )
                    for id_, prefix, first, total in rows
                ]
        raise unexpected(answer)

    def discard_prefixes(
        self, prefixes: Sequence[str], *, step: Literal["discard", "hold", "let_go"] = "discard"
    ) -> list[str]:
        """Make prefixes that no submission has garbage: an insert with one is refused from now on.

        Returns those whose objects may be deleted. `forget_submissions` answers them, too, until
        it is told that they are.

        Args:
            prefixes: at most MAX_BATCH.
            step: "hold" only lets inserts be refused, "let_go" takes that back: for queues of
                several partitions, all of which must refuse before the objects are deleted.

        Raises:
            InvalidArgumentError: a prefix is not of the form that this queue's inserts take.
        """
        rest = [check_own_prefix(prefix, self.name) for prefix in calls.checked_prefixes(prefixes)]
        answer = self._scripts.call("discard_prefixes", step=step, rest=rest)
        match answer:
            case [b"discarded", discarded]:
                return [prefix.decode() for prefix in discarded]
        raise unexpected(answer)
