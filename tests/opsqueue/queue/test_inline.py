"""Small submissions: the reservation carries the input, and the report the output."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotFoundError
from opsqueue.model.chunk import Token
from opsqueue.model.new_submission import (
    INLINE_BYTES,
    INLINE_CHUNKS,
    INLINE_OUTPUTS_BYTES,
    MAX_METADATA_BYTES,
)
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
from tests.opsqueue.steps import FAILURE, NO_WAIT, Clock, Raw, insert, take, take_one


def insert_inline(queue: Queue, inputs: list[bytes], **fields: object) -> SubmissionId:
    return insert(queue, len(inputs), inline=inputs, **fields)


def test_inputs_come_with_their_chunks(queue: Queue) -> None:
    """An empty one too; a submission in the store has none."""
    insert_inline(queue, [b"zero", b"", b"\x00\xff"])
    insert(queue, 1)

    chunks = take(queue, 10)

    assert [chunk.input for chunk in chunks] == [b"zero", b"", b"\x00\xff", None]
    assert [chunk.source.is_inline for chunk in chunks] == [True, True, True, False]


def test_outputs_that_go_along_can_be_read(queue: Queue) -> None:
    """Those that did not are in the store."""
    id_ = insert_inline(queue, [b"0", b"1", b"2"])
    tokens = [chunk.token for chunk in take(queue, 3)]

    queue.complete_chunks(tokens, outputs={tokens[0]: b"zero", tokens[2]: b""})

    assert queue.inline_contents(id_, "outputs") == {0: b"zero", 2: b""}
    assert queue.inline_contents(id_, "inputs") == {0: b"0", 1: b"1", 2: b"2"}
    assert queue.get_submission(id_).is_inline


def test_a_late_report_replaces_no_output(queue: Queue, clock: Clock) -> None:
    """The token fences it off: the first that was counted stays."""
    id_ = insert_inline(queue, [b"0", b"1"], backoff=NO_WAIT)
    stalled = queue.reserve_chunks("stalled", reservation_ms=1).chunks[0]
    clock.advance(1)
    queue.reclaim_expired("sweeper")
    second = take(queue, 2)
    again = next(c.token for c in second if c.chunk_index == stalled.chunk_index)

    queue.complete_chunks([again], outputs={again: b"second attempt"})
    queue.complete_chunks([stalled.token], outputs={stalled.token: b"first attempt"})

    assert queue.inline_contents(id_, "outputs") == {stalled.chunk_index: b"second attempt"}


def test_inputs_stay_for_a_retry(queue: Queue) -> None:
    """Of a submission that failed."""
    id_ = insert_inline(queue, [b"0"], max_attempts=1)
    queue.fail_chunk(take_one(queue).token, FAILURE)

    queue.retry_submission(id_)

    assert take_one(queue).input == b"0"


def test_inputs_go_at_completion_if_asked_for(queue: Queue) -> None:
    """They are deleted at once, without a request to the store."""
    id_ = insert_inline(queue, [b"0"], delete_inputs_at_completion=True)
    token = take_one(queue).token

    queue.complete_chunks([token], outputs={token: b"out"})

    assert queue.inline_contents(id_, "inputs") == {}
    assert queue.inline_contents(id_, "outputs") == {0: b"out"}
    assert queue.delete_inputs() == []


def test_nothing_of_a_forgotten_submission_stays(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock
) -> None:
    """Neither inputs nor outputs."""
    id_ = insert_inline(queue, [b"0"], retention_ms=0)
    token = take_one(queue).token
    queue.complete_chunks([token], outputs={token: b"out"})
    clock.advance(1)

    queue.forget_submissions()

    assert list(client.scan_iter(match=raw.key(f"sub:{id_}*"), count=10_000)) == []
    with pytest.raises(SubmissionNotFoundError):
        queue.inline_contents(id_, "outputs")


def test_an_answer_is_cut_when_its_inputs_are_large(queue: Queue) -> None:
    """It says so, so that nobody goes to sleep beside the rest."""
    for _ in range(8):
        insert_inline(queue, [bytes(INLINE_BYTES)])

    first = queue.reserve_chunks("w1", limit=100)
    second = queue.reserve_chunks("w1", limit=100)
    third = queue.reserve_chunks("w1", limit=100)

    assert [len(answer.chunks) for answer in (first, second, third)] == [4, 4, 0]
    assert [answer.is_cut for answer in (first, second, third)] == [True, True, False]


def test_metadata_counts_once_for_each_submission_of_an_answer(queue: Queue) -> None:
    """Chunks of one share it, however many; those of several fill the answer."""
    for _ in range(3):
        insert(queue, 64, metadata=bytes(MAX_METADATA_BYTES))

    answers = [queue.reserve_chunks("w1", limit=n, strategy=Oldest()) for n in (100, 64, 64)]

    assert [65, 64, 63] == [len(answer.chunks) for answer in answers]
    assert [True, True, False] == [answer.is_cut for answer in answers]
    assert 2 == len({id(chunk.source.metadata) for chunk in answers[0].chunks})


@pytest.mark.parametrize(("metadata_bytes", "found"), [(MAX_METADATA_BYTES, 2), (1_000, 100)])
def test_metadata_counts_with_each_chunk_where_it_is_repeated(
    queue: Queue, metadata_bytes: int, found: int
) -> None:
    """For who passes it on with each."""
    insert(queue, 100, metadata=bytes(metadata_bytes))

    reserved = queue.reserve_chunks("w1", limit=100, repeats_metadata=True)

    assert found == len(reserved.chunks)


def test_keys_and_traces_count_too(queue: Queue) -> None:
    """They are as large as metadata where each of 64 keys is of 255 characters."""
    pairs = {f"{n:02}" + "😀" * 253: n for n in range(64)}
    for _ in range(20):
        insert(queue, 1, strategic_metadata=pairs)

    reserved = queue.reserve_chunks("w1", limit=20)

    # Six fill an answer. So many keys are also work, which ends the script before.
    assert 1 <= len(reserved.chunks) <= 6
    assert reserved.is_cut


def test_a_page_of_submissions_with_much_metadata_is_short(queue: Queue) -> None:
    """The next one goes on where it ended."""
    ids = [insert(queue, 1, metadata=bytes(MAX_METADATA_BYTES)) for _ in range(12)]

    first = queue.list_submissions(order="oldest", limit=100)
    second = queue.list_submissions(order="oldest", limit=100, after=first.next)

    assert ids[:8] == [one.id for one in first.submissions]
    assert ids[8:] == [one.id for one in second.submissions]
    assert (ids[7], None) == (first.next, second.next)


def test_what_is_not_small_is_refused(queue: Queue) -> None:
    """By bytes and by number, and when chunks are missing."""
    for inputs in ([bytes(INLINE_BYTES), b"x"], [b""] * (INLINE_CHUNKS + 1)):
        with pytest.raises(InvalidArgumentError, match="store them"):
            insert_inline(queue, inputs)
    with pytest.raises(InvalidArgumentError, match="give all"):
        insert(queue, 2, inline=[b"x"])
    with pytest.raises(InvalidArgumentError, match="they are stored"):
        queue.complete_chunks([Token("1-1")], outputs={Token("1-1"): bytes(64 * 1024 + 1)})


@pytest.mark.parametrize("chunks", [1, 2, 17, INLINE_CHUNKS])
def test_all_outputs_of_a_submission_together_are_bounded(queue: Queue, chunks: int) -> None:
    """Each has its share."""
    insert_inline(queue, [b"x"] * chunks)

    share = take_one(queue).source.inline_output_bytes

    assert 0 < share <= 64 * 1024
    assert share * chunks <= INLINE_OUTPUTS_BYTES
