"""A consumer repeats a request until it is answered, over Redis and over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from opsqueue.consumer import ConsumerClient
from opsqueue.consumer.backends import ConsumerQueue
from opsqueue.exceptions import ApiUnavailableError
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import ProducerClient
from tests.opsqueue_api.consumer.conftest import Insert


@pytest.mark.parametrize("lost", ["call", "answer"])
@pytest.mark.parametrize("call", ["reserve_when_free", "complete_chunks"])
def test_a_call_that_was_not_answered_is_made_again(
    consumer: ConsumerClient, on: ConsumerQueue, insert: Insert, producer: ProducerClient,
    monkeypatch: pytest.MonkeyPatch, call: str, lost: str,
) -> None:  # fmt: skip
    """Whether it was heard is not known; a report that was is not counted twice."""
    id_ = insert([1, 2, 3, 4])
    real, calls = getattr(on, call), []

    def cut_off_once(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            return real(*arguments, **more)
        # Two chunks are there: one that was reserved unheard leaves the other.
        if lost == "answer":
            real(*arguments, **more)
        message = "no answer"
        raise ApiUnavailableError(message)

    with monkeypatch.context() as outage:
        outage.setattr(on, call, cut_off_once)
        (first,) = consumer.reserve_chunks()
        consumer.complete_chunk(id_, None, first.chunk_index, first.input_content)

    assert len(calls) == 2
    status = producer.get_submission(id_)
    assert status.chunks_done == 1
    assert status.state is SubmissionState.IN_PROGRESS
