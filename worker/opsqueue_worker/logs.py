"""Logging of the worker's processes: to stderr, plain or as JSON, with the current chunk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from opsqueue.model.chunk import Reservation
from opsqueue.tracing import logs
from opsqueue.tracing.logs import LogFormat

_chunk: ContextVar[Reservation | None] = ContextVar("opsqueue_chunk", default=None)


def set_up_logging(level: str, form: LogFormat = "plain", stream: TextIO | None = None) -> None:
    """Log to `stream` or stderr everything of `level` or above."""
    logs.set_up_logging(level, form, _add_chunk, stream=stream)


@contextmanager
def chunk_in_log(reservation: Reservation) -> Iterator[None]:
    """Add submission and chunk to every line logged inside, including the handler's own lines."""
    before = _chunk.set(reservation)
    try:
        yield
    finally:
        _chunk.reset(before)


def _add_chunk(record: logging.LogRecord) -> bool:
    reservation = _chunk.get()
    if reservation is not None:
        record.queue = reservation.source.queue
        record.submission = str(reservation.source.submission_id)
        record.chunk = reservation.chunk_index
        record.attempt = reservation.attempt
    return True
