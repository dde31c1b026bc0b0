"""Small submissions: the reservation carries the input, and the report the output."""

from __future__ import annotations

import pytest
import redis

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotFoundError
from opsqueue.model.chunk import Token
from opsqueue.model.new_submission import INLINE_BYTES, INLINE_CHUNKS, INLINE_OUTPUTS_BYTES
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
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
