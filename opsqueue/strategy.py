"""Which submission a worker takes its next chunk from.

Strategies are values: they compare, hash, pickle and print as Python; `parse_strategy` reads the
text form of command lines. They decide nothing here: `reserve_chunks.lua` does, at the moment of
reservation, by what `wire` tells it.

| strategy | the next chunk is of |
|---|---|
| `Oldest`, `Newest`, `Random` | the submission inserted first, last, or any |
| `PreferDistinct(key, underlying)` | one whose value for key has the fewest chunks in hand |
| `SelectOnly(key, value, underlying)` | one with that pair only |
| `Highest(key, underlying)`, `Lowest(…)` | one with the highest (lowest) value; without it: last |
| `MaxSimultaneous(key, max, underlying)` | one whose value has fewer than max chunks in hand |
| `RateLimit(key, per_second, burst, underlying)` | one whose value has a token left |
| `OrElse(first, fallback)` | what first finds, else what fallback finds |

`underlying` decides among equals; Oldest where none is given. Submissions without the key of a
PreferDistinct are a group of their own; limits don't concern them.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.names import (
    checked_meta_key,
    meta_key_text,
    parse_meta_key,
    stored_meta_key,
)

Layer = Sequence[str | int]
TICKS_A_SECOND: Final = 100_000_000
"""Of the scripts' rate limits: 10 ns each, so that a rate is an integer."""
MOST_IN_HAND: Final = 10**9
"""What MaxSimultaneous can be given."""
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s(),"]+|\S', re.DOTALL)
"""Of a strategy's text: a key in quotes, as JSON has strings, another word, or a mark."""
MAX_STRATEGY_CHARACTERS: Final = 100_000
"""Of a strategy's text; the longest keys in as many strategies as can be nested fit in."""
_MOST_LAYERS: Final = 16
_MOST_ALTERNATIVES: Final = 32
"""Each is tried in one script, so that their number is what a reserve can cost."""
_DEEPEST: Final = _MOST_LAYERS + _MOST_ALTERNATIVES


class AnyStrategy:
    """The base of all strategies."""

    __slots__ = ()

    def alternatives(self) -> list[list[Layer]]:
        """Give lists of layers, each tried where the ones before it find nothing."""
        raise NotImplementedError

    def wire(self) -> str:
        """Give the JSON that `_strategy.lua` documents, with keys as the scripts know them."""
        alternatives = [
            [_with_stored_key(*layer) if len(layer) > 1 else layer for layer in layers]
            for layers in self.alternatives()
        ]
        return json.dumps(alternatives, separators=(",", ":"))

    def __str__(self) -> str:
        """As `parse_strategy` reads it."""
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        values = [_text_of(name, getattr(self, name)) for name in names]
        return f"{type(self).__name__}({', '.join(values)})" if values else type(self).__name__


@dataclass(frozen=True, slots=True)
class Oldest(AnyStrategy):
    """The submission inserted first; its chunks in ascending index."""

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return [[["oldest"]]]


@dataclass(frozen=True, slots=True)
class Newest(AnyStrategy):
    """The submission inserted last."""

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return [[["newest"]]]


@dataclass(frozen=True, slots=True)
class Random(AnyStrategy):
    """Any submission, each as likely as the others, whatever its size."""

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return [[["random"]]]


@dataclass(frozen=True, slots=True)
class PreferDistinct(AnyStrategy):
    """Submissions whose value for the key has the fewest chunks in hand first: fair by it."""

    meta_key: str
    underlying: AnyStrategy = field(default_factory=Oldest)

    def __post_init__(self) -> None:
        _check(self, self.meta_key, self.underlying)

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return _over(["prefer_distinct", self.meta_key], self.underlying)


@dataclass(frozen=True, slots=True)
class SelectOnly(AnyStrategy):
    """Only submissions with that pair."""

    meta_key: str
    value: int
    underlying: AnyStrategy = field(default_factory=Oldest)

    def __post_init__(self) -> None:
        _check(self, self.meta_key, self.underlying)
        if not _is_int(self.value) or not -(2**63) <= self.value < 2**63:
            raise _wrong(self, f"value {self.value!r} is no 64-bit integer")

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`; the value as text, since Lua's numbers hold 53 bits."""
        return _over(["select_only", self.meta_key, str(self.value)], self.underlying)


@dataclass(frozen=True, slots=True)
class Highest(AnyStrategy):
    """The highest value for the key first: priorities, versions. Without the key: last."""

    meta_key: str
    underlying: AnyStrategy = field(default_factory=Oldest)

    def __post_init__(self) -> None:
        _check(self, self.meta_key, self.underlying)

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return _over(["highest", self.meta_key], self.underlying)


@dataclass(frozen=True, slots=True)
class Lowest(AnyStrategy):
    """The lowest value for the key first: deadlines. Without the key: last."""

    meta_key: str
    underlying: AnyStrategy = field(default_factory=Oldest)

    def __post_init__(self) -> None:
        _check(self, self.meta_key, self.underlying)

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return _over(["lowest", self.meta_key], self.underlying)


@dataclass(frozen=True, slots=True)
class MaxSimultaneous(AnyStrategy):
    """A hard limit: never more than `max` chunks of one value in hand, over all workers."""

    meta_key: str
    max: int
    underlying: AnyStrategy = field(default_factory=Oldest)

    def __post_init__(self) -> None:
        _check(self, self.meta_key, self.underlying)
        if not _is_int(self.max) or not 1 <= self.max <= MOST_IN_HAND:
            wanted = f"give a whole number of chunks, 1 to {MOST_IN_HAND:,}"
            raise _wrong(self, f"max is {self.max!r}: {wanted}")

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return _over(["max", self.meta_key, self.max], self.underlying)


@dataclass(frozen=True, slots=True)
class RateLimit(AnyStrategy):
    """A token bucket for each value, on Redis's clock, shared by all workers.

    Args:
        meta_key: whose values have a bucket each.
        per_second: tokens that come; up to a million.
        burst: tokens that a bucket holds.
        underlying: decides among those with a token.
        unit: what a token is for. A chunk with more operations than there are tokens borrows: the
            average is kept, a burst may be larger by a chunk.
    """

    meta_key: str
    per_second: float
    burst: int
    underlying: AnyStrategy = field(default_factory=Oldest)
    unit: Literal["chunks", "operations"] = "chunks"

    def __post_init__(self) -> None:
        _check(self, self.meta_key, self.underlying)
        is_number = isinstance(self.per_second, int | float) and not isinstance(
            self.per_second, bool
        )
        if not is_number or not 0.0001 <= self.per_second <= 1_000_000:
            raise _wrong(self, f"per_second is {self.per_second!r}: give 0.0001 to 1,000,000")
        if not _is_int(self.burst) or not 1 <= self.burst <= 10**6:
            raise _wrong(self, f"burst is {self.burst!r}: give 1 to 1,000,000 tokens")
        if self.unit not in ("chunks", "operations"):
            raise _wrong(self, f"unit is {self.unit!r}: give chunks or operations")

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        interval = interval_ticks(self.per_second)
        return _over(["rate", self.meta_key, interval, self.burst, self.unit], self.underlying)


@dataclass(frozen=True, slots=True)
class OrElse(AnyStrategy):
    """What the first strategy finds; what the second finds where the first finds nothing."""

    first: AnyStrategy
    fallback: AnyStrategy

    def __post_init__(self) -> None:
        for part in (self.first, self.fallback):
            if not isinstance(part, AnyStrategy):
                raise _wrong(self, f"{part!r} is no strategy")
        _check_number(self)

    def alternatives(self) -> list[list[Layer]]:
        """See `AnyStrategy`."""
        return [*self.first.alternatives(), *self.fallback.alternatives()]


class Strategy:
    """The strategies by the names that users write: `Strategy.Oldest()`."""

    Oldest = Oldest
    Newest = Newest
    Random = Random
    PreferDistinct = PreferDistinct
    SelectOnly = SelectOnly
    Highest = Highest
    Lowest = Lowest
    MaxSimultaneous = MaxSimultaneous
    RateLimit = RateLimit
    OrElse = OrElse


_FORMS: Final[dict[str, tuple[Callable[..., AnyStrategy], str]]] = {
    "Oldest": (Oldest, "Oldest"),
    "Newest": (Newest, "Newest"),
    "Random": (Random, "Random"),
    "PreferDistinct": (PreferDistinct, "PreferDistinct(customer, Oldest)"),
    "SelectOnly": (SelectOnly, "SelectOnly(region, 3, Oldest)"),
    "Highest": (Highest, "Highest(priority, Oldest)"),
    "Lowest": (Lowest, "Lowest(deadline, Oldest)"),
    "MaxSimultaneous": (MaxSimultaneous, "MaxSimultaneous(api, 5, Oldest)"),
    "RateLimit": (RateLimit, "RateLimit(api, 100, 10, Oldest, operations)"),
    "OrElse": (OrElse, "OrElse(SelectOnly(region, 3), Oldest)"),
}


_STRATEGY_FIELDS: Final = frozenset({"underlying", "first", "fallback"})


def interval_ticks(per_second: float) -> int:
    """Give the ticks from one token to the next."""
    return max(1, round(TICKS_A_SECOND / per_second))


def parse_strategy(text: str) -> AnyStrategy:
    """Read the text form, like "PreferDistinct(customer, Oldest)".

    A key that is not one word, or named like a strategy, stands in double quotes, as JSON has it.

    Raises:
        InvalidArgumentError: shows where it stops making sense, and the right form.
    """
    tokens = deque(_TOKEN.findall(text))
    strategy = _parse(tokens, text[:200])
    if tokens:
        message = f"strategy {text[:200]!r}: nothing can follow after {tokens[0][:40]!r}"
        raise InvalidArgumentError(message)
    return strategy


def _parse(tokens: deque[str], text: str, *, depth: int = 0) -> AnyStrategy:
    """Take a strategy's tokens from the front."""
    name = tokens.popleft() if tokens else ""
    if name not in _FORMS or depth > _DEEPEST:
        is_deep = f"more than {_MOST_LAYERS} strategies are nested"
        wrong = is_deep if depth > _DEEPEST else f"{name[:40]!r} is none of {', '.join(_FORMS)}"
        message = f"strategy {text!r}: {wrong}"
        raise InvalidArgumentError(message)
    make, form = _FORMS[name]
    arguments: list[Any] = []
    if tokens and tokens[0] == "(":
        tokens.popleft()
        while tokens and tokens[0] != ")":
            if tokens[0] in _FORMS:
                arguments.append(_parse(tokens, text, depth=depth + 1))
            else:
                # What is not a strategy begins with a key, also where that looks like a number.
                read = _number if arguments else parse_meta_key
                arguments.append(read(tokens.popleft()))
            if tokens and tokens[0] == ",":
                tokens.popleft()
            elif tokens and tokens[0] != ")":
                message = f"strategy {text!r}: a comma or a closing bracket is missing in {name}"
                raise InvalidArgumentError(message)
        if not tokens:
            message = f"strategy {text!r}: the bracket of {name} is not closed"
            raise InvalidArgumentError(message)
        tokens.popleft()
    try:
        return make(*arguments)
    except TypeError as exc:
        if isinstance(exc, InvalidArgumentError):
            raise
        message = f"strategy {text!r}: write {name} like {form}"
        raise InvalidArgumentError(message) from exc


def read_strategy(value: object, *, depth: int = 0) -> AnyStrategy:
    """Read the JSON form, like {"PreferDistinct": {"meta_key": "c", "underlying": "Oldest"}}.

    A text is read as `parse_strategy` does; fields are named as in Python.

    Raises:
        InvalidArgumentError: names what is wrong with it.
    """
    if isinstance(value, str):
        return parse_strategy(value)
    if not isinstance(value, dict) or len(value) != 1 or depth > _MOST_LAYERS:
        message = (
            f"strategy {str(value)[:200]}: give a text like 'Oldest', or an object of one name, "
            f"and at most {_MOST_LAYERS} in each other"
        )
        raise InvalidArgumentError(message)
    ((name, given),) = value.items()
    if name not in _FORMS or not isinstance(given, dict):
        message = f"strategy {name!r}: give an object of fields for one of {', '.join(_FORMS)}"
        raise InvalidArgumentError(message)
    arguments = {
        key: read_strategy(inner, depth=depth + 1) if key in _STRATEGY_FIELDS else inner
        for key, inner in given.items()
    }
    make, form = _FORMS[name]
    try:
        return make(**arguments)
    except TypeError as exc:
        if isinstance(exc, InvalidArgumentError):
            raise
        message = f"strategy {name}: name the fields of {form}"
        raise InvalidArgumentError(message) from exc


def _with_stored_key(kind: str | int, meta_key: str | int, *rest: str | int) -> Layer:
    return [kind, stored_meta_key(str(meta_key)), *rest]


def _text_of(name: str, value: object) -> str:
    """Return a field as `parse_strategy` reads it."""
    if name != "meta_key":
        return str(value)
    # Without quotes, the name of a strategy would be read as that.
    return json.dumps(value) if value in _FORMS else meta_key_text(str(value))


def _number(token: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(token)
        except ValueError:
            continue
    return token


def _over(layer: Layer, underlying: AnyStrategy) -> list[list[Layer]]:
    """Put a layer over each alternative: it is the first to decide in all of them."""
    return [[layer, *layers] for layers in underlying.alternatives()]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(strategy: AnyStrategy, meta_key: object, underlying: object) -> None:
    if not isinstance(meta_key, str):
        raise _wrong(strategy, f"key {meta_key!r} is no key of strategic metadata, a text")
    checked_meta_key(meta_key)
    if not isinstance(underlying, AnyStrategy):
        raise _wrong(strategy, f"underlying {underlying!r} is no strategy")
    if max(len(layers) for layers in underlying.alternatives()) >= _MOST_LAYERS:
        raise _wrong(strategy, f"more than {_MOST_LAYERS} strategies are nested")


def _check_number(strategy: AnyStrategy) -> None:
    if len(strategy.alternatives()) > _MOST_ALTERNATIVES:
        raise _wrong(strategy, f"more than {_MOST_ALTERNATIVES} alternatives")


def _wrong(strategy: AnyStrategy, what: str) -> InvalidArgumentError:
    name = type(strategy).__name__
    return InvalidArgumentError(f"{name}: {what}; write it like {_FORMS[name][1]}")
