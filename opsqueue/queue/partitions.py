"""Which partitions a queue has, and which of them a submission is in.

A queue may be spread over several slots of a cluster. Each partition is a `Queue` of its own, with
its own scripts: what is about one submission goes to the one that the last two digits of its id
name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from zlib import crc32

from opsqueue.exceptions import OpsqueueError, OpsqueueInternalError, RedisUnavailableError
from opsqueue.model.answers import Limit
from opsqueue.model.checks import checked_whole
from opsqueue.model.process import PerProcess
from opsqueue.model.submission import MAX_PARTITIONS, SubmissionId
from opsqueue.queue.cluster import Client
from opsqueue.queue.durability import Durability
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import Argument, Scripts

Answer = TypeVar("Answer")

KNOWN_FOR_S: Final = 2.0
"""After so long a program looks again how many partitions a queue has."""
_MOST_ROUNDS: Final = 100


class _RoutedScripts(Scripts):
    """Runs a script that is about one submission in its partition; others name no partition."""

    def __init__(self, of: Callable[[int], Scripts], client: Client, queue: str) -> None:
        super().__init__(client, queue)
        self._of = of

    def call(self, name: str, *, rest: Sequence[Argument] = (), **arguments: Argument) -> list[Any]:
        """Run a script; see `Scripts.call`."""
        id_ = arguments.get("id")
        if not id_:
            raise _one_at_a_time(name)
        return self._of(SubmissionId(str(id_)).partition).call(name, rest=rest, **arguments)

    def call_many(
        self, calls: Sequence[tuple[str, Mapping[str, Argument], Sequence[Argument]]]
    ) -> list[list[Any] | OpsqueueError]:
        """Not of several partitions: they have no round trip in common."""
        raise _one_at_a_time(", ".join(sorted({name for name, *_ in calls})))

    def read_after(
        self, stream: str, last_id: str, *, block_ms: int, limit: int = 100
    ) -> list[Any]:
        """Not of several partitions: each has streams of its own."""
        del last_id, block_ms, limit
        raise _one_at_a_time(stream)

    def last_id(self, stream: str) -> str:
        """Not of several partitions: each has streams of its own."""
        raise _one_at_a_time(stream)


class Partitions(Queue):
    """A queue that is in as many partitions as it has.

    Args:
        client: from `opsqueue.queue.connection.connect`.
        name: letters, digits, `_.-`.
        clock: for tests alone.
        durability: that an insert waits for.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        clock: Callable[[], int] | None = None,
        durability: Durability = Durability.NONE,
    ) -> None:
        """Connect to nothing yet."""
        super().__init__(client, name, clock=clock)
        self._make = partial(Queue, client, name, clock=clock, durability=durability)
        scripts_of = partial(Scripts, client, name, clock=clock)
        self._scripts = _RoutedScripts(lambda n: scripts_of(partition=n), client, name)
        self._parts = [self._make(partition=0)]
        self._history = [1]
        self._looked_at = float("-inf")
        self._looks = self._look_answered = 0
        self._lock = PerProcess(threading.Lock)

    @property
    def part_zero(self) -> Queue:
        """Give the partition that every queue has; asks nobody."""
        return self._parts[0]

    def parts(self) -> list[Queue]:
        """Give all partitions, as many as there were KNOWN_FOR_S ago or later."""
        if time.monotonic() - self._looked_at >= KNOWN_FOR_S:
            try:
                self._look()
            except RedisUnavailableError:
                if self._looked_at == float("-inf"):
                    raise
                # The first partition's master is gone; the others may answer, and shall not wait
                # for it each time.
                self._looked_at = time.monotonic()
        return self._parts[: self._history[-1]]

    def parts_now(self) -> list[Queue]:
        """Give all partitions that there are at this moment: for what none of them may miss.

        Raises:
            RedisUnavailableError: the first partition does not answer how many there are.
        """
        self._look()
        return self._parts[: self._history[-1]]

    def tell_all(self, command: Callable[[Queue], object]) -> None:
        """Tell all partitions, also where one does not answer.

        Raises:
            RedisUnavailableError: one of them did not, or which there are is not known.
        """
        told, troubles = 0, []
        while True:
            try:
                self._look()
            except RedisUnavailableError as exc:
                troubles.append(exc)
            known = self._parts[: self._history[-1]]
            # One that came meanwhile was given what the first one had before.
            if told >= len(known):
                break
            try:
                each_part(known[told:], command)
            except RedisUnavailableError as exc:
                troubles.append(exc)
            told = len(known)
        if troubles:
            raise troubles[0]

    def part_of(self, submission_id: SubmissionId) -> Queue:
        """Give the partition that has a submission."""
        return self._part(submission_id.partition)

    def _look(self) -> None:
        with self._lock.get():
            self._looks += 1
            look = self._looks
        history = self._parts[0].get_partitions()
        self._part(history[-1] - 1)
        with self._lock.get():
            # Of several threads that ask, who asked last has the newest answer, whenever it comes.
            if look > self._look_answered:
                self._history, self._look_answered = history, look
        self._looked_at = time.monotonic()

    def _part(self, partition: int) -> Queue:
        with self._lock.get():
            for number in range(len(self._parts), partition + 1):
                self._parts.append(self._make(partition=number))
            return self._parts[partition]

    def _home_of(self, key: str, partitions: int | None = None) -> Queue:
        """Give the partition that a text is always sent to, of as many as there are."""
        if partitions is None:
            partitions = len(self.parts())
        return self._part(crc32(key.encode()) % partitions)

    def set_partitions(self, partitions: int) -> None:
        """Spread submissions over more partitions; see `Queue.set_partitions`.

        The new ones are paused, limited and kept as the first one is. Programs that run notice
        them within some seconds.
        """
        checked_whole("partitions", partitions, least=1, most=MAX_PARTITIONS)
        others = [self._part(number) for number in range(1, partitions)]
        given = None
        # Once more where something was changed meanwhile: by who could not know of the new ones.
        for _ in range(_MOST_ROUNDS):
            settings = _Settings.of(self.part_zero)
            if settings == given:
                break
            for part in others:
                settings.give_to(part)
            self.part_zero.set_partitions(partitions)
            given = settings
        self._look()


@dataclass(frozen=True, slots=True)
class _Settings:
    """What is set of a queue while it runs, the same in all of its partitions."""

    limits: tuple[Limit, ...]
    retention_ms: int | None
    is_paused: bool

    @classmethod
    def of(cls, part: Queue) -> _Settings:
        """Ask a partition."""
        return cls(tuple(part.list_limits()), part.get_retention(), part.count_queue().is_paused)

    def give_to(self, part: Queue) -> None:
        """Make a partition have the same, whatever it had; it may be in use."""
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
        part.set_retention(self.retention_ms)
        if self.is_paused:
            part.pause_queue()
        else:
            part.resume_queue()


def each_part(parts: Iterable[Queue], command: Callable[[Queue], Answer]) -> list[Answer]:
    """Tell all partitions, also where one does not answer; then raise its error."""
    answers, troubles = [], []
    for part in parts:
        try:
            answers.append(command(part))
        except RedisUnavailableError as exc:
            troubles.append(exc)
    if troubles:
        raise troubles[0]
    return answers


def _one_at_a_time(name: str) -> OpsqueueInternalError:
    return OpsqueueInternalError(f"{name} is of one partition: it goes to each of Queue.parts()")
