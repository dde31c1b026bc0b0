"""Real processes that die between storing an output with errors and reporting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsqueue.producer import OperationFailed
from tests.system.conftest import Process, ProducerOf, Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_counts_and_errors_are_those_of_the_output_that_was_stored_first(
    start: Start,
    redis_url: str,
    store_url: str,
    queue_name: str,
    producer_of: ProducerOf,
    tmp_path: Path,
    victim: str,
) -> None:
    """A child's chunk is run again and finds the output as it stores its own; a dead worker's is
    a second attempt, and finds it before.
    """

    def start_worker() -> Process:
        worker = start(
            *("opsqueue_worker", "dies_after_storing:app", "-c", "1"),
            *("--heartbeat-interval", "0.3", "--heartbeat-timeout", "1.5"),
            OPSQUEUE_REDIS_URL=redis_url,
            OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
            TEST_QUEUE=queue_name,
            TEST_DIED=str(tmp_path / "died"),
            TEST_VICTIM=victim,
        )
        worker.wait_for_line("ready")
        return worker

    worker = start_worker()
    # Not inline: an output that goes with the report is stored by nobody before it.
    producer = producer_of(inline_bytes=0)

    id_ = producer.insert_submission(range(6), chunk_size=6)
    if victim == "worker":
        worker.wait()
        start_worker()

    status = producer.wait_for_submission(id_, timeout=60)
    outcomes = list(producer.try_stream_completed_submission(id_, errors="yield"))
    errors = list(producer.iter_errors(id_))
    assert (tmp_path / "died").exists()
    assert (status.operations_done, status.operations_failed) == (6, 3)
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [0, 2, 4]
    assert errors == [outcome for outcome in outcomes if isinstance(outcome, OperationFailed)]
    assert [(error.index, error.message) for error in errors] == [(i, "first") for i in (1, 3, 5)]
