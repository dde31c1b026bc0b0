"""update_metadata: in_progress -> in_progress."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import (
    InvalidArgumentError,
    SubmissionNotCancellableError,
    SubmissionNotFoundError,
)
from opsqueue.model.new_submission import MAX_STRATEGIC_PAIRS
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Raw, insert, take, take_one, tokens_of


def test_changed_metadata_reaches_the_next_reservation(queue: Queue) -> None:
    """A pair is changed, one is added, one is removed, one stays."""
    id_ = insert(queue, 2, strategic_metadata={"priority": 1, "customer": 7, "stays": 9})

    queue.update_metadata(id_, {"priority": 2, "customer": None, "region": -3})

    expected = {"priority": 2, "stays": 9, "region": -3}
    assert expected == queue.get_submission(id_).strategic_metadata
    assert expected == take_one(queue).source.strategic_metadata


def test_chunks_in_hand_count_for_the_new_value(queue: Queue, raw: Raw) -> None:
    """And leave it again when they are reported."""
    id_ = insert(queue, 3, strategic_metadata={"customer": 7})
    tokens = tokens_of(take(queue, 2))

    queue.update_metadata(id_, {"customer": 8, "region": 1})
    moved = raw.in_hand("customer"), raw.in_hand("region")
    queue.complete_chunks(tokens)

    assert moved == ({8: 2}, {1: 2})
    assert raw.in_hand("customer") == raw.in_hand("region") == {}


def test_other_submissions_of_the_old_value_stay_counted(queue: Queue, raw: Raw) -> None:
    """Only the changed one's chunks move."""
    changed = insert(queue, 1, strategic_metadata={"customer": 7})
    insert(queue, 1, strategic_metadata={"customer": 7})
    insert(queue, 1, strategic_metadata={"customer": 7})
    take(queue, 2)

    queue.update_metadata(changed, {"customer": 8})

    assert raw.in_hand("customer") == {7: 1, 8: 1}


def test_a_change_with_nothing_in_hand_leaves_others_counted(queue: Queue, raw: Raw) -> None:
    """Counting zero out must not remove somebody else's count."""
    insert(queue, 1, strategic_metadata={"customer": 7})
    take_one(queue)
    changed = insert(queue, 1, strategic_metadata={"customer": 7})

    queue.update_metadata(changed, {"customer": 8})

    assert raw.in_hand("customer") == {7: 1}


def test_the_first_pair_and_the_last_one_keep_the_counts_right(queue: Queue, raw: Raw) -> None:
    """A submission may come without metadata, get some, and lose it, with chunks in hand."""
    id_ = insert(queue, 2)
    first, second = tokens_of(take(queue, 2))

    queue.update_metadata(id_, {"customer": 7})
    with_pair = raw.in_hand("customer")
    queue.complete_chunks([first])
    after_one = raw.in_hand("customer")
    queue.update_metadata(id_, {"customer": None})
    without_pair = raw.in_hand("customer")
    queue.release_chunks([second])

    assert (with_pair, after_one, without_pair) == ({7: 2}, {7: 1}, {})
    assert raw.in_hand("customer") == {}
    assert queue.get_submission(id_).strategic_metadata == {}


def test_metadata_of_an_ended_submission_can_not_be_changed(queue: Queue) -> None:
    """No strategy looks at it any more."""
    id_ = insert(queue, 0)

    with pytest.raises(SubmissionNotCancellableError, match="is completed"):
        queue.update_metadata(id_, {"priority": 1})


def test_metadata_of_an_unknown_submission_can_not_be_changed(queue: Queue) -> None:
    """The error names the id."""
    with pytest.raises(SubmissionNotFoundError):
        queue.update_metadata(SubmissionId(42), {"priority": 1})


@pytest.mark.parametrize("changes", [{"": 1}, {"k": 2**63}, {"\ud800": None}])
def test_bad_changes_are_refused_before_redis_sees_them(
    queue: Queue, changes: dict[str, int | None]
) -> None:
    """Keys are texts, values 64-bit integers; removals too."""
    id_ = insert(queue, 1)

    with pytest.raises(InvalidArgumentError, match="strategic metadata"):
        queue.update_metadata(id_, changes)


def test_a_submission_never_has_more_pairs_than_allowed(queue: Queue) -> None:
    """Not by several changes either; nothing is changed then, and removing makes room."""
    id_ = insert(queue, 1, strategic_metadata={f"k{n}": n for n in range(MAX_STRATEGIC_PAIRS)})

    with pytest.raises(InvalidArgumentError, match="65 pairs of strategic metadata: at most 64"):
        queue.update_metadata(id_, {"one_more": 1})
    queue.update_metadata(id_, {"k0": None, "one_more": 1})

    found = queue.get_submission(id_).strategic_metadata
    assert (len(found), "k0" in found, found["one_more"]) == (MAX_STRATEGIC_PAIRS, False, 1)
