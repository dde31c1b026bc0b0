"""Logging of the worker's processes: to stderr, plain or as JSON, with the chunk at hand."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from opsqueue.chunk import Reservation

LogFormat = Literal["plain", "json"]
_chunk: ContextVar[Reservation | None] = ContextVar("opsqueue_chunk", default=None)
_STANDARD: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)).keys() | {"message", "asctime"}
)


def set_up_logging(level: str, form: LogFormat = "plain") -> None:
    """Send everything from `level` on to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_chunk)
    handler.setFormatter(_JsonFormatter() if form == "json" else _PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("botocore", "boto3", "urllib3", "google"):
        # At INFO they tell in each process where they found credentials.
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


@contextmanager
def chunk_in_log(reservation: Reservation) -> Iterator[None]:
    """Let every line that is logged inside, the handler's own too, carry submission and chunk."""
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


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _PlainFormatter(logging.Formatter):
    """Time, level, process, logger, text; then what the line is about, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's name
        """Put the extras behind the text."""
        extras = " ".join(f"{key}={value}" for key, value in _extras(record).items())
        text = super().formatMessage(record)
        return f"{text} [{extras}]" if extras else text


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, for those who collect logs."""

    def format(self, record: logging.LogRecord) -> str:
        """Give time (RFC 3339), level, logger, process, message, extras, exception."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()
