"""The format of our programs' log lines: plain for people, JSON for log collectors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, TextIO

import msgspec

from opsqueue.model.checks import printable, printable_json
from opsqueue.model.chunk import encodable
from opsqueue.model.raised import described

LogFormat = Literal["plain", "json"]
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_STANDARD: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)).keys() | {"message", "asctime"}
)


def set_up_logging(
    level: str,
    form: LogFormat,
    add_fields: Callable[[logging.LogRecord], bool],
    *,
    stream: TextIO | None = None,
) -> None:
    """Log everything from `level` on to stderr; `add_fields` adds the subject of each line.

    `stream` is another file than `sys.stderr`, which a user's module could close.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(add_fields)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _ours.handler, _ours.level = handler, logging.getLogger().level
    keep_logging()
    if logging.getLogger().level <= logging.DEBUG:
        return
    for chatty in ("botocore", "boto3", "urllib3", "google", "httpx", "httpcore"):
        # At INFO they log each request, and in each process where they found credentials.
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


class _Formatter(logging.Formatter):
    """Describes exceptions as failures are described: a log line must not raise what they do."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 logging's name
        """Return traceback, type and message."""
        return "" if ei[1] is None else described(ei[1])


def log_to(stream: TextIO) -> None:
    """Log to another file than the last `set_up_logging` named."""
    if _ours.handler is not None:
        _ours.handler.setStream(stream)


class _Ours:
    """The handler and the level of the last `set_up_logging`."""

    handler: logging.StreamHandler[TextIO] | None = None
    level: int = logging.INFO


_ours: Final = _Ours()
_OUR_LOGGER: Final = "opsqueue"


def keep_logging() -> None:
    """Make our own lines appear although a user's module has configured logging since the set-up.

    `dictConfig` disables existing loggers and replaces the root's handlers, and
    `logging.disable()` silences levels of all loggers. Handlers that a user adds to our loggers are
    respected.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith(f"{_OUR_LOGGER}.")]
    loggers = [logging.getLogger(name) for name in (_OUR_LOGGER, *names)]
    for one in loggers:
        one.disabled = False
        # logging.disable() sets the level of the common manager.
        one.manager = _our_manager
    if _ours.handler is None or any(one.handlers for one in loggers):
        return
    if _ours.handler not in logging.root.handlers:
        logger = loggers[0]
        logger.addHandler(_ours.handler)
        logger.setLevel(_ours.level)
        logger.propagate = False


_our_manager: Final = logging.Manager(logging.root)
# A logger remembers what it lets through, and a new level is told to those that its manager knows.
_our_manager.loggerDict = logging.root.manager.loggerDict


def formatter(form: LogFormat) -> logging.Formatter:
    """Return a formatter for a handler."""
    return _JsonFormatter() if form == "json" else _PlainFormatter()


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _PlainFormatter(_Formatter):
    """Time, level, process, logger, text; then the fields of the line as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Escape characters that act on a terminal: texts of failures come from users' code."""
        return printable(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's name
        """Append the extra fields to the text."""
        extras = " ".join(f"{key}={value}" for key, value in _extras(record).items())
        text = super().formatMessage(record)
        return f"{text} [{extras}]" if extras else text


class _JsonFormatter(_Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (RFC 3339), level, logger, process, message, extra fields and exception."""
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
        # JSON can't have lone surrogates, which occur in file names in failures.
        line = {
            key: encodable(value) if isinstance(value, str) else value
            for key, value in line.items()
        }
        return printable_json(msgspec.json.encode(line, enc_hook=str).decode())
