"""Hooks that observe failures, and handlers of every kind, in real workers of every pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsqueue.exceptions import SubmissionFailedError
from opsqueue.producer import OperationFailed
from tests.system.conftest import ProducerOf, Start

pytestmark = pytest.mark.system


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_failures_are_observed_in_every_pool(
    start_worker: Start, producer_of: ProducerOf, queue_name: str, tmp_path: Path, pool: str
) -> None:
    """The hooks raise, and change nothing; one that hangs ends with the chunk's time limit."""
    log = tmp_path / "observed"
    arguments = ("--concurrency", "1") if pool == "solo" else ()
    start_worker("--pool", pool, *arguments, app="observed:app", TEST_LOG=str(log))

    with pytest.raises(SubmissionFailedError, match="ZeroDivisionError"):
        producer_of("-partial").run_submission([1], chunk_size=1, max_attempts=1)
    collected = {
        kind: list(producer_of(kind).run_submission([5, 6], chunk_size=2, errors="yield"))
        for kind in ("-object", "-hidden")
    }
    if pool == "process":
        with pytest.raises(SubmissionFailedError, match="its time limit is 1 s"):
            producer_of("-limited").run_submission([1], chunk_size=1, max_attempts=1)

    lines = set(log.read_text().replace(queue_name, "").splitlines())
    assert {
        "-partial ZeroDivisionError 1",
        *(f"{kind} ZeroDivisionError {i} {i + 5}" for kind in collected for i in (0, 1)),
    } == lines
    for results in collected.values():
        assert ["ZeroDivisionError"] * 2 == [
            result.type for result in results if isinstance(result, OperationFailed)
        ]
