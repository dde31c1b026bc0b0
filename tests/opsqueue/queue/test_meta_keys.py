"""Any text is a key of strategic metadata, and none is taken for another one, or for a value."""

from __future__ import annotations

import itertools

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.checks import printable
from opsqueue.model.names import meta_key_text, parse_meta_key, read_meta_key, stored_meta_key
from opsqueue.model.new_submission import MAX_STRATEGIC_PAIRS
from opsqueue.model.submission import SubmissionFilter
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Highest, MaxSimultaneous, PreferDistinct, RateLimit, SelectOnly
from tests.opsqueue.steps import Raw, insert, take, tokens_of

KEYS = [
    *("a:1", "a=1", "a,b", ":", ",", "%", "%3A", "a b", " ", "\n", "\t\0", "\x1b[2J", '"', "'"),
    *("é", "e\u0301", "größe", "😀" * 255, "\u202e", "\ufffd", "\uffff", "7", "-1", "__proto__"),
    *("*", "[a]", "{b}", "\\", "~", ".", "..", "max", "most:a", "x" * 255),
]


@pytest.mark.parametrize("key", KEYS)
def test_any_text_is_a_key(queue: Queue, key: str) -> None:
    """It is told, looked up, listed, changed and removed."""
    pairs = {key: -3, "customer": 2**63 - 1}
    id_ = insert(queue, 1, strategic_metadata=pairs)
    insert(queue, 1, strategic_metadata={"customer": 2**63 - 1})

    assert pairs == queue.get_submission(id_).strategic_metadata
    assert [id_] == queue.lookup_submissions(pairs)
    listed = queue.list_submissions(SubmissionFilter(strategic_metadata={key: -3})).submissions
    assert [id_] == [one.id for one in listed]

    changed = queue.update_metadata(id_, {key: 4, "customer": None})
    assert {key: 4} == changed.strategic_metadata
    assert ([], [id_]) == (queue.lookup_submissions(pairs), queue.lookup_submissions({key: 4}))
    assert {} == queue.update_metadata(id_, {key: None}).strategic_metadata
    assert [] == queue.lookup_submissions({key: 4})


@pytest.mark.parametrize("key", KEYS)
def test_strategies_and_limits_go_by_any_key(queue: Queue, raw: Raw, key: str) -> None:
    """Each kind of them finds its submissions, and what it has counted is forgotten again."""
    low, high, third = (insert(queue, 9, strategic_metadata={key: value}) for value in (1, 2, 3))

    def taken(strategy: PreferDistinct | Highest | SelectOnly | RateLimit) -> list[object]:
        (chunk,) = take(queue, 1, strategy=strategy)
        assert {key: [low, high, third].index(chunk.source.submission_id) + 1} == (
            chunk.source.strategic_metadata
        )
        return [chunk.token, chunk.source.submission_id]

    tokens, ids = zip(
        taken(Highest(key)),
        taken(SelectOnly(key, 2)),
        taken(PreferDistinct(key)),
        taken(RateLimit(key, 0.001, 1)),
        taken(RateLimit(key, 0.001, 1)),
        strict=True,
    )
    queue.set_limit(key, max=2)
    queue.set_limit(key, value=3, max=1, per_second=2, burst=3)
    blocked = take(queue, 9, strategy=MaxSimultaneous(key, 9))
    limits = [
        (limit.meta_key, limit.value, limit.max, limit.burst) for limit in queue.list_limits()
    ]

    assert [third, high, low, low, high] == list(ids)
    assert [] == blocked
    assert [(key, None, 2, None), (key, 3, 1, None), (key, 3, None, 3)] == limits
    assert {1: 2, 2: 2, 3: 1} == raw.in_hand(stored_meta_key(key))
    queue.complete_chunks([str(token) for token in tokens])  # type: ignore[misc]  # tokens
    queue.remove_limit(key, value=3)
    queue.remove_limit(key)
    assert ({}, []) == (raw.in_hand(stored_meta_key(key)), queue.list_limits())


def test_keys_that_would_be_joined_to_the_same_name_are_different(queue: Queue) -> None:
    """Key and value, key and key, and the limits of a key and of one value."""
    ids = {
        key: insert(queue, 1, strategic_metadata=dict.fromkeys(keys, 2))
        for key, keys in {
            "a": ["a"],
            "a:2": ["a:2"],
            "a, b": ["a", "b"],
            "a,b": ["a,b"],
            "a%2Cb": ["a%2Cb"],
        }.items()
    }
    queue.set_limit("a", value=2, max=5)
    queue.set_limit("a:2", max=7)

    assert [ids["a"], ids["a, b"]] == queue.lookup_submissions({"a": 2})
    for key in ("a:2", "a,b", "a%2Cb"):
        assert [ids[key]] == queue.lookup_submissions({key: 2})
    assert [("a", 2, 5), ("a:2", None, 7)] == sorted(
        (limit.meta_key, limit.value, limit.max) for limit in queue.list_limits()
    )
    # Those that lack the key are a group of their own.
    queue.reserve_chunks("w", strategy=SelectOnly("a", 2), limit=2)
    found = queue.reserve_chunks("w", strategy=PreferDistinct("a"), limit=9).chunks
    assert {ids["a:2"], ids["a,b"], ids["a%2Cb"]} == {one.source.submission_id for one in found}


def test_as_many_of_the_longest_keys_as_are_allowed(queue: Queue) -> None:
    """Nothing about them is too large."""
    pairs = {f"{n:03}" + "😀" * 252: n for n in range(MAX_STRATEGIC_PAIRS)}
    id_ = insert(queue, 3, strategic_metadata=pairs)
    insert(queue, 1, strategic_metadata=pairs)

    chunks = take(queue, 3)
    changed = queue.update_metadata(id_, {f"x{key[1:]}": 7 for key in pairs} | dict.fromkeys(pairs))

    assert all(pairs == chunk.source.strategic_metadata for chunk in chunks)
    assert {f"x{key[1:]}": 7 for key in pairs} == changed.strategic_metadata
    queue.complete_chunks(tokens_of(chunks))


def test_keys_of_earlier_versions_stand_in_redis_as_they_are(queue: Queue, raw: Raw) -> None:
    """So what they wrote is read, and they read it."""
    plain = "customer_7.A-b"
    insert(queue, 1, strategic_metadata={plain: 7})
    queue.set_limit(plain, value=7, max=5)

    assert plain == stored_meta_key(plain) == read_meta_key(plain)
    assert 1 == raw.client.zcard(raw.key(f"pairs:{plain}:7"))
    assert 1 == raw.client.zcard(raw.key(f"ready:{plain}"))
    assert [f"max:{plain}:7".encode(), f"most:{plain}".encode()] == sorted(
        raw.client.hkeys(raw.key("limits"))
    )


@pytest.mark.parametrize("key", [*KEYS, "customer"])
def test_a_key_is_read_as_it_was_written(key: str) -> None:
    """In Redis and by people; neither form has what it is joined with."""
    assert key == read_meta_key(stored_meta_key(key))
    assert set(stored_meta_key(key)).isdisjoint(":, \n\0=")
    assert key == parse_meta_key(meta_key_text(key))
    assert printable(meta_key_text(key), is_line=True) == meta_key_text(key)


def test_no_two_keys_have_the_same_name() -> None:
    """Encoding one gives what no other is."""
    forms = list(itertools.chain(KEYS, map(stored_meta_key, KEYS)))

    assert len(set(forms)) == len({stored_meta_key(key) for key in forms})


@pytest.mark.parametrize("key", ["", "x" * 256, "\ud800", "a\udc80", b"a", 7, None])
def test_what_is_no_key_is_refused(queue: Queue, key: str) -> None:
    """Wherever one is given, before Redis is asked."""
    for call in (
        lambda: insert(queue, 1, strategic_metadata={key: 1}),
        lambda: queue.lookup_submissions({key: 1}),
        lambda: SubmissionFilter(strategic_metadata={key: 1}),
        lambda: queue.set_limit(key, max=1),
        lambda: queue.remove_limit(key),
        lambda: PreferDistinct(key),
    ):
        with pytest.raises(InvalidArgumentError, match="strategic metadata"):
            call()
