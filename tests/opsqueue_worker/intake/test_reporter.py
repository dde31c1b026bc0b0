"""The log lines of a chunk."""

from __future__ import annotations

import logging

import pytest

from opsqueue.handlers.execute import Done, Failed
from opsqueue.model.chunk import (
    ChunkFailure,
    Completed,
    FinallyFailed,
    Reservation,
    Retried,
    Source,
    Token,
)
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
    """A single line of bounded length has the reason, so nobody needs to ask the API first."""
    failure = ChunkFailure(type="KeyError", message="no luck\n" + "x" * 100_000)
    (batch,) = batches_of([Failed(token=TOKEN, failure=failure)])

    with caplog.at_level(logging.INFO):
        Reporter("q", worker="w").settle(batch, outcome, {TOKEN: CHUNK})

    (line,) = caplog.messages
    assert line.endswith(": KeyError: no luck")


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Retried(ID, attempt=1, next_at_ms=0), logging.INFO),
        (FinallyFailed(ID, attempt=3), logging.WARNING),
    ],
)
def test_only_a_chunks_last_failure_is_a_warning(
    caplog: pytest.LogCaptureFixture, outcome: object, level: int
) -> None:
    """A failure that is retried needs no attention."""
    failure = ChunkFailure(type="KeyError", message="no luck")
    (batch,) = batches_of([Failed(token=TOKEN, failure=failure)])

    with caplog.at_level(logging.DEBUG):
        Reporter("q", worker="w").settle(batch, outcome, {TOKEN: CHUNK})

    assert [record.levelno for record in caplog.records] == [level]


def test_reports_that_were_not_answered_are_sent_again() -> None:
    """A script answers the first ones only, if they are work enough for one call."""
    done = [Done(token=Token(f"{n}-0"), operations=1, duration_s=0.1) for n in range(3)]
    (batch,) = batches_of(done)
    reporter = Reporter("q", worker="w")

    again = reporter.settle(batch, [Completed(ID, chunks_left=1)], {done[0].token: CHUNK})

    assert list(again) == done[1:]
    assert reporter.chunks_done == 1


def test_completed_chunks_are_summed_up_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Each has a line of its own only at DEBUG; a minute without any has no line."""
    now = [0.0]
    reporter = Reporter("q", worker="w", clock=lambda: now[0])
    (batch,) = batches_of([Done(token=TOKEN, operations=1, duration_s=0.1)])

    def work(chunks: int, until: float) -> None:
        for _ in range(chunks):
            reporter.settle(batch, [Completed(ID, chunks_left=1)], {TOKEN: CHUNK})
        now[0] = until
        reporter.sum_up()

    with caplog.at_level(logging.INFO):
        work(1_000, 59)
        work(234, 60)
        work(0, 120)
        work(1, 180)
        work(2, 181)
        reporter.sum_up(is_last=True)

    assert caplog.messages == [
        "queue q: 1,234 chunks completed in 60 s",
        "queue q: 1 chunk completed in 60 s",
        "queue q: 2 chunks completed in 1 s",
    ]
