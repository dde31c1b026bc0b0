"""Strategies as values, and the errors for wrong ones."""

from __future__ import annotations

import pickle
from typing import cast

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.strategy import (
    AnyStrategy,
    Newest,
    Oldest,
    Random,
    Strategy,
    parse_strategy,
)

ALL = [
    Strategy.Oldest(),
    Strategy.Newest(),
    Strategy.Random(),
    Strategy.PreferDistinct(meta_key="customer", underlying=Strategy.Random()),
    Strategy.SelectOnly("region", -3, Newest()),
    Strategy.Highest("priority"),
    Strategy.Lowest("deadline", Random()),
    Strategy.MaxSimultaneous("api", 5, Strategy.PreferDistinct("customer")),
    Strategy.RateLimit("api", 0.5, 10, Oldest(), "operations"),
    Strategy.OrElse(Strategy.SelectOnly("region", 3), Strategy.Oldest()),
]


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_a_strategy_is_a_value(strategy: AnyStrategy) -> None:
    """It compares, hashes and pickles."""
    copy = pickle.loads(pickle.dumps(strategy))  # noqa: S301 our own bytes

    assert copy == strategy
    assert hash(copy) == hash(strategy)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_its_repr_is_python_and_its_text_is_read_back(strategy: AnyStrategy) -> None:
    """The text is what command lines take."""
    names = {name: getattr(Strategy, name) for name in vars(Strategy) if name[0] != "_"}

    assert eval(repr(strategy), names) == strategy  # noqa: S307 our own text
    assert parse_strategy(str(strategy)) == strategy


def test_different_strategies_are_different() -> None:
    """Also those that have the same fields."""
    assert len(set(ALL)) == len(ALL)
    highest, lowest = cast("list[object]", [Strategy.Highest("k"), Strategy.Lowest("k")])
    assert highest != lowest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("oldest", "is not one of Oldest, Newest"),
        ("", "is not one of Oldest, Newest"),
        ("PreferDistinct", "write PreferDistinct like PreferDistinct(customer, Oldest)"),
        ("PreferDistinct(Oldest)", "is not a key of strategic metadata"),
        ('PreferDistinct("")', "give a text of 1 to 255 characters"),
        (f"Highest({'k' * 256})", "give a text of 1 to 255 characters"),
        ("Highest(\ud800)", "a lone surrogate"),
        ('Highest("a)', "read as a JSON string"),
        ('Highest("\\x")', "read as a JSON string"),
        ('Highest("a" b)', "a comma or a closing bracket is missing"),
        ("PreferDistinct(a b)", "a comma or a closing bracket is missing"),
        ("Highest(a", "the bracket of Highest is not closed"),
        ("Oldest Newest", "nothing can follow"),
        ("MaxSimultaneous(api, 0)", "max is 0"),
        ("MaxSimultaneous(api, many)", "max is 'many'"),
        ("RateLimit(api, 0, 1)", "per_second is 0"),
        ("RateLimit(api, 10, 0)", "burst is 0"),
        ("RateLimit(api, 10, 1, Oldest, bytes)", "unit is 'bytes'"),
        ("SelectOnly(region, 1.5)", "is not a 64-bit integer"),
        ("OrElse(Oldest, 3)", "3 is not a strategy"),
    ],
)
def test_a_wrong_text_shows_the_right_form(text: str, says: str) -> None:
    """Unknown names, keys that are not text, limits of zero."""
    with pytest.raises(InvalidArgumentError) as caught:
        parse_strategy(text)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        *("Oldest", "RateLimit", "7", "-1", "1e5", "nan", "a.b-c", "__proto__", "ö", " ", "a, b"),
        *('"', '"a"', "\\", "a(b)", "\n\0\t", "e\u0301", "\u202e\x9b\x7f", "😀" * 255),
    ],
)
def test_any_key_is_read_back(key: str) -> None:
    """In the text form a key that would be read as something else stands in quotes."""
    for strategy in (
        Strategy.PreferDistinct(key),
        Strategy.SelectOnly(key, 3, Strategy.Lowest(key, Newest())),
        Strategy.RateLimit(key, 2, 3, Strategy.MaxSimultaneous(key, 1), "operations"),
        Strategy.OrElse(Strategy.Highest(key), Random()),
    ):
        assert parse_strategy(str(strategy)) == strategy


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Highest(größe)", "größe"),
        ("Highest(a:b=c)", "a:b=c"),
        ("Highest(7)", "7"),
        ('Highest("a b")', "a b"),
        ('Highest("\\u0000\\"")', '\0"'),
        ('Highest("Oldest")', "Oldest"),
        ('Highest("a\nb")', "a\nb"),
    ],
)
def test_a_key_may_be_written_as_it_is_or_in_quotes(text: str, key: str) -> None:
    """Quotes are needed where it is not one word, or named like a strategy."""
    assert parse_strategy(text) == Strategy.Highest(key)


def test_nesting_has_a_limit() -> None:
    """Nobody means seventeen."""
    strategy: AnyStrategy = Oldest()
    for _ in range(15):
        strategy = Strategy.PreferDistinct("k", strategy)

    with pytest.raises(InvalidArgumentError, match="nested"):
        Strategy.PreferDistinct("k", strategy)


@pytest.mark.parametrize("text", ["OrElse(", "PreferDistinct(a, ", "OrElse(Oldest, "])
def test_a_text_nested_without_end_is_refused(text: str) -> None:
    """Rather than filling the stack of whoever reads it."""
    with pytest.raises(InvalidArgumentError, match="nested") as caught:
        parse_strategy(text * 100_000)

    assert len(str(caught.value)) < 500


def test_alternatives_have_a_limit() -> None:
    """They double with each level, and all are tried in one script while Redis serves nobody."""
    strategy: AnyStrategy = Oldest()
    for _ in range(5):
        strategy = Strategy.OrElse(strategy, strategy)

    with pytest.raises(InvalidArgumentError, match="more than 32 alternatives"):
        Strategy.OrElse(strategy, strategy)
