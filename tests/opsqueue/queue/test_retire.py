"""retire_worker: reserved -> ready."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.chunk import Lost
from opsqueue.queue import commands
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import Raw, indexes_of, insert, take, tokens_of


def test_a_retired_worker_gives_back_what_it_holds_without_using_an_attempt(
    queue: Queue, raw: Raw
) -> None:
    """After an orderly shutdown the worker is forgotten."""
    insert(queue, 3, strategic_metadata={"customer": 7})
    chunks = take(queue, 2, worker="leaving")

    is_done = queue.run(commands.retire_worker("leaving"))

    again = take(queue, 5, worker="w2")
    assert is_done
    assert [Lost(), Lost()] == queue.complete_chunks(tokens_of(chunks))
    assert indexes_of(again) == [0, 1, 2]
    assert [chunk.attempt for chunk in again] == [1, 1, 1]
    assert raw.workers() == ["w2"]
    assert raw.in_hand("customer") == {7: 3}


def test_retiring_is_bounded_and_the_worker_stays_known_until_the_end(
    queue: Queue, raw: Raw
) -> None:
    """If the worker dies meanwhile, reclaim_dead finds the rest."""
    insert(queue, 3)
    take(queue, 3, worker="leaving")

    first = queue.run(commands.retire_worker("leaving", limit=2))
    known = raw.workers()
    second = queue.run(commands.retire_worker("leaving", limit=2))

    assert (first, second) == (False, True)
    assert known == ["leaving"]
    assert raw.workers() == []


def test_chunks_of_a_cancelled_submission_wait_for_a_retry(queue: Queue) -> None:
    """Given back, but not handed out."""
    id_ = insert(queue, 1)
    take(queue, worker="leaving")
    queue.cancel_submission(id_)

    queue.retire_worker("leaving")

    assert take(queue, 5) == []
    queue.retry_submission(id_)
    assert indexes_of(take(queue, 5)) == [0]


def test_a_worker_that_nobody_knows_may_retire(queue: Queue) -> None:
    """It may even retire twice, since a call is repeated after a lost answer."""
    assert queue.run(commands.retire_worker("nobody"))
    assert queue.run(commands.retire_worker("nobody"))


def test_a_limit_that_the_server_can_not_count_up_to_loses_no_chunk(queue: Queue) -> None:
    """It refuses to list what is pending, which must not be read as nothing: the worker would be
    forgotten together with its chunks."""
    insert(queue, 1)
    (token,) = tokens_of(take(queue, 1, worker="leaving"))

    with pytest.raises(InvalidArgumentError, match="limit is"):
        queue.run(commands.retire_worker("leaving", limit=10**18))

    assert queue.complete_chunks([token]) != [Lost()]
