"""What the log says of a chunk."""

from __future__ import annotations

import logging

import pytest

from opsqueue.handlers.execute import Failed
from opsqueue.model.chunk import ChunkFailure, FinallyFailed, Reservation, Retried, Source, Token
from opsqueue.model.submission import SubmissionId
from opsqueue_worker.intake.reporter import Reporter, batches_of

TOKEN = Token("1-0")
ID = SubmissionId(41)
CHUNK = Reservation(
    token=TOKEN,
    source=Source(
        submission_id=ID,
        queue="q",
        prefix="p",
        codec="msgpack",
        chunks_total=1,
        chunk_size=1,
        operations_total=1,
        max_attempts=3,
        metadata=None,
        strategic_metadata={},
        trace_context={},
    ),
    chunk_index=0,
    attempt=1,
    expires_at_ms=0,
)


@pytest.mark.parametrize(
    "outcome", [Retried(ID, attempt=1, next_at_ms=0), FinallyFailed(ID, attempt=3)]
)
def test_the_line_of_a_failed_chunk_says_why(
    caplog: pytest.LogCaptureFixture, outcome: object
) -> None:
    """Whoever reads the log at night need not ask the API first; one line, and a bounded one."""
    failure = ChunkFailure(type="KeyError", message="no luck\n" + "x" * 100_000)
    (batch,) = batches_of([Failed(token=TOKEN, failure=failure)])

    with caplog.at_level(logging.WARNING):
        Reporter("q", worker="w").settle(batch, outcome, {TOKEN: CHUNK})

    (line,) = caplog.messages
    assert line.endswith(": KeyError: no luck")
