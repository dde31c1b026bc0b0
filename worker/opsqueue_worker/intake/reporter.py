"""The reporter: turns outcomes of chunks into commands, and the replies of Redis into log lines.

It sends nothing itself: the intake sends its commands in the round trip that reserves chunks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opsqueue.exceptions import OpsqueueError
from opsqueue.handlers.execute import Done, Failed, GivenBack, Report
from opsqueue.model.checks import counted
from opsqueue.model.chunk import (
    Completed,
    Dropped,
    FinallyFailed,
    Lost,
    Reservation,
    Retried,
    Token,
)
from opsqueue.queue import commands

logger = logging.getLogger("opsqueue.worker")

_LINE_AT_MOST: Final = 500
_SUMMARY_S: Final = 60.0
_OUTPUTS_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """A command, and the reports that it carries."""

    call: commands.Command[Any]
    reports: tuple[Report, ...]


def batches_of(reports: Sequence[Report]) -> list[Batch]:
    """Combine reports into few commands: completed chunks share one unless outputs are large."""
    done = [report for report in reports if isinstance(report, Done)]
    batches = [_completion_of(part) for part in _parts_of(done)]
    released: dict[tuple[int, str], list[GivenBack]] = {}
    for report in reports:
        match report:
            case Failed(token=token, failure=failure, is_final=is_final):
                call = commands.fail_chunk(token, failure, is_final=is_final)
                batches.append(Batch(call, (report,)))
            case GivenBack(delay_ms=delay_ms):
                released.setdefault((delay_ms, report.shown_reason), []).append(report)
            case Done():
                pass
    for (delay_ms, reason), given_back in released.items():
        tokens = [report.token for report in given_back]
        release = commands.release_chunks(tokens, delay_ms=delay_ms, reason=reason)
        batches.append(Batch(release, tuple(given_back)))
    return batches


def _parts_of(done: Sequence[Done]) -> Iterator[list[Done]]:
    """Yield parts whose outputs together are enough for one script."""
    part: list[Done] = []
    bytes_left = _OUTPUTS_BYTES
    for report in done:
        part.append(report)
        bytes_left -= len(report.output or b"")
        if bytes_left <= 0:
            yield part
            part, bytes_left = [], _OUTPUTS_BYTES
    if part:
        yield part


def _completion_of(done: Sequence[Done]) -> Batch:
    outputs = {report.token: report.output for report in done if report.output is not None}
    failed = {report.token: report.operations_failed for report in done}
    call = commands.complete_chunks(
        [report.token for report in done], operations_failed=failed, outputs=outputs
    )
    return Batch(call, tuple(done))


class Reporter:
    """Settles reports with the answers of Redis, counts chunks, and logs a line for each.

    Completed chunks have a line each at DEBUG only. At INFO one line a minute sums them up.

    Args:
        queue: the queue's name.
        worker: the worker's name.
        clock: returns seconds since any fixed instant.
    """

    def __init__(
        self, queue: str, *, worker: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._clock = clock
        self._lock = threading.Lock()
        self._summed_up_at = clock()
        self._chunks_summed_up = 0
        self.chunks_done = 0

    def settle(
        self, batch: Batch, answer: object, held: Mapping[Token, Reservation]
    ) -> Sequence[Report]:
        """Log the outcomes of a batch; return the reports that must be sent again."""
        if isinstance(answer, OpsqueueError):
            return batch.reports
        outcomes = answer if isinstance(answer, list) else [answer]
        # A script answers the first reports only, if they are work enough for one call.
        for report, outcome in zip(batch.reports, outcomes, strict=False):
            chunk = held.get(report.token)
            if chunk is not None:
                self._write_line(chunk, report, outcome)
        return batch.reports[len(outcomes) :]

    def sum_up(self, *, is_last: bool = False) -> None:
        """Log how many chunks were completed since the last time, if a minute has passed.

        Args:
            is_last: the worker is stopping, so don't wait for the minute.
        """
        with self._lock:
            seconds = self._clock() - self._summed_up_at
            chunks = self.chunks_done - self._chunks_summed_up
            if seconds < _SUMMARY_S and not is_last:
                return
            self._summed_up_at += seconds
            self._chunks_summed_up += chunks
        if chunks:
            about = {"queue": self._queue, "chunks": chunks, "duration_s": round(seconds)}
            logger.info(
                "queue %s: %s completed in %.0f s",
                self._queue,
                counted(chunks, "chunk"),
                seconds,
                extra=about,
            )

    def _write_line(self, chunk: Reservation, report: Report, outcome: object) -> None:
        about: dict[str, object] = {
            "queue": self._queue,
            "submission": str(chunk.source.submission_id),
            "chunk": chunk.chunk_index,
            "attempt": chunk.attempt,
        }
        if not isinstance(report, GivenBack):
            about["operations"] = chunk.source.operations_in(chunk.chunk_index)
            about["duration_s"] = round(report.duration_s, 4)
        if isinstance(report, Done) and report.operations_failed:
            about["operations_failed"] = report.operations_failed
        match outcome:
            case Completed(is_limit_passed=True):
                self.chunks_done += 1
                logger.warning(
                    "chunk %s completed, but its submission failed: %s of the chunk's operations "
                    "failed, too many for the submission's limit",
                    chunk,
                    about.get("operations_failed"),
                    extra=about,
                )
            case Lost():
                logger.warning(
                    "worker %s lost chunk %s: its reservation had ended, its report was sent "
                    "twice, or Redis lost its data; if this continues, raise time_limit or make "
                    "chunks smaller",
                    self._worker,
                    chunk,
                    extra=about,
                )
            case Dropped():
                logger.info("chunk %s dropped: its submission had ended", chunk, extra=about)
            case Retried():
                why = _first_line(report)
                logger.info("chunk %s failed and will be retried: %s", chunk, why, extra=about)
            case FinallyFailed():
                why = _first_line(report)
                logger.warning(
                    "chunk %s failed for good, and so did its submission: %s",
                    chunk,
                    why,
                    extra=about,
                )
            case _ if isinstance(report, GivenBack):
                level = logging.WARNING if report.shown_reason else logging.INFO
                logger.log(level, "chunk %s released: %s", chunk, report.reason, extra=about)
            case _:
                self.chunks_done += 1
                logger.debug("chunk %s completed", chunk, extra=about)


def _first_line(report: Report) -> str:
    """Return the reason for a failure as one line; the submission's status has the traceback."""
    if not isinstance(report, Failed):
        return ""
    text = f"{report.failure.type}: {report.failure.message}".partition("\n")[0]
    return text if len(text) <= _LINE_AT_MOST else f"{text[:_LINE_AT_MOST]} ..."
