"""A call that ends with a CancelledError is a failure, in each pool that can run it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opsqueue.model.submission import SubmissionState
from opsqueue.producer import OperationFailed, ProducerClient
from tests.system.conftest import Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_a_cancelled_operation_has_no_result(
    start_worker: Start, producer_of: Callable[..., ProducerClient], pool: str
) -> None:
    """It fails its chunk or is collected; later operations are called, and the worker continues."""
    start_worker("--pool", pool, *(("-c", "1") if pool == "solo" else ()), app="cancelled:app")
    kinds = ["async", "async-3", "plain", "plain-3"]
    for kind in [*kinds, "chunk"]:
        producer = producer_of(f"-{kind}")

        id_ = producer.insert_submission([1, 2, 3, 4], chunk_size=4, max_attempts=1)

        failed = producer.wait_for_submission(id_, timeout=30)
        assert failed.state is SubmissionState.FAILED
        assert failed.failure is not None
        assert failed.failure.type == "asyncio.exceptions.CancelledError"
    for kind in kinds:
        collecting = producer_of(f"-{kind}-collecting")

        id_ = collecting.insert_submission([1, 2, 3, 4], chunk_size=4, max_attempts=1)

        completed = collecting.wait_for_submission(id_, timeout=30)
        outcomes = list(collecting.try_stream_completed_submission(id_, errors="yield"))
        assert (completed.operations_done, completed.operations_failed) == (4, 1)
        assert [10, "asyncio.exceptions.CancelledError", 30, 40] == [
            outcome.type if isinstance(outcome, OperationFailed) else outcome
            for outcome in outcomes
        ]
    after = list(producer_of("-chunk").run_submission([1, 3], chunk_size=1))
    assert after == [10, 30]
