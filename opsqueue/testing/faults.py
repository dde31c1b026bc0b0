"""Faults that `local` injects, for tests of whether handlers survive them.

    faults = Faults(seed=7, kill=0.1, expire=0.05, store_errors=0.05)
    with local(app, faults=faults) as opsqueue:
        assert list(opsqueue.run_submission("numbers", range(100), chunk_size=10)) == expected
    print(faults.report)

Nothing is killed: a fault is what the queue sees of it, a report or an expiry. Which faults occur
depends on the seed and on what is submitted only, so that a test that fails can be run again.
"""

from __future__ import annotations

import copy
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.handlers.app import Chunk, Handler
from opsqueue.handlers.callables import short_name_of
from opsqueue.handlers.execute import Fetched
from opsqueue.handlers.observe import Enclosed, KilledError
from opsqueue.model.checks import shown
from opsqueue.model.chunk import Reservation
from opsqueue.model.raised import text_of
from opsqueue.model.submission import SubmissionId

What = Literal["kill", "expire", "store_error"]
Where = Literal["before", "in", "after"]
_WHATS: Final[tuple[What, ...]] = ("kill", "expire", "store_error")
_WHERES: Final[tuple[Where, ...]] = ("before", "in", "after")
MOST_FAULTS_OF_A_CHUNK: Final = 20
"""Faults that use no attempt would otherwise go on for ever where their probability is 1."""

_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one attempt at a chunk."""

    what: What
    where: Where
    """Before, in or after its handler."""
    after_operations: int = 0
    """The operations that have begun by then, for a kill in an operation handler."""


@dataclass(slots=True)
class RepeatedOperation:
    """An operation whose handler was called more than once."""

    queue: str
    submission_id: SubmissionId
    index: int
    """The index in its submission."""
    operation: Any
    times: int = 0
    results: list[Any] = field(default_factory=list)
    """The values that finished calls returned."""

    @property
    def has_differing_results(self) -> bool:
        """True if the calls returned different results."""
        return any(not _are_equal(self.results[0], other) for other in self.results[1:])

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r}, submission {self.submission_id}, operation {self.index} "
            f"({shown(self.operation)}): called {self.times} times, returned "
            f"{' then '.join(map(shown, self.results)) or 'nothing'}"
        )


class FaultReport:
    """The injected faults, and the calls of handlers under them."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        """The number of faults by kind and place, such as "kill in"."""
        self.operations_called: int = 0
        """The number of calls, counting each operation of a chunk handler's call."""
        self._called: dict[tuple[int, int], RepeatedOperation] = {}

    @property
    def repeated(self) -> list[RepeatedOperation]:
        """The operations whose handler was called more than once: check what they did elsewhere."""
        found = [one for one in self._called.values() if one.times > 1]
        return sorted(found, key=lambda one: (one.submission_id, one.index))

    @property
    def differing(self) -> list[RepeatedOperation]:
        """Those of `repeated` whose calls returned different results."""
        return [one for one in self.repeated if one.has_differing_results]

    def assert_not_repeated(self) -> None:
        """Raise AssertionError if any handler was called more than once for an operation."""
        if self.repeated:
            raise AssertionError(_list_of("operations were called more than once", self.repeated))

    def __str__(self) -> str:
        faults = ", ".join(f"{name}: {n}" for name, n in sorted(self.injected.items())) or "none"
        return (
            f"faults injected: {faults}; operations called: {self.operations_called}, more than "
            f"once: {len(self.repeated)}, with different results: {len(self.differing)}"
        )

    def note_call(self, handler: Handler, chunk: Chunk, index: int, operation: object) -> None:
        """Count a call for an operation, given its place in the chunk."""
        self.operations_called += 1
        self._of(handler, chunk, index, operation).times += 1

    def note_result(
        self, handler: Handler, chunk: Chunk, index: int, operation: object, result: object
    ) -> None:
        """Keep what a call returned."""
        self._of(handler, chunk, index, operation).results.append(result)

    def _of(
        self, handler: Handler, chunk: Chunk, index: int, operation: object
    ) -> RepeatedOperation:
        place = chunk.first_index + index
        return self._called.setdefault(
            (chunk.submission_id, place),
            RepeatedOperation(handler.queue, chunk.submission_id, place, operation),
        )


class Faults:
    """The probabilities of faults in an attempt, and the report on them.

    A fault happens before, in, or after the handler; which one is left to chance. A killed child
    loses what was not stored by then, and its chunk is tried again, with an attempt used if the
    handler had begun. A reservation that expires goes to another worker, and the late report of
    the first one changes nothing. Store errors release the chunk. No fault uses the last attempt
    of a chunk, so that submissions complete.

    At the end, `local` checks that results are complete and were counted once, and that the calls
    of an operation that was called again returned the same.

    Args:
        seed: chooses the faults; the same seed and submissions have the same ones.
        kill: the probability that the handler's process dies.
        expire: the probability that the reservation expires.
        store_errors: the probability that the object store can't be read or written.
        results_may_differ: don't require that repeated calls return the same, for handlers that
            return the time, random values, or the answers of a language model.

    Raises:
        InvalidArgumentError: the probabilities are not between 0 and 1, or add up to more than 1.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        kill: float = 0.0,
        expire: float = 0.0,
        store_errors: float = 0.0,
        results_may_differ: bool = False,
    ) -> None:
        self._shares = (kill, expire, store_errors)
        if any(not 0 <= share <= 1 for share in self._shares) or sum(self._shares) > 1.0 + 1e-9:
            message = (
                f"kill={kill}, expire={expire}, store_errors={store_errors}: give probabilities "
                "from 0 to 1 that add up to 1 at most"
            )
            raise InvalidArgumentError(message)
        self.seed = seed
        self.results_may_differ = results_may_differ
        self.start()

    def __repr__(self) -> str:
        kill, expire, store_errors = self._shares
        return (
            f"Faults(seed={self.seed}, kill={kill}, expire={expire}, store_errors={store_errors})"
        )

    def start(self) -> None:
        """Begin a new report, for another `local`."""
        self.report = FaultReport()
        self._tries: Counter[tuple[int, int]] = Counter()

    def choose(self, fetched: Fetched, handler: Handler) -> Fault | None:
        """Return the fault of the next attempt at a chunk."""
        reservation = fetched.reservation
        chunk = (reservation.source.submission_id, reservation.chunk_index)
        self._tries[chunk] += 1
        number = self._tries[chunk]
        if number > MOST_FAULTS_OF_A_CHUNK:
            return None
        # Not by the order of the chunks, nor by ids, which depend on the time.
        chance = random.Random(  # noqa: S311 chance needs no cryptography
            f"{self.seed} {handler.queue} {chunk[1]} {number} {zlib.crc32(fetched.data)}"
        )
        drawn, where = chance.random(), chance.choice(_WHERES)
        operations = reservation.source.operations_in(reservation.chunk_index)
        for what, share in zip(_WHATS, self._shares, strict=True):
            drawn -= share
            if drawn < 0:
                fault = Fault(what, where, chance.randint(1, max(1, operations)))
                if _uses_attempt(fault) and _is_last(reservation):
                    return None
                self.report.injected[f"{what} {where}"] += 1
                return fault
        return None

    def observed(self, handler: Handler, fault: Fault | None) -> Handler:
        """Return a handler that notes its calls, and dies in the middle if that is its fault."""
        dies_after = None
        if fault is not None and (fault.what, fault.where) == ("kill", "in"):
            dies_after = fault.after_operations
        return replace(handler, function=_Noted(handler, self.report, dies_after), takes_chunk=True)

    def check(self) -> None:
        """Raise AssertionError if repeated calls returned different results."""
        if not self.results_may_differ and (found := self.report.differing):
            raise AssertionError(
                _list_of(
                    "operations returned something else when they were called again, so their "
                    "handlers are not idempotent",
                    found,
                )
                + f"\nA chunk may run more than once ({self!r}). If results may differ, as with "
                "times or random values, give results_may_differ=True."
            )


def enclosed(operations: Sequence[object]) -> list[object]:
    """Return operations with their places, as an observed handler takes them."""
    return [_Numbered(operation, index) for index, operation in enumerate(operations)]


@dataclass(frozen=True, slots=True)
class _Numbered(Enclosed):
    """An operation with its place in the chunk."""

    index: int


class _Noted:
    """A handler's function with a report on its calls; it takes operations that are enclosed."""

    def __init__(self, handler: Handler, report: FaultReport, dies_after: int | None) -> None:
        self._handler = handler
        self._report = report
        self._dies_after = dies_after
        self._begun = 0
        # Messages and spans name the handler, not this.
        self.__qualname__ = short_name_of(handler.function)
        self.__module__ = handler.name.removesuffix(f".{self.__qualname__}")

    def __call__(self, given: Any, *, chunk: Chunk) -> Any:  # noqa: ANN401 a user's values
        is_chunk = self._handler.kind == "chunk"
        numbered: list[_Numbered] = given if is_chunk else [given]
        plain = [one.operation for one in numbered]
        for one in numbered:
            self._report.note_call(self._handler, chunk, one.index, one.operation)
        self._begun += 1
        options = {"chunk": chunk} if self._handler.takes_chunk else {}
        returned = self._handler.function(plain if is_chunk else plain[0], **options)
        if hasattr(type(returned), "__await__"):
            return self._awaited(returned, numbered, chunk)
        return self._ended(returned, numbered, chunk)

    async def _awaited(self, returned: Any, numbered: list[_Numbered], chunk: Chunk) -> object:  # noqa: ANN401 a user's value
        return self._ended(await returned, numbered, chunk)

    def _ended(self, returned: object, numbered: list[_Numbered], chunk: Chunk) -> object:
        for one, result in zip(numbered, self._results(returned), strict=False):
            self._report.note_result(self._handler, chunk, one.index, one.operation, _copy(result))
        if self._dies_after is not None and (
            self._handler.kind == "chunk" or self._begun >= self._dies_after
        ):
            raise KilledError
        return returned

    def _results(self, returned: object) -> Iterator[object]:
        if self._handler.kind != "chunk":
            yield returned
        elif isinstance(returned, Sequence):
            yield from returned


def _uses_attempt(fault: Fault) -> bool:
    return fault.what == "expire" or (fault.what == "kill" and fault.where != "before")


def _is_last(reservation: Reservation) -> bool:
    return reservation.attempt >= reservation.source.max_attempts


def _are_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other) or bool(_content(one) == _content(other))
    except Exception:  # noqa: BLE001 a user's values
        return repr(one) == repr(other)


def _content(value: object) -> object:
    """Return what to compare of a value that is equal only to itself, such as an exception."""
    if isinstance(value, BaseException):
        return type(value), text_of(value)
    if isinstance(value, dict):
        return {key: _content(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [*map(_content, value)]
    if type(value).__eq__ is object.__eq__:
        return type(value), _content(value.__getstate__())
    return "NaN" if value != value else value  # noqa: PLR0124 it is equal to nothing


def _copy(value: object) -> object:
    """Copy a result, which its handler may change later, unless it can't be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 a user's value
        return value


def _list_of(what: str, found: Sequence[RepeatedOperation]) -> str:
    lines = [f"  {one}" for one in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  ... and {len(found) - _SHOWN} more")
    return "\n".join([f"{len(found)} {what}:", *lines])
